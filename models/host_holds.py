"""
Servers that refuse the address that our workers send from: a whole host of ours holds.

What one mailbox met every other one would meet in turn, and each time Microsoft would see it. So
until a probe goes through nobody behind that address sends to that server: no mailbox, no worker.
One visit at a time probes, at a growing distance.

Which address a worker sends from it cannot see, as NAT hides it: the setting ``sends_from`` names
it, and without that the machine's name stands for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select, update

from models.clock import utc_after, utc_now
from models.tables import METADATA
from models.upserts import upsert_into

PROBE_SECONDS = 600.0
"""Within which the answer to a probe is there, or its worker is dead and another may probe."""

_ANSWER_LIMIT = 2000
_TABLE = METADATA.tables["host_hold"]
_H = _TABLE.c


@dataclass(frozen=True, slots=True)
class HostHold:
    """
    A server that refuses an address of ours.

    Attributes:
        refusals: How often a visit was refused so, probes included.
        probe_at: When one visit may try.
    """

    smtp_host: str
    sends_from: str
    rule: str
    answer: str
    refusals: int
    since: datetime
    probe_at: datetime


def all_holds(conn: Connection) -> list[HostHold]:
    """List all of them."""
    return [HostHold(*row) for row in conn.execute(_LISTING.order_by(_H.smtp_host, _H.sends_from))]


def waits(conn: Connection, sends_from: str) -> Mapping[str, float]:
    """Say of each server that holds this address of ours how many seconds are left to a probe."""
    rows = conn.execute(
        select(_H.smtp_host, _H.probe_at, utc_now().label("now")).where(_H.sends_from == sends_from)
    )
    return {row.smtp_host: (row.probe_at - row.now).total_seconds() for row in rows}


def take_probe(conn: Connection, *, smtp_host: str, sends_from: str) -> bool:
    """Take the right to try, if its time has come; one visit gets it."""
    taken = conn.execute(
        update(_TABLE)
        .where(*_this(smtp_host, sends_from), _H.probe_at <= utc_now())
        .values(probe_at=utc_after(PROBE_SECONDS))
    )
    return taken.rowcount == 1


def leave_probe(conn: Connection, *, smtp_host: str, sends_from: str) -> None:
    """Give that right back: there was nothing to try it with, or something else came first."""
    conn.execute(update(_TABLE).where(*_this(smtp_host, sends_from)).values(probe_at=utc_now()))


def hold(
    conn: Connection,
    *,
    smtp_host: str,
    sends_from: str,
    rule: str,
    answer: str,
    pause_seconds: tuple[float, float],
    probing: bool,
) -> float:
    """
    Let nobody behind this address send to this server for a while.

    Args:
        conn: A transaction that may write.
        smtp_host: The server.
        sends_from: Which address of ours.
        rule: The verdict's rule.
        answer: The refusal as it was given.
        pause_seconds: The first and the longest distance of probes.
        probing: It was a probe that was refused: the next one comes later than this one did.

    Returns:
        How long until the next probe.
    """
    where = _this(smtp_host, sends_from)
    row = conn.execute(
        select(_H.refusals, _H.probe_at, utc_now().label("now")).where(*where).with_for_update()
    ).one_or_none()
    first, longest = pause_seconds
    if row is not None and not probing and row.probe_at > row.now:
        # Others found out at the same moment; the first of them has said how long.
        return float((row.probe_at - row.now).total_seconds())
    refusals = 1 if row is None else row.refusals + 1
    seconds = min(longest, first * 2.0 ** min(refusals - 1, 30))
    values: dict[str, Any] = {
        "rule": rule,
        "answer": answer,
        "refusals": refusals,
        "probe_at": utc_after(seconds),
    }
    if row is not None:
        conn.execute(update(_TABLE).where(*where).values(**values))
        return seconds
    made = {"smtp_host": smtp_host, "sends_from": sends_from, "since": utc_now(), **values}
    insert = upsert_into(conn.dialect.name, _TABLE)
    conn.execute(insert.values(**made).on_conflict_do_nothing())
    return seconds


def lift(conn: Connection, *, smtp_host: str, sends_from: str) -> bool:
    """End a hold: a mail went through; False where there was none."""
    return conn.execute(delete(_TABLE).where(*_this(smtp_host, sends_from))).rowcount == 1


def _this(smtp_host: str, sends_from: str) -> tuple[Any, Any]:
    return _H.smtp_host == smtp_host, _H.sends_from == sends_from


_LISTING = select(
    _H.smtp_host, _H.sends_from, _H.rule, _H.answer, _H.refusals, _H.since, _H.probe_at
)
