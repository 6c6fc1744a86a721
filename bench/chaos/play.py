"""
One round: all is started, things go wrong as planned, all heals, the books are compared.

``python -m bench.chaos.play JOB``; the job is JSON. The figures are written to a file.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, make_url, select, update

from bench.chaos.breaking import Breaking, Diary, Installation
from bench.chaos.evidence import Verdict, collect, judge, watch_marks
from bench.chaos.network import Line
from bench.chaos.schedule import LINES, STRICT, TENANTS, Plan, draw
from bench.chaos.servers import Postgresql, Valkey
from bench.chaos.shim import Shims
from console.stage import Stage
from console.supervisor import Child, Guard, start
from models import lane, logs
from models.accounts import accounts
from models.database import read, write
from models.errors import AlertpostError
from models.lifecycle import State
from models.redis_keys import RedisKeys
from models.settings import LogSettings, PacingSettings
from models.tables import METADATA

WINDOW_SECONDS = 9.0
SLOT_SECONDS = 3.0
CLAIM_SECONDS = 3.0
TOKEN_SECONDS = 15
LONGEST_RECOVERY_SECONDS = 40.0
FIRST_RECEIPT_SECONDS = 60.0
SETTLING_SECONDS = 30.0
"""What may pass after the healing beside the pace: a claim and a slot run out, a silent connection
is given up, a retry falls due, the sweep comes by."""
WATCH_SECONDS = 0.1

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

_PERMITS = PacingSettings().messages_per_window - PacingSettings().critical_reserve
"""Of a window, for mails that are not critical."""

_D = METADATA.tables["delivery"].c
_M = METADATA.tables["mailbox"].c
_OPEN = (State.QUEUED.value, State.SENDING.value)


@dataclass(frozen=True, slots=True)
class Figures:
    """A round's row in the table."""

    verdict: Verdict
    grants_lost: int
    recovery_seconds: float
    """Longest time that a claim of a killed worker stayed in force."""
    drain_seconds: float
    """From the healing until nothing was left to send."""
    stop_seconds: float
    """Longest graceful stop."""
    seconds: float
    left_out: int
    spoils: list[str]
    """What the harness itself did not manage: the round says nothing."""


def longest_drain(largest_lane: int) -> float:
    """
    Return how many seconds after the healing a lane of so many mails may still hold one.

    The window may be full at the healing, so even the first mail may wait a whole window.
    """
    return math.ceil(largest_lane / _PERMITS) * WINDOW_SECONDS + SETTLING_SECONDS


class Round:
    """
    A round that is being played.

    Args:
        plan: What goes wrong.
        directory: Keeps everything.
    """

    def __init__(self, plan: Plan, directory: Path) -> None:
        self._plan = plan
        self._directory = directory
        self._stack = ExitStack()
        self._events = (directory / "events.log").open("a", buffering=1, encoding="utf-8")
        self._begun = time.monotonic()
        self._started = time.time()
        self._over = threading.Event()
        self._diary = Diary()
        self._producers: list[subprocess.Popen[bytes]] = []
        self._seen: dict[int, float] = {}
        self._grants_lost = 0
        self._drain_seconds = 0.0

    def play(self) -> Figures:
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
            verdict = self._judge()
        return Figures(
            verdict=verdict,
            grants_lost=self._grants_lost,
            recovery_seconds=max(self._seen.values(), default=0.0),
            drain_seconds=self._drain_seconds,
            stop_seconds=self._diary.longest_stop,
            seconds=time.monotonic() - self._begun,
            left_out=self._diary.left_out,
            spoils=self._diary.spoils,
        )

    # -- setting up --------------------------------------------------------------------------

    def _open(self) -> None:
        enter = self._stack.enter_context
        self._shims = enter(Shims())
        self._guard = enter(Guard())
        self._postgresql: Postgresql | None = None
        url = ""
        if self._plan.database == "postgresql":
            self._postgresql = enter(Postgresql(self._shims.environment("sql")))
            url = self._postgresql.url()
        self._stage = stage = enter(
            Stage(
                self._directory,
                TENANTS,
                limits={"window_seconds": WINDOW_SECONDS},
                database_url=url,
                settings=SETTINGS,
            )
        )
        redis_env = self._shims.environment("redis")
        self._redis = Valkey(
            self._directory / "redis", stage.settings.redis_url, self._guard, redis_env
        )
        self._redis.restart()
        self._stack.callback(self._redis.close)
        watch_marks(stage.engine)
        self._lay_lines()
        self._settle_tenants()
        self._breaking = Breaking(self._installation(), self._diary)
        self._stack.callback(self._end_producers)
        for number in range(self._plan.workers):
            self._start_worker(number)
        stage.wait_for_workers()

    def _lay_lines(self) -> None:
        facts = self._stage.sandbox.facts
        targets: dict[str, tuple[str, int] | Path] = {
            "exchange": (facts["smtp_host"], facts["smtp_port"]),
            "entra": _place(facts["entra_url"]),
            "redis": _place(self._stage.settings.redis_url),
        }
        if self._postgresql is not None:
            targets["sql"] = self._postgresql.socket
        self._lines = {
            name: self._stack.enter_context(
                Line(targets[name.partition("-")[2]], seed=f"{self._plan.seed}:{name}")
            )
            for name in LINES[self._plan.database]
        }

    def _settle_tenants(self) -> None:
        stage = self._stage
        stage.add_tenants()
        for slug in TENANTS:
            change = {
                "access_token_seconds": [TOKEN_SECONDS] * 2,
                "strict_rotation": slug in STRICT,
            }
            stage.sandbox.tell("PATCH", f"/tenants/{slug}", change)
        entra = make_url(stage.sandbox.facts["entra_url"])
        authority = entra.set(port=self._lines["worker-entra"].port)
        with write(stage.engine) as connection:
            connection.execute(
                update(METADATA.tables["tenant"]).values(
                    smtp_port=self._lines["worker-exchange"].port,
                    authority=authority.render_as_string(),
                )
            )
        for _ in stage.connect_all():
            pass
        stage.sandbox.tell("POST", "/reset")

    def _installation(self) -> Installation:
        return Installation(
            stage=self._stage,
            database=self._plan.database,
            workers=self._plan.workers,
            redis=self._redis,
            postgresql=self._postgresql,
            lines=self._lines,
            shims=self._shims,
            start_worker=self._start_worker,
            kill_producer=self._kill_producer,
            tell=self._tell,
        )

    def _roads(self, who: str, part: str) -> dict[str, str]:
        """Give the variables under which a process reaches the servers through its lines."""
        roads = {
            "ALERTPOST_REDIS_URL": make_url(self._stage.settings.redis_url)
            .set(drivername="redis", host="127.0.0.1", port=self._lines[f"{who}-redis"].port)
            .set(database=None)
            .render_as_string(hide_password=False)
        }
        sql = self._lines.get(f"{who}-sql")
        if self._postgresql is not None and sql is not None:
            url = self._postgresql.url(sql.port)
            roads["ALERTPOST_DATABASE_URL"] = url.replace("+psycopg", "")
        roads["PYTHONFAULTHANDLER"] = "1"
        return roads | self._shims.environment(
            "machine" if self._plan.database == "sqlite" else part
        )

    def _start_worker(self, number: int) -> None:
        self._stage.start_worker(number, **self._roads("worker", f"worker-{number}"))

    def _produce(self) -> None:
        for number in range(self._plan.producers):
            self._producers.append(self._start_producer(number, self._plan.seconds))
        receipts = self._directory / "receipts.txt"
        deadline = time.monotonic() + FIRST_RECEIPT_SECONDS
        # Or the storm would be over before there is anything to lose.
        while not receipts.exists() and time.monotonic() < deadline:
            time.sleep(WATCH_SECONDS)
        self._started = time.time()

    def _start_producer(self, number: int, seconds: float) -> subprocess.Popen[bytes]:
        settings = self._stage.settings
        env = {
            "ALERTPOST_DATABASE_URL": settings.sqlalchemy_url.replace("+psycopg", ""),
            "ALERTPOST_DATA_DIR": str(self._directory),
            "ALERTPOST_SECRET_KEYS": ",".join(
                key.get_secret_value() for key in settings.secret_keys
            ),
        } | self._roads("producer", "producers")
        job = {
            "seed": f"{self._plan.seed}:{number}:{seconds}",
            "tenants": TENANTS,
            "receipts": str(self._directory / "receipts.txt"),
            "seconds": seconds,
            # So that the limits are reached at once.
            "storm": round(self._plan.mails_per_second / 2),
            "rate": self._plan.mails_per_second / self._plan.producers,
            "clock_may_be_wrong": any(t.what == "step_clock" for t in self._plan.troubles),
        }
        argv = (
            "/bin/sh", "-c", 'log=$0; exec "$@" >>"$log" 2>&1',
            str(self._directory / f"producer-{number}.log"),
            sys.executable, "-m", "bench.chaos.producing", json.dumps(job),
        )  # fmt: skip
        return start(Child(f"producer-{number}", argv, env=env), self._guard)

    def _kill_producer(self, number: int) -> None:
        number %= len(self._producers)
        process = self._producers[number]
        left = self._started + self._plan.seconds - time.time()
        if left > 1 and process.poll() is None:
            process.kill()
            process.wait()
            self._producers[number] = self._start_producer(number, left)

    def _end_producers(self) -> None:
        for process in self._producers:
            if process.poll() is None:
                process.kill()
            process.wait()

    # -- the storm ---------------------------------------------------------------------------

    def _go_wrong(self) -> None:
        threads = []
        for trouble in self._plan.troubles:
            time.sleep(max(0.0, self._started + trouble.at - time.time()))
            threads.append(self._breaking.begin(trouble))
        time.sleep(max(0.0, self._started + self._plan.seconds - time.time()))
        self._breaking.join(threads)
        for number, process in enumerate(self._producers):
            # Whoever was told "not now" asks until it gets in.
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                self._diary.breaks.append(f"producer {number} does not come to its end")
                process.kill()

    def _heal(self) -> None:
        """End what is still wrong; pauses that Exchange asked for are not waited out."""
        self._tell("heal")
        stage = self._stage
        for side in ("exchange", "entra"):
            self._breaking.sandbox("DELETE", f"/faults/{side}")
        for line in self._lines.values():
            line.heal()
        keys = RedisKeys(stage.settings.redis_prefix)
        with read(stage.engine) as connection:
            mailbox_ids = stage.mailbox_ids(connection)
            who = accounts(connection, mailbox_ids)
        self._healed = time.monotonic()
        with write(stage.engine) as connection:
            lane.unpause(connection, mailbox_ids=mailbox_ids)
        self._redis.forget(*(keys.pause(account) for account in who.values()))

    def _drain(self) -> None:
        """Wait until nothing is open; a strict provider's grant that a crash cost is renewed."""
        renewed: set[str] = set()
        longest = longest_drain(self._largest_lane())
        while time.monotonic() < self._healed + longest:
            for address, reason in self._parked():
                slug = address.partition("@")[2].partition(".")[0]
                if slug in STRICT and self._diary.crashes and slug not in renewed:
                    self._tell(f"{slug} lost its grant ({reason})")
                    renewed.add(slug)
                    self._breaking.consent(slug)
            if not self._count_open():
                break
            time.sleep(WATCH_SECONDS)
        self._drain_seconds = time.monotonic() - self._healed
        self._grants_lost = len(renewed)
        self._diary.breaks += [f"{who} is parked: {reason}" for who, reason in self._parked()]
        self._tell(f"drained after {self._drain_seconds:.1f} s of at most {longest:.0f} s")

    def _parked(self) -> list[tuple[str, str]]:
        with read(self._stage.engine) as connection:
            rows = connection.execute(
                select(_M.address, _M.park_reason).where(_M.parked_at.is_not(None))
            )
            return [(str(address), str(reason)) for address, reason in rows]

    def _largest_lane(self) -> int:
        with read(self._stage.engine) as connection:
            lanes = connection.execute(
                select(func.count()).where(_D.state.in_(_OPEN)).group_by(_D.mailbox_id)
            ).scalars()
            return max(lanes, default=0)

    def _count_open(self) -> int:
        with read(self._stage.engine) as connection:
            return len(connection.execute(select(_D.id).where(_D.state.in_(_OPEN)).limit(1)).all())

    # -- watching and judging ----------------------------------------------------------------

    def _watch(self) -> None:
        """See how long claims of killed workers stay, and that nobody else ends."""
        diary = self._diary
        while not self._over.wait(WATCH_SECONDS):
            for process in list(self._stage.workers.values()):
                if process.poll() is not None and process.pid not in diary.ended:
                    diary.ended.add(process.pid)
                    diary.breaks.append(
                        f"worker {process.pid} ended by itself with {process.returncode}"
                    )
            if not diary.kills:
                continue
            try:
                with read(self._stage.engine) as connection:
                    holders = connection.execute(
                        select(_D.claimed_by).where(_D.state == State.SENDING.value).distinct()
                    ).scalars()
                    held = " ".join(str(holder) for holder in holders)
            except AlertpostError:
                continue
            for pid, died in list(diary.kills):
                if f"-{pid}-" in held:
                    self._seen[pid] = time.time() - died

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
        clock = "machine" if self._postgresql is None else "sql"
        verdict = judge(
            collect(
                stage.engine, mails, violations,
                true_time=lambda moment: self._shims.true_time(clock, moment),
            ),
            receipts,
            kills=self._diary.kills,
            freezes=self._diary.freezes,
            forgets=self._diary.forgets,
            steps=self._shims.steps(clock),
            slot_seconds=SLOT_SECONDS,
            window_seconds=WINDOW_SECONDS,
        )  # fmt: skip
        verdict.breaks += self._diary.breaks
        longest = max(self._seen.values(), default=0.0)
        if longest > LONGEST_RECOVERY_SECONDS:
            verdict.breaks.append(f"a recovery took {longest:.1f} s")
        for line in verdict.breaks:
            self._tell(f"BREAK {line}")
        for line in self._diary.spoils:
            self._tell(f"SPOILED {line}")
        if (verdict.breaks or self._diary.spoils) and self._postgresql is not None:
            _keep_rows(stage, self._directory / "rows.jsonl")
        return verdict

    def _tell(self, text: str) -> None:
        now = time.time()
        self._events.write(f"{now:.3f} {now - self._started:7.2f} {text}\n")


def _place(url: str) -> tuple[str, int] | Path:
    """Find where a server listens: host and port, or its socket."""
    parsed = make_url(url)
    if parsed.host and parsed.port:
        return parsed.host, parsed.port
    return Path("/" + str(parsed.database).removeprefix("/"))


def _keep_rows(stage: Stage, file: Path) -> None:
    """Write the round's tables down: its database goes with the server."""
    with read(stage.engine) as connection, file.open("w", encoding="utf-8") as out:
        for name in ("delivery", "attempt", "mailbox"):
            for row in connection.execute(METADATA.tables[name].select()).mappings():
                kept = {key: value for key, value in row.items() if not key.endswith("_encrypted")}
                out.write(json.dumps({"table": name, **kept}, default=str) + "\n")


def main() -> int:
    """Run as a program: ends with 0 where the round was played, whatever it showed."""
    job = json.loads(sys.argv[1])
    # Told to end, it ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logs.setup(LogSettings(level="error"), process="chaos")
    directory = Path(job["directory"])
    figures = Round(draw(job["seed"], job["number"], seconds=job["seconds"]), directory).play()
    (directory / "figures.json").write_text(json.dumps(asdict(figures)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
