"""A visit that ends by a fault of ours: nobody is blamed for it, and it is not begun again at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from console.attention import Matter, concerns
from console.live import Live
from models import lane
from models.database import read, write
from models.errors import StoreUnavailable
from models.overview import overview
from models.tables import METADATA
from sandbox.faults import Answer, Close, Fault
from tests.fixtures.whole import MAILBOX, Whole
from tests.workers.test_visit_parks import LONG_AGO
from tests.workers.visit_parts import IMPATIENT, change, listening, send, send_many, visit
from workers import conclusion
from workers import visit as visit_module
from workers.faults import FIRST_SECONDS, VISIT_FAILED
from workers.visit import VisitEnd

REFUSED = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled"
STEPS = ("lease", "tls", "compose", "permit", "before-submit")


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"sweep": {"interval_seconds": 3600}}


def _boom(*_: object, **__: object) -> Any:
    raise RuntimeError("a fault of ours")


async def _async_boom(*_: object, **__: object) -> Any:
    _boom()


def _break(whole: Whole, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    services = whole.services
    if step == "lease":
        monkeypatch.setattr(services.leases, "get", _async_boom)
    elif step == "tls":
        monkeypatch.setattr(services.tls, "get", _boom)
    elif step == "compose":
        monkeypatch.setattr(visit_module.Visit, "_compose", _boom)
    elif step == "permit":
        monkeypatch.setattr(services.pacer, "permit", _async_boom)
    else:
        monkeypatch.setattr(visit_module.Visit, "_may_send", _boom)


async def _fail(whole: Whole, mailbox_id: Any) -> None:
    with pytest.raises(RuntimeError, match="a fault of ours"):
        await visit(whole, mailbox_id)


def _well(whole: Whole) -> None:
    """Let time have passed: for this process as well as for all of them."""
    whole.services.visits.faults.forget(whole.mailbox_id("contoso"))
    change(whole, MAILBOX, paused_until=LONG_AGO)


@pytest.mark.parametrize("step", STEPS)
async def test_nobody_is_blamed_for_a_fault_before_a_submission(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever breaks before a mail goes out: all claims are given back as they were."""
    receipts = send_many(whole, 3)
    _break(whole, monkeypatch, step)

    await _fail(whole, receipts[0].mailbox_id)

    for receipt in receipts:
        row = whole.row(receipt.delivery_id)
        assert (row.state, row.claims, row.uncertain, row.attempts) == ("queued", 0, False, 0)
        assert whole.attempts(receipt.delivery_id) == []


async def test_a_mail_that_may_be_out_is_left_to_the_sweep(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault between the 250 and its record leaves that one mail in doubt, and no other."""
    receipts = send_many(whole, 3)
    monkeypatch.setattr(conclusion, "accepted", _boom)

    await _fail(whole, receipts[0].mailbox_id)

    states = [whole.row(receipt.delivery_id).state for receipt in receipts]
    assert states == ["sending", "queued", "queued"]


async def test_a_lost_reply_stays_in_doubt_when_its_conclusion_fails(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a reply after the dot the mail may be out, whatever we fail to conclude from it."""
    whole.sandbox.exchange.inject(Fault("cut", "body", Close(), times=1))
    receipts = send_many(whole, 2)
    monkeypatch.setattr(conclusion, "decide", _boom)

    await _fail(whole, receipts[0].mailbox_id)

    assert [whole.row(one.delivery_id).state for one in receipts] == ["sending", "queued"]


async def test_a_refused_mail_whose_conclusion_fails_counts_a_try_and_is_not_in_doubt(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was surely not taken; but it was tried, and nothing is tried for ever uncounted."""
    whole.sandbox.exchange.inject(Fault("no", "body", Answer("tenant_rule")))
    receipts = send_many(whole, 2)
    monkeypatch.setattr(conclusion, "decide", _boom)

    await _fail(whole, receipts[0].mailbox_id)

    row = whole.row(receipts[0].delivery_id)
    assert (row.state, row.uncertain, row.claims, row.attempts) == ("queued", False, 0, 1)
    assert row.reason == VISIT_FAILED
    for _ in range(3):
        _well(whole)
        change(whole, METADATA.tables["delivery"], due_at=LONG_AGO)
        await _fail(whole, receipts[0].mailbox_id)
    states = sorted(whole.row(one.delivery_id).state for one in receipts)
    assert sum(whole.row(one.delivery_id).attempts for one in receipts) == 4, states


async def test_a_visit_that_is_cut_short_before_a_submission_blames_nobody(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop that loses patience gives back what was not submitted."""
    reached = asyncio.Event()

    async def wait(*_: object, **__: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(whole.services.pacer, "permit", wait)
    receipt = send(whole)
    running = asyncio.create_task(visit(whole, receipt.mailbox_id))
    await reached.wait()

    await whole.services.visits.end()

    with pytest.raises(asyncio.CancelledError):
        await running
    row = whole.row(receipt.delivery_id)
    assert (row.state, row.claims, row.uncertain) == ("queued", 0, False)


async def test_what_could_not_be_given_back_is_blamed_on_nobody(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQL is away right before MAIL FROM: the sweep finds claims, and none of them in doubt."""
    receipts = send_many(whole, 2)

    def away(*_: object, **__: object) -> int:
        raise StoreUnavailable("away")

    monkeypatch.setattr(visit_module.Visit, "_may_send", lambda _: False)
    monkeypatch.setattr(lane, "give_back", away)
    assert await visit(whole, receipts[0].mailbox_id) is VisitEnd.AWAY
    rows = [whole.row(receipt.delivery_id) for receipt in receipts]
    assert [row.state for row in rows] == ["sending"] * 2
    monkeypatch.undo()

    begun = whole.services.begun
    assert begun._flight is not None
    await begun._flight
    marks = await begun.ask([rows[0].claimed_by])
    with write(whole.engine) as connection:
        connection.execute(METADATA.tables["delivery"].update().values(claimed_until=LONG_AGO))
        lane.sweep(connection, begun=marks.known, composing=marks.composing)

    for receipt in receipts:
        row = whole.row(receipt.delivery_id)
        assert (row.state, row.claims, row.uncertain) == ("queued", 0, False)


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), StoreUnavailable("away")])
async def test_a_park_that_cannot_be_recorded_ends_in_a_rest(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """One refused sign-in, then a distance: whatever fails, refusals never follow at full speed."""
    whole.sandbox.exchange.inject(Fault("off", "auth", Answer(REFUSED)))

    def park(*_: object, **__: object) -> Any:
        raise error

    monkeypatch.setattr(lane, "park", park)
    faults, mailbox_id = whole.services.visits.faults, whole.mailbox_id("contoso")
    struck = whole.sandbox.exchange.faults.struck
    async with listening(whole.settings, whole.services.visits):
        send_many(whole, 3)
        await whole.until(lambda: faults.seconds_left(mailbox_id) > 0)
        first = struck["off"]
        for _ in range(20):
            await whole.services.wake(mailbox_id, critical=False)
            await asyncio.sleep(0.02)

    # A token that is refused is replaced once.
    assert struck["off"] == first <= 2
    assert 0 < faults.seconds_left(mailbox_id) <= FIRST_SECONDS


async def test_faults_in_a_row_rest_longer_and_pause_the_mailbox_for_all_to_see(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, redis_client: Any, redis_keys: Any
) -> None:
    """The second fault in a row pauses the mailbox with a reason; `status` wants a person."""
    receipt = send(whole)
    _break(whole, monkeypatch, "permit")
    faults = whole.services.visits.faults

    await _fail(whole, receipt.mailbox_id)
    first = faults.seconds_left(receipt.mailbox_id)
    assert await visit(whole, receipt.mailbox_id) is VisitEnd.NOT_READY
    assert whole.mailbox(receipt.mailbox_id).paused_until is None
    faults.rested(receipt.mailbox_id)
    await _fail(whole, receipt.mailbox_id)

    assert faults.seconds_left(receipt.mailbox_id) > 1.5 * first
    mailbox = whole.mailbox(receipt.mailbox_id)
    assert (mailbox.pause_reason, mailbox.pause_count) == (VISIT_FAILED, 1)
    with read(whole.engine) as connection:
        seen = overview(connection, whole.settings.pacing.day_limits)
    (held,) = seen.standings.held
    assert (held.standing, held.reason) == ("paused", VISIT_FAILED)
    assert Matter.HELD_UP in {one.matter for one in concerns(seen, Live())}

    monkeypatch.undo()
    faults.rested(receipt.mailbox_id)
    change(whole, MAILBOX, paused_until=LONG_AGO)
    for key in redis_client.scan_iter(f"{redis_keys.prefix}:pause:*", count=1000):
        redis_client.delete(key)
    await visit(whole, receipt.mailbox_id)

    assert whole.row(receipt.delivery_id).state == "accepted"
    assert whole.mailbox(receipt.mailbox_id).pause_count == 0
    monkeypatch.setattr(whole.services.pacer, "permit", _async_boom)
    send(whole)
    await _fail(whole, receipt.mailbox_id)
    assert faults.seconds_left(receipt.mailbox_id) <= FIRST_SECONDS


async def test_an_octet_that_is_no_utf8_does_not_keep_a_mailbox_from_its_park(whole: Whole) -> None:
    """What a server says in Latin-1 is stored with the odd letters replaced."""
    said = "535 5.7.139 f\udcfcr diesen Benutzer, SmtpClientAuthentication is disabled for the"
    whole.sandbox.exchange.inject(Fault("off", "auth", Answer("535 5.7.139 x")))
    receipt = send(whole)
    await visit(whole, receipt.mailbox_id)
    with write(whole.engine) as connection:
        lane.park(
            connection,
            mailbox_id=receipt.mailbox_id,
            scope="mailbox",
            reason="smtp-auth-disabled-mailbox",
            meaning="",
            next_step="",
            answer=said,
            probe_after_seconds=None,
        )
    assert "diesen Benutzer" in whole.mailbox(receipt.mailbox_id).park_answer
