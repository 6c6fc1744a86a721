"""Lanes that wait: what parks or pauses which mailboxes, what that costs, and how it ends."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from models import app_registrations, lane, mailboxes
from models.database import write
from models.lane_park import pause
from models.redis_keys import RedisKeys
from sandbox.faults import Answer, Close, Fault, Slow
from tests.fixtures.whole import MAILBOX, Whole
from tests.workers.visit_parts import (
    IMPATIENT,
    change,
    drain,
    listening,
    send,
    send_many,
    visit,
)
from workers.visit import VisitEnd

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
HOUR, DAY = 3600, 86_400


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    # Nobody but timers, producers and visits wakes a lane here.
    return IMPATIENT | {"sweep": {"interval_seconds": 3600}}


def _inject(whole: Whole, phase: Any, reply: str, *, times: int | None = None) -> None:
    whole.sandbox.exchange.inject(Fault("fault", phase, Answer(reply), times=times))


def _calls(whole: Whole) -> int:
    """Count what Entra and Exchange were asked so far."""
    accepted: int = whole.sandbox.exchange.snapshot()["accepted"]
    return accepted + whole.sandbox.world.ledger.by_grant_type.total()


def _probe_in(whole: Whole, receipt: Any) -> float:
    probe_at = whole.mailbox(receipt.mailbox_id).probe_at
    return float((probe_at - datetime.now(UTC)).total_seconds())


async def test_one_refused_token_is_replaced_by_another(whole: Whole) -> None:
    """A token that Exchange refuses costs a refresh and a second sign-in, but no attempt."""
    await visit(whole, send(whole).mailbox_id)
    await whole.services.connections.close()
    refreshes = whole.sandbox.world.ledger.refreshes
    _inject(whole, "auth", "authentication_unsuccessful", times=1)
    receipt = send(whole)

    await visit(whole, receipt.mailbox_id)

    assert whole.row(receipt.delivery_id).state == "accepted"
    assert len(whole.attempts(receipt.delivery_id)) == 1
    assert whole.sandbox.world.ledger.refreshes == refreshes + 1


async def test_two_refused_tokens_park_the_mailbox(whole: Whole) -> None:
    """When the other token is refused too, a person is told what it means and what to do."""
    await visit(whole, send(whole).mailbox_id)
    await whole.services.connections.close()
    _inject(whole, "auth", "authentication_unsuccessful")
    receipt = send(whole)

    assert await visit(whole, receipt.mailbox_id) is VisitEnd.HALTED

    mailbox = whole.mailbox(receipt.mailbox_id)
    assert (mailbox.park_reason, mailbox.park_scope) == ("token-refused-again", "mailbox")
    assert mailbox.park_meaning
    assert mailbox.park_next_step
    assert "535 5.7.3" in mailbox.park_answer
    assert whole.row(receipt.delivery_id).attempts == 0


async def test_smtp_auth_switched_off_for_the_tenant_parks_all_its_mailboxes(
    whole: Whole,
) -> None:
    """One mailbox meets the switch, the whole tenant waits, and a parked lane costs no calls."""
    with write(whole.engine) as connection:
        mailboxes.add_mailbox(connection, tenant_slug="contoso", address="second@contoso.example")
    whole.exchange().organisation.smtp_auth = False
    receipts = send_many(whole, 3)

    await visit(whole, receipts[0].mailbox_id)

    with write(whole.engine) as connection:
        parked = connection.execute(MAILBOX.select()).all()
    assert {row.park_reason for row in parked} == {"smtp-auth-disabled-tenant"}
    assert len(parked) == 2
    calls = _calls(whole)
    assert await visit(whole, receipts[0].mailbox_id) is VisitEnd.NOT_READY
    assert _calls(whole) == calls
    assert {whole.row(receipt.delivery_id).attempts for receipt in receipts} == {0}


async def test_a_revoked_grant_waits_for_consent_and_then_drains_at_once(whole: Whole) -> None:
    """A lost consent burns nothing; two seconds after a new one the lane is empty."""
    first = send(whole)
    await visit(whole, first.mailbox_id)
    await whole.services.connections.close()
    whole.sandbox.world.revoke_grants("alerts@contoso.example", recall_access_tokens=True)
    receipts = send_many(whole, 5)

    await visit(whole, first.mailbox_id)

    mailbox = whole.mailbox(first.mailbox_id)
    assert mailbox.parked_at is not None
    assert {whole.row(receipt.delivery_id).attempts for receipt in receipts} == {0}
    calls = _calls(whole)
    await visit(whole, first.mailbox_id)
    assert _calls(whole) == calls

    await asyncio.to_thread(whole.connect, first.mailbox_id)
    async with listening(whole.settings, whole.services.visits):
        with write(whole.engine) as connection:
            lane.resume(connection, mailbox_ids=[first.mailbox_id])
        await whole.services.wake(first.mailbox_id, critical=False)
        await whole.until(lambda: whole.count("accepted") == 6, seconds=20)


async def test_an_answer_from_before_a_resume_parks_nothing(whole: Whole) -> None:
    """A second visit that had asked before the cause was removed does not stop the lane again."""
    whole.exchange().organisation.smtp_auth = False
    whole.sandbox.exchange.inject(Fault("late", "auth", Slow(0.5), times=1))
    receipt = send(whole)
    late = asyncio.create_task(visit(whole, receipt.mailbox_id))
    await whole.until(lambda: whole.sandbox.exchange.faults.struck.get("late", 0) == 1, seconds=20)
    # Another visit met the switch first, and an administrator has turned it on since.
    with write(whole.engine) as connection:
        lane.park(
            connection,
            mailbox_id=receipt.mailbox_id,
            scope="tenant",
            reason="smtp-auth-disabled-tenant",
            meaning="",
            next_step="",
            answer="",
            probe_after_seconds=600,
        )
    whole.exchange().organisation.smtp_auth = True
    with write(whole.engine) as connection:
        lane.resume_scope(connection, mailbox_id=receipt.mailbox_id)

    await late

    assert whole.mailbox(receipt.mailbox_id).parked_at is None
    await visit(whole, receipt.mailbox_id)
    assert whole.row(receipt.delivery_id).state == "accepted"


async def test_a_secret_renewed_meanwhile_is_tried_before_a_park(whole: Whole) -> None:
    """What Microsoft says to a session of the old credential is no reason to wait any more."""
    whole.exchange().organisation.smtp_auth = False
    whole.sandbox.exchange.inject(Fault("late", "auth", Slow(0.5), times=1))
    receipt = send(whole)
    late = asyncio.create_task(visit(whole, receipt.mailbox_id))
    await whole.until(lambda: whole.sandbox.exchange.faults.struck.get("late", 0) == 1, seconds=20)
    secret = next(iter(whole.sandbox.world.apps.values())).client_secrets[0].value
    with write(whole.engine) as connection:
        app_registrations.renew_credential(
            connection,
            whole.vault,
            name="contoso",
            credential=app_registrations.Credential.secret(secret),
        )

    await late

    assert whole.mailbox(receipt.mailbox_id).parked_at is None


async def test_a_probe_tries_one_mail_and_a_failed_one_waits_longer(whole: Whole) -> None:
    """A parked mailbox whose time has come risks one mail; each failure is dearer."""
    _inject(whole, "body", "outbound_spam", times=2)
    receipts = send_many(whole, 3)
    lane_id = receipts[0].mailbox_id
    await visit(whole, lane_id)
    assert _probe_in(whole, receipts[0]) == pytest.approx(HOUR, abs=60)

    change(whole, MAILBOX, probe_at=LONG_AGO)
    await visit(whole, lane_id)

    assert _probe_in(whole, receipts[0]) == pytest.approx(DAY, abs=60)
    assert whole.mailbox(lane_id).park_count == 1
    assert sum(len(whole.attempts(receipt.delivery_id)) for receipt in receipts) == 2

    change(whole, MAILBOX, probe_at=LONG_AGO)
    await visit(whole, lane_id)

    mailbox = whole.mailbox(lane_id)
    assert (mailbox.parked_at, mailbox.park_count, mailbox.probe_at) == (None, 0, None)
    assert whole.count("accepted") == 3


async def test_a_probe_that_finds_the_old_cause_parks_at_once(whole: Whole) -> None:
    """Patience was had before the first park: a probe does not begin it anew."""
    _inject(whole, "banner", "554 5.3.2 Not for you")
    receipt = send(whole)
    async with asyncio.timeout(10):
        while whole.mailbox(receipt.mailbox_id).parked_at is None:
            await visit(whole, receipt.mailbox_id)
            await asyncio.sleep(0.01)
    tries = len(whole.attempts(receipt.delivery_id))

    change(whole, MAILBOX, probe_at=LONG_AGO)
    await visit(whole, receipt.mailbox_id)

    assert len(whole.attempts(receipt.delivery_id)) == tries + 1
    assert _probe_in(whole, receipt) == pytest.approx(2 * HOUR, abs=60)


@pytest.mark.parametrize(
    ("phase_and_reply", "rule"),
    [
        (("body", "sender_thread_limit"), "concurrent-connections"),
        (("auth", "concurrent_connections"), "concurrent-connections"),
        (("mail", "submission_rate"), "submission-rate"),
        (("body", "server_busy"), "new-pattern-restricted"),
    ],
)
async def test_a_throttle_pauses_the_mailbox_for_all_workers(
    whole: Whole,
    redis_client: redis.Redis,
    redis_keys: RedisKeys,
    phase_and_reply: tuple[str, str],
    rule: str,
) -> None:
    """Patience that Exchange asks for is kept in SQL and in Redis, and grows; no mail pays."""
    _inject(whole, *phase_and_reply, times=2)
    receipts = send_many(whole, 2)
    lane_id = receipts[0].mailbox_id

    assert await visit(whole, lane_id) is VisitEnd.HALTED

    mailbox = whole.mailbox(lane_id)
    seconds = (mailbox.paused_until - datetime.now(UTC)).total_seconds()
    assert (mailbox.pause_reason, mailbox.pause_count) == (rule, 1)
    assert redis_client.pttl(redis_keys.pause("alerts@contoso.example")) == pytest.approx(
        seconds * 1000, abs=500
    )
    alarms = redis_client.zrange(redis_keys.alarms, 0, -1, withscores=True)
    alarm = max(moment for member, moment in alarms if member.startswith(str(lane_id).encode()))
    assert alarm == pytest.approx((time.time() + seconds) * 1000, abs=500)
    assert {whole.row(receipt.delivery_id).attempts for receipt in receipts} == {0}
    calls = _calls(whole)
    await visit(whole, lane_id)
    assert _calls(whole) == calls

    change(whole, MAILBOX, paused_until=LONG_AGO)
    redis_client.delete(redis_keys.pause("alerts@contoso.example"))
    await visit(whole, lane_id)

    mailbox = whole.mailbox(lane_id)
    longer = (mailbox.paused_until - datetime.now(UTC)).total_seconds()
    assert mailbox.pause_count == 2
    assert longer > seconds * 1.5

    change(whole, MAILBOX, paused_until=LONG_AGO)
    redis_client.delete(redis_keys.pause("alerts@contoso.example"))
    await visit(whole, lane_id)

    assert whole.count("accepted") == 2
    assert whole.mailbox(lane_id).pause_count == 0


async def test_the_timer_wakes_a_lane_after_its_pause(whole: Whole) -> None:
    """A pause ends by itself, without the sweep."""
    whole.sandbox.exchange.inject(Fault("fault", "banner", Close(), times=2))
    async with listening(whole.settings, whole.services.visits):
        receipt = send(whole)
        await whole.until(lambda: whole.row(receipt.delivery_id).state == "accepted")

    assert len(whole.attempts(receipt.delivery_id)) == 3


async def test_a_visit_within_a_pause_sees_to_its_end(whole: Whole) -> None:
    """A wake-up that comes too early takes the alarm along: the lane would wait for the sweep."""
    receipt = send(whole)
    with write(whole.engine) as connection:
        pause(connection, mailbox_ids=[receipt.mailbox_id], seconds=0.5, reason="banner")

    assert await visit(whole, receipt.mailbox_id) is VisitEnd.NOT_READY

    async with listening(whole.settings, whole.services.visits):
        await whole.until(lambda: whole.row(receipt.delivery_id).state == "accepted")


async def test_nothing_sets_the_end_of_a_pause_earlier(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Whoever finds no permit sets the lane's alarm to now; the pause has one of its own."""
    whole.sandbox.exchange.inject(Fault("fault", "banner", Close(), times=1))
    receipt = send(whole)
    await visit(whole, receipt.mailbox_id)

    ends_ms = whole.mailbox(receipt.mailbox_id).paused_until.timestamp() * 1000
    of_their_own = {
        member: moment
        for member, moment in redis_client.zrange(redis_keys.alarms, 0, -1, withscores=True)
        if b":" in member
    }
    assert max(of_their_own.values()) >= ends_ms


async def test_a_key_that_is_missing_parks_instead_of_losing_mails(whole: Whole) -> None:
    """A worker that cannot open a payload makes no dead letters of its customers' alerts."""
    receipt = send(whole)
    whole.services.vault = type(whole.vault)([type(whole.vault).new_key()])

    await visit(whole, receipt.mailbox_id)

    assert whole.row(receipt.delivery_id).state == "queued"
    assert whole.mailbox(receipt.mailbox_id).park_reason == "misconfigured"

    whole.services.vault = whole.vault
    change(whole, MAILBOX, probe_at=LONG_AGO)
    await drain(whole, receipt.mailbox_id)

    assert whole.row(receipt.delivery_id).state == "accepted"


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data", "body"])
async def test_a_session_that_lost_its_sign_in_costs_one_sign_in_and_no_attempt(
    whole: Whole, phase: Any
) -> None:
    """The token was revoked or expired in mid-session: a new connection, the same mail, no more."""
    _inject(whole, phase, "not_authenticated", times=1)
    receipts = send_many(whole, 3)
    opened = whole.sandbox.exchange.snapshot()["accepted"]

    await visit(whole, receipts[0].mailbox_id)

    assert whole.count("accepted") == 3
    assert [len(whole.attempts(receipt.delivery_id)) for receipt in receipts] == [1, 1, 1]
    assert {whole.row(receipt.delivery_id).attempts for receipt in receipts} == {1}
    assert whole.sandbox.exchange.snapshot()["accepted"] == opened + 2


async def test_a_server_that_always_forgets_the_sign_in_parks_the_mailbox(whole: Whole) -> None:
    """One new sign-in a mail, then the answer counts as any other: nothing goes on for ever."""
    _inject(whole, "mail", "not_authenticated")
    receipt = send(whole)

    await visit(whole, receipt.mailbox_id)
    await asyncio.sleep(0.06)
    await visit(whole, receipt.mailbox_id)

    assert whole.mailbox(receipt.mailbox_id).park_reason == "not-authenticated-again"
    assert whole.row(receipt.delivery_id).state == "queued"
