"""One account signs in for several mailboxes: Microsoft counts it once, and so does pacing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import update

from models import lane, mailboxes
from models.database import read, write
from models.redis_keys import RedisKeys
from sandbox.faults import Answer, Fault
from sandbox.limits import Limits
from sandbox.mailboxes import Mailbox
from tests.fixtures.whole import MAILBOX, Whole
from tests.workers.pacing_parts import party_of
from tests.workers.visit_parts import (
    IMPATIENT,
    another_worker,
    flush,
    listening,
    send,
    send_many,
    visit,
)
from workers.visit import VisitEnd

ADMIN = "admin@contoso.example"
ONE = "alerts@contoso.example"
TWO = "second@contoso.example"
THREE = "third@contoso.example"
WINDOW = 1.5


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"pacing": {"window_seconds": WINDOW}}


def box(whole: Whole) -> Mailbox:
    """The account, from Microsoft's side."""
    found = whole.sandbox.world.mailboxes.get(ADMIN)
    assert found is not None
    return found


@pytest.fixture
async def keys(whole: Whole) -> dict[str, UUID]:
    """Three mailboxes for which one account signs in."""
    box(whole).limits = replace(Limits(), window_seconds=WINDOW)
    box(whole).send_as.update((ONE, TWO, THREE))
    with write(whole.engine) as conn:
        # Letter case makes no difference to Microsoft.
        mailboxes.edit_mailbox(conn, ONE, auth_user=ADMIN.upper())
        for address in (TWO, THREE):
            mailboxes.add_mailbox(
                conn, tenant_slug="contoso", address=address, auth_user="Admin@Contoso.example"
            )
        known = {address: mailboxes.mailbox(conn, address).id for address in (ONE, TWO, THREE)}
    for key in known.values():
        await asyncio.to_thread(whole.connect, key, account=ADMIN)
    return known


def accepted(whole: Whole, address: str) -> int:
    return sum(mail.sender == address for mail in box(whole).outbox.mails)


async def test_mailboxes_of_one_account_share_its_limits(
    whole: Whole, keys: dict[str, UUID]
) -> None:
    """Storms in two lanes, over two workers: no mail and no connection too many, at full rate."""
    for address in (ONE, TWO):
        send_many(whole, 50, mailbox=address)
    async with (
        another_worker(whole) as second,
        listening(whole.settings, whole.services.visits, second.visits),
    ):
        await whole.services.wake_many(
            [(keys[one], critical) for one in (ONE, TWO) for critical in (False, True)]
        )
        await whole.until(lambda: whole.count("accepted") == 100)

    assert box(whole).violations.total() == 0
    assert box(whole).max_connections <= 3
    assert (accepted(whole, ONE), accepted(whole, TWO)) == (50, 50)
    assert box(whole).max_sent_in_window >= 28


async def test_a_storm_in_one_lane_leaves_turns_to_the_others(
    whole: Whole, keys: dict[str, UUID]
) -> None:
    """Two late alerts of quiet mailboxes go out while the storm still has most of its way."""
    send_many(whole, 120, mailbox=ONE)
    async with (
        another_worker(whole) as second,
        listening(whole.settings, whole.services.visits, second.visits),
    ):
        await whole.services.wake(keys[ONE], critical=False)
        await whole.until(lambda: whole.count("accepted") >= 28)
        late = [send(whole, mailbox=one) for one in (TWO, THREE, TWO)]
        await whole.until(
            lambda: all(whole.row(one.delivery_id).state == "accepted" for one in late)
        )
        left = whole.count("queued") + whole.count("sending")

    # Two windows let 56 mails out; in turn, the three need one at most.
    assert left >= 120 - 28 - 56
    assert box(whole).violations.total() == 0


async def test_storms_in_more_lanes_than_there_are_connections_take_turns(
    whole: Whole, keys: dict[str, UUID]
) -> None:
    """Three backlogs on two connections: none of them waits until the others are done."""
    for address in (ONE, TWO, THREE):
        send_many(whole, 50, mailbox=address)
    async with listening(whole.settings, whole.services.visits):
        await whole.services.wake_many([(key, False) for key in keys.values()])
        await whole.until(lambda: whole.count("accepted") >= 100)
        shares = [accepted(whole, one) for one in (ONE, TWO, THREE)]

    # How evenly they share depends on how soon a busy machine opens the next connection.
    assert min(shares) >= 10, shares
    assert box(whole).violations.total() == 0
    assert box(whole).max_connections <= 2


@pytest.mark.parametrize("settings_changes", [IMPATIENT])
async def test_a_critical_of_any_lane_goes_first(whole: Whole, keys: dict[str, UUID]) -> None:
    """The reserve and the third connection are the account's: another lane's critical gets them."""
    box(whole).limits = Limits()
    send_many(whole, 40, mailbox=ONE)
    assert await visit(whole, keys[ONE]) is VisitEnd.NO_PERMIT
    assert accepted(whole, ONE) == 28
    critical = send(whole, mailbox=TWO, severity="critical")

    await visit(whole, keys[TWO], critical=True)

    assert whole.row(critical.delivery_id).state == "accepted"
    assert box(whole).violations.total() == 0


async def test_throttling_pauses_all_mailboxes_of_the_account(
    whole: Whole, keys: dict[str, UUID]
) -> None:
    """Microsoft counts the account, so that another mailbox of it would only be refused as well."""
    whole.sandbox.exchange.inject(Fault("f", "body", Answer("sender_thread_limit"), times=1))
    send_many(whole, 2, mailbox=ONE)
    send(whole, mailbox=TWO)

    assert await visit(whole, keys[ONE]) is VisitEnd.HALTED

    paused = [whole.mailbox(key) for key in keys.values()]
    assert {one.pause_reason for one in paused} == {"concurrent-connections"}
    assert all(one.paused_until > datetime.now(UTC) for one in paused)
    refusals = whole.sandbox.world.mailboxes.refusals.total()
    assert await visit(whole, keys[TWO]) in {VisitEnd.NO_PERMIT, VisitEnd.NO_SLOT}
    assert whole.sandbox.world.mailboxes.refusals.total() == refusals
    assert not box(whole).outbox.mails


async def test_a_park_stops_no_other_mailbox_of_the_account(
    whole: Whole, keys: dict[str, UUID]
) -> None:
    """A mailbox that may not be sent as waits alone; the next of its account goes on."""
    box(whole).send_as.discard(ONE)
    send(whole, mailbox=ONE)
    other = send(whole, mailbox=TWO)

    assert await visit(whole, keys[ONE]) is VisitEnd.HALTED
    await visit(whole, keys[TWO])

    assert whole.row(other.delivery_id).state == "accepted"


async def test_an_idle_connection_goes_to_another_mailbox_of_the_account(
    whole: Whole, keys: dict[str, UUID]
) -> None:
    """Two mailboxes keep the two connections that are not for criticals; a third gets one soon."""
    for address in (ONE, TWO):
        send(whole, mailbox=address)
        assert await visit(whole, keys[address]) is VisitEnd.LANE_EMPTY
    assert box(whole).connections == 2
    waiting = send(whole, mailbox=THREE)

    assert await visit(whole, keys[THREE]) is VisitEnd.NO_SLOT
    async with listening(whole.settings, whole.services.visits):
        await whole.until(lambda: whole.row(waiting.delivery_id).state == "accepted", seconds=10)

    assert box(whole).max_connections == 2


async def test_another_account_for_a_mailbox_counts_from_its_next_mail_on(
    whole: Whole, keys: dict[str, UUID], redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """What was sent counts for whom it was sent as, also when Redis forgets; so does what follows."""
    send_many(whole, 10, mailbox=ONE)
    await visit(whole, keys[ONE])
    assert accepted(whole, ONE) == 10
    with write(whole.engine) as conn:
        mailboxes.edit_mailbox(conn, ONE, auth_user=None)
    await asyncio.to_thread(whole.connect, keys[ONE])
    send(whole, mailbox=ONE)

    # The worker still takes it for the account's, finds out, and begins anew.
    ends = [await visit(whole, keys[ONE]) for _ in range(3)]
    await whole.until(lambda: whole.count("accepted") == 11)

    assert VisitEnd.MOVED in ends
    assert len(whole.outbox()) == 1
    flush(redis_client, redis_keys)
    with read(whole.engine) as conn:
        before = lane.recent_submissions(conn, account=ADMIN, window_seconds=60)
        now = lane.recent_submissions(conn, account=ONE, window_seconds=60)
    assert len(before.ages_ms) >= 10
    assert len(now.ages_ms) >= 1


@pytest.mark.parametrize("settings_changes", [IMPATIENT])
async def test_a_mailbox_brings_its_count_along(whole: Whole, keys: dict[str, UUID]) -> None:
    """Redis knows the account it comes to: what the mailbox sent before counts there, once."""
    send(whole, mailbox=TWO)
    await visit(whole, keys[TWO])
    with write(whole.engine) as conn:
        mailboxes.edit_mailbox(conn, ONE, auth_user=None)
    await asyncio.to_thread(whole.connect, keys[ONE])
    send_many(whole, 10, mailbox=ONE)
    while whole.count("queued"):
        await visit(whole, keys[ONE])
    assert len(whole.outbox()) == 10
    with write(whole.engine) as conn:
        mailboxes.edit_mailbox(conn, ONE, auth_user=ADMIN)
    await asyncio.to_thread(whole.connect, keys[ONE], account=ADMIN)

    async with another_worker(whole) as second:
        for services in (whole.services, second):
            services.accounts.forget(keys[ONE])
            await services.accounts.party(keys[ONE])
    entry = await whole.services.pacer.enter(party_of(whole, keys[TWO]), "look", critical=True)

    assert entry.critical_permits == 30 - 1 - 10


async def test_the_account_is_one_over_all_tenants(whole: Whole, keys: dict[str, UUID]) -> None:
    """Mailboxes of two tenants with one account are one to pacing."""
    other = await asyncio.to_thread(whole.add_tenant, "fabrikam", connect=False)
    with write(whole.engine) as conn:
        conn.execute(update(MAILBOX).where(MAILBOX.c.id == other).values(auth_user=ADMIN))

    assert party_of(whole, other).account == party_of(whole, keys[TWO]).account == ADMIN
