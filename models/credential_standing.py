"""
How the credentials of an app registration stand to each other: which is tried first, which works.

Pure. In a rotation two stand side by side. The newest is tried first; where Entra refuses it the
other one is, in the same call, so that nothing stops while the new one is not uploaded yet, or is
wrong. One that has ended is not tried while another has not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

REFUSAL_MEMORY = timedelta(seconds=60)
"""What was refused so recently is tried last: it costs a request a minute, not one a mailbox."""


class Kind(StrEnum):
    """What it is."""

    SECRET = "secret"  # noqa: S105 - a kind, no secret
    CERTIFICATE = "certificate"


class State(StrEnum):
    """How it stands, in the words of lists."""

    IN_USE = "in use"
    STANDBY = "standby"
    """It has worked; a newer one works now."""
    UNTRIED = "not tried yet"
    REFUSED = "refused"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Standing:
    """
    A credential as lists show it; nothing of it is secret.

    Attributes:
        number: Its name within the app registration; the highest is the newest.
        thumbprint: SHA-1, of a certificate; else None.
        worked_at: When Entra took it last, to the hour.
        refused_at: When Entra refused it last; None where it was taken since.
        refused_rule: As what.
        refused_answer: Entra's code and trace id.
    """

    id: UUID
    number: int
    kind: Kind
    thumbprint: str | None
    expires_at: datetime | None
    added_at: datetime
    worked_at: datetime | None = None
    refused_at: datetime | None = None
    refused_rule: str | None = None
    refused_answer: str | None = None

    def has_ended(self, now: datetime) -> bool:
        """Tell whether its end has come, as far as that is known."""
        return self.expires_at is not None and self.expires_at <= now

    @property
    def refused_code(self) -> str:
        """Give Entra's number, such as ``AADSTS7000215``, or what else it said first."""
        return (self.refused_answer or self.refused_rule or "").partition(" ")[0]


def in_turn(known: Iterable[Standing], now: datetime) -> list[Standing]:
    """Put credentials into the order in which they are tried."""
    newest_first = sorted(known, key=lambda one: one.number, reverse=True)
    good = [one for one in newest_first if not one.has_ended(now)] or newest_first
    return sorted(
        good,
        key=lambda one: one.refused_at is not None and now - one.refused_at < REFUSAL_MEMORY,
    )


def states(known: Iterable[Standing], now: datetime) -> dict[int, State]:
    """Say how each stands, by number."""
    found: dict[int, State] = {}
    for one in sorted(known, key=lambda one: one.number, reverse=True):
        if one.has_ended(now):
            found[one.number] = State.ENDED
        elif one.refused_rule is not None:
            found[one.number] = State.REFUSED
        elif one.worked_at is None:
            found[one.number] = State.UNTRIED
        else:
            found[one.number] = State.STANDBY if State.IN_USE in found.values() else State.IN_USE
    return found


def in_force(known: Sequence[Standing], now: datetime) -> Standing | None:
    """Name the one that things depend on: what is in use, else the newest that may work."""
    standing = states(known, now)
    newest_first = sorted(known, key=lambda one: one.number, reverse=True)
    for state in (State.IN_USE, State.UNTRIED, State.REFUSED, State.ENDED):
        for one in newest_first:
            if standing[one.number] is state:
                return one
    return None


def none_works(known: Sequence[Standing], now: datetime) -> Standing | None:
    """
    Name the credential that Entra refuses while no other one works or may work; else None.

    Whatever its end date says: nothing is sent any more once the present tokens end.
    """
    used = in_force(known, now)
    if used is None or states(known, now)[used.number] is not State.REFUSED:
        return None
    return used


def dispensable(known: Sequence[Standing], now: datetime) -> list[Standing]:
    """Name those that can go: one works, and they are older than it, or have ended."""
    standing = states(known, now)
    used = in_force(known, now)
    if used is None or standing[used.number] is not State.IN_USE:
        return []
    return [one for one in known if one.number < used.number or standing[one.number] is State.ENDED]


def refused_beside(known: Sequence[Standing], now: datetime) -> str | None:
    """Say that a newer credential is refused while an older one works; None where that is not."""
    standing = states(known, now)
    used = in_force(known, now)
    if used is None or standing[used.number] is not State.IN_USE:
        return None
    newer = [
        one for one in known if one.number > used.number and standing[one.number] is State.REFUSED
    ]
    if not newer:
        return None
    return refusal_text(max(newer, key=lambda one: one.number), used)


def refusal_text(refused: Standing, used: Standing | None) -> str:
    """
    Put it into words that a credential is refused.

    Args:
        refused: That one, with what Entra said.
        used: The one that works instead; None where none does.
    """
    said = f"{refused.kind} {refused.number} is refused by Entra ({refused.refused_code})"
    if used is None:
        return said
    ends = "whose end date is not known"
    if used.expires_at is not None:
        ends = f"which ends on {used.expires_at:%Y-%m-%d}"
    age, other = ("new", "old") if refused.number > used.number else ("old", "new")
    return f"the {age} {said}: the {other} one, {used.kind} {used.number}, {ends}, is used"
