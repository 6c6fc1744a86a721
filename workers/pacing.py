"""
Permits and slots: how fast and over how many connections a mailbox may submit.

The law stands in ``pacing.lua``, where it is one step on Redis' clock for all workers. Here are
its words, and a batcher: what many visits ask at once travels in one call.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID, uuid4

from redis.exceptions import RedisError

from models.errors import AlertpostError
from workers.clock_watch import RedisClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis.asyncio

    from models.redis_keys import RedisKeys
    from models.settings import PacingSettings

_LAW: Final = files("workers").joinpath("pacing.lua").read_text(encoding="utf-8")
_SEED: Final = files("workers").joinpath("pacing_seed.lua").read_text(encoding="utf-8")
_WATCH: Final = files("workers").joinpath("pacing_watch.lua").read_text(encoding="utf-8")

_BATCH = 256
"""Requests in one call: about 3 ms of Redis' time."""

_SEEDS_AT_ONCE = 4

_WIDTH = 6
"""Integers in the reply to one request."""

_REMEMBER_MS = 3_600_000
"""How long a quiet mailbox stays known, so that its next visit need not ask SQL."""


class PacingUnavailable(AlertpostError, ConnectionError):  # noqa: N818 - reads as what it is
    """Redis cannot be reached; nothing may be submitted until it is back."""


@dataclass(frozen=True, slots=True)
class PacingLimits:
    """
    What Exchange Online allows a mailbox, and what we keep for criticals.

    Attributes:
        messages: Mails in any window.
        window_ms: Length of the window.
        connections: Connections at once. Normal visits leave one of them to criticals.
        critical_reserve: Permits of a window that only criticals may take.
        slot_ms: A slot that is not renewed for this long is free; what its visit held counts as
            sent at that moment.

    Raises:
        ValueError: A value that could never let a mail through.

    Source:
        docs/design, "Permit"; Microsoft's limits for SMTP client submission (30 mails a minute,
        3 connections).
    """

    messages: int = 30
    window_ms: int = 60_000
    connections: int = 3
    critical_reserve: int = 2
    slot_ms: int = 20_000

    @classmethod
    def of(cls, settings: PacingSettings) -> PacingLimits:
        """Read them from the settings, which count in seconds."""
        return cls(
            messages=settings.messages_per_window,
            window_ms=round(settings.window_seconds * 1000),
            connections=settings.connections_per_mailbox,
            critical_reserve=settings.critical_reserve,
            slot_ms=round(settings.slot_seconds * 1000),
        )

    def __post_init__(self) -> None:
        if not 0 <= self.critical_reserve < self.messages:
            raise ValueError("critical_reserve leaves no permit for other mails")
        if min(self.window_ms, self.connections, self.slot_ms) < 1:
            raise ValueError("window_ms, connections and slot_ms are at least 1")


class Entry(NamedTuple):
    """
    What a visit found when it came.

    Attributes:
        slot: It may open a connection. If not, a mark was left: whoever leaves next wakes the lane.
        permits: Permits that are free for normal mails now.
        critical_permits: Permits that are free for criticals now.
        wait_ms: Until a permit of the visit's own kind is free; 0 where one is.
        known: False where Redis does not remember this mailbox: nothing is given. Seed, then enter
            again.
        era: Which memory this is; hand it to ``seed``.
    """

    slot: bool
    permits: int
    critical_permits: int
    wait_ms: int
    known: bool
    era: int


class Permit(NamedTuple):
    """
    The answer to a visit that wants to submit.

    Attributes:
        granted: Submit one mail now.
        wait_ms: When it is worth asking again.
        pause_ms: How much of that is Exchange's wish.
        lost: The slot ran out or Redis forgot it: close the connection, settle, enter again.
    """

    granted: bool
    wait_ms: int
    pause_ms: int
    lost: bool


class Waiting(NamedTuple):
    """Who found nothing while this visit was there; true if anybody did: wake the lane again."""

    normal: bool
    critical: bool

    def __bool__(self) -> bool:
        return self.normal or self.critical


class Renewal(NamedTuple):
    """Whether the slot is still ours, true if so, and whether somebody waits for one."""

    kept: bool
    wanted: bool

    def __bool__(self) -> bool:
        return self.kept


class Watched(NamedTuple):
    """
    What those who hold slots idle have to know, for all of them at once.

    Attributes:
        memory: Of a slot that was confirmed under this memory Redis has not forgotten anything.
        wanted: Mailboxes where somebody found no slot; ``renew`` tells whether that is so still.
    """

    memory: str
    wanted: frozenset[UUID]


class _Request(NamedTuple):
    mailbox_id: UUID
    operation: str
    visit_id: str
    critical: bool
    argument: int
    reply: asyncio.Future[list[int]]


class Pacer:
    """
    Asks for slots and permits, for all visits of one event loop.

    Each method raises ``PacingUnavailable`` when Redis is away.

    Args:
        client: With a short ``socket_timeout`` and few retries: a visit that hears nothing of its
            permits for ``slot_ms`` has lost them.
        keys: Names of the keys.
        limits: The same for all workers.
        clock: Watches the clock that the law goes by.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        keys: RedisKeys,
        limits: PacingLimits | None = None,
        *,
        clock: RedisClock | None = None,
    ) -> None:
        self._client = client
        self._clock = clock or RedisClock(client, keys)
        self._keys = keys
        self._limits = limits = limits or PacingLimits()
        self._law = client.register_script(_LAW)
        self._seed = client.register_script(_SEED)
        self._watch = client.register_script(_WATCH)
        self._remember_ms = max(_REMEMBER_MS, 2 * (limits.window_ms + limits.slot_ms))
        self._head = (
            limits.window_ms,
            limits.messages,
            limits.critical_reserve,
            limits.connections,
            limits.slot_ms,
            self._remember_ms,
        )
        # After a loss hundreds of visits seed together; each call takes a connection of its own.
        self._turn = asyncio.Semaphore(_SEEDS_AT_ONCE)
        self._pending: deque[_Request] = deque()
        self._flight: asyncio.Task[None] | None = None

    async def enter(
        self, mailbox_id: UUID, visit_id: str, *, critical: bool, stamp: bool = False
    ) -> Entry:
        """
        Come to a mailbox, or come again: take its wake-up away and ask for a slot.

        Claim only afterwards: a row that is committed later wakes the next visit.

        Args:
            mailbox_id: Who sends.
            visit_id: Who comes.
            critical: Whether it may use the slot that is kept for criticals.
            stamp: Its last mail was answered: count it as of now.
        """
        known, slot, permits, critical_permits, wait_ms, era = await self._ask(
            mailbox_id, "enter", visit_id, critical=critical, argument=stamp
        )
        return Entry(bool(slot), permits, critical_permits, wait_ms, bool(known), era)

    async def permit(
        self, mailbox_id: UUID, visit_id: str, *, critical: bool, stamp: bool
    ) -> Permit:
        """
        Ask for the permit of one mail, and renew the slot.

        A permit is held until it is stamped. Asking again without a stamp gives the same one.

        Args:
            mailbox_id: Who sends.
            visit_id: The visit that holds the slot.
            critical: Whether the mail is; criticals may use the reserve.
            stamp: The mail before was answered: count it as of now.
        """
        granted, wait_ms, pause_ms, lost, _, _ = await self._ask(
            mailbox_id, "permit", visit_id, critical=critical, argument=stamp
        )
        return Permit(bool(granted), wait_ms, pause_ms, bool(lost))

    async def stamp(self, mailbox_id: UUID, visit_id: str) -> bool:
        """Count the mail in hand as of now; also where this returns False: the slot is lost."""
        return bool((await self._ask(mailbox_id, "stamp", visit_id))[0])

    async def renew(self, mailbox_id: UUID, visit_id: str) -> Renewal:
        """Keep the slot for another ``slot_ms``; tells whether somebody waits for one."""
        kept, wanted, *_ = await self._ask(mailbox_id, "renew", visit_id)
        return Renewal(bool(kept), bool(wanted))

    async def watch(self) -> Watched:
        """Find out which of many slots have to be looked at before they run out."""
        # Shielded: Python 3.11's ``asyncio.wait_for``, which redis-py uses, may swallow a
        # cancellation (python/cpython#86296), and whoever tends slots would go on for ever.
        watched = asyncio.shield(
            self._watch(keys=[self._keys.era, self._keys.wanted], args=[uuid4().hex])
        )
        try:
            memory, *wanted = await watched
        except RedisError as error:
            raise PacingUnavailable(f"Redis: {error}") from error
        return Watched(
            memory.decode(), frozenset(UUID(key.decode().rpartition(":")[2]) for key in wanted)
        )

    async def leave(self, mailbox_id: UUID, visit_id: str, *, stamp: bool) -> Waiting:
        """
        Give the slot back, and the permit if one is held.

        Args:
            mailbox_id: Who sends.
            visit_id: The visit that holds the slot.
            stamp: The permit was used: count it as of now. Without, another visit may have it.

        Returns:
            Who waits for what is free now. Wake the lane: the mark is taken away.
        """
        reply = await self._ask(mailbox_id, "leave", visit_id, argument=stamp)
        return Waiting(bool(reply[0]), bool(reply[1]))

    async def pause(self, mailbox_id: UUID, seconds: float) -> None:
        """Give no permits to anyone for a while: Exchange asked for patience."""
        await self._ask(mailbox_id, "pause", "", argument=max(1, math.ceil(seconds * 1000)))

    async def halt(self, mailbox_ids: Sequence[UUID]) -> None:
        """
        Refuse permits for what visits have claimed until now: call it once these are parked.

        A visit that enters again claims again, and learns from SQL whether it still is so.
        """
        await asyncio.gather(*(self._ask(mailbox_id, "halt", "") for mailbox_id in mailbox_ids))

    async def seed(
        self,
        mailbox_id: UUID,
        *,
        ages_ms: Sequence[int],
        holders: Sequence[tuple[str, int]],
        era: int = 0,
    ) -> bool:
        """
        Tell Redis what it has forgotten; only the first seed of an era counts.

        Args:
            mailbox_id: Who sends.
            ages_ms: How long ago mails of the window were answered, as SQL knows.
            holders: Visits that may have a mail in hand, each with the ms that their claim has
                left: they hold a slot and a permit.
            era: From the ``Entry`` that said ``known=False``, fetched before SQL was read.

        Returns:
            Whether this seed counted. Enter again in either case.
        """
        arguments: list[str | int] = [self._limits.window_ms, self._remember_ms, era, len(ages_ms)]
        arguments += sorted((max(0, age) for age in ages_ms), reverse=True)
        for visit_id, left_ms in holders:
            arguments += (visit_id, max(1, left_ms))
        names = [self._keys.slots(mailbox_id), self._keys.permits(mailbox_id)]
        try:
            async with self._turn:
                return bool(await self._seed(keys=names, args=arguments))
        except RedisError as error:
            raise PacingUnavailable(f"Redis: {error}") from error

    def _ask(
        self,
        mailbox_id: UUID,
        operation: str,
        visit_id: str,
        *,
        critical: bool = False,
        argument: int = 0,
    ) -> asyncio.Future[list[int]]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[list[int]] = loop.create_future()
        self._pending.append(_Request(mailbox_id, operation, visit_id, critical, argument, reply))
        # One call under way at a time; what gathers meanwhile goes with the next.
        if self._flight is None or self._flight.done():
            self._flight = loop.create_task(self._fly())
        return reply

    async def _fly(self) -> None:
        while self._pending:
            batch = [self._pending.popleft() for _ in range(min(_BATCH, len(self._pending)))]
            try:
                replies = await self._call(batch)
            except (RedisError, PacingUnavailable) as error:
                for request in batch:
                    if not request.reply.done():
                        request.reply.set_exception(PacingUnavailable(f"Redis: {error}"))
            except BaseException:
                # The loop is being closed: let nobody wait for ever.
                for request in [*batch, *self._pending]:
                    request.reply.cancel()
                raise
            else:
                for i, request in enumerate(batch):
                    # A visit that was cancelled meanwhile gives back what it got when it leaves.
                    if not request.reply.done():
                        request.reply.set_result(replies[i * _WIDTH : (i + 1) * _WIDTH])

    async def _call(self, batch: list[_Request]) -> list[int]:
        names: list[str] = [self._keys.wanted]
        arguments: list[str | int] = [*self._head]
        keys = self._keys
        for mailbox_id, operation, visit_id, critical, argument, _ in batch:
            names += keys.pacing(mailbox_id, critical=critical)
            arguments += (operation, visit_id, int(critical), int(argument))
        asked = time.monotonic()
        replies: list[int] = await self._law(keys=names, args=arguments)
        shown_ms = replies.pop()
        if await self._clock.was_set(shown_ms, asked=asked):
            raise PacingUnavailable("the clock of Redis was set; permits are counted anew")
        return replies
