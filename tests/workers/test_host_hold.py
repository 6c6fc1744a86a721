"""A server that refuses our address: nobody behind it sends there until one probe goes through."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from console.attention import Matter, concerns
from console.live import Live
from models import explain, host_holds
from models.database import read
from models.overview import overview
from models.tables import METADATA
from sandbox.faults import Answer, Fault, Slow
from tests.fixtures.whole import Whole
from tests.workers.test_visit_parks import LONG_AGO
from tests.workers.visit_parts import (
    IMPATIENT,
    another_worker,
    change,
    listening,
    send,
    send_many,
    visit,
)
from workers import host_hold
from workers.visit import VisitEnd

BANNED = "550 5.7.606 Access denied, banned sending IP [203.0.113.7]"
HOLD = METADATA.tables["host_hold"]


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"sweep": {"interval_seconds": 3600}}


@pytest.fixture(autouse=True)
def _short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQL tell each time, except where a test says otherwise."""
    monkeypatch.setattr(host_hold, "BELIEVED_SECONDS", 0.0)


def _ban(whole: Whole, phase: Any, *, times: int | None = None) -> None:
    whole.sandbox.exchange.inject(Fault("ban", phase, Answer(BANNED), times=times))


def _struck(whole: Whole) -> int:
    return whole.sandbox.exchange.faults.struck["ban"]


def _hold(whole: Whole) -> Any:
    with read(whole.engine) as connection:
        found = host_holds.all_holds(connection)
    return found[0] if found else None


async def _two(whole: Whole) -> tuple[Any, Any]:
    other = await asyncio.to_thread(whole.add_tenant, "fabrikam")
    return whole.mailbox_id("contoso"), other


def _send_there(whole: Whole) -> Any:
    return send(whole, tenant="fabrikam", to=["ops@fabrikam.example"])


@pytest.mark.parametrize("phase", ["banner", "mail", "rcpt", "body"])
async def test_no_other_mailbox_meets_the_ban(whole: Whole, phase: Any) -> None:
    """One mailbox of one tenant is told; every other one, of any worker, asks nothing at all."""
    here, there = await _two(whole)
    _ban(whole, phase)
    receipts = [*send_many(whole, 3), _send_there(whole)]

    assert await visit(whole, here) is VisitEnd.HELD

    asked = whole.sandbox.exchange.snapshot()["accepted"]
    assert await visit(whole, there) is VisitEnd.HELD
    async with another_worker(whole) as other:
        for mailbox_id in (here, there):
            assert await other.visits.run(mailbox_id, critical=True) is VisitEnd.HELD
    assert _struck(whole) == 1
    assert whole.sandbox.exchange.snapshot()["accepted"] == asked
    for receipt in receipts:
        row = whole.row(receipt.delivery_id)
        assert (row.state, row.attempts, row.claims) == ("queued", 0, 0)
    assert whole.mailbox(here).parked_at is None


async def test_a_hold_is_shown_and_wants_a_person(whole: Whole) -> None:
    """Which server, which of our addresses, what it said and when it is tried again."""
    _ban(whole, "mail")
    receipt = send(whole)
    await visit(whole, receipt.mailbox_id)

    with read(whole.engine) as connection:
        seen = overview(connection, whole.settings.pacing.day_limits)
        why = explain.standing(connection, receipt.delivery_id).sentence()

    (hold,) = seen.holds
    assert (hold.sends_from, hold.rule, hold.answer) == (
        whole.services.sends_from,
        "banned-address",
        BANNED,
    )
    assert (hold.probe_at - hold.since).total_seconds() == pytest.approx(900, abs=1)
    (concern,) = [one for one in concerns(seen, Live()) if one.matter is Matter.HELD_UP]
    assert hold.smtp_host in concern.text
    assert "refuses the address" in why


async def test_workers_behind_another_address_go_on(whole: Whole) -> None:
    """A hold is of one address of ours: who sends from another one is not told to wait."""
    _ban(whole, "mail", times=1)
    receipt = send(whole)
    await visit(whole, receipt.mailbox_id)

    worker = whole.settings.worker.model_copy(update={"sends_from": "another-way-out"})
    async with another_worker(whole, worker=worker) as other:
        await other.visits.run(receipt.mailbox_id, critical=False)

    assert whole.row(receipt.delivery_id).state == "accepted"


async def test_one_visit_probes_at_a_growing_distance_and_a_success_releases_all(
    whole: Whole,
) -> None:
    """One mail at a time tries; when it goes out, everybody behind the address goes on."""
    here, there = await _two(whole)
    _ban(whole, "mail", times=2)
    receipts = [*send_many(whole, 3), _send_there(whole)]
    await visit(whole, here)
    change(whole, HOLD, probe_at=LONG_AGO)
    whole.sandbox.exchange.inject(Fault("slow", "mail", Slow(0.3), times=1))

    ends = await asyncio.gather(visit(whole, here), visit(whole, there))

    assert set(ends) == {VisitEnd.HELD}
    assert _struck(whole) == 2
    hold = _hold(whole)
    assert hold.refusals == 2
    assert await visit(whole, there) is VisitEnd.HELD
    change(whole, HOLD, probe_at=LONG_AGO)
    async with listening(whole.settings, whole.services.visits):
        await whole.services.wake(there, critical=False)
        await whole.until(lambda: whole.count("accepted") == len(receipts))
    assert _hold(whole) is None


async def test_a_probe_that_cannot_be_made_is_left_to_another_lane(whole: Whole) -> None:
    """A parked or empty lane, or one with a trouble of its own, does not use up the probe."""
    here, there = await _two(whole)
    _ban(whole, "mail", times=1)
    send_many(whole, 2)
    await visit(whole, here)
    change(whole, HOLD, probe_at=LONG_AGO)
    await visit(whole, there)  # nothing to send
    whole.sandbox.exchange.inject(
        Fault("own", "auth", Answer("authentication_unsuccessful"), mailbox="alerts@fabrikam.*")
    )
    _send_there(whole)
    await visit(whole, there)
    assert whole.mailbox(there).parked_at is not None
    await visit(whole, there)

    await visit(whole, here)

    assert whole.count("accepted") == 2
    assert _hold(whole) is None


async def test_a_lane_behind_a_hold_is_not_looked_at_again_and_again(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has seen the hold asks neither SQL nor Redis for a slot for some seconds."""
    monkeypatch.setattr(host_hold, "BELIEVED_SECONDS", 15.0)
    _ban(whole, "mail")
    receipt = send(whole)
    assert await visit(whole, receipt.mailbox_id) is VisitEnd.HELD

    assert await visit(whole, receipt.mailbox_id) is VisitEnd.NOT_READY
