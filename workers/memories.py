"""Where all who talk to Redis agree which memory it has; see ``models.redis_memory``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from sqlalchemy.exc import IntegrityError

from models.database import read, write
from models.redis_memory import known_memory, see_memory

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from models.redis_memory import RedisMemory


class Memories(Protocol):
    """Keeps the memory of Redis that was seen last, for everybody."""

    async def see(self, name: str, *, at_least: int) -> RedisMemory:
        """Say which one Redis has; see ``see_memory``."""

    async def known(self) -> RedisMemory | None:
        """Tell which one was seen last, by whomever."""


class SqlMemories:
    """
    Keeps it in SQL.

    Its transactions are its own: in those of a group, a lock on its one row would be held until
    all the others of the group are done.

    Raises, in both methods:
        StoreUnavailable: SQL is away.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def see(self, name: str, *, at_least: int) -> RedisMemory:
        """Agree upon a memory that Redis has."""
        return await asyncio.to_thread(self._see, name, at_least)

    async def known(self) -> RedisMemory | None:
        """Read which one was seen last."""
        return await asyncio.to_thread(self._known)

    def _see(self, name: str, at_least: int) -> RedisMemory:
        known = self._known()
        if known is not None and known.name == name and known.generation >= at_least:
            return known
        try:
            with write(self._engine) as conn:
                return see_memory(conn, name, at_least=at_least)
        except IntegrityError:
            # Another worker was the first of all at this very moment.
            with write(self._engine) as conn:
                return see_memory(conn, name, at_least=at_least)

    def _known(self) -> RedisMemory | None:
        with read(self._engine) as conn:
            return known_memory(conn)
