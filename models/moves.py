"""
The one way to write a statement that changes ``delivery.state``.

States are written into the statement's text, not bound: only then does either database see that
a partial index (``WHERE state = 'queued'``) serves.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Table, Update, literal_column, update

from models.lifecycle import State, Transition
from models.tables import METADATA

DELIVERY: Table = METADATA.tables["delivery"]


def move(transition: Transition) -> Update:
    """
    Begin a statement that takes deliveries along one arrow of the life cycle.

    The arrow's origins stand in its WHERE clause: whatever else a caller asks for, a delivery in
    any other state stays as it is.
    """
    return update(DELIVERY).where(in_state(*transition.origins)).values(_target(transition))


def known_by_key(transition: Transition) -> Update:
    """
    Begin the same statement for deliveries whose keys are known.

    The states are compared in a form that serves no partial index. Seen from the planner, few
    deliveries are ``sending`` at a time; but the index of those that are also leads to every row
    that was since the last vacuum, and reading them all took 6 ms of PostgreSQL a commit.
    """
    state = DELIVERY.c.state.concat(literal_column("''"))
    origins: list[ColumnElement[str]] = [
        literal_column(word) for word in _words(transition.origins)
    ]
    return update(DELIVERY).where(state.in_(origins)).values(_target(transition))


def in_state(*states: State) -> ColumnElement[bool]:
    """Compare the state with one or more states, in the words of the partial indexes."""
    words = _words(states)
    if len(words) == 1:
        return DELIVERY.c.state == literal_column(words[0])
    return DELIVERY.c.state.in_([literal_column(word) for word in words])


def _target(transition: Transition) -> dict[str, ColumnElement[str]]:
    return {"state": literal_column(f"'{transition.target.value}'", DELIVERY.c.state.type)}


def _words(states: Iterable[State]) -> list[str]:
    return sorted(f"'{state.value}'" for state in states)
