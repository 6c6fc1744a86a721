"""Retries are waked by alarms of their own; the sweep is there for what alarms lose."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import Connection

from models import lane
from sandbox.faults import Answer, Fault
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, listening, send, send_many


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    """Give retries at two distances, and no sweep."""
    return IMPATIENT | {
        "retry": IMPATIENT["retry"] | {"soon_seconds": 0.1, "first_seconds": 1.0},
        "sweep": {"interval_seconds": 3600.0},
    }


async def test_a_retry_is_waked_although_its_commit_took_longer(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alarm counted from before the commit rang before the mail was due, and was lost."""

    def slow(connection: Connection, outcomes: Any) -> list[bool]:
        time.sleep(0.4)
        return settle(connection, outcomes)

    settle = lane.settle
    monkeypatch.setattr(lane, "settle", slow)
    whole.sandbox.exchange.inject(Fault("busy", "mail", Answer("service_not_available"), times=1))

    async with listening(whole.settings, whole.services.visits):
        receipt = send(whole)
        await whole.until(lambda: whole.row(receipt.delivery_id).state == "accepted", seconds=10)

    assert whole.row(receipt.delivery_id).attempts == 2


async def test_the_later_of_two_retries_is_waked_too(whole: Whole) -> None:
    """The visit for the first one finds nothing of the second, and sets no alarm for it."""
    exchange = whole.sandbox.exchange
    exchange.inject(Fault("busy", "mail", Answer("service_not_available"), times=1))
    exchange.inject(Fault("internal", "body", Answer("not_redundant"), times=1))

    async with listening(whole.settings, whole.services.visits):
        send_many(whole, 2)
        await whole.until(lambda: whole.count("accepted") == 2, seconds=10)

    assert (exchange.faults.struck["busy"], exchange.faults.struck["internal"]) == (1, 1)
