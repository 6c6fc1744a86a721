"""
A delivery's states and the one table of permitted transitions.

Every statement that changes ``delivery.state`` names its transition from this table and carries
the permitted origins in its WHERE clause, so a state can only change along these arrows; the
letters are those of docs/lifecycle.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a delivery is; ``design`` words, see docs/glossary.md."""

    QUEUED = "queued"
    SENDING = "sending"
    ACCEPTED = "accepted"
    DEAD = "dead"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FOLDED = "folded"


FINAL = frozenset({State.ACCEPTED, State.EXPIRED, State.CANCELLED, State.FOLDED})
"""States that nothing leaves. ``dead`` is not among them: it waits for a person."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One arrow of the life cycle."""

    letter: str
    name: str
    origins: frozenset[State]
    target: State


def _arrow(letter: str, name: str, origins: tuple[State, ...], target: State) -> Transition:
    return Transition(letter, name, frozenset(origins), target)


CLAIM = _arrow("a", "claim", (State.QUEUED,), State.SENDING)
ACCEPT = _arrow("b", "accept", (State.SENDING,), State.ACCEPTED)
RETRY = _arrow("c", "retry", (State.SENDING,), State.QUEUED)
RETURN = _arrow("d", "return", (State.SENDING,), State.QUEUED)
RECOVER = _arrow("e", "recover", (State.SENDING,), State.QUEUED)
GIVE_UP = _arrow("f", "give up", (State.SENDING,), State.DEAD)
EXPIRE = _arrow("g", "expire", (State.QUEUED, State.SENDING), State.EXPIRED)
CANCEL = _arrow("h", "cancel", (State.QUEUED,), State.CANCELLED)
FOLD = _arrow("i", "fold", (State.QUEUED,), State.FOLDED)
REPLAY = _arrow("j", "replay", (State.DEAD,), State.QUEUED)
REPLAY_FORCED = _arrow(
    "k", "replay, forced", (State.ACCEPTED, State.EXPIRED, State.CANCELLED), State.QUEUED
)
DISCARD = _arrow("l", "discard", (State.DEAD,), State.CANCELLED)
ACCEPT_LATE = _arrow("m", "accept, late", (State.QUEUED, State.DEAD), State.ACCEPTED)
"""The 250 was committed only after the sweep had taken the claim back; the mail is out."""

PERMITTED: tuple[Transition, ...] = (
    CLAIM, ACCEPT, RETRY, RETURN, RECOVER, GIVE_UP, EXPIRE, CANCEL, FOLD, REPLAY, REPLAY_FORCED,
    DISCARD, ACCEPT_LATE,
)  # fmt: skip


def permitted(origin: State, target: State) -> bool:
    """Tell whether any arrow leads from ``origin`` to ``target``."""
    return any(origin in arrow.origins and arrow.target is target for arrow in PERMITTED)
