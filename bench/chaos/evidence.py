"""
What a round left behind in SQL and at Exchange, and what must be true of it.

A trigger in the round's database notes when a delivery was marked uncertain, and of whose claim:
a mark that came only after the second copy would not do.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, select, text

from models.database import read
from models.lifecycle import State
from models.tables import METADATA

CLOCK_SECONDS = 0.005
"""Two processes on one machine read the same clock; this is for rounding."""

_WORD = re.compile("[0-9a-f]{12}")
"""What the command line's alerts are told apart by."""

_D = METADATA.tables["delivery"].c
_A = METADATA.tables["attempt"].c
_OPEN = {State.QUEUED.value, State.SENDING.value}

_SQLITE = (
    "CREATE TABLE chaos_mark (delivery_id TEXT, visit TEXT, moment REAL)",
    """
    CREATE TRIGGER chaos_mark AFTER UPDATE ON delivery
    WHEN (NEW.uncertain AND NOT OLD.uncertain) OR NEW.claims > OLD.claims
    BEGIN
        INSERT INTO chaos_mark
        VALUES (NEW.id, OLD.claimed_by, (julianday('now') - 2440587.5) * 86400.0);
    END
    """,
)
_POSTGRESQL = (
    "CREATE TABLE chaos_mark (delivery_id TEXT, visit TEXT, moment DOUBLE PRECISION)",
    """
    CREATE FUNCTION chaos_mark() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO chaos_mark
        VALUES (NEW.id, OLD.claimed_by, extract(epoch FROM clock_timestamp()));
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER chaos_mark AFTER UPDATE ON delivery FOR EACH ROW
    WHEN ((NEW.uncertain AND NOT OLD.uncertain) OR NEW.claims > OLD.claims)
    EXECUTE FUNCTION chaos_mark()
    """,
)


def watch_marks(engine: Engine) -> None:
    """Put the trigger into a database."""
    statements = _POSTGRESQL if engine.dialect.name == "postgresql" else _SQLITE
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


@dataclass(frozen=True, slots=True)
class Mark:
    """A delivery was marked uncertain, or counted a death, at a moment, in a visit's hand."""

    delivery_id: str
    visit: str
    moment: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What there is."""

    rows: Mapping[str, Any]
    """Deliveries by id, with state, uncertain, mailbox_id, reason and subject."""
    with_250: frozenset[str]
    """Deliveries with an attempt that ended with a 250."""
    marks: Sequence[Mark]
    """In true time, also where the database's clock was wrong."""
    mails: Sequence[Mapping[str, Any]]
    violations: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Freeze:
    """A worker that stood still."""

    pid: int
    begin: float
    end: float


@dataclass(slots=True)
class Verdict:
    """The figures of a round, and what is wrong with them."""

    enqueued: int = 0
    accepted: int = 0
    dead: int = 0
    expired: int = 0
    lost: int = 0
    duplicates: int = 0
    uncertain: int = 0
    violations: int = 0
    frozen_connections: int = 0
    """Connections beyond the limit while a process that stood still kept its own open."""
    unremembered: int = 0
    """Mails beyond the limit when Redis forgot them and SQL's clock was set, within one window."""
    breaks: list[str] = field(default_factory=list)


def collect(
    engine: Engine,
    mails: Sequence[Mapping[str, Any]],
    violations: Sequence[Mapping[str, Any]],
    *,
    true_time: Callable[[float], float],
) -> Evidence:
    """
    Read everything from SQL.

    Args:
        engine: The round's database.
        mails: What Exchange took.
        violations: Limits that were broken, as Exchange counted them.
        true_time: When the database's clock showed a moment.
    """
    with read(engine) as connection:
        rows = connection.execute(
            select(
                _D.id, _D.state, _D.uncertain, _D.mailbox_id, _D.reason, _D.claimed_by, _D.subject,
                _D.due_at,
            )
        )  # fmt: skip
        return Evidence(
            rows={str(row.id): row for row in rows},
            with_250=frozenset(
                str(key)
                for key in connection.execute(
                    select(_A.delivery_id).where(_A.reply_code == 250)
                ).scalars()
            ),
            marks=_marks(connection, true_time),
            mails=mails,
            violations=violations,
        )


def _marks(connection: Connection, true_time: Callable[[float], float]) -> list[Mark]:
    found = connection.execute(text("SELECT delivery_id, visit, moment FROM chaos_mark"))
    return [Mark(_dashed(key), visit or "", true_time(moment)) for key, visit, moment in found]


def _dashed(key: str) -> str:
    bare = key.replace("-", "")
    return f"{bare[:8]}-{bare[8:12]}-{bare[12:16]}-{bare[16:20]}-{bare[20:]}"


def judge(
    evidence: Evidence,
    receipts: set[str],
    *,
    kills: Sequence[tuple[int, float]],
    freezes: Sequence[Freeze],
    forgets: Sequence[float],
    steps: Sequence[float],
    slot_seconds: float,
    window_seconds: float,
) -> Verdict:
    """
    Hold the promises against what there is.

    Args:
        evidence: From ``collect``.
        receipts: What a producer got back: ids, or words of subjects.
        kills: Process ids of killed workers, and when.
        freezes: Workers that stood still.
        forgets: When Redis lost its memory.
        steps: When the database's clock was set.
        slot_seconds: After which a slot that is not renewed is given away.
        window_seconds: Of the limit.
    """
    verdict = Verdict(
        enqueued=len(receipts),
        uncertain=sum(bool(row.uncertain) for row in evidence.rows.values()),
    )
    states = Counter(row.state for row in evidence.rows.values())
    verdict.accepted = states[State.ACCEPTED.value]
    verdict.dead = states[State.DEAD.value]
    verdict.expired = states[State.EXPIRED.value]
    _judge_losses(verdict, evidence, receipts)
    _judge_duplicates(verdict, evidence, kills)
    since = window_seconds + slot_seconds
    _judge_limits(
        verdict,
        evidence,
        lambda moment: any(
            freeze.begin + slot_seconds / 2 < moment < freeze.end + slot_seconds
            for freeze in freezes
        ),
        lambda moment: all(
            any(0 <= moment - each <= since for each in times) for times in (forgets, steps)
        ),
    )
    return verdict


def _judge_losses(verdict: Verdict, evidence: Evidence, receipts: set[str]) -> None:
    taken = {str(mail["alert_id"]) for mail in evidence.mails}
    accepted = {key for key, row in evidence.rows.items() if row.state == State.ACCEPTED.value}
    words = {word for row in evidence.rows.values() for word in _WORD.findall(row.subject)}
    lost = (receipts - evidence.rows.keys() - words) | (accepted - taken)
    verdict.lost = len(lost)
    verdict.breaks += [f"lost: {key}" for key in sorted(lost)[:5]]
    verdict.breaks += [
        f"Exchange has a mail that SQL does not know: {key}"
        for key in sorted(taken - evidence.rows.keys())[:5]
    ]
    verdict.breaks += [
        f"accepted without an attempt that says so: {key}"
        for key in sorted(accepted - evidence.with_250)[:5]
    ]
    verdict.breaks += [
        f"stuck in {row.state} (reason {row.reason}, claimed by {row.claimed_by}, "
        f"due {row.due_at}): {key}"
        for key, row in evidence.rows.items()
        if row.state in _OPEN
    ][:5]


def _judge_duplicates(
    verdict: Verdict, evidence: Evidence, kills: Sequence[tuple[int, float]]
) -> None:
    copies: dict[str, list[float]] = defaultdict(list)
    for mail in evidence.mails:
        copies[str(mail["alert_id"])].append(float(mail["time"]))
    marks: dict[str, list[Mark]] = defaultdict(list)
    for mark in evidence.marks:
        marks[mark.delivery_id].append(mark)
    for key, times in copies.items():
        times.sort()
        verdict.duplicates += len(times) - 1
        for number, moment in enumerate(times[1:], 1):
            if not any(mark.moment <= moment + CLOCK_SECONDS for mark in marks[key]):
                verdict.breaks.append(
                    f"copy {number + 1} of {key} was taken at {moment:.3f}, "
                    f"before it was marked uncertain (marks: {marks[key]})"
                )
    for pid, died in kills:
        after = Counter(
            mark.visit for mark in evidence.marks if f"-{pid}-" in mark.visit and mark.moment > died
        )
        verdict.breaks += [
            f"{count} mails in doubt after visit {visit} was killed, one is the most"
            for visit, count in after.items()
            if count > 1
        ]


def _judge_limits(
    verdict: Verdict,
    evidence: Evidence,
    frozen: Callable[[float], bool],
    unremembered: Callable[[float], bool],
) -> None:
    for violation in evidence.violations:
        kind, moment = violation["kind"], violation["time"]
        if kind == "connections" and frozen(moment):
            # Nobody can close the connections of a process that stands still.
            verdict.frozen_connections += 1
        elif kind == "message_rate" and unremembered(moment):
            # Both that remember the window were made to forget it.
            verdict.unremembered += 1
        else:
            verdict.violations += 1
            verdict.breaks.append(
                f"limit broken at {moment:.3f}: {kind} of {violation['mailbox']}, "
                f"{violation['detail']}"
            )
