"""One round: all is started, things go wrong as planned, all heals, the books are compared."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import select, update

from bench.chaos.evidence import Freeze, Verdict, collect, judge, watch_marks
from bench.chaos.network import Line
from bench.chaos.schedule import STRICT, TENANTS, Plan
from bench.chaos.servers import Postgresql, Valkey
from console.stage import Stage
from console.supervisor import Child, Guard, start
from models import lane
from models.database import read, write
from models.errors import AlertpostError
from models.lifecycle import State
from models.redis_keys import RedisKeys
from models.tables import METADATA

WINDOW_SECONDS = 9.0
SLOT_SECONDS = 3.0
CLAIM_SECONDS = 3.0
TOKEN_SECONDS = 15
LONGEST_RECOVERY_SECONDS = 40.0
LONGEST_DRAIN_SECONDS = 60.0
LONGEST_STOP_SECONDS = 20.0
WATCH_SECONDS = 0.1
RETRY_SECONDS = 0.2

SETTINGS: dict[str, Any] = {
    "pacing": {"window_seconds": WINDOW_SECONDS, "slot_seconds": SLOT_SECONDS},
    "visit": {
        "claim_seconds": CLAIM_SECONDS,
        "max_seconds": 4.0,
        "connection_idle_seconds": 4.0,
        "connection_max_messages": 25,
    },
    "smtp": {
        "connect_timeout_seconds": 3.0,
        "command_timeout_seconds": 4.0,
        "data_timeout_seconds": 6.0,
    },
    "lease": {
        "minimum_left_seconds": 3.0,
        "refresh_at_share": 0.65,
        "lock_seconds": 5.0,
        "request_timeout_seconds": 4.0,
    },
    "retry": {
        "soon_seconds": 0.5,
        "first_seconds": 0.5,
        "longest_seconds": 3.0,
        "max_attempts": 20,
    },
    "sweep": {"interval_seconds": 1.0},
    "worker": {"concurrency": 24},
}
"""The clock runs about seven times faster than life; window, slot and claim keep their ratio."""

_D = METADATA.tables["delivery"].c
_M = METADATA.tables["mailbox"].c
_OPEN = (State.QUEUED.value, State.SENDING.value)


class Round:
    """
    A round that is being played.

    Args:
        plan: What goes wrong.
        directory: Keeps everything.
        postgresql: Where a database is made, if the plan wants one there.
    """

    def __init__(self, plan: Plan, directory: Path, postgresql: Postgresql | None) -> None:
        self._plan = plan
        self._directory = directory
        self._postgresql = postgresql if plan.database == "postgresql" else None
        self._stack = ExitStack()
        self._events = (directory / "events.log").open("a", buffering=1, encoding="utf-8")
        self._started = time.time()
        self._over = threading.Event()
        self._seats = [threading.Lock() for _ in range(plan.workers)]
        self._on_redis, self._on_sql, self._on_line = (threading.Lock() for _ in range(3))
        self._producers: list[subprocess.Popen[bytes]] = []
        self._crashes = 0
        self._kills: list[tuple[int, float]] = []
        self._freezes: list[Freeze] = []
        self._ended_by_us: set[int] = set()
        self._breaks: list[str] = []
        self._seen: dict[int, float] = {}
        self.grants_lost = 0
        self.longest_stop = 0.0
        self.drain_seconds = 0.0

    def play(self) -> Verdict:
        """Play the round and judge it."""
        with self._events, self._stack:
            self._open()
            self._produce()
            watcher = threading.Thread(target=self._watch, daemon=True)
            watcher.start()
            self._go_wrong()
            self._heal()
            self._drain()
            self._over.set()
            watcher.join()
            return self._judge()

    # -- setting up --------------------------------------------------------------------------

    def _open(self) -> None:
        url = self._postgresql.database() if self._postgresql is not None else ""
        self._stage = stage = self._stack.enter_context(
            Stage(
                self._directory,
                TENANTS,
                limits={"window_seconds": WINDOW_SECONDS},
                database_url=url,
                settings=SETTINGS,
            )
        )
        watch_marks(stage.engine)
        stage.add_tenants()
        for slug in TENANTS:
            change = {
                "access_token_seconds": [TOKEN_SECONDS] * 2,
                "strict_rotation": slug in STRICT,
            }
            stage.sandbox.tell("PATCH", f"/tenants/{slug}", change)
        facts = stage.sandbox.facts
        self._line = self._stack.enter_context(
            Line(facts["smtp_host"], facts["smtp_port"], seed=self._plan.seed)
        )
        with write(stage.engine) as connection:
            connection.execute(update(METADATA.tables["tenant"]).values(smtp_port=self._line.port))
        for _ in stage.connect_all():
            pass
        stage.sandbox.tell("POST", "/reset")
        self._guard = self._stack.enter_context(Guard())
        self._redis = Valkey(self._directory / "redis", stage.settings.redis_url, self._guard)
        self._stack.callback(self._redis.close)
        self._stack.callback(self._end_producers)
        for number in range(self._plan.workers):
            stage.start_worker(number)
        stage.wait_for_workers()
        self._started = time.time()

    def _produce(self) -> None:
        for number in range(self._plan.producers):
            self._producers.append(self._start_producer(number, self._plan.seconds))
        receipts = self._directory / "receipts.txt"
        deadline = time.monotonic() + LONGEST_DRAIN_SECONDS
        # Or the storm would be over before there is anything to lose.
        while not receipts.exists() and time.monotonic() < deadline:
            time.sleep(WATCH_SECONDS)
        self._started = time.time()

    def _start_producer(self, number: int, seconds: float) -> subprocess.Popen[bytes]:
        settings = self._stage.settings
        env = {
            "ALERTPOST_DATABASE_URL": settings.sqlalchemy_url.replace("+psycopg", ""),
            "ALERTPOST_REDIS_URL": settings.redis_url,
            "ALERTPOST_DATA_DIR": str(self._directory),
            "ALERTPOST_SECRET_KEYS": ",".join(
                key.get_secret_value() for key in settings.secret_keys
            ),
        }
        job = {
            "seed": f"{self._plan.seed}:{number}:{seconds}",
            "tenants": TENANTS,
            "receipts": str(self._directory / "receipts.txt"),
            "seconds": seconds,
            # So that the limits are reached at once.
            "storm": round(self._plan.mails_per_second / 2),
            "rate": self._plan.mails_per_second / self._plan.producers,
        }
        argv = (
            "/bin/sh", "-c", 'log=$0; exec "$@" >>"$log" 2>&1',
            str(self._directory / f"producer-{number}.log"),
            sys.executable, "-m", "bench.chaos.producing", json.dumps(job),
        )  # fmt: skip
        return start(Child(f"producer-{number}", argv, env=env), self._guard)

    def _end_producers(self) -> None:
        for process in self._producers:
            if process.poll() is None:
                process.kill()
            process.wait()

    # -- going wrong -------------------------------------------------------------------------

    def _go_wrong(self) -> None:
        threads = []
        for trouble in self._plan.troubles:
            time.sleep(max(0.0, self._started + trouble.at - time.time()))
            doing = getattr(self, f"_{trouble.what}")
            thread = threading.Thread(
                target=self._do, args=(str(trouble), doing, trouble.given), daemon=True
            )
            thread.start()
            threads.append(thread)
        time.sleep(max(0.0, self._started + self._plan.seconds - time.time()))
        for thread in threads:
            thread.join(120)
            if thread.is_alive():
                self._breaks.append("a trouble did not end")
        for process in self._producers:
            # Whoever was told "not now" asks until it gets in.
            process.wait(120)

    def _do(self, name: str, doing: Callable[..., None], given: dict[str, Any]) -> None:
        self._tell(f"begin {name}")
        try:
            doing(**given)
        except Exception as error:  # noqa: BLE001 - told at the end of the round
            self._breaks.append(f"{name} went wrong itself: {type(error).__name__}: {error}")
        self._tell(f"end   {name}")

    def _kill_worker(self, number: int, seconds: float) -> None:
        with self._seats[number]:
            process = self._stage.workers[number]
            self._ended_by_us.add(process.pid)
            self._crashes += 1
            self._stage.kill_worker(number)
            self._kills.append((process.pid, time.time()))
            time.sleep(seconds)
            self._stage.start_worker(number)

    def _freeze_worker(self, number: int, seconds: float) -> None:
        with self._seats[number]:
            pid = self._stage.workers[number].pid
            self._crashes += 1
            begin = time.time()
            os.kill(pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(pid, signal.SIGCONT)
            self._freezes.append(Freeze(pid, begin, time.time()))

    def _roll_workers(self) -> None:
        for number in range(self._plan.workers):
            with self._seats[number]:
                process = self._stage.workers[number]
                self._ended_by_us.add(process.pid)
                begun = time.monotonic()
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LONGEST_STOP_SECONDS)
                took = time.monotonic() - begun
                self.longest_stop = max(self.longest_stop, took)
                if process.poll() is None:
                    self._breaks.append(f"worker {number} did not stop within {took:.0f} s")
                    self._crashes += 1
                    process.kill()
                    process.wait()
                elif process.returncode not in {0, -signal.SIGTERM}:
                    # The signal itself ends a process that has only just begun.
                    self._breaks.append(f"worker {number} stopped with {process.returncode}")
                self._stage.start_worker(number)

    def _kill_redis(self, seconds: float) -> None:
        with self._on_redis:
            self._redis.kill()
            time.sleep(seconds)
            self._redis.start()

    def _flush_redis(self) -> None:
        with self._on_redis:
            self._redis.flush()

    def _freeze_redis(self, seconds: float) -> None:
        with self._on_redis:
            pid = self._redis.freeze()
            time.sleep(seconds)
            self._redis.thaw(pid)

    def _stop_postgresql(self, kill: bool, seconds: float) -> None:  # noqa: FBT001 - drawn
        assert self._postgresql is not None
        with self._on_sql:
            self._postgresql.stop(kill=kill)
            time.sleep(seconds)
            self._postgresql.start()

    def _freeze_postgresql(self, seconds: float) -> None:
        assert self._postgresql is not None
        with self._on_sql:
            self._postgresql.freeze()
            time.sleep(seconds)
            self._postgresql.thaw()

    def _lock_sqlite(self, seconds: float) -> None:
        with self._on_sql:
            connection = sqlite3.connect(
                self._directory / "alertpost.db", timeout=10, isolation_level=None
            )
            try:
                connection.execute("BEGIN IMMEDIATE")
                time.sleep(seconds)
                connection.execute("ROLLBACK")
            finally:
                connection.close()

    def _cut_network(self, how: str, seconds: float) -> None:
        with self._on_line:
            if how == "reset":
                self._line.reset()
            else:
                self._line.silence()
            time.sleep(seconds)
            self._line.heal()

    def _delay_network(self, most: float, seconds: float) -> None:
        with self._on_line:
            self._line.delay(most)
            time.sleep(seconds)
            self._line.delay(0)

    def _exchange_fault(self, fault: dict[str, Any], seconds: float) -> None:
        name = f"fault-{time.monotonic_ns()}"
        self._sandbox("POST", "/faults/exchange", fault | {"name": name})
        time.sleep(seconds)
        self._sandbox("DELETE", f"/faults/exchange?name={name}")

    def _entra_fault(self, fault: dict[str, Any], seconds: float) -> None:
        answer = self._sandbox("POST", "/faults/entra", fault)
        time.sleep(seconds)
        self._sandbox("DELETE", f"/faults/entra?name={answer['id']}")

    def _revoke(self, slug: str, seconds: float) -> None:
        self._sandbox(
            "POST", f"/users/alerts@{slug}.example/revoke", {"recall_access_tokens": True}
        )
        time.sleep(seconds)
        self._consent(slug)

    def _kill_producer(self, number: int) -> None:
        number %= len(self._producers)
        process = self._producers[number]
        left = self._started + self._plan.seconds - time.time()
        if left > 1 and process.poll() is None:
            process.kill()
            process.wait()
            self._producers[number] = self._start_producer(number, left)

    # -- healing -----------------------------------------------------------------------------

    def _consent(self, slug: str) -> None:
        """Consent again, as an administrator would, however often that takes."""
        mailbox_id = None
        deadline = time.monotonic() + 60

        def again() -> bool:
            nonlocal mailbox_id
            mailbox_id = self._stage.mailbox_id(slug)
            self._stage.connect(slug)
            with write(self._stage.engine) as connection:
                resumed = lane.resume_scope(connection, mailbox_id=mailbox_id)
            self._stage.wake([(mailbox, False) for mailbox in resumed])
            return True

        while time.monotonic() < deadline:
            try:
                again()
            except (AlertpostError, requests.RequestException) as error:
                self._tell(f"consent of {slug} has to wait: {type(error).__name__} {error}"[:200])
                time.sleep(RETRY_SECONDS)
            else:
                return
        raise TimeoutError(f"{slug} could not consent again")

    def _heal(self) -> None:
        """End what is still wrong; pauses that Exchange asked for are not waited out."""
        self._tell("heal")
        stage = self._stage
        for side in ("exchange", "entra"):
            self._sandbox("DELETE", f"/faults/{side}")
        self._line.heal()
        keys = RedisKeys(stage.settings.redis_prefix)
        with read(stage.engine) as connection:
            mailbox_ids = stage.mailbox_ids(connection)
        self._healed = time.monotonic()
        with write(stage.engine) as connection:
            lane.unpause(connection, mailbox_ids=mailbox_ids)
        self._redis.forget(*(keys.pause(mailbox_id) for mailbox_id in mailbox_ids))

    def _drain(self) -> None:
        """Wait until nothing is open; a strict provider's grant that a crash cost is renewed."""
        renewed: set[str] = set()
        while time.monotonic() < self._healed + LONGEST_DRAIN_SECONDS:
            for address, reason in self._parked():
                slug = address.partition("@")[2].partition(".")[0]
                if slug in STRICT and self._crashes and slug not in renewed:
                    self._tell(f"{slug} lost its grant ({reason})")
                    renewed.add(slug)
                    self._consent(slug)
            if not self._count_open():
                break
            time.sleep(WATCH_SECONDS)
        self.drain_seconds = time.monotonic() - self._healed
        self.grants_lost = len(renewed)
        self._breaks += [f"{address} is parked: {reason}" for address, reason in self._parked()]
        self._tell(f"drained after {self.drain_seconds:.1f} s")

    def _parked(self) -> list[tuple[str, str]]:
        with read(self._stage.engine) as connection:
            rows = connection.execute(
                select(_M.address, _M.park_reason).where(_M.parked_at.is_not(None))
            )
            return [(str(address), str(reason)) for address, reason in rows]

    def _count_open(self) -> int:
        with read(self._stage.engine) as connection:
            return len(connection.execute(select(_D.id).where(_D.state.in_(_OPEN)).limit(1)).all())

    # -- watching and judging ----------------------------------------------------------------

    def _watch(self) -> None:
        """See how long claims of killed workers stay, and that nobody else ends."""
        while not self._over.wait(WATCH_SECONDS):
            for process in list(self._stage.workers.values()):
                if process.poll() is not None and process.pid not in self._ended_by_us:
                    self._ended_by_us.add(process.pid)
                    self._breaks.append(
                        f"worker {process.pid} ended by itself with {process.returncode}"
                    )
            if not self._kills:
                continue
            try:
                with read(self._stage.engine) as connection:
                    holders = connection.execute(
                        select(_D.claimed_by).where(_D.state == State.SENDING.value).distinct()
                    ).scalars()
                    held = " ".join(str(holder) for holder in holders)
            except AlertpostError:
                continue
            for pid, died in list(self._kills):
                if f"-{pid}-" in held:
                    self._seen[pid] = time.time() - died

    @property
    def longest_recovery(self) -> float:
        """Longest time that a claim of a killed worker stayed in force."""
        return max(self._seen.values(), default=0.0)

    def _judge(self) -> Verdict:
        stage = self._stage
        receipts_file = self._directory / "receipts.txt"
        receipts = (
            set(receipts_file.read_text("utf-8").split()) if receipts_file.exists() else set()
        )
        mails, violations = stage.sandbox.ask("/outbox"), stage.sandbox.ask("/violations")
        for name, lines in (("outbox", mails), ("violations", violations)):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (self._directory / f"{name}.jsonl").write_text(text, encoding="utf-8")
        verdict = judge(
            collect(stage.engine, mails, violations),
            receipts,
            kills=self._kills,
            freezes=self._freezes,
            slot_seconds=SLOT_SECONDS,
        )
        verdict.breaks += self._breaks
        if self.longest_recovery > LONGEST_RECOVERY_SECONDS:
            verdict.breaks.append(f"a recovery took {self.longest_recovery:.1f} s")
        for line in verdict.breaks:
            self._tell(f"BREAK {line}")
        if verdict.breaks and self._postgresql is not None:
            _keep_rows(stage, self._directory / "rows.jsonl")
        return verdict

    def _sandbox(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        # The stage's session is for one thread only.
        facts = self._stage.sandbox.facts
        answer = requests.request(
            method, f"{facts['control_url']}{path}", json=body or {}, timeout=60,
            verify=facts["ca_file"],
        )  # fmt: skip
        answer.raise_for_status()
        return answer.json() if answer.text else None

    def _tell(self, text: str) -> None:
        now = time.time()
        self._events.write(f"{now:.3f} {now - self._started:7.2f} {text}\n")


def _keep_rows(stage: Stage, file: Path) -> None:
    """Write the round's tables down: its database goes with the server."""
    with read(stage.engine) as connection, file.open("w", encoding="utf-8") as out:
        for name in ("delivery", "attempt", "mailbox"):
            for row in connection.execute(METADATA.tables[name].select()).mappings():
                kept = {key: value for key, value in row.items() if not key.endswith("_encrypted")}
                out.write(json.dumps({"table": name, **kept}, default=str) + "\n")
