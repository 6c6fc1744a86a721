"""What needs a person: the one judgement behind the exit codes for monitoring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from shlex import quote
from typing import TYPE_CHECKING

from console.output import counted
from models.expiries import Expiry, Level
from models.explain import span_text
from models.lookups import BY_HAND
from models.operator_mailbox import OperatorMailbox
from models.overview import Overview
from models.standings import READY, Held
from workers.cures import cure_of
from workers.faults import VISIT_FAILED

if TYPE_CHECKING:
    from console.live import Live

NEEDS_A_PERSON = 7
"""Exit code of ``status`` and ``expiries``: it ran, and somebody has to act."""

SOON = timedelta(days=7)
"""What ends within this time needs a person now, not when it has ended."""


class Matter(StrEnum):
    """What kind of thing needs a person; stable names for monitoring."""

    PARKED = "parked"
    NOT_CONNECTED = "not-connected"
    EXPIRY = "expiry"
    DEAD_LETTERS = "dead-letters"
    NO_WORKER = "no-worker"
    REDIS = "redis"
    SQL = "sql"
    WARNINGS = "warnings"
    NOT_RECORDED = "not-recorded"
    HELD_UP = "held-up"
    """It goes on by itself, but not well without a person."""


@dataclass(frozen=True, slots=True)
class Concern:
    """
    One thing that needs a person.

    Attributes:
        text: What it is, in a sentence.
        command: What helps.
        held: For a parked mailbox: which, and why.
        expiry: For what ends: what it is and who needs it.
    """

    matter: Matter
    text: str
    command: str | None = None
    held: Held | None = None
    expiry: Expiry | None = None

    def as_json(self) -> dict[str, str | None]:
        """Give what monitoring reads; the rest stands elsewhere in the same document."""
        return {"matter": self.matter.value, "text": self.text, "command": self.command}


def concerns(seen: Overview, live: Live, operator: OperatorMailbox | None = None) -> list[Concern]:
    """
    Say what needs a person now; empty where all is well.

    What goes on by itself is left out: paused mailboxes, backlogs, used-up recipients. So is a
    mailbox that was parked by hand, and one that is not connected while nothing waits there.

    Args:
        seen: What SQL knows.
        live: What the stores say.
        operator: The mailbox that warnings come from; None: nobody wants any.
    """
    return [
        *_stores(live),
        *_workers(seen, live),
        *_unrecorded(live),
        *_holds(seen),
        *_held(seen),
        *_expiries(seen),
        *_dead(seen),
        *_warnings(operator),
    ]


def command_of(held: Held) -> str | None:
    """Name the command that helps the first of these mailboxes, and often all of them."""
    address = held.mailboxes[0]
    if held.standing == "not connected":
        return f"alertpost mailboxes connect {quote(address)}"
    if held.standing == "paused":
        return None
    if held.reason == BY_HAND:
        return f"alertpost mailboxes resume {quote(address)}"
    cure = cure_of(held.reason, address=address, tenant=held.tenants[0], parked=True, app=held.app)
    return cure or f"alertpost mailboxes show {quote(address)}"


def _stores(live: Live) -> Iterator[Concern]:
    refused = live.sql.trouble
    if refused is not None:
        yield Concern(Matter.SQL, f"{refused.text}; {refused.next_step}")
    for trouble in (live.refuses, live.risk):
        if trouble is not None:
            yield Concern(Matter.REDIS, f"{trouble.text}; {trouble.next_step}")


def _workers(seen: Overview, live: Live) -> Iterator[Concern]:
    stuck = sum(lane.due for lane in seen.lanes if lane.standing == READY)
    if live.workers or live.refuses is not None or not stuck:
        return
    waits = f"{counted(stuck)} could go"
    if live.away is not None:
        yield Concern(Matter.NO_WORKER, f"{waits}, but Redis does not answer: {live.away}")
    else:
        yield Concern(Matter.NO_WORKER, f"{waits}, but no worker lives", "alertpost up")


def _holds(seen: Overview) -> Iterator[Concern]:
    for hold in seen.holds:
        yield Concern(
            Matter.HELD_UP,
            f"{hold.smtp_host} refuses the address that {hold.sends_from} sends from: {hold.rule}",
        )


def _unrecorded(live: Live) -> Iterator[Concern]:
    for one in live.unrecorded:
        waits = f"{counted(one.outcomes, 'outcome', 'outcomes')} of mails cannot be recorded"
        span = span_text(timedelta(seconds=one.seconds))
        yield Concern(
            Matter.NOT_RECORDED,
            f"{waits} at {one.worker} for {span} now, and their connections wait: {one.reason}",
        )


def _held(seen: Overview) -> Iterator[Concern]:
    waiting_at = {lane.mailbox for lane in seen.lanes}
    for held in seen.standings.held:
        boxes = counted(len(held.mailboxes), "mailbox", "mailboxes")
        are = "is" if len(held.mailboxes) == 1 else "are"
        if held.standing == "parked" and held.reason != BY_HAND:
            text = f"{boxes} {are} parked: {held.reason}"
            yield Concern(Matter.PARKED, text, command_of(held), held=held)
        if held.standing == "paused" and held.reason == VISIT_FAILED:
            yield Concern(
                Matter.HELD_UP,
                f"{boxes} {are} paused because visits fail by a fault of ours: {held.reason}",
                f"alertpost mailboxes show {quote(held.mailboxes[0])}",
            )
        needed = [address for address in held.mailboxes if address in waiting_at]
        if held.standing == "not connected" and needed:
            are = "is" if len(needed) == 1 else "are"
            yield Concern(
                Matter.NOT_CONNECTED,
                f"mail waits at {counted(len(needed), 'mailbox', 'mailboxes')} that {are} not "
                "connected",
                f"alertpost mailboxes connect {quote(needed[0])}",
            )


def _expiries(seen: Overview) -> Iterator[Concern]:
    for one in seen.expiries:
        if one.is_due(seen.now, within=SOON):
            yield Concern(Matter.EXPIRY, expiry_text(one), one.command, expiry=one)


def expiry_text(one: Expiry) -> str:
    """Say what ends when, in a few words; of two credentials which one."""
    which = f" {one.credential}" if one.credential is not None else ""
    return f"the {one.kind}{which} of {one.name} {when_it_ends(one)}"


def when_it_ends(one: Expiry) -> str:
    """Say when it ends, or ended; or that Entra takes it no more."""
    if one.refused:
        ends = "" if one.ends_at is None else f", whatever its end, {one.ends_at:%Y-%m-%d}, says"
        return f"is refused by Entra ({one.refused}) and no other one works{ends}"
    if one.ends_at is None or one.days is None:
        return "has no known end date"
    if one.level is Level.ENDED or one.days < 0:
        return f"ended on {one.ends_at:%Y-%m-%d}"
    day = one.level is Level.DAY
    left = "in less than a day" if day else f"in {counted(one.days, 'day', 'days')}"
    return f"ends {left}, on {one.ends_at:%Y-%m-%d}"


def _dead(seen: Overview) -> Iterator[Concern]:
    letters = sum(one.letters for one in seen.dead)
    if letters:
        yield Concern(
            Matter.DEAD_LETTERS,
            f"{counted(letters, 'dead letter', 'dead letters')}: replay or discard",
            "alertpost dead list",
        )


def _warnings(operator: OperatorMailbox | None) -> Iterator[Concern]:
    if operator is not None and operator.trouble is not None:
        yield Concern(Matter.WARNINGS, f"warnings are {operator.sentence()}", operator.command)
