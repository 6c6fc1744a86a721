"""A mailbox that sends as itself is told that it may not: believed when it is said twice."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from models.redis_keys import RedisKeys
from sandbox.faults import Answer, Fault
from tests.fixtures.whole import MAILBOX, Whole
from tests.workers.visit_parts import IMPATIENT, change, send_many, visit
from workers.reply_rules_mail import SEND_AS_DENIED

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"sweep": {"interval_seconds": 3600}}


def _refuse(whole: Whole, *, times: int | None) -> None:
    whole.sandbox.exchange.inject(Fault("denied", "body", Answer("send_as_denied"), times=times))


async def test_said_once_it_is_tried_again_and_nobody_is_asked(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """The mailbox rests for a moment, no mail pays, and all go out."""
    _refuse(whole, times=1)
    receipts = send_many(whole, 3)
    lane_id = receipts[0].mailbox_id

    await visit(whole, lane_id)

    mailbox = whole.mailbox(lane_id)
    assert (mailbox.parked_at, mailbox.pause_reason) == (None, "send-as-denied-once")
    assert {whole.row(receipt.delivery_id).attempts for receipt in receipts} == {0}

    change(whole, MAILBOX, paused_until=LONG_AGO)
    redis_client.delete(redis_keys.pause("alerts@contoso.example"))
    await visit(whole, lane_id)

    assert whole.count("accepted") == 3
    assert whole.mailbox(lane_id).parked_at is None


async def test_said_twice_it_parks_whatever_mail_met_it(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Another mail that goes first does not begin the patience anew: each refusal may lock out."""
    _refuse(whole, times=None)
    lane_id = send_many(whole, 3)[0].mailbox_id
    await visit(whole, lane_id)
    send_many(whole, 1, severity="critical")

    change(whole, MAILBOX, paused_until=LONG_AGO)
    redis_client.delete(redis_keys.pause("alerts@contoso.example"))
    await visit(whole, lane_id)

    mailbox = whole.mailbox(lane_id)
    assert mailbox.park_reason == SEND_AS_DENIED.rule
    assert whole.sandbox.exchange.faults.struck["denied"] == 2
    assert (mailbox.probe_at - mailbox.parked_at).total_seconds() == pytest.approx(86_400, abs=60)
    command = f"`Add-RecipientPermission {mailbox.address} -Trustee {mailbox.address} "
    assert command in mailbox.park_next_step
