"""
Permits and slots: how fast and over how many connections an account may submit.

The law stands in ``pacing.lua``, where it is one step on Redis' clock for all workers. Here are
its words, and a batcher: what many visits ask at once travels in one call.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID, uuid4

import structlog
from redis.exceptions import RedisError

from models.errors import AlertpostError
from models.redis_trouble import explained
from workers.clock_watch import RedisClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis.asyncio

    from models.redis_keys import RedisKeys
    from models.redis_memory import RedisMemory
    from models.settings import PacingSettings
    from workers.memories import Memories

log = structlog.get_logger()

_LAW: Final = files("workers").joinpath("pacing.lua").read_text(encoding="utf-8")
_SEED: Final = files("workers").joinpath("pacing_seed.lua").read_text(encoding="utf-8")
_WATCH: Final = files("workers").joinpath("pacing_watch.lua").read_text(encoding="utf-8")

_BATCH = 256
"""Requests in one call: about 3 ms of Redis' time."""

_SEEDS_AT_ONCE = 4

_WIDTH = 7
"""Values in the reply to one request."""

_CHANGED = 1
"""First in the reply where Redis has another memory than we knew."""

_CHANGES = 5
"""Changes in a row after which a call gives up: no memory lasts long enough to build upon."""

NOTICE_SECONDS = 0.5
"""How often those who hold slots idle look whether Redis forgot them; see ``connections``."""

FORGOTTEN_SECONDS = 2 * NOTICE_SECONDS
"""After Redis lost its memory, nobody may open a connection for so long."""

_REMEMBER_MS = 3_600_000
"""How long a quiet account stays known, so that its next visit need not ask SQL."""


class Party(NamedTuple):
    """
    Whose limits count, and which of the mailboxes that it signs in for wants to send.

    Attributes:
        account: Who signs in; see ``models.accounts``.
        mailbox_id: Whose lane. The lanes of one account take turns.
    """

    account: str
    mailbox_id: UUID


class PacingUnavailable(AlertpostError, ConnectionError):  # noqa: N818 - reads as what it is
    """Redis is away or refuses; nothing may be submitted until that is over."""


@dataclass(frozen=True, slots=True)
class PacingLimits:
    """
    What Exchange Online allows an account, and what we keep for criticals.

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
        known: False where Redis does not remember this account: nothing is given. Seed, then enter
            again.
        era: Which memory this is; hand it to ``seed``.
        gives_way: Another mailbox of the account waits for the slot, and it is its turn: leave.
    """

    slot: bool
    permits: int
    critical_permits: int
    wait_ms: int
    known: bool
    era: int
    gives_way: bool = False


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
    """
    Who found nothing while this visit was there; true if anybody did: wake these lanes again.

    Attributes:
        normal: Mailboxes where a mail that is not critical waits.
        critical: Mailboxes where a critical one does.
    """

    normal: tuple[UUID, ...] = ()
    critical: tuple[UUID, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.normal or self.critical)

    def with_one(self, mailbox_id: UUID, *, critical: bool) -> Waiting:
        """Add a mailbox, if it is not there yet."""
        if critical:
            return self._replace(critical=tuple(dict.fromkeys((*self.critical, mailbox_id))))
        return self._replace(normal=tuple(dict.fromkeys((*self.normal, mailbox_id))))

    @property
    def lanes(self) -> list[tuple[UUID, bool]]:
        """All of them, each with whether what waits is critical."""
        return [(one, True) for one in self.critical] + [(one, False) for one in self.normal]


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
        wanted: Accounts where somebody found no slot; ``renew`` tells whether it is to go there.
    """

    memory: str
    wanted: frozenset[str]


class _Request(NamedTuple):
    party: Party
    operation: str
    visit_id: str
    critical: bool
    argument: int | str
    reply: asyncio.Future[list[Any]]


class Pacer:
    """
    Asks for slots and permits, for all visits of one event loop.

    Each method raises ``PacingUnavailable`` when Redis is away.

    Args:
        client: With a short ``socket_timeout`` and few retries: a visit that hears nothing of its
            permits for ``slot_ms`` has lost them.
        keys: Names of the keys.
        memories: Where all workers agree which memory Redis has.
        limits: The same for all workers.
        clock: Watches the clock that the law goes by.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        keys: RedisKeys,
        memories: Memories,
        limits: PacingLimits | None = None,
        *,
        clock: RedisClock | None = None,
    ) -> None:
        self._client = client
        self._clock = clock or RedisClock(client, keys)
        self._keys = keys
        self._memories = memories
        self._memory: RedisMemory | None = None
        self._changed_at = self._settled_at = 0.0
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

    @property
    def unsettled_seconds(self) -> float:
        """
        For how much longer somebody may hold a connection whose slot was forgotten with the rest.

        Whoever keeps one idle sees within this time that Redis has another memory, and closes it.
        """
        return max(0.0, self._settled_at - time.monotonic())

    @property
    def memory(self) -> RedisMemory | None:
        """Under which memory permits are given; None where that is to be found out anew."""
        return self._memory

    @property
    def memory_age_seconds(self) -> float:
        """Since when Redis has forgotten nothing as a whole; 0.0 where nobody asked yet."""
        return 0.0 if self._memory is None else time.monotonic() - self._changed_at

    async def enter(
        self, party: Party, visit_id: str, *, critical: bool, stamp: bool = False
    ) -> Entry:
        """
        Come to a lane, or come again: take its wake-up away and ask for a slot.

        Claim only afterwards: a row that is committed later wakes the next visit.

        Args:
            party: Who sends.
            visit_id: Who comes.
            critical: Whether it may use the slot that is kept for criticals.
            stamp: Its last mail was answered: count it as of now.
        """
        known, slot, permits, critical_permits, wait_ms, era, gives_way = await self._ask(
            party, "enter", visit_id, critical=critical, argument=stamp
        )
        return Entry(
            bool(slot), permits, critical_permits, wait_ms, bool(known), era, bool(gives_way)
        )

    async def permit(self, party: Party, visit_id: str, *, critical: bool, stamp: bool) -> Permit:
        """
        Ask for the permit of one mail, and renew the slot.

        A permit is held until it is stamped. Asking again without a stamp gives the same one.

        Args:
            party: Who sends.
            visit_id: The visit that holds the slot.
            critical: Whether the mail is; criticals may use the reserve.
            stamp: The mail before was answered: count it as of now.
        """
        granted, wait_ms, pause_ms, lost, *_ = await self._ask(
            party, "permit", visit_id, critical=critical, argument=stamp
        )
        return Permit(bool(granted), wait_ms, pause_ms, bool(lost))

    async def stamp(self, party: Party, visit_id: str) -> bool:
        """Count the mail in hand as of now; also where this returns False: the slot is lost."""
        return bool((await self._ask(party, "stamp", visit_id))[0])

    async def renew(self, party: Party, visit_id: str, *, idle: bool = True) -> Renewal:
        """
        Keep the slot for another ``slot_ms``; tells whether it is to go to somebody who waits.

        Args:
            party: Who sends.
            visit_id: The visit that holds the slot.
            idle: Nothing is to be sent over its connection, so it may go to the same mailbox too.
        """
        kept, wanted, *_ = await self._ask(party, "renew", visit_id, argument=idle)
        return Renewal(bool(kept), bool(wanted))

    async def watch(self) -> Watched:
        """Find out which of many slots have to be looked at before they run out."""
        # Shielded: Python 3.11's ``asyncio.wait_for``, which redis-py uses, may swallow a
        # cancellation (python/cpython#86296), and whoever tends slots would go on for ever.
        watched = asyncio.shield(
            self._watch(
                keys=[self._keys.era, self._keys.generation, self._keys.wanted], args=[uuid4().hex]
            )
        )
        try:
            memory, *wanted = await watched
        except RedisError as error:
            raise PacingUnavailable(explained(error).text) from error
        return Watched(
            memory.decode(),
            frozenset(self._keys.account_of_slots(name.decode()) for name in wanted),
        )

    async def leave(
        self, party: Party, visit_id: str, *, stamp: bool, has_nothing: bool = False
    ) -> Waiting:
        """
        Give the slot back, and the permit if one is held.

        Args:
            party: Who sends.
            visit_id: The visit that holds the slot.
            stamp: The permit was used: count it as of now. Without, another visit may have it.
            has_nothing: Nothing in its lane is due, so no permit has to be left to it.

        Returns:
            Who waits for what is free now. Wake these lanes: they are told once.
        """
        reply = await self._ask(party, "leave", visit_id, argument=stamp + 2 * has_nothing)
        slot, critical_slot, permit, critical_permit, *_ = (
            UUID(lane.decode()) if lane else None for lane in reply
        )
        waiting = Waiting()
        for lane, critical in (
            (critical_slot, True), (critical_permit, True), (slot, False), (permit, False)
        ):  # fmt: skip
            if lane is not None:
                waiting = waiting.with_one(lane, critical=critical)
        return waiting

    async def pause(self, party: Party, seconds: float) -> None:
        """Give the account no permits for a while: Exchange asked for patience."""
        await self._ask(party, "pause", "", argument=max(1, math.ceil(seconds * 1000)))

    async def halt(self, parties: Sequence[Party]) -> None:
        """
        Refuse permits for what visits of these lanes have claimed until now: they are parked.

        A visit that enters again claims again, and learns from SQL whether it still is so.
        """
        await asyncio.gather(*(self._ask(party, "halt", "") for party in parties))

    async def bring(self, party: Party, change: str, ages_ms: Sequence[int]) -> None:
        """
        Count for the account what was sent for a mailbox while another account signed in for it.

        Args:
            party: The mailbox with the account that signs in now.
            change: Names the change, which counts once however many workers tell of it.
            ages_ms: How long ago the mails were answered.
        """
        ages = " ".join(str(max(0, age)) for age in ages_ms)
        await self._ask(party, "bring", change, argument=ages)

    async def look_again(self) -> None:
        """
        See whether others have seen another memory meanwhile; call it now and then.

        Who has not asked Redis since it came back from another server would take it for the same.

        Raises:
            StoreUnavailable: SQL is away.
        """
        known = await self._memories.known()
        if (
            known is not None
            and self._memory is not None
            and ((known.name, known.generation) != (self._memory.name, self._memory.generation))
        ):
            self._memory = None

    async def seed(
        self,
        party: Party,
        *,
        ages_ms: Sequence[int],
        holders: Sequence[tuple[str, int] | tuple[str, int, UUID]],
        era: int = 0,
        closed_ms: int = 0,
    ) -> bool:
        """
        Tell Redis what it has forgotten; only the first seed of an era counts.

        Args:
            party: Who sends.
            ages_ms: How long ago mails of the window were answered, as SQL knows.
            holders: Visits that may have a mail in hand, each with the ms that their claim has
                left, and their mailbox if it is another: they hold a slot and a permit.
            era: From the ``Entry`` that said ``known=False``, fetched before SQL was read.
            closed_ms: For so long no slot is given to anybody who has none: somebody may still
                have a connection open whose slot was forgotten.

        Returns:
            Whether this seed counted. Enter again in either case.
        """
        memory = self._memory
        if memory is None:
            # What ``enter`` was told is not so any more.
            return False
        arguments: list[str | int] = [memory.name, memory.generation]
        arguments += (self._limits.window_ms, self._remember_ms, era, closed_ms, len(ages_ms))
        arguments += sorted((max(0, age) for age in ages_ms), reverse=True)
        for visit_id, left_ms, *whose in holders:
            arguments += (visit_id, str(*whose or (party.mailbox_id,)), max(1, left_ms))
        keys, account = self._keys, party.account
        names = [keys.era, keys.generation, keys.slots(account), keys.permits(account)]
        try:
            async with self._turn:
                return bool(await self._seed(keys=names, args=arguments))
        except RedisError as error:
            raise PacingUnavailable(explained(error).text) from error

    def _ask(
        self,
        party: Party,
        operation: str,
        visit_id: str,
        *,
        critical: bool = False,
        argument: int | str = 0,
    ) -> asyncio.Future[list[Any]]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[list[Any]] = loop.create_future()
        self._pending.append(_Request(party, operation, visit_id, critical, argument, reply))
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
                told = explained(error).text if isinstance(error, RedisError) else str(error)
                for request in batch:
                    if not request.reply.done():
                        request.reply.set_exception(PacingUnavailable(told))
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

    async def _call(self, batch: list[_Request]) -> list[Any]:
        names: list[str] = [self._keys.era, self._keys.generation, self._keys.wanted]
        requests: list[str | int] = []
        keys = self._keys
        for party, operation, visit_id, critical, argument, _ in batch:
            account, mailbox_id = party
            names += keys.pacing(account, mailbox_id, critical=critical)
            given = argument if isinstance(argument, str) else int(argument)
            requests += (operation, visit_id, _name(mailbox_id), int(critical), given)
        for _ in range(_CHANGES):
            memory = self._memory
            known = ("", 0) if memory is None else (memory.name, memory.generation)
            asked = time.monotonic()
            replies: list[Any] = await self._law(
                keys=names, args=[*known, uuid4().hex, *self._head, *requests]
            )
            shown_ms = replies.pop()
            if await self._clock.was_set(shown_ms, asked=asked):
                raise PacingUnavailable("the clock of Redis was set; permits are counted anew")
            if replies[0] != _CHANGED:
                return replies[1:]
            await self._agree(replies[1].decode(), at_least=replies[2])
        raise PacingUnavailable("Redis has another memory each time it is asked")

    async def _agree(self, name: str, *, at_least: int) -> None:
        """Let all workers know of a memory of Redis, before anything is built upon it."""
        before = self._memory
        try:
            memory = await self._memories.see(name, at_least=at_least)
        except AlertpostError as away:
            raise PacingUnavailable(f"Redis has another memory, and SQL: {away}") from away
        now = time.monotonic()
        self._changed_at = now - memory.age_seconds
        # With the first memory of all nobody can hold a slot of another one.
        self._settled_at = 0.0 if memory.is_first else self._changed_at + FORGOTTEN_SECONDS
        self._memory = memory
        if before is not None:
            log.warning("redis_forgot", generation=memory.generation)


@lru_cache(maxsize=16_384)
def _name(mailbox_id: UUID) -> str:
    return str(mailbox_id)
