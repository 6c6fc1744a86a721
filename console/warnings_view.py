"""What the operator was told by mail: one line for each thing, however many mailboxes it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from console.names import some_of
from console.output import counted, print_table
from models.told_warnings import LOSS, Told
from models.unsent import UNSENT


@dataclass(frozen=True, slots=True)
class ToldThing:
    """
    One thing that one mail told of.

    Attributes:
        kind: ``loss``, or what ends.
        detail: The level; of a loss the reason.
        cause: Of a loss: what its mailboxes have in common.
        moment: When it ends; of a loss when the first mailbox was parked.
        subjects: The app registration, or the mailboxes.
        delivery_id: The mail.
        to: Whom it went to; empty where that mail is gone.
        state: Of the mail, None likewise.
        tellings: How often it was told, repetitions included.
        over: How many of the subjects are lost no more.
        over_at: When that was seen of the last one, once it is all of them.
        over_delivery_id: The mail that said so; None where nobody was told.
    """

    kind: str
    detail: str
    cause: str
    moment: datetime
    subjects: tuple[str, ...]
    told_at: datetime
    delivery_id: UUID
    to: tuple[str, ...]
    state: str | None
    tellings: int
    repeated_at: datetime | None
    over: int
    over_at: datetime | None
    over_delivery_id: UUID | None

    def what(self) -> str:
        """Say it in a few words."""
        if self.kind == UNSENT:
            return f"alerts of {self.subjects[0]} ended unsent, until {self.moment:%Y-%m-%d %H:%M}"
        if self.kind != LOSS:
            level = "ended" if self.detail == "ended" else f"{self.detail} before its end"
            return f"{self.kind} of {self.subjects[0]}: {level}, {self.moment:%Y-%m-%d}"
        boxes = counted(len(self.subjects), "mailbox", "mailboxes")
        return f"{boxes} cannot send ({_rule(self.cause)}): {some_of(self.subjects)}"

    def since(self) -> str:
        """Say what became of it, as far as something could."""
        if self.kind != LOSS:
            return ""
        if self.over_at is not None:
            return "back" if self.over_delivery_id else "no longer"
        return f"{self.over} of {len(self.subjects)} back" if self.over else "still"


def things(told: Sequence[Told]) -> list[ToldThing]:
    """Put together what one mail told of one cause, in the order in which they first come."""
    groups: dict[tuple[object, ...], list[Told]] = {}
    for one in told:
        groups.setdefault(_thing(one), []).append(one)
    return [_together(group) for group in groups.values()]


def as_json(thing: ToldThing) -> dict[str, Any]:
    """Give all of it."""
    return {**asdict(thing), "what": thing.what()}


def print_things(shown: Sequence[ToldThing]) -> None:
    """Print a table."""
    print_table(
        ("Sent", "What", "Times", "Since then", "To", "Mail", "State"),
        [
            (
                one.told_at, one.what(), one.tellings, one.since(), some_of(one.to),
                one.delivery_id, one.state,
            )
            for one in shown
        ],
        right=("Times",),
        empty="No warnings sent yet.",
    )  # fmt: skip


def _rule(cause: str) -> str:
    """Leave out of a cause whether it is told by mailbox, tenant or app."""
    return cause.rpartition(": ")[2]


def _thing(one: Told) -> tuple[object, ...]:
    if one.kind == LOSS:
        return one.delivery_id, one.cause
    return one.kind, one.subject, one.detail, one.moment


def _together(rows: Sequence[Told]) -> ToldThing:
    first = rows[0]
    over = [row for row in rows if row.over_at is not None]
    all_over = len(over) == len(rows)
    return ToldThing(
        kind=first.kind,
        detail=first.detail,
        cause=first.cause,
        moment=min(row.moment for row in rows),
        subjects=tuple(row.subject for row in rows),
        told_at=min(row.told_at for row in rows),
        delivery_id=first.delivery_id,
        to=first.recipients,
        state=first.state,
        tellings=max(row.tellings for row in rows),
        repeated_at=max((row.repeated_at for row in rows if row.repeated_at), default=None),
        over=len(over),
        over_at=max(row.over_at for row in over if row.over_at) if all_over else None,
        over_delivery_id=next((row.over_delivery_id for row in over if row.over_delivery_id), None),
    )
