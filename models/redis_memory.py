"""
Which memory Redis has, as all workers agree upon it.

Redis may be another server from one moment to the next, and the former one again later: a failover
there and back, a proxy, a split brain that healed. What a server remembers is right only if nobody
has asked another one meanwhile. So each change that anybody sees raises a generation in SQL, and
what Redis keeps from an earlier generation counts as forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from models.clock import utc_now
from models.tables import METADATA

_TABLE = METADATA.tables["redis_memory"]
_ROW = 1


@dataclass(frozen=True, slots=True)
class RedisMemory:
    """
    A memory of Redis.

    Attributes:
        name: Which run of which server, and since which loss.
        generation: Grows with each change.
        age_seconds: Since it was seen first.
    """

    name: str
    generation: int
    age_seconds: float

    @property
    def is_first(self) -> bool:
        """Whether there was none before, so that nobody can hold anything by another one."""
        return self.generation == 1


def known_memory(conn: Connection) -> RedisMemory | None:
    """Return the one that was seen last; None where none ever was."""
    return _memory(conn)


def see_memory(conn: Connection, name: str, *, at_least: int = 0) -> RedisMemory:
    """
    Agree upon a memory that was seen.

    Args:
        conn: A transaction that may write.
        name: The memory that Redis has.
        at_least: The generation that Redis has heard of already; SQL may be a copy from before.
    """
    known = _memory(conn, lock=True)
    if known is None:
        conn.execute(
            insert(_TABLE).values(id=_ROW, name=name, generation=at_least + 1, changed_at=utc_now())
        )
    elif known.name != name or known.generation < at_least:
        conn.execute(
            update(_TABLE)
            .where(_TABLE.c.id == _ROW)
            .values(
                name=name,
                generation=max(known.generation, at_least) + 1,
                changed_at=utc_now(),
            )
        )
    seen = _memory(conn)
    assert seen is not None
    return seen


def _memory(conn: Connection, *, lock: bool = False) -> RedisMemory | None:
    statement = select(
        _TABLE.c.name, _TABLE.c.generation, _TABLE.c.changed_at, utc_now().label("now")
    ).where(_TABLE.c.id == _ROW)
    row = conn.execute(statement.with_for_update() if lock else statement).one_or_none()
    if row is None:
        return None
    # A clock that was set back makes it look younger than it is, never older.
    return RedisMemory(
        row.name, row.generation, max(0.0, (row.now - row.changed_at).total_seconds())
    )
