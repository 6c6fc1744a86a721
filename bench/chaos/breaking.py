"""What can go wrong: each trouble begins, lasts, and is over when its method returns."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from bench.chaos.evidence import Freeze
from bench.chaos.network import Line
from bench.chaos.schedule import Trouble
from bench.chaos.servers import Postgresql, ServerFault, Valkey
from bench.chaos.shim import Shims
from console.stage import Stage
from models import lane
from models.database import write
from models.errors import AlertpostError

LONGEST_STOP_SECONDS = 15.0
LONGEST_CONSENT_SECONDS = 60.0
LONGEST_TROUBLE_SECONDS = 120.0
RETRY_SECONDS = 0.2


@dataclass(slots=True)
class Diary:
    """What was done to the installation, for the judge."""

    crashes: int = 0
    kills: list[tuple[int, float]] = field(default_factory=list)
    """Process ids of killed workers, and when."""
    freezes: list[Freeze] = field(default_factory=list)
    forgets: list[float] = field(default_factory=list)
    """When Redis lost its memory, or had to forget because its clock was set."""
    ended: set[int] = field(default_factory=set)
    """Process ids of workers that ended because we wanted it."""
    breaks: list[str] = field(default_factory=list)
    spoils: list[str] = field(default_factory=list)
    """What the harness itself did not manage: the round says nothing."""
    left_out: int = 0
    """Troubles that need a compiler where there is none."""
    longest_stop: float = 0.0


@dataclass(frozen=True, slots=True)
class Installation:
    """What can be broken."""

    stage: Stage
    database: str
    workers: int
    redis: Valkey
    postgresql: Postgresql | None
    lines: Mapping[str, Line]
    shims: Shims
    start_worker: Callable[[int], None]
    kill_producer: Callable[[int], None]
    tell: Callable[[str], None]
    """Writes a line to the round's log."""

    @property
    def sqlite_file(self) -> Path:
        """The database, where it is SQLite."""
        return self.stage.settings.data_dir / "alertpost.db"


class Breaking:
    """Does what a plan says. Troubles of one kind wait for each other."""

    def __init__(self, installation: Installation, diary: Diary) -> None:
        self._all = installation
        self._diary = diary
        self._seats = [threading.Lock() for _ in range(installation.workers)]
        self._on_redis, self._on_sql = threading.Lock(), threading.Lock()
        self._on_line = {name: threading.Lock() for name in installation.lines}
        self._on_clock = threading.Lock()

    def begin(self, trouble: Trouble) -> threading.Thread:
        """Let a trouble begin."""
        thread = threading.Thread(target=self._do, args=(trouble,), daemon=True)
        thread.start()
        return thread

    def join(self, threads: Sequence[threading.Thread]) -> None:
        """Wait until all are over."""
        for thread in threads:
            thread.join(LONGEST_TROUBLE_SECONDS)
            if thread.is_alive():
                self._diary.spoils.append("a trouble did not end")

    def _do(self, trouble: Trouble) -> None:
        self._all.tell(f"begin {trouble}")
        try:
            getattr(self, trouble.what)(**trouble.given)
        except (ServerFault, OSError) as error:
            self._diary.spoils.append(f"{trouble}: {type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - told at the end of the round
            self._diary.breaks.append(
                f"{trouble} went wrong itself: {type(error).__name__}: {error}"
            )
        self._all.tell(f"end   {trouble}")

    # -- workers and producers ---------------------------------------------------------------

    def kill_worker(self, number: int, seconds: float) -> None:
        """SIGKILL."""
        with self._seats[number]:
            process = self._all.stage.workers[number]
            self._diary.ended.add(process.pid)
            self._diary.crashes += 1
            self._all.stage.kill_worker(number)
            self._diary.kills.append((process.pid, time.time()))
            time.sleep(seconds)
            self._all.start_worker(number)

    def freeze_worker(self, number: int, seconds: float) -> None:
        """SIGSTOP and SIGCONT."""
        with self._seats[number]:
            pid = self._all.stage.workers[number].pid
            self._diary.crashes += 1
            begin = time.time()
            os.kill(pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(pid, signal.SIGCONT)
            self._diary.freezes.append(Freeze(pid, begin, time.time()))

    def roll_workers(self) -> None:
        """SIGTERM to each in turn."""
        for number in range(self._all.workers):
            with self._seats[number]:
                self._stop(number, self._all.stage.workers[number])
                self._all.start_worker(number)

    def _stop(self, number: int, process: subprocess.Popen[bytes]) -> None:
        diary = self._diary
        diary.ended.add(process.pid)
        begun = time.monotonic()
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(LONGEST_STOP_SECONDS)
        took = time.monotonic() - begun
        diary.longest_stop = max(diary.longest_stop, took)
        if process.poll() is None:
            diary.breaks.append(f"worker {number} did not stop within {took:.0f} s")
            diary.crashes += 1
            # Python then writes into its log what each thread was at.
            process.send_signal(signal.SIGABRT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
        elif process.returncode not in {0, -signal.SIGTERM}:
            # The signal itself ends a process that has only just begun.
            diary.breaks.append(f"worker {number} stopped with {process.returncode}")

    def kill_producer(self, number: int) -> None:
        """SIGKILL."""
        self._all.kill_producer(number)

    # -- Redis and SQL -----------------------------------------------------------------------

    def kill_redis(self, seconds: float) -> None:
        """SIGKILL; its append-only file stays."""
        with self._on_redis:
            self._all.redis.kill()
            time.sleep(seconds)
            self._all.redis.start()
            self._diary.forgets.append(time.time())

    def flush_redis(self) -> None:
        """Everything forgotten."""
        with self._on_redis:
            self._all.redis.flush()
            self._diary.forgets.append(time.time())

    def freeze_redis(self, seconds: float) -> None:
        """SIGSTOP and SIGCONT."""
        with self._on_redis:
            pid = self._all.redis.freeze()
            time.sleep(seconds)
            self._all.redis.thaw(pid)

    def stop_postgresql(self, kill: bool, seconds: float) -> None:  # noqa: FBT001 - drawn
        """SIGQUIT or SIGKILL."""
        assert self._all.postgresql is not None
        with self._on_sql:
            self._all.postgresql.stop(kill=kill)
            time.sleep(seconds)
            self._all.postgresql.start()

    def freeze_postgresql(self, seconds: float) -> None:
        """SIGSTOP and SIGCONT."""
        assert self._all.postgresql is not None
        with self._on_sql:
            self._all.postgresql.freeze()
            time.sleep(seconds)
            self._all.postgresql.thaw()

    def lock_sqlite(self, seconds: float) -> None:
        """Hold the one write lock; where others hold it, wait as long as it takes."""
        with self._on_sql, ExitStack() as stack:
            connection = sqlite3.connect(self._all.sqlite_file, timeout=60, isolation_level=None)
            stack.callback(connection.close)
            with suppress(sqlite3.OperationalError):
                connection.execute("BEGIN IMMEDIATE")
                time.sleep(seconds)
                connection.execute("ROLLBACK")

    def fill_disk(self, seconds: float) -> None:
        """No room for SQLite."""
        if self._has_shims():
            with self._on_sql:
                self._all.shims.fill_disk("machine", full=True)
                time.sleep(seconds)
                self._all.shims.fill_disk("machine", full=False)

    # -- lines and clocks --------------------------------------------------------------------

    def cut_line(self, line: str, how: str, seconds: float) -> None:
        """Reset all connections and refuse new ones, or let nothing through and tell nobody."""
        with self._on_line[line]:
            one = self._all.lines[line]
            if how == "reset":
                one.reset()
            else:
                one.silence()
            time.sleep(seconds)
            one.heal()

    def delay_network(self, most: float, seconds: float) -> None:
        """Hold every piece between workers and Exchange back for up to so long."""
        line = self._all.lines["worker-exchange"]
        with self._on_line["worker-exchange"]:
            line.delay(most)
            time.sleep(seconds)
            line.delay(0)

    def step_clock(self, part: str, ahead: int, seconds: float) -> None:
        """Set a wall clock wrong, later right again."""
        if self._has_shims():
            with self._on_clock:
                for now_ahead, lasts in ((ahead, seconds), (0, 0.0)):
                    self._all.shims.step(part, now_ahead)
                    if part == "redis":
                        self._diary.forgets.append(time.time())
                    time.sleep(lasts)

    def _has_shims(self) -> bool:
        if not self._all.shims.usable:
            self._diary.left_out += 1
        return self._all.shims.usable

    # -- Microsoft ---------------------------------------------------------------------------

    def exchange_fault(self, fault: dict[str, Any], seconds: float) -> None:
        """A fault of Exchange, by name."""
        name = f"fault-{time.monotonic_ns()}"
        self.sandbox("POST", "/faults/exchange", fault | {"name": name})
        time.sleep(seconds)
        self.sandbox("DELETE", f"/faults/exchange?name={name}")

    def entra_fault(self, fault: dict[str, Any], seconds: float) -> None:
        """A fault of Entra."""
        answer = self.sandbox("POST", "/faults/entra", fault)
        time.sleep(seconds)
        self.sandbox("DELETE", f"/faults/entra?name={answer['id']}")

    def revoke(self, slug: str, seconds: float) -> None:
        """Consent is taken back, and given again."""
        self.sandbox("POST", f"/users/alerts@{slug}.example/revoke", {"recall_access_tokens": True})
        time.sleep(seconds)
        self.consent(slug)

    def consent(self, slug: str) -> None:
        """
        Consent again, as an administrator would, however often that takes.

        Raises:
            TimeoutError: It was not possible.
        """
        deadline = time.monotonic() + LONGEST_CONSENT_SECONDS
        while True:
            try:
                self._consent(slug)
            except (AlertpostError, requests.RequestException) as error:
                said = f"{type(error).__name__} {error}"[:200]
                self._all.tell(f"consent of {slug} has to wait: {said}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{slug} could not consent again: {said}") from error
                time.sleep(RETRY_SECONDS)
            else:
                return

    def _consent(self, slug: str) -> None:
        stage = self._all.stage
        mailbox_id = stage.mailbox_id(slug)
        stage.connect(slug)
        with write(stage.engine) as connection:
            resumed = lane.resume_scope(connection, mailbox_id=mailbox_id)
        stage.wake([(mailbox, False) for mailbox in resumed])

    def sandbox(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask the box's control API; the stage's own session is for one thread only."""
        facts = self._all.stage.sandbox.facts
        answer = requests.request(
            method, f"{facts['control_url']}{path}", json=body or {}, timeout=60,
            verify=facts["ca_file"],
        )  # fmt: skip
        answer.raise_for_status()
        return answer.json() if answer.text else None
