"""Replaying and discarding dead letters; what every door of the console shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Connection, Engine

from models import dead_letters, deliveries
from models.database import read, write
from models.dead_letters import DeadFilter, Replay

if TYPE_CHECKING:
    from models.waker import Waker


@dataclass(frozen=True, slots=True)
class Selection:
    """
    Which deliveries are meant.

    Attributes:
        wanted: Dead letters; an empty filter means all of them.
        forced: Deliveries to send again although they are no dead letters; ``wanted`` is empty.
    """

    wanted: DeadFilter
    forced: tuple[UUID, ...] = ()


def choose(
    engine: Engine,
    wanted: DeadFilter,
    *,
    ids: Sequence[str] = (),
    limit: int | None = None,
    force: bool = False,
) -> Selection | None:
    """
    Find out which deliveries are meant.

    Args:
        engine: Where they are.
        wanted: A filter without ids.
        ids: Ids or beginnings of them, to narrow the filter down.
        limit: The latest so many; not with ids.
        force: The ids may name deliveries that are no dead letters.

    Returns:
        None where there is nothing to choose from.

    Raises:
        NotFound, Conflict: An id names no delivery, or several; a filter an unknown tenant.
    """
    with read(engine) as conn:
        keys = _keys(conn, ids)
        if force:
            return Selection(DeadFilter(), keys) if keys else None
        if limit is not None:
            keys = tuple(letter.id for letter in dead_letters.list_dead(conn, wanted, limit=limit))
            # An empty filter would mean everything.
            return Selection(replace(wanted, ids=keys)) if keys else None
        return Selection(replace(wanted, ids=keys))


def with_ids(engine: Engine, wanted: DeadFilter, ids: Sequence[str]) -> DeadFilter:
    """Narrow a filter down to deliveries by their ids or the beginnings of them."""
    with read(engine) as conn:
        return replace(wanted, ids=_keys(conn, ids))


def size(engine: Engine, selection: Selection) -> int:
    """Tell how many deliveries are meant: what to ask about."""
    if selection.forced:
        return len(selection.forced)
    if selection.wanted == DeadFilter(ids=selection.wanted.ids) and selection.wanted.ids:
        # Those that are no dead letters count too: acting on them says why they cannot be taken.
        return len(selection.wanted.ids)
    with read(engine) as conn:
        return dead_letters.count(conn, selection.wanted)


def replay(
    engine: Engine, waker: Waker | None, selection: Selection, *, actor: str, reason: str | None
) -> Replay:
    """
    Put deliveries back into their lanes and, after the commit, wake these.

    Raises:
        Conflict: Some of them cannot be replayed; nothing was changed.
    """
    with write(engine) as conn:
        done = _replay(conn, selection, actor=actor, reason=reason)
    if waker is not None:
        waker.wake(done.wake)
    return done


def rehearse_replay(engine: Engine, selection: Selection) -> Replay:
    """
    Tell what a replay would do, by doing it and taking it back.

    Raises:
        Conflict: As ``replay``.
    """
    try:
        with write(engine) as conn:
            raise _Rehearsed(_replay(conn, selection, actor="rehearsal", reason=None))
    except _Rehearsed as done:
        found: Replay = done.result
        return found


def rehearse_discard(engine: Engine, selection: Selection) -> int:
    """Tell how many a discard would give up; raises as it does."""
    try:
        with write(engine) as conn:
            raise _Rehearsed(
                dead_letters.discard(conn, selection.wanted, actor="rehearsal", reason=None)
            )
    except _Rehearsed as done:
        return int(done.result)


def discard(engine: Engine, selection: Selection, *, actor: str, reason: str | None) -> int:
    """
    Give dead letters up for good.

    Raises:
        Conflict: An id names a delivery that is no dead letter; nothing was changed.
    """
    with write(engine) as conn:
        return dead_letters.discard(conn, selection.wanted, actor=actor, reason=reason)


def _replay(conn: Connection, selection: Selection, *, actor: str, reason: str | None) -> Replay:
    return dead_letters.replay(
        conn, selection.wanted, actor=actor, reason=reason, force_ids=selection.forced
    )


def _keys(conn: Connection, ids: Sequence[str]) -> tuple[UUID, ...]:
    return tuple(dict.fromkeys(deliveries.find(conn, text) for text in ids))


class _Rehearsed(Exception):  # noqa: N818 - no error: it rolls the transaction back
    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result
