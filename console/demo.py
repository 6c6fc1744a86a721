"""
``alertpost demo``: real alerts, the whole path, and a bad day at Microsoft.

459 Alertmanager bodies for twelve tenants go through an embedded Valkey, SQLite, two worker
processes and Microsoft 365 in a box, which misbehaves as real life does. At the end every alert is
accounted for, or the exit code says that it is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import func, select

from console.accounting import Account, account
from console.line_source import LineSource
from console.stage import Stage
from models import dead_letters, lane, reports
from models.alert import AlertEmail
from models.database import read, write
from models.errors import ConfigurationError
from models.lifecycle import State
from models.tables import METADATA
from producers.alert_lines import Reader, alertmanager_reader, read_alert, read_lines

SAMPLE = Path(__file__).with_name("demo_data") / "alertmanager-webhooks.jsonl"
TENANTS = (
    "contoso", "northwind", "fabrikam", "litware", "adatum", "wingtip", "tailspin", "proseware",
    "woodgrove", "lucerne", "margies", "fourthcoffee",
)  # fmt: skip

SPEED = 10
"""The limits' clock runs so much faster than life: 30 mails in any 6 seconds instead of 60."""

LIMIT = 30
WINDOW_SECONDS = 60.0 / SPEED
CONNECTIONS = 3
TOKEN_SECONDS = 20
"""Access tokens last so long, so that some run out while the demo runs."""

WORKERS = 2
LONGEST_SECONDS = 84.0
ENQUEUE_AT_ONCE = 200

SETTINGS: dict[str, Any] = {
    "pacing": {
        "messages_per_window": LIMIT,
        "window_seconds": WINDOW_SECONDS,
        "connections_per_mailbox": CONNECTIONS,
        "slot_seconds": 10.0,
    },
    "visit": {"claim_seconds": 10.0, "connection_idle_seconds": 5.0},
    # The silence may have met the visit of the worker that lives on.
    "smtp": {"data_timeout_seconds": 12.0},
    "lease": {"minimum_left_seconds": 3.0, "refresh_at_share": 0.65},
    "retry": {"soon_seconds": 0.5, "first_seconds": 1.0, "longest_seconds": 5.0},
    "sweep": {"interval_seconds": 1.0},
    "worker": {"concurrency": 32},
}

_D = METADATA.tables["delivery"].c


class Screen:
    """What the demo tells while it runs; a door fills it in."""

    def step(self, text: str) -> None:
        """A part begins."""

    def event(self, text: str) -> None:
        """Something happened."""

    def progress(self, states: dict[str, int], total: int) -> None:
        """The deliveries' states have changed."""


@dataclass
class Result:
    """What the demo found; ``as_json`` is its last line with ``--json``."""

    account: Account
    report: reports.Report
    token_requests: int
    token_expiries: int
    max_sent_in_window: int
    max_connections: int
    violations: int
    kills: int
    seconds: float
    replayed: int
    bad_lines: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every alert is accounted for and every limit was kept."""
        told = self.account
        return (
            told.lost == 0
            and told.strangers == 0
            and told.unmarked == 0
            and told.count(State.QUEUED, State.SENDING) == 0
            and self.violations == 0
            and self.max_sent_in_window <= LIMIT
            and self.max_connections <= CONNECTIONS
        )

    def as_json(self) -> dict[str, Any]:
        """Shape the figures for scripts."""
        told = self.account
        total = self.report.as_json()["total"]
        return {
            "enqueued": told.enqueued,
            "accepted": told.count(State.ACCEPTED),
            "dead": told.count(State.DEAD),
            "expired": told.count(State.EXPIRED),
            "queued": told.count(State.QUEUED, State.SENDING),
            "lost": told.lost + told.strangers,
            "duplicates": told.duplicates,
            "uncertain": told.uncertain,
            "retried": total["retried"],
            "replayed": self.replayed,
            "token_requests": self.token_requests,
            "token_expiries": self.token_expiries,
            "max_sent_in_window": self.max_sent_in_window,
            "window_limit": LIMIT,
            "window_seconds": WINDOW_SECONDS,
            "max_connections": self.max_connections,
            "connection_limit": CONNECTIONS,
            "violations": self.violations,
            "kills": self.kills,
            "bad_lines": len(self.bad_lines),
            "seconds": round(self.seconds, 1),
            "p50_ms": total["p50_ms"],
            "p95_ms": total["p95_ms"],
            "good": self.good,
        }


def play(
    directory: Path, *, source: Path = SAMPLE, format_name: str = "alertmanager", screen: Screen
) -> Result:
    """
    Run the demo.

    Args:
        directory: An empty directory for everything that it makes.
        source: JSON lines.
        format_name: ``alertmanager`` or ``alerts``.
        screen: Told of everything.

    Raises:
        ConfigurationError: The input cannot be read, or the stage cannot be set.
    """
    started = time.monotonic()
    slugs = TENANTS if source == SAMPLE else tuple(_tenants_in(source, format_name))
    limits = {"messages_per_window": LIMIT, "window_seconds": WINDOW_SECONDS}
    with (
        Stage(directory, slugs, limits=limits, settings=SETTINGS) as stage,
        _stopping_told(screen),
    ):
        screen.step(f"Microsoft 365 in a box, an embedded Valkey and SQLite run in {directory}")
        stage.add_tenants()
        for slug in slugs:
            stage.sandbox.tell(
                "PATCH", f"/tenants/{slug}", {"access_token_seconds": [TOKEN_SECONDS] * 2}
            )
        for count, slug in enumerate(stage.connect_all(), 1):
            screen.event(f"{slug}: consent given ({count} of {len(slugs)})")
        stage.sandbox.tell("POST", "/reset")
        day = BadDay(stage, slugs, screen)
        day.begin()
        alerts, bad = _read(stage, source, format_name)
        for line in bad:
            screen.event(line)
        screen.step(f"{WORKERS} worker processes start; {len(alerts)} alerts are enqueued")
        for number in range(WORKERS):
            stage.start_worker(number)
        stage.wait_for_workers()
        for begin in range(0, len(alerts), ENQUEUE_AT_ONCE):
            stage.producer.enqueue_many(alerts[begin : begin + ENQUEUE_AT_ONCE])
        day.live_through(until=started + LONGEST_SECONDS - 15)
        replayed = _replay(stage, screen)
        _settle(stage, day, screen, until=started + LONGEST_SECONDS)
        screen.step("SQL is compared with what Exchange took")
        return _result(stage, day, replayed, bad, started)


@contextmanager
def _stopping_told(screen: Screen) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        screen.step("Stopping; the workers finish the mails in hand")
        raise


class BadDay:
    """What goes wrong, and when; every trouble waits until its mailbox is busy."""

    def __init__(self, stage: Stage, slugs: tuple[str, ...], screen: Screen) -> None:
        self._stage = stage
        self._screen = screen
        # With fewer tenants than troubles, one tenant has several.
        pick = [slugs[number % len(slugs)] for number in range(8)]
        self._crash, self._revoked, self._refused = pick[0], pick[1], pick[2]
        self._switched, self._throttled = pick[3], pick[4]
        self.kills = 0
        self._troubles: list[tuple[float, Callable[[], bool]]] = [
            (0.05, self._kill),
            (0.10, self._revoke),
        ]
        self._cures: list[tuple[float, Callable[[], bool]]] = [
            (0.10, self._switch_on),
            (0.30, self._consent_again),
        ]
        self._consent_ended = False

    def begin(self) -> None:
        """Set what is wrong from the start."""
        self._fault("flaky", "body", 0.04, reply="451 4.7.0 Temporary server error. PRX5")
        self._fault(
            "rule", "body", 1.0, self._refused, times=4,
            reply="550 5.7.1 rejected by transport rule of the organisation",
        )  # fmt: skip
        self._fault(
            "busy", "data", 1.0, self._throttled, times=1,
            reply="432 4.3.2 Concurrent connections limit exceeded",
        )  # fmt: skip
        self._stage.sandbox.tell(
            "PATCH", f"/mailboxes/{_address(self._switched)}", {"smtp_auth": False}
        )
        self._say(f"{self._switched}: an administrator switches SMTP AUTH off")
        self._say("Exchange answers 4 of 100 mails with 451 4.7.0 from now on")
        self._say(f"{self._refused}: a transport rule refuses 4 mails for good")
        self._say(f"{self._throttled}: Exchange is busy and answers 432 4.3.2; the lane waits")
        self._fault("silence", "body", 1.0, self._crash, times=1, after=12, stall=True)

    def live_through(self, *, until: float) -> None:
        """Let the troubles happen while the lanes drain; return when only dead ones are left."""
        while time.monotonic() < until:
            states = _states(self._stage)
            total = sum(states.values())
            self._screen.progress(states, total)
            done = (total - states.get("queued", 0) - states.get("sending", 0)) / max(total, 1)
            self._troubles = _still_to_come(self._troubles, done)
            self.cure(done)
            if done == 1.0:
                return
            time.sleep(0.1)

    def cure(self, done: float) -> None:
        """Take back what waits for a person, as far as its time has come."""
        # Where all that is left waits for a person, waiting longer would bring nothing about.
        self._cures = _still_to_come(self._cures, 1.0 if self._all_wait() else done)

    def _all_wait(self) -> bool:
        mailbox = METADATA.tables["mailbox"].c
        with read(self._stage.engine) as connection:
            return not connection.scalar(
                select(func.count())
                .select_from(METADATA.tables["delivery"].join(METADATA.tables["mailbox"]))
                .where(
                    _D.state.in_([State.QUEUED.value, State.SENDING.value]),
                    mailbox.parked_at.is_(None),
                )
            )

    def _kill(self) -> bool:
        """Kill the worker that waits for the reply to a mail it has sent."""
        holder = self._holder_in_doubt()
        if holder is None:
            return False
        number, slug = holder
        self._stage.kill_worker(number)
        self.kills += 1
        self._say(f"{slug}: a worker is killed (SIGKILL) while it waits for the 250 of a mail")
        self._stage.start_worker(number + WORKERS)
        self._say("another worker process starts in its place")
        return True

    def _holder_in_doubt(self) -> tuple[int, str] | None:
        faults = self._stage.sandbox.ask("/faults")["exchange"]
        if any(fault["name"] == "silence" and not fault["struck"] for fault in faults):
            return None
        with read(self._stage.engine) as connection:
            claimed = connection.execute(
                select(_D.claimed_by)
                .where(
                    _D.state == State.SENDING.value,
                    _D.mailbox_id == self._stage.mailbox_id(self._crash),
                )
                .order_by(_D.severity, _D.due_at, _D.id)
            ).scalars()
            process_ids = {int(name.split("/")[0].rsplit("-", 2)[1]) for name in claimed}
        for number, process in self._stage.workers.items():
            if process.pid in process_ids:
                return number, self._crash
        return None

    def _revoke(self) -> bool:
        self._stage.sandbox.tell(
            "POST", f"/users/{_address(self._revoked)}/revoke", {"recall_access_tokens": True}
        )
        self._say(f"{self._revoked}: an administrator revokes the consent")
        self._consent_ended = True
        return True

    def _consent_again(self) -> bool:
        if not self._consent_ended or not self._parked(self._revoked):
            return False
        self._stage.connect(self._revoked)
        self._resume(self._revoked)
        self._say(f"{self._revoked}: consent is given again, the lane goes on")
        return True

    def _switch_on(self) -> bool:
        if not self._parked(self._switched):
            return False
        self._stage.sandbox.tell(
            "PATCH", f"/mailboxes/{_address(self._switched)}", {"smtp_auth": None}
        )
        self._resume(self._switched)
        self._say(f"{self._switched}: SMTP AUTH is switched on again, the lane goes on")
        return True

    def _parked(self, slug: str) -> bool:
        with read(self._stage.engine) as connection:
            mailbox = METADATA.tables["mailbox"].c
            return (
                connection.scalar(
                    select(mailbox.parked_at).where(mailbox.address == _address(slug))
                )
                is not None
            )

    def _resume(self, slug: str) -> None:
        with write(self._stage.engine) as connection:
            resumed = lane.resume_scope(connection, mailbox_id=self._stage.mailbox_id(slug))
        self._stage.wake([(mailbox_id, False) for mailbox_id in resumed])

    def _fault(
        self,
        name: str,
        phase: str,
        probability: float,
        slug: str | None = None,
        *,
        times: int | None = None,
        after: int = 0,
        reply: str | None = None,
        stall: bool = False,
    ) -> None:
        fault: dict[str, Any] = {
            "name": name,
            "phase": phase,
            **({"behaviour": "stall"} if stall else {"behaviour": "answer", "reply": reply}),
            "probability": probability,
            "after": after,
        }
        if times is not None:
            fault["times"] = times
        if slug is not None:
            fault["mailbox"] = _address(slug)
        self._stage.sandbox.tell("POST", "/faults/exchange", fault)

    def _say(self, text: str) -> None:
        self._screen.event(text)


def _still_to_come(
    plan: list[tuple[float, Callable[[], bool]]], done: float
) -> list[tuple[float, Callable[[], bool]]]:
    return [(share, happen) for share, happen in plan if done < share or not happen()]


def _address(slug: str) -> str:
    return f"alerts@{slug}.example"


def _states(stage: Stage) -> dict[str, int]:
    with read(stage.engine) as connection:
        rows = connection.execute(select(_D.state, func.count()).group_by(_D.state))
        return {str(state): int(count) for state, count in rows}


def _reader(stage: Stage, format_name: str) -> Reader:
    if format_name == "alertmanager":
        return alertmanager_reader(stage.producer.recipients())
    return read_alert


def _read(stage: Stage, source: Path, format_name: str) -> tuple[list[AlertEmail], list[str]]:
    alerts: list[AlertEmail] = []
    bad: list[str] = []
    with _opened(source) as stream:
        for line in read_lines(stream, _reader(stage, format_name)):
            if line.error is not None:
                bad.append(f"line {line.number} is bad and left out: {line.error}")
            for alert in line.alerts:
                key = alert.idempotency_key
                # A recording holds each notification once, however alike two of them are; only
                # played within seconds would a reminder pass for a post that was repeated.
                if format_name == "alertmanager":
                    key = f"{key}#{line.number}"
                # In the box each tenant has one mailbox, whatever the input names.
                changes = {"idempotency_key": key, "mailbox": None}
                alerts.append(alert.model_copy(update=changes))
    if not alerts:
        raise ConfigurationError(f"{source} holds no alert in the format {format_name}")
    return alerts, bad


def _tenants_in(source: Path, format_name: str) -> Iterator[str]:
    """Find out which tenants an input of the user's own names, so that the box has them."""

    def anybody(_tenant: str, _severity: object) -> tuple[str, ...]:
        return ("ops@tenant.example",)

    reader = alertmanager_reader(anybody) if format_name == "alertmanager" else read_alert
    seen: dict[str, None] = {}
    with _opened(source) as stream:
        for line in read_lines(stream, reader):
            seen |= {alert.tenant: None for alert in line.alerts}
    if not seen:
        raise ConfigurationError(
            f"{source} holds no alert in the format {format_name}; see --format"
        )
    yield from seen


@contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    with LineSource.open(str(source)).closing() as lines:
        yield lines.stream


def _replay(stage: Stage, screen: Screen) -> int:
    """Give dead letters another chance, as ops would once the cause is gone."""
    stage.sandbox.tell("DELETE", "/faults/exchange")
    with write(stage.engine) as connection:
        replay = dead_letters.replay(
            connection, dead_letters.DeadFilter(), actor="demo", reason="the rule was corrected"
        )
    stage.wake(replay.wake)
    if replay.replayed:
        screen.step(f"{replay.replayed} dead letters are replayed: the transport rule is corrected")
    return int(replay.replayed)


def _settle(stage: Stage, day: BadDay, screen: Screen, *, until: float) -> None:
    while time.monotonic() < until:
        states = _states(stage)
        screen.progress(states, sum(states.values()))
        if not states.get("queued") and not states.get("sending"):
            return
        # A consent that ended after the last mail is noticed by what is replayed.
        day.cure(1.0)
        time.sleep(0.1)


def _result(stage: Stage, day: BadDay, replayed: int, bad: list[str], started: float) -> Result:
    counters = stage.sandbox.ask("/counters")
    mailboxes = stage.sandbox.ask("/mailboxes")
    with read(stage.engine) as connection:
        told = account(connection, stage.sandbox.ask("/outbox"))
        report = reports.report(connection, since=None, tenant=None)
    each = mailboxes["mailboxes"].values()
    return Result(
        account=told,
        report=report,
        token_requests=counters["by_grant_type"].get("refresh_token", {}).get("ok", 0),
        token_expiries=counters.get("expiries", 0),
        max_sent_in_window=max(mailbox["max_sent_in_window"] for mailbox in each),
        max_connections=max(mailbox["max_connections"] for mailbox in each),
        violations=sum(mailboxes["violations"].values()),
        kills=day.kills,
        seconds=time.monotonic() - started,
        replayed=replayed,
        bad_lines=bad,
    )
