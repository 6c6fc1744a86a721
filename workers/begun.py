"""
Which submission a visit has begun last: the one mail that is in doubt when its worker dies.

A visit says so in Redis right before MAIL FROM, when the outcome of the mail before is committed.
It costs no statement of SQL, and what many visits say at once travels in one call. Redis may lose
it; then nobody knows, and the sweep takes the first claim for the one in doubt.

While it composes a mail that may have to do with a death, it says that too, before and after, in a
field of its own (see ``models.composing_deaths``).

Each field names the generation of Redis' memory (see ``models.redis_memory``) under which it was
written. A permit is given under the newest one only, and SQL knows that: so a field of an older
memory, which may lack the mail that was begun last, is never taken for an answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from models.redis_memory import known_memory
from workers.pacing import PacingUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import redis.asyncio
    from sqlalchemy import Connection

    from models.redis_keys import RedisKeys
    from models.redis_memory import RedisMemory

log = structlog.get_logger()

_SAY: Final = files("workers").joinpath("begun.lua").read_text(encoding="utf-8")
_ASK: Final = files("workers").joinpath("begun_ask.lua").read_text(encoding="utf-8")

_KEPT_MS: Final = 86_400_000
"""How long it is remembered of a worker that says nothing any more."""

_NONE: Final = "-"
"""In a visit's field: it has begun none."""

_BATCH: Final = 256

_COMPOSES: Final = "~"
"""Stands behind a visit's name in the field of what it is composing."""


class _Word(NamedTuple):
    visit: str
    delivery: str
    """Empty: forget the visit."""
    heard: asyncio.Future[None] | None


@dataclass(frozen=True, slots=True)
class Marks:
    """What Redis says that visits have begun."""

    memory: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)

    def known(self, conn: Connection) -> dict[str, UUID | None]:
        """
        Give, of each visit of which it is certain, the delivery that it began last, or None.

        Args:
            conn: Where it is known which memory of Redis is the newest.
        """
        return {
            visit: None if delivery == _NONE else UUID(delivery)
            for visit, delivery in self._certain(conn).items()
            if not visit.endswith(_COMPOSES)
        }

    def composing(self, conn: Connection) -> dict[str, UUID]:
        """Give, of each visit that said so, the delivery that it is composing; as ``known``."""
        return {
            visit.removesuffix(_COMPOSES): UUID(delivery)
            for visit, delivery in self._certain(conn).items()
            if visit.endswith(_COMPOSES)
        }

    def _certain(self, conn: Connection) -> dict[str, str]:
        newest = known_memory(conn)
        if newest is None or newest.name != self.memory:
            return {}
        words = {visit: text.partition(" ") for visit, text in self.fields.items()}
        ours = str(newest.generation)
        return {visit: said for visit, (since, _, said) in words.items() if since == ours}


class Begun:
    """
    Says and asks which submissions were begun.

    Args:
        client: Redis.
        keys: Names of the keys.
        worker: Whose visits speak here.
        memory: Which memory of Redis permits were given under; see ``Pacer.memory``.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        keys: RedisKeys,
        *,
        worker: str,
        memory: Callable[[], RedisMemory | None],
    ) -> None:
        self._keys = keys
        self._worker = worker
        self._memory = memory
        self._say = client.register_script(_SAY)
        self._ask = client.register_script(_ASK)
        self._words: deque[_Word] = deque()
        self._flight: asyncio.Task[None] | None = None
        # Visits that said what they compose, and did not come to say that it is over.
        self._composing: set[str] = set()
        self._composer = asyncio.Lock()

    def none_yet(self, visit_id: str) -> None:
        """Say that a visit, which is about to claim, has begun none; nobody waits for it."""
        self._add(_Word(visit_id, _NONE, None))

    async def mark(self, visit_id: str, delivery_id: UUID) -> None:
        """
        Say that the submission of a delivery begins; return when it is known.

        Raises:
            PacingUnavailable: Redis is away, or has another memory than the one that gave the
                permit: nothing may be submitted.
        """
        await self._said(visit_id, delivery_id.hex)

    async def composes(self, visit_id: str, delivery_id: UUID) -> None:
        """
        Say that a visit composes a delivery from here on; return when it is known.

        One at a time in a process, so that its death tells which.

        Raises:
            PacingUnavailable: As ``mark``.
        """
        await self._composer.acquire()
        self._composing.add(visit_id)
        try:
            await self._said(visit_id + _COMPOSES, delivery_id.hex)
        except BaseException:
            self._composer.release()
            raise

    async def composed(self, visit_id: str) -> None:
        """
        Say that it has composed it, or given it up, after ``composes``; return when it is known.

        Raises:
            PacingUnavailable: As ``mark``.
        """
        try:
            await self._said(visit_id + _COMPOSES, "")
        finally:
            self._composer.release()
        self._composing.discard(visit_id)

    def forget(self, visit_id: str) -> None:
        """Forget a visit that holds nothing any more; nobody waits for it."""
        self._add(_Word(visit_id, "", None))
        if visit_id in self._composing:
            self._composing.discard(visit_id)
            self._add(_Word(visit_id + _COMPOSES, "", None))

    async def ask(self, visits: Sequence[str]) -> Marks:
        """
        Ask what visits have begun, of whatever worker they were.

        Raises:
            RedisError: Redis is away.
        """
        if not visits:
            return Marks()
        names = [*visits, *(visit + _COMPOSES for visit in visits)]
        hashes = [self._keys.begun(visit.rpartition("/")[0]) for visit in names]
        memory, *found = await self._ask(keys=[self._keys.era, *hashes], args=names)
        texts = {name: text.decode() for name, text in zip(names, found, strict=True) if text}
        return Marks(memory.decode(), texts)

    async def _said(self, name: str, text: str) -> None:
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._add(_Word(name, text, heard))
        await heard

    def _add(self, word: _Word) -> None:
        self._words.append(word)
        # One call under way at a time; what gathers meanwhile goes with the next, in order.
        if self._flight is None or self._flight.done():
            self._flight = asyncio.get_running_loop().create_task(self._fly())

    async def _fly(self) -> None:
        while self._words:
            batch = [self._words.popleft() for _ in range(min(_BATCH, len(self._words)))]
            try:
                error = await self._tell(batch)
            except BaseException:
                # The loop is being closed: let nobody wait for ever.
                for word in [*batch, *self._words]:
                    if word.heard is not None:
                        word.heard.cancel()
                raise
            for word in batch:
                if word.heard is None or word.heard.done():
                    continue
                if error is None:
                    word.heard.set_result(None)
                else:
                    word.heard.set_exception(error)

    async def _tell(self, batch: Sequence[_Word]) -> PacingUnavailable | None:
        memory = self._memory()
        if memory is None:
            return PacingUnavailable("which memory Redis has is not known at the moment")
        arguments: list[str | int] = [memory.name, memory.generation, _KEPT_MS]
        for word in batch:
            text = f"{memory.generation} {word.delivery}" if word.delivery else ""
            arguments += (word.visit, text)
        keys = [self._keys.era, self._keys.generation, self._keys.begun(self._worker)]
        try:
            done = await self._say(keys=keys, args=arguments)
        except RedisError as error:
            return PacingUnavailable(f"Redis: {error}")
        return None if done else PacingUnavailable("Redis has another memory than before")
