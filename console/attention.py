"""What needs a person: the one judgement behind the exit codes for monitoring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from console.live import Live
from console.output import counted
from models.expiries import Expiry, Level
from models.lookups import BY_HAND
from models.operator_mailbox import OperatorMailbox
from models.overview import Overview
from models.standings import READY, Held
from workers.cures import cure_of
from workers.faults import VISIT_FAILED

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
    WARNINGS = "warnings"
    HELD_UP = "held-up"
    """It goes on by itself, but not well without a person."""


@dataclass(frozen=True, slots=True)
class Concern:
    """One thing that needs a person: what it is, in a sentence, and the command that helps."""

    matter: Matter
    text: str
    command: str | None = None


def concerns(seen: Overview, live: Live, operator: OperatorMailbox | None = None) -> list[Concern]:
    """
    Say what needs a person now; empty where all is well.

    What goes on by itself is left out: paused mailboxes, backlogs, used-up recipients. So is a
    mailbox that was parked by hand, and one that is not connected while nothing waits there.

    Args:
        seen: What SQL knows.
        live: What Redis knows.
        operator: The mailbox that warnings come from; None: nobody wants any.
    """
    return [
        *_workers(seen, live),
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
        return f"alertpost mailboxes connect {address}"
    if held.standing == "paused":
        return None
    if held.reason == BY_HAND:
        return f"alertpost mailboxes resume {address}"
    cure = cure_of(held.reason, address=address, tenant=held.tenants[0], parked=True)
    return cure or f"alertpost mailboxes show {address}"


def _workers(seen: Overview, live: Live) -> Iterator[Concern]:
    stuck = sum(lane.due for lane in seen.lanes if lane.standing == READY)
    if live.workers or not stuck:
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


def _held(seen: Overview) -> Iterator[Concern]:
    waiting_at = {lane.mailbox for lane in seen.lanes}
    for held in seen.standings.held:
        boxes = counted(len(held.mailboxes), "mailbox", "mailboxes")
        are = "is" if len(held.mailboxes) == 1 else "are"
        if held.standing == "parked" and held.reason != BY_HAND:
            yield Concern(Matter.PARKED, f"{boxes} {are} parked: {held.reason}", command_of(held))
        if held.standing == "paused" and held.reason == VISIT_FAILED:
            yield Concern(
                Matter.HELD_UP,
                f"{boxes} {are} paused because visits fail by a fault of ours: {held.reason}",
                f"alertpost mailboxes show {held.mailboxes[0]}",
            )
        needed = [address for address in held.mailboxes if address in waiting_at]
        if held.standing == "not connected" and needed:
            are = "is" if len(needed) == 1 else "are"
            yield Concern(
                Matter.NOT_CONNECTED,
                f"mail waits at {counted(len(needed), 'mailbox', 'mailboxes')} that {are} not "
                "connected",
                f"alertpost mailboxes connect {needed[0]}",
            )


def _expiries(seen: Overview) -> Iterator[Concern]:
    for one in seen.expiries:
        if one.is_due(seen.now, within=SOON):
            yield Concern(Matter.EXPIRY, expiry_text(one), one.command)


def expiry_text(one: Expiry) -> str:
    """Say what ends when, in a few words; of two credentials which one."""
    which = f" {one.credential}" if one.credential is not None else ""
    return f"the {one.kind}{which} of {one.name} {when_it_ends(one)}"


def when_it_ends(one: Expiry) -> str:
    """Say when it ends, or ended."""
    if one.ends_at is None or one.days is None:
        return "has no known end date"
    if one.level is Level.ENDED or one.days < 0:
        return f"ended on {one.ends_at:%Y-%m-%d}"
    left = "in less than a day" if one.days < 1 else f"in {counted(one.days, 'day', 'days')}"
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
