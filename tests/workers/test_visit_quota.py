"""Recipients a day: counted before Exchange has to say so, by every worker, through every loss."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import redis
from sqlalchemy import func, select

from models import quota_counts, tenants
from models.database import read, write
from models.explain import standing
from models.quota import EXTERNAL, RECIPIENTS, TRIAL_EXTERNAL, DayLimits, Spent, tenant_subject
from models.redis_keys import RedisKeys
from models.tables import METADATA
from sandbox.faults import Close, Fault, RefuseRecipients
from sandbox.limits import Limits
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import (
    IMPATIENT,
    another_worker,
    drain,
    listening,
    send,
    send_many,
    visit,
)
from workers.visit import VisitEnd

COUNT = METADATA.tables["recipient_count"]

LIMIT, RESERVE, DAY = 40, 4, 2.0
SHORT_DAY: dict[str, Any] = {
    "messages_per_window": 1000,
    "recipients_per_day": LIMIT,
    "recipients_critical_reserve": RESERVE,
    "day_seconds": DAY,
}
LONG_DAY = SHORT_DAY | {"day_seconds": 86_400.0}


@pytest.fixture
def limits() -> Limits:
    return replace(Limits(), messages_per_window=None, recipients_per_day=LIMIT, day_seconds=DAY)


@pytest.fixture
def settings_changes(request: pytest.FixtureRequest) -> dict[str, Any]:
    return IMPATIENT | {"pacing": getattr(request, "param", LONG_DAY)}


short_day = pytest.mark.parametrize("settings_changes", [SHORT_DAY], indirect=True, ids=["2 s"])


def several(number: int, domain: str = "contoso.example") -> list[str]:
    return [f"r{n}@{domain}" for n in range(number)]


def counted(whole: Whole, subject: str) -> int:
    with read(whole.engine) as conn:
        statement = select(func.sum(COUNT.c.recipients)).where(COUNT.c.subject == subject)
        return conn.scalar(statement) or 0


def sentence(whole: Whole, delivery_id: Any) -> str:
    with read(whole.engine) as conn:
        return standing(conn, delivery_id).sentence()


def leave_external(whole: Whole, left: int) -> None:
    """Let the tenant be a trial that has reached all but a few of its external recipients."""
    with write(whole.engine) as conn:
        tenant = tenants.edit_tenant(conn, "contoso", trial=True)
        spent = {tenant_subject(tenant.id): TRIAL_EXTERNAL - left}
        quota_counts.spend(conn, [Spent(spent, DayLimits().bucket_seconds)])
    exchange = whole.exchange().organisation
    exchange.external_recipients_per_day, exchange.trial = left, True


@short_day
async def test_never_above_the_limit(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Three workers, one of which restarts, and a Redis that forgets: Exchange counts no excess."""
    for size in (1, 2, 3):
        send_many(whole, 20, to=several(size))
    lane_id = whole.mailbox_id("contoso")
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(another_worker(whole))
        async with another_worker(whole) as third:
            workers = (whole.services.visits, second.visits, third.visits)
            async with listening(whole.settings, *workers):
                await whole.services.wake_many([(lane_id, False), (lane_id, True)])
                await whole.until(lambda: whole.count("accepted") >= 15)
                for name in redis_client.scan_iter(match=f"{redis_keys.prefix}*"):
                    redis_client.delete(name)
                await whole.until(lambda: whole.count("accepted") >= 30)
        began = asyncio.get_running_loop().time()
        reached = sum(len(mail.recipients) for mail in whole.outbox())
        async with listening(whole.settings, whole.services.visits, second.visits):
            await whole.until(lambda: whole.count("accepted") == 60)
        took = asyncio.get_running_loop().time() - began

    exchange = whole.exchange()
    assert exchange.violations.total() == 0
    assert LIMIT - RESERVE - 3 <= exchange.max_recipients_in_day <= LIMIT
    # What was left needs so many days; a lane that forgot to go on would need far more.
    assert took < DAY * ((120 - reached) / (LIMIT - RESERVE - 3) + 1) + 3
    assert not exchange.outbox.duplicate_message_ids()


async def test_the_lane_waits_and_says_so(whole: Whole) -> None:
    """A used-up day pauses the mailbox, costs no attempt, and is told in one sentence."""
    receipts = send_many(whole, LIMIT)
    lane_id = receipts[0].mailbox_id

    while whole.count("accepted") < LIMIT - RESERVE:
        await visit(whole, lane_id)
    await visit(whole, lane_id)

    mailbox, row = whole.mailbox(lane_id), whole.row(receipts[-1].delivery_id)
    assert mailbox.pause_reason == RECIPIENTS
    assert (row.state, row.attempts) == ("queued", 0)
    assert counted(whole, "alerts@contoso.example") == LIMIT - RESERVE
    assert "recipients that its account may reach in 24 hours" in sentence(
        whole, receipts[-1].delivery_id
    )
    assert whole.exchange().violations.total() == 0


async def test_criticals_use_the_reserve(whole: Whole) -> None:
    """While all others wait for room a critical goes at once, until the reserve is used up too."""
    receipts = send_many(whole, LIMIT)
    lane_id = receipts[0].mailbox_id
    while whole.mailbox(lane_id).paused_until is None:
        await visit(whole, lane_id)

    criticals = send_many(whole, RESERVE + 1, severity="critical")
    await visit(whole, lane_id, critical=True)

    states = [whole.row(receipt.delivery_id).state for receipt in criticals]
    assert sorted(states) == ["accepted"] * RESERVE + ["queued"]
    assert whole.count("accepted") == LIMIT
    assert whole.mailbox(lane_id).pause_reason == RECIPIENTS
    assert whole.exchange().violations.total() == 0


async def test_a_pause_ends_with_its_cause(whole: Whole) -> None:
    """When the counts have left the window the next look sends, whatever the pause had said."""
    receipts = send_many(whole, LIMIT)
    lane_id = receipts[0].mailbox_id
    while whole.mailbox(lane_id).paused_until is None:
        await visit(whole, lane_id)
    whole.sandbox.world.advance(DAY)
    with write(whole.engine) as conn:
        conn.execute(COUNT.delete())

    await drain(whole, lane_id)

    assert whole.count("accepted") == LIMIT
    assert whole.mailbox(lane_id).paused_until is None


async def test_a_large_mail_does_not_hold_up_small_ones(whole: Whole) -> None:
    """A mail with more recipients than are left is due when it fits; those behind it go on."""
    for _ in range(2):
        await drain(whole, send(whole, to=several(15)).mailbox_id)
    large = send(whole, to=several(10))
    small = send(whole)

    await visit(whole, large.mailbox_id)

    row = whole.row(large.delivery_id)
    assert whole.row(small.delivery_id).state == "accepted"
    assert (row.state, row.reason, row.attempts) == ("queued", RECIPIENTS, 0)
    assert (row.due_at - row.enqueued_at).total_seconds() > 86_000
    assert sentence(whole, large.delivery_id).startswith("Waits until")
    assert whole.mailbox(large.mailbox_id).paused_until is None


async def test_only_those_taken_count(whole: Whole) -> None:
    """Of a mail that one recipient is refused for, the others count."""
    whole.sandbox.exchange.inject(
        Fault("refuse", "rcpt", RefuseRecipients("r1@contoso.example", "no_such_recipient"))
    )

    await visit(whole, send(whole, to=several(3)).mailbox_id)

    assert counted(whole, "alerts@contoso.example") == 2
    assert sum(len(mail.recipients) for mail in whole.outbox()) == 2


async def test_what_is_uncertain_counts(whole: Whole) -> None:
    """A mail without a reply after its content counts, and its copy counts once more."""
    whole.sandbox.exchange.inject(Fault("lost reply", "body", Close(), times=1))
    receipt = send(whole, to=several(3))

    await drain(whole, receipt.mailbox_id)

    assert whole.row(receipt.delivery_id).uncertain
    assert counted(whole, "alerts@contoso.example") == 6


async def test_inside_goes_on_when_outside_is_used_up(whole: Whole) -> None:
    """Beyond the tenant's limit mails to its own domains go; those to others wait, unbounced."""
    leave_external(whole, 5)
    first = send(whole, to=several(5, "elsewhere.example"))
    lane_id = first.mailbox_id
    await visit(whole, lane_id)
    outside = send_many(whole, 12, to=["x@elsewhere.example", "y@contoso.example"])
    inside = send(whole)

    end = await visit(whole, lane_id)

    row = whole.row(outside[0].delivery_id)
    assert end is VisitEnd.LANE_EMPTY
    assert whole.row(inside.delivery_id).state == "accepted"
    assert (row.state, row.reason, row.attempts) == ("queued", EXTERNAL, 0)
    assert counted(whole, tenant_subject(row.tenant_id)) == TRIAL_EXTERNAL
    assert "external recipients" in sentence(whole, outside[0].delivery_id)
    assert whole.mailbox(lane_id).paused_until is None
    organisation = whole.exchange().organisation
    assert organisation.max_external_in_day == 5
    assert whole.exchange().violations.total() == 0
    assert not [mail for mail in whole.outbox() if mail.later_bounce]

    organisation.external_recipients_per_day = 10_000
    with write(whole.engine) as conn:
        tenants.edit_tenant(conn, "contoso", trial=False, licences=1)
    await drain(whole, lane_id)

    assert whole.count("accepted") == 14


async def test_the_box_bounces_what_is_beyond(whole: Whole) -> None:
    """Exchange takes a mail beyond the tenant's limit, counts it, and bounces it afterwards."""
    whole.exchange().organisation.external_recipients_per_day = 2

    for number in (1, 2, 1):
        await drain(whole, send(whole, to=several(number, "elsewhere.example")).mailbox_id)

    assert whole.exchange().violations == {"external_recipients_per_day": 1}
    bounces = [mail.later_bounce for mail in whole.outbox()]
    assert sorted(bounces) == ["", "", "tenant_external_limit"]
