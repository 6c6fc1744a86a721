"""A real worker process: how it starts, stops, dies, and what the others make of what it held."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from models.settings import Settings
from sandbox.entra_faults import EntraFault, EntraFaultKind
from sandbox.faults import Fault, Stall
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, send, send_many

ROOT = Path(__file__).parents[2]
CLAIM_SECONDS = 1


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {
        "pacing": {"slot_seconds": CLAIM_SECONDS},
        "visit": {"claim_seconds": CLAIM_SECONDS},
    }


def environment(settings: Settings | None, **changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "ALERTPOST" not in name}
    if settings is not None:
        kept |= {
            "ALERTPOST_DATABASE_URL": settings.database_url,
            "ALERTPOST_REDIS_URL": settings.redis_url,
            "ALERTPOST_REDIS_PREFIX": settings.redis_prefix,
            "ALERTPOST_DATA_DIR": str(settings.data_dir),
            "ALERTPOST_SECRET_KEYS": settings.secret_keys[0].get_secret_value(),
            "ALERTPOST_PACING__SLOT_SECONDS": str(CLAIM_SECONDS),
            "ALERTPOST_VISIT__CLAIM_SECONDS": str(CLAIM_SECONDS),
            "ALERTPOST_SWEEP__INTERVAL_SECONDS": "0.2",
            "ALERTPOST_LOG__FORMAT": "json",
        }
    return kept | changes


def _start(environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "workers.main"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@asynccontextmanager
async def worker(whole: Whole, **changes: str) -> AsyncIterator[subprocess.Popen[str]]:
    """Run a worker process; one that is still there in the end is killed."""
    process = _start(environment(whole.settings, **changes))
    try:
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.communicate)


async def test_servers_that_do_not_answer_hold_up_nobody_else(whole: Whole) -> None:
    """More slow visits than a process takes on at once: another mailbox's alert goes out soon."""
    await asyncio.to_thread(whole.add_tenant, "fabrikam")
    slow = "alerts@fabrikam.example"
    whole.sandbox.exchange.inject(Fault("slow", "body", Stall(), mailbox=slow))
    struck = whole.sandbox.exchange.faults.struck
    async with worker(whole, ALERTPOST_WORKER__CONCURRENCY="2"):
        for number in (1, 2):
            send(whole, tenant="fabrikam")
            await whole.until(lambda wanted=number: struck["slow"] == wanted)  # type: ignore[misc]

        receipt = send(whole)

        await whole.until(lambda: whole.row(receipt.delivery_id).state == "accepted", seconds=10)
        assert struck["slow"] == 2


async def test_a_stop_finishes_the_mail_in_hand_and_returns_the_rest(whole: Whole) -> None:
    """SIGTERM: the mail under way gets its answer recorded, all else is queued again at once."""
    whole.sandbox.exchange.inject(Fault("stall", "body", Stall(1.0), times=1))
    receipts = send_many(whole, 4)
    async with worker(whole) as process:
        await whole.until(lambda: whole.sandbox.exchange.faults.struck["stall"] == 1)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) == 0
        assert time.monotonic() - began < 8

    states = [whole.row(receipt.delivery_id).state for receipt in receipts]
    assert states == ["accepted", "queued", "queued", "queued"]
    assert [whole.row(receipt.delivery_id).claims for receipt in receipts] == [0] * 4
    await whole.until(lambda: whole.exchange().connections == 0)


async def test_a_stop_does_not_wait_for_a_server_that_stays_silent(whole: Whole) -> None:
    """SIGTERM with a mail that gets no answer: out in time, that mail in doubt, the rest back."""
    whole.sandbox.exchange.inject(Fault("stall", "body", Stall(), times=1))
    receipts = send_many(whole, 3)
    async with worker(whole) as process:
        await whole.until(lambda: whole.sandbox.exchange.faults.struck["stall"] == 1)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) == 0

    states = [whole.row(receipt.delivery_id).state for receipt in receipts]
    assert states[1:] == ["queued", "queued"]
    await whole.until(lambda: whole.row(receipts[0].delivery_id).state == "queued", seconds=20)
    assert whole.row(receipts[0].delivery_id).uncertain is True


@pytest.mark.parametrize("database_kind", ["sqlite"])
async def test_a_stop_does_not_wait_for_a_sign_in_service_that_stays_silent(whole: Whole) -> None:
    """SIGTERM while a token is waited for: out in time, nothing was sent, all is queued again."""
    slow = EntraFault(EntraFaultKind.SLOW, remaining=10, seconds=28.0)
    whole.sandbox.world.entra_faults.add(slow)
    send_many(whole, 2)
    async with worker(whole, ALERTPOST_LEASE__REQUEST_TIMEOUT_SECONDS="25") as process:
        await whole.until(lambda: whole.count("sending") == 2)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) == 0

    assert whole.outbox() == []
    await whole.until(lambda: whole.count("queued") == 2)


def _another_thread(process: subprocess.Popen[str]) -> int:
    threads = (int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir())
    return next(thread for thread in threads if thread != process.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="aims a signal at a thread")
@pytest.mark.parametrize("database_kind", ["sqlite"])
async def test_a_stop_is_noticed_whichever_thread_the_system_tells(whole: Whole) -> None:
    """SIGTERM may reach a process that was frozen in any of its threads; it ends all the same."""
    receipt = send(whole)
    async with worker(whole) as process:
        await whole.until(lambda: whole.row(receipt.delivery_id).state == "accepted")
        told = ctypes.CDLL(None).tgkill(process.pid, _another_thread(process), signal.SIGTERM)
        assert told == 0
        assert await asyncio.to_thread(process.wait, 15) == 0


def _refusal(environment: dict[str, str]) -> str:
    process = _start(environment)
    try:
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 2
    return said


def test_a_worker_without_redis_says_so(tmp_path: Path) -> None:
    """One line that names the setting, and exit code 2."""
    said = _refusal(environment(None, ALERTPOST_DATA_DIR=str(tmp_path)))

    assert said.count("\n") == 1
    assert "ALERTPOST_REDIS_URL" in said


def test_a_worker_with_an_old_schema_says_so(empty_url: str, redis_url: str) -> None:
    """A database that was not upgraded is not worked on."""
    said = _refusal(
        environment(None, ALERTPOST_DATABASE_URL=empty_url, ALERTPOST_REDIS_URL=redis_url)
    )

    assert said.count("\n") == 1
    assert "alertpost db upgrade" in said


def test_a_misspelt_setting_is_named(tmp_path: Path) -> None:
    """A setting that nobody knows is an error that names the nearest real one."""
    said = _refusal(environment(None, ALERTPOST_REDIS_URI="redis://localhost"))

    assert "ALERTPOST_REDIS_URL" in said


def test_a_worker_without_keys_does_not_look_alive(database_url: str, redis_url: str) -> None:
    """What cannot be built ends the process instead of leaving one that does nothing."""
    said = _refusal(
        environment(None, ALERTPOST_DATABASE_URL=database_url, ALERTPOST_REDIS_URL=redis_url)
    )

    assert "alertpost worker:" in said.splitlines()[-1]
    assert "key" in said.splitlines()[-1]


def test_a_redis_cluster_is_refused_at_the_start(database_url: str, redis_server_with: Any) -> None:
    """One sentence instead of a refusal for each mail."""
    server = redis_server_with(**{"cluster-enabled": "yes"})

    said = _refusal(
        environment(None, ALERTPOST_DATABASE_URL=database_url, ALERTPOST_REDIS_URL=server.url)
    )

    assert said.count("\n") == 1
    assert "Redis Cluster" in said


def test_a_redis_that_others_can_read_is_logged_once(database_url: str) -> None:
    """Without TLS beyond this machine: one warning at the start, with what to do."""
    said = _refusal(
        environment(
            None,
            ALERTPOST_DATABASE_URL=database_url,
            ALERTPOST_REDIS_URL="redis://:hunter2@redis.invalid:6379",
            ALERTPOST_LOG__FORMAT="json",
        )
    )

    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    (warning,) = [line for line in lines if line["event"] == "redis_exposed"]
    assert "without TLS" in warning["reason"]
    assert "rediss://" in warning["next_step"]
    assert "hunter2" not in said
