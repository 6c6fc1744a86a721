"""
A lock-out (550 5.2.251 to 5.2.255) is never provoked: the first such error stops the mailbox.

A mail that is on its way on another connection of the mailbox cannot be called back; what other
visits hold beyond that can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models import lane
from models.database import write
from sandbox.faults import Answer, Fault, Slow
from sandbox.mailboxes import Mailbox
from tests.fixtures.whole import MAILBOX, Whole
from tests.workers.visit_parts import IMPATIENT, another_worker, change, send_many, visit


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"sweep": {"interval_seconds": 3600}}


def _full(mailbox: Mailbox) -> None:
    mailbox.quota_bytes = mailbox.used_bytes = 1


def _without_licence(mailbox: Mailbox) -> None:
    mailbox.licensed = False


@pytest.mark.parametrize(
    ("becomes", "reply", "reason"),
    [
        (_full, "mailbox_full", "sender-mailbox-full"),
        (_without_licence, "invalid_license", "licence-invalid"),
    ],
    ids=["full", "licence"],
)
async def test_an_error_at_one_visit_stops_all_visits(
    whole: Whole, becomes: Callable[[Mailbox], None], reply: str, reason: str
) -> None:
    """Other workers have claimed a lot of the lane already; they give it back unsent."""
    for name, seconds in (("first", 0.3), ("second", 1.8)):
        whole.sandbox.exchange.inject(Fault(name, "body", Slow(seconds), times=1))
    lane_id = send_many(whole, 25)[0].mailbox_id
    async with another_worker(whole) as second:
        visits = [
            asyncio.create_task(each.run(lane_id, critical=False))
            for each in (whole.services.visits, second.visits)
        ]
        await whole.until(lambda: whole.sandbox.exchange.faults.struck["second"] == 1)
        becomes(whole.exchange())

        await asyncio.gather(*visits)

    refusals = whole.sandbox.world.mailboxes.refusals
    assert refusals[reply] == 1
    assert whole.mailbox(lane_id).park_reason == reason
    assert (whole.count("dead"), whole.count("sending")) == (0, 0)
    await visit(whole, lane_id)
    assert refusals[reply] == 1


async def test_two_visits_at_once_probe_once(whole: Whole) -> None:
    """A mailbox that is parked for such an error risks one mail at a time, however it was waked."""
    whole.sandbox.exchange.inject(Fault("denied", "body", Answer("invalid_license")))
    lane_id = send_many(whole, 6)[0].mailbox_id
    await visit(whole, lane_id)
    struck = whole.sandbox.exchange.faults.struck
    assert struck["denied"] == 1
    change(whole, MAILBOX, probe_at=datetime.now(UTC) - timedelta(seconds=1))

    async with another_worker(whole) as second:
        await asyncio.gather(
            whole.services.visits.run(lane_id, critical=False),
            second.visits.run(lane_id, critical=False),
            second.visits.run(lane_id, critical=True),
        )

    assert struck["denied"] == 2


async def test_a_probe_that_finds_nothing_to_send_is_not_used_up(whole: Whole) -> None:
    """The next alert probes at once."""
    whole.sandbox.exchange.inject(Fault("denied", "body", Answer("invalid_license"), times=1))
    (receipt,) = send_many(whole, 1)
    await visit(whole, receipt.mailbox_id)
    change(whole, MAILBOX, probe_at=datetime.now(UTC) - timedelta(seconds=1))
    with write(whole.engine) as connection:
        lane.cancel(connection, [receipt.delivery_id])
    await visit(whole, receipt.mailbox_id)

    (later,) = send_many(whole, 1)
    await visit(whole, receipt.mailbox_id)

    assert whole.row(later.delivery_id).state == "accepted"
