"""
No idle worker while there is work that may be sent: schedules drawn by chance.

Mailboxes of several kinds (storms, streams, quiet ones, criticals among the rest), a server that
answers unevenly and refuses now and then, pauses, and consents that are revoked and given again.
Then every wait is looked at; see ``idle_spans``. The machine's own hiccups, as a thread that only
sleeps sees them, are taken off.
"""

from __future__ import annotations

import json
import random
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from sqlalchemy import func, select

from bench.proofs.idle_spans import Idle, Try, Wait, idle_spans
from bench.proofs.told import Claim
from console.stage import Stage
from models import lane
from models.alert import AlertEmail
from models.database import read, write
from models.lifecycle import State
from models.severity import Severity
from models.tables import METADATA

LEAST_SECONDS = 1.0
PULSE_SECONDS = 0.02
WORKERS = 2
STILL_SECONDS = 60.0
"""A backlog that has not shrunk for so long will not."""

_D = METADATA.tables["delivery"].c
_A = METADATA.tables["attempt"].c
_OPEN = (State.QUEUED.value, State.SENDING.value)


def schedules(
    *,
    deliveries: int,
    seconds: float,
    seed: int,
    mailboxes: int = 100,
    window: float = 4.0,
    database_url: str = "",
) -> Iterator[Claim]:
    """Play a schedule and look at every wait."""
    chance = random.Random(seed)
    slugs = [f"tenant{number}" for number in range(mailboxes)]
    settings = {
        "pacing": {"window_seconds": window},
        "retry": {"soon_seconds": 0.3, "first_seconds": 0.5, "longest_seconds": 4.0,
                  "max_attempts": 50},
    }  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="alertpost-proof-") as directory,
        Stage(
            Path(directory), slugs, limits={"window_seconds": window, "lock_out_errors": None},
            database_url=database_url, settings=settings,
        ) as stage,
    ):  # fmt: skip
        stage.add_tenants()
        for _ in stage.connect_all():
            pass
        stage.sandbox.tell("POST", "/reset")
        for number in range(WORKERS):
            stage.start_worker(number)
        stage.wait_for_workers()
        play = _Play(stage, chance, seconds=seconds)
        with _pulse() as hiccups:
            play.run(deliveries)
            drained = play.drain()
            time.sleep(0.2)
        found = _look(stage, Path(directory), play.parks, window=window)
        idle = [one for one in found if one.seconds - _lag(hiccups, one) > LEAST_SECONDS]
        left = play.count_open()
        violations = len(stage.sandbox.ask("/violations"))
        yield Claim(
            "no idle worker while there is work",
            bound=f"no wait above {LEAST_SECONDS:g} s with a permit, a slot and no pause",
            figures={
                "deliveries": play.enqueued,
                "mailboxes": mailboxes,
                "rate_s": round(play.enqueued / (time.monotonic() - play.began)),
                "pauses": play.pauses(Path(directory)),
                "parks": len(play.parks),
                "idle": len(idle),
                "longest_idle_s": round(max((one.seconds for one in found), default=0.0), 2),
                # So that one that shows itself rarely can be looked for in the workers' logs.
                "where": [
                    f"{one.name} {datetime.fromtimestamp(one.begin, UTC):%H:%M:%S.%f} "
                    f"{one.seconds:.2f} s"
                    for one in sorted(idle, key=lambda one: -one.seconds)[:3]
                ],
                "longest_hiccup_s": round(max(late for _, late in hiccups), 2),
                "violations": violations,
                "left": left,
                "drain_s": round(drained, 1),
            },
            holds=not idle and not violations and not left and play.enqueued >= deliveries,
        )


class _Play:
    """What happens, and when."""

    def __init__(self, stage: Stage, chance: random.Random, *, seconds: float) -> None:
        self._stage = stage
        self._chance = chance
        self._seconds = seconds
        self.began = time.monotonic()
        self.enqueued = 0
        self.parks: list[tuple[UUID, float, float]] = []

    def run(self, deliveries: int) -> None:
        """Hand in, misbehave, park."""
        chance, stage = self._chance, self._stage
        kinds = {
            slug: chance.choice(("storm", "stream", "stream", "quiet")) for slug in stage.slugs
        }
        slow = {"name": "slow", "phase": "body", "behaviour": "slow", "seconds": 0.0,
                "jitter_seconds": 0.03}  # fmt: skip
        stage.sandbox.tell("POST", "/faults/exchange", slow)
        per_tick = deliveries / (self._seconds / 0.5)
        parked: dict[str, float] = {}
        while self.enqueued < deliveries:
            tick = time.monotonic()
            alerts: list[AlertEmail] = []
            wanted = chance.uniform(0.5, 1.5) * per_tick
            while len(alerts) < wanted:
                slug = chance.choice(stage.slugs)
                most = {"storm": 120, "stream": 15, "quiet": 1}[kinds[slug]]
                alerts += (_alert(chance, slug) for _ in range(chance.randint(1, most)))
            stage.producer.enqueue_many(alerts)
            self.enqueued += len(alerts)
            self._misbehave(parked)
            time.sleep(max(0.0, 0.5 - (time.monotonic() - tick)))
        for slug in list(parked):
            self._consent(slug, parked.pop(slug))

    def _misbehave(self, parked: dict[str, float]) -> None:
        chance, stage = self._chance, self._stage
        if chance.random() < 0.3:
            name, phase = chance.choice(
                (("busy", "mail"), ("not_redundant", "body"), ("sender_thread_limit", "data"),
                 ("not_authenticated", "mail"), ("busy", "auth"))
            )  # fmt: skip
            reply = {"busy": "421 4.3.2 Service not active"}.get(name, name)
            slug = chance.choice(stage.slugs)
            stage.sandbox.tell(
                "POST",
                "/faults/exchange",
                {"name": f"f{time.monotonic_ns()}", "phase": phase, "times": 1, "reply": reply,
                 "mailbox": f"alerts@{slug}.example"},
            )  # fmt: skip
        if chance.random() < 0.1:
            slug = chance.choice(stage.slugs)
            if slug not in parked:
                address = f"alerts@{slug}.example"
                stage.sandbox.tell(
                    "POST", f"/users/{address}/revoke", {"recall_access_tokens": True}
                )
                parked[slug] = time.time()
        for slug, since in list(parked.items()):
            if time.time() - since > 5:
                self._consent(slug, parked.pop(slug))

    def _consent(self, slug: str, since: float) -> None:
        stage = self._stage
        mailbox_id = stage.mailbox_id(slug)
        stage.connect(slug)
        with write(stage.engine) as connection:
            lane.resume_scope(connection, mailbox_id=mailbox_id)
        stage.wake([(mailbox_id, False)])
        self.parks.append((mailbox_id, since, time.time()))

    def drain(self) -> float:
        """Wait until nothing is open, or it gets no less; says how long that took."""
        began = moved = time.monotonic()
        least = left = self.count_open()
        while left and time.monotonic() - moved < STILL_SECONDS:
            time.sleep(0.5)
            left = self.count_open()
            if left < least:
                least, moved = left, time.monotonic()
        return time.monotonic() - began

    def count_open(self) -> int:
        """Count what is queued or in hand."""
        with read(self._stage.engine) as connection:
            return int(
                connection.execute(select(func.count()).where(_D.state.in_(_OPEN))).scalar_one()
            )

    def pauses(self, directory: Path) -> int:
        """Count the pauses that workers logged."""
        return sum(len(spans) for spans in _pauses(directory).values())


def _alert(chance: random.Random, slug: str) -> AlertEmail:
    severity = chance.choices(
        (Severity.CRITICAL, Severity.ELEVATED, Severity.NORMAL, Severity.LOW), (2, 10, 60, 28)
    )[0]
    return AlertEmail(
        tenant=slug, to=[f"ops@{slug}.example"], subject="Disk C: is full", text="1 % is left.",
        severity=severity,
    )  # fmt: skip


@contextmanager
def _pulse() -> Iterator[list[tuple[float, float]]]:
    """Note when a thread that only sleeps is waked late, and by how much."""
    late: list[tuple[float, float]] = [(0.0, 0.0)]
    over = threading.Event()

    def beat() -> None:
        while not over.is_set():
            began = time.monotonic()
            time.sleep(PULSE_SECONDS)
            lag = time.monotonic() - began - PULSE_SECONDS
            if lag > PULSE_SECONDS:
                late.append((time.time(), lag))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield late
    finally:
        over.set()
        thread.join()


def _lag(hiccups: list[tuple[float, float]], idle: Idle) -> float:
    return sum(late for at, late in hiccups if idle.begin <= at <= idle.end + late)


def _look(
    stage: Stage,
    directory: Path,
    parks: list[tuple[UUID, float, float]],
    *,
    window: float,
) -> list[Idle]:
    pacing = stage.settings.pacing
    tries: dict[UUID, list[Try]] = defaultdict(list)
    last: dict[UUID, float] = {}
    with read(stage.engine) as connection:
        for row in connection.execute(
            select(_A.mailbox_id, _A.delivery_id, _A.started_at, _A.finished_at, _A.took_permit)
        ):
            began = row.started_at.timestamp()
            tries[row.mailbox_id].append(Try(began, row.finished_at.timestamp(), row.took_permit))
            last[row.delivery_id] = max(last.get(row.delivery_id, 0.0), began)
        waits: dict[UUID, list[Wait]] = defaultdict(list)
        for row in connection.execute(select(_D.id, _D.mailbox_id, _D.severity, _D.due_at)):
            waits[row.mailbox_id].append(
                Wait(
                    str(row.id),
                    row.severity == Severity.CRITICAL,
                    row.due_at.timestamp(),
                    last.get(row.id, time.time()),
                )
            )
    rests = _pauses(directory)
    for mailbox_id, begin, end in parks:
        rests[mailbox_id].append((begin, end))
    return [
        idle
        for mailbox_id in waits
        for idle in idle_spans(
            waits[mailbox_id],
            tries[mailbox_id],
            rests[mailbox_id],
            # Each connection may hold a permit that no try shows yet.
            limit=pacing.messages_per_window - pacing.connections_per_mailbox,
            reserve=pacing.critical_reserve,
            window=window,
            least=LEAST_SECONDS,
        )
    ]


def _pauses(directory: Path) -> dict[UUID, list[tuple[float, float]]]:
    """Read from the workers' logs when which mailbox was to rest."""
    spans: dict[UUID, list[tuple[float, float]]] = defaultdict(list)
    for log in directory.glob("worker-*.log"):
        for line in log.read_text("utf-8", "replace").splitlines():
            if '"mailbox_paused"' not in line:
                continue
            said = json.loads(line)
            begin = datetime.fromisoformat(said["timestamp"]).timestamp()
            spans[UUID(said["mailbox_id"])].append((begin - 0.2, begin + said["seconds"]))
    return spans
