"""
A process dies at one step of a delivery: what is there then, and what follows from it.

The table "When a worker dies" of docs/lifecycle.md, line by line, with real processes.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import redis
from sqlalchemy import select

from bench.chaos.crashing import POISON, STEPS
from models import wakeup
from models.database import read, write
from models.ids import uuid7
from models.redis_keys import RedisKeys
from sandbox.faults import Fault, Slow
from tests.fixtures.whole import ATTEMPT, DELIVERY, Whole
from tests.workers.test_worker_process import CLAIM_SECONDS, ROOT, environment
from tests.workers.visit_parts import IMPATIENT, listening, send_many

RECOVERED_SECONDS = 2 * CLAIM_SECONDS + 10
"""
The claim and the slot run out, then a sweep comes by; with the defaults, 20 s and 5 s.

The rest is for a busy machine: all of it takes 3 s on one that is not.
"""


class After(NamedTuple):
    """What must be true of two alerts whose first was in hand."""

    states: list[str]
    """At the moment of death."""
    uncertain: list[bool]
    """In the end, when all is accepted."""
    copies: int
    """Of the first, at Exchange."""


IN_DOUBT = After(["sending", "sending"], [True, False], 1)
NOT_BEGUN = IN_DOUBT._replace(uncertain=[False, False])
SENT_TWICE = IN_DOUBT._replace(copies=2)

EXPECTED = {
    "after-the-row": After(["queued"], [False], 1),
    "after-the-wake": After(["queued", "queued"], [False, False], 1),
    "after-the-claim": NOT_BEGUN,
    "after-auth": NOT_BEGUN,
    "inside-data": IN_DOUBT,
    "after-the-dot": SENT_TWICE,
    "after-the-250": SENT_TWICE,
    "before-the-commit": SENT_TWICE,
    "after-the-commit": After(["accepted", "sending"], [False, False], 1),
}

# Where the database has a part in it, on both; `make chaos ARGS="--steps"` has all on both.
CASES = [("sqlite", step) for step in EXPECTED] + [
    ("postgresql", step)
    for step in ("after-the-claim", "after-the-250", "before-the-commit", "after-the-commit")
]


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {
        "pacing": {"slot_seconds": CLAIM_SECONDS},
        "visit": {"claim_seconds": CLAIM_SECONDS},
    }


@contextmanager
def _process(whole: Whole, step: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.chaos.crashing", step],
        cwd=ROOT,
        env=environment(whole.settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def _die(whole: Whole, step: str) -> None:
    """Let a process come to a step with two alerts, or one where it is a producer; it dies."""
    alert = whole.alert()
    if step != "after-the-row":
        send_many(whole, 2)
    if step == "after-the-dot":
        # Exchange takes the mail; its reply comes too late for whoever dies here.
        whole.sandbox.exchange.inject(Fault("late", "body", Slow(0.3), times=1))
    with _process(whole, step) as process:
        given = alert.model_dump_json(exclude_none=True) if step == "after-the-row" else ""
        await asyncio.to_thread(process.communicate, given.encode(), 40)
        assert process.returncode == -signal.SIGKILL


def _rows(whole: Whole) -> list[Any]:
    with read(whole.engine) as connection:
        return list(connection.execute(select(DELIVERY).order_by(DELIVERY.c.id)))


def test_every_step_is_expected_to_end_somehow() -> None:
    """The table names each step that a process can die at."""
    assert EXPECTED.keys() == STEPS.keys()


@pytest.mark.parametrize(("database_kind", "step"), CASES)
async def test_a_crash_at_each_step(
    whole: Whole, step: str, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """The state is what docs/lifecycle.md says, and all is accepted soon after by itself."""
    expected = EXPECTED[step]

    await _die(whole, step)

    died = time.monotonic()
    rows = _rows(whole)
    mark = redis_keys.wake(rows[0].mailbox_id, critical=False)
    assert [row.state for row in rows] == expected.states
    if step == "after-the-wake":
        assert 0 < redis_client.pttl(mark) <= wakeup.PENDING_MS
    # The mark of a wake-up that was lost runs out by itself; the test does not wait for that. At
    # any step the dead process may have fetched one more that the sweep sent meanwhile.
    redis_client.pexpire(mark, 200)

    async with listening(whole.settings, whole.services.visits):
        await whole.until(lambda: whole.count("accepted") == len(rows), seconds=RECOVERED_SECONDS)

    rows = _rows(whole)
    assert time.monotonic() - died < RECOVERED_SECONDS
    assert [row.uncertain for row in rows] == expected.uncertain
    rules = [[attempt.rule for attempt in whole.attempts(row.id)] for row in rows]
    assert rules == [["worker-died"] * marked + ["accepted"] for marked in expected.uncertain]
    sent = [mail.message_id for mail in whole.outbox()]
    assert sent.count(rows[0].message_id) == expected.copies
    assert len(sent) == len(rows) + expected.copies - 1
    assert whole.exchange().violations.total() == 0


async def test_a_mail_that_stops_its_worker_takes_nobody_along(whole: Whole) -> None:
    """In hand at three deaths it is a dead letter; its batch and other mailboxes are not."""
    await asyncio.to_thread(whole.add_tenant, "fabrikam")
    poison = whole.producer.enqueue(whole.alert(text=POISON.decode(), severity="critical"))
    neighbours = send_many(whole, 3) + whole.producer.enqueue_many(
        [whole.alert(tenant="fabrikam", to=["ops@fabrikam.example"], subject="Alert")]
    )
    for deaths in (1, 2, 3):
        with _process(whole, "on-poison") as process:
            await asyncio.to_thread(process.wait, 40)
            assert process.returncode == -signal.SIGKILL
        await whole.until(lambda: whole.row(poison.delivery_id).state != "sending")
        assert whole.row(poison.delivery_id).claims == deaths

    async with listening(whole.settings, whole.services.visits):
        await whole.until(lambda: whole.count("accepted") == len(neighbours))

    row = whole.row(poison.delivery_id)
    assert (row.state, row.reason, row.uncertain) == ("dead", "stops-its-worker", True)
    assert [mail for mail in whole.outbox() if mail.message_id == row.message_id] == []
    others = [whole.row(receipt.delivery_id) for receipt in neighbours]
    assert [other.state for other in others] == ["accepted"] * len(neighbours)


@pytest.mark.parametrize("database_kind", ["sqlite"])
async def test_a_mail_that_stops_its_worker_while_composed_is_set_aside(whole: Whole) -> None:
    """It is found out, tried alone, and dead at last; nobody is blamed for it, nothing was sent."""
    await asyncio.to_thread(whole.add_tenant, "fabrikam")
    # Second in its lane: the mail before it is out, and perhaps not recorded, when the worker dies.
    first = send_many(whole, 1)
    poison = whole.producer.enqueue(whole.alert(text=POISON.decode()))
    others = send_many(whole, 2) + whole.producer.enqueue_many(
        [whole.alert(tenant="fabrikam", to=["ops@fabrikam.example"], subject="Alert")]
    )

    async def death() -> str:
        with _process(whole, "composing-poison") as process:
            await asyncio.to_thread(process.wait, 40)
            assert process.returncode == -signal.SIGKILL
        await whole.until(lambda: whole.row(poison.delivery_id).state != "sending")
        row = whole.row(poison.delivery_id)
        assert (row.claims, row.uncertain) == (0, False)
        return str(row.reason)

    assert [await death(), await death()] == ["worker-died-early", "worker-died-composing"]
    # The third and the fourth are like the second.
    with write(whole.engine) as connection:
        seen = whole.attempts(poison.delivery_id)[0]._asdict()
        connection.execute(
            ATTEMPT.insert(), [seen | {"id": uuid7(), "number": number} for number in (2, 3, 4)]
        )
    assert await death() == "stops-its-worker-unsent"

    neighbours = first + others
    async with listening(whole.settings, whole.services.visits):
        await whole.until(lambda: whole.count("accepted") == len(neighbours))

    row = whole.row(poison.delivery_id)
    assert (row.state, row.uncertain) == ("dead", False)
    rules = [attempt.rule for attempt in whole.attempts(poison.delivery_id)]
    assert rules == ["worker-died-composing"] * 4 + ["stops-its-worker-unsent"]
    assert [mail for mail in whole.outbox() if mail.message_id == row.message_id] == []
    rows = [whole.row(receipt.delivery_id) for receipt in neighbours]
    assert [other.state for other in rows] == ["accepted"] * len(neighbours)
    # The one before it may have been out unrecorded at the first death, and the other mailbox's
    # may have been on its way at any; whatever came after it was not.
    assert [other.uncertain for other in rows[1:3]] == [False, False]


async def test_deaths_before_a_submission_bury_nobody(whole: Whole) -> None:
    """A worker that runs out of memory, however often, takes no mail along that had not begun."""
    await asyncio.to_thread(whole.add_tenant, "fabrikam")
    sent = send_many(whole, 3) + whole.producer.enqueue_many(
        [whole.alert(tenant="fabrikam", to=["ops@fabrikam.example"], subject="Alert")]
    )
    for _ in range(3):
        with _process(whole, "after-auth") as process:
            await asyncio.to_thread(process.wait, 40)
            assert process.returncode == -signal.SIGKILL
        await whole.until(lambda: whole.count("sending") == 0)
        rows = [whole.row(receipt.delivery_id) for receipt in sent]
        assert {(row.state, row.claims, row.uncertain) for row in rows} == {("queued", 0, False)}

    async with listening(whole.settings, whole.services.visits):
        await whole.until(lambda: whole.count("accepted") == len(sent))

    assert [len(whole.attempts(receipt.delivery_id)) for receipt in sent] == [1] * len(sent)
