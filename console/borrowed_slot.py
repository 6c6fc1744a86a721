"""One of a mailbox's connections, borrowed by a command as a visit takes it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar
from uuid import UUID, uuid4

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from console.context import Context
from console.dialogue_lines import Line, Tell
from models import hand_mails, lane, redis_probe
from models.database import read, write
from models.errors import AlertpostError
from models.redis_keys import RedisKeys
from models.senders import Sender
from workers.memories import SqlMemories
from workers.pacing import Pacer, PacingLimits, Party
from workers.slot import Slot, Teacher

REDIS_SECONDS = 3.0
SLOT_WAIT_SECONDS = 3.0
"""Workers let go of an idle connection within half a second of somebody asking for its slot."""

_POLL_SECONDS = 0.25

T = TypeVar("T")

_TURNS = 40
"""How often it is tried to count where another claim counts for the account at that moment."""

Take = Callable[[Sequence[str]], Awaitable[None]]
"""To be awaited before a mail, with whom it goes to."""


class MustWait(AlertpostError):  # noqa: N818 - reads as what it is
    """The mailbox's limits leave no room now; nothing was sent."""


@asynccontextmanager
async def redis_client(context: Context) -> AsyncIterator[redis.asyncio.Redis | None]:
    """Give a client, or None where no Redis is known, or none takes what is written."""
    if not context.settings.redis_url or await asyncio.to_thread(_is_of_no_use, context):
        yield None
        return
    client = impatient_client(context.settings.redis_url)
    try:
        yield client
    finally:
        await client.aclose()


def _is_of_no_use(context: Context) -> bool:
    client = redis_probe.client_of(context.settings.redis_url, seconds=REDIS_SECONDS)
    try:
        keys = RedisKeys(context.settings.redis_prefix)
        return redis_probe.look(client, keys).trouble is not None
    finally:
        client.close()


def impatient_client(url: str) -> redis.asyncio.Redis:
    """Make a client that gives up soon: somebody waits at a terminal."""
    return redis.asyncio.Redis.from_url(
        url,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


@asynccontextmanager
async def borrowed(
    context: Context, client: redis.asyncio.Redis | None, sender: Sender, tell: Tell
) -> AsyncIterator[Take]:
    """
    Hold a slot of the account that signs in for the block; what is given takes the permit.

    What is sent counts as any other mail does: in Redis, and in SQL towards the day and for Redis
    that forgets. Without a Redis that takes what is written no slot is asked
    for, as no worker sends then.

    Raises:
        MustWait: All connections of the account are in use; or, of the permit, its mails are.
    """
    visit_id = f"test-{os.getpid()}/{uuid4().hex[:12]}"
    if client is not None:
        async with _slot_held(context, client, sender, tell, visit_id) as take:
            yield take
        return
    async with _noted(context, sender, visit_id) as key:
        yield partial(_count, context, key, sender)


@asynccontextmanager
async def _noted(context: Context, sender: Sender, visit_id: str) -> AsyncIterator[UUID]:
    """Keep in SQL that a connection may be open, as long as it may."""
    lease_seconds = context.settings.visit.claim_seconds
    key = await _write(
        context,
        partial(hand_mails.borrow, sender=sender, visit=visit_id, lease_seconds=lease_seconds),
    )
    try:
        yield key
    finally:
        await _write(context, partial(hand_mails.end, key=key))


@asynccontextmanager
async def _slot_held(
    context: Context,
    client: redis.asyncio.Redis,
    sender: Sender,
    tell: Tell,
    visit_id: str,
) -> AsyncIterator[Take]:
    settings = context.settings
    pacer = Pacer(
        client,
        RedisKeys(settings.redis_prefix),
        SqlMemories(context.engine),
        PacingLimits.of(settings.pacing),
    )
    slot = Slot(
        pacer,
        Teacher(settings, partial(_recent, context)),
        Party(sender.account, sender.mailbox_id),
        visit_id,
        critical=False,
        slot_seconds=settings.pacing.slot_seconds,
    )

    async def take(key: UUID, recipients: Sequence[str]) -> None:
        started = time.perf_counter()
        permit = await slot.permit(critical=False)
        seconds = time.perf_counter() - started
        if permit.lost:
            raise MustWait("Redis lost its memory just now; try again in some seconds")
        if not permit.granted:
            wait = max(permit.wait_ms, permit.pause_ms) / 1000
            why = "it pauses" if permit.pause_ms else "its mails of this minute are used up"
            raise MustWait(
                f"mailbox {sender.address} may not send now ({why}); try again in {wait:.0f} s"
            )
        try:
            await _count(context, key, sender, recipients)
        except BaseException:
            # Nothing is sent: the permit goes back unused.
            slot.permit_held = False
            raise
        tell(Line("pacing", "permit", "granted: within the mailbox's limits", seconds))

    started = time.perf_counter()
    try:
        await _enter(slot, sender)
        async with _noted(context, sender, visit_id) as key:
            # Asked once more: should Redis forget the slot from here on, whoever teaches it finds
            # in SQL that a connection may be open.
            if not await slot.renew():
                raise MustWait("Redis lost its memory just now; try again in some seconds")
            seconds = time.perf_counter() - started
            tell(Line("pacing", "slot", "free: one connection is ours", seconds))
            keeper = asyncio.create_task(_keep(context, slot, key))
            try:
                yield partial(take, key)
            finally:
                keeper.cancel()
    finally:
        await _leave(context, slot)


async def _enter(slot: Slot, sender: Sender) -> None:
    deadline = time.monotonic() + SLOT_WAIT_SECONDS
    while not (await slot.enter()).slot:
        if time.monotonic() > deadline:
            raise MustWait(
                f"all connections that mailbox {sender.address} may have are in use; "
                "try again in some seconds"
            )
        await asyncio.sleep(_POLL_SECONDS)


async def _leave(context: Context, slot: Slot) -> None:
    waiting = await slot.leave()
    if context.waker is not None:
        # Coming here took the lane's wake-up away.
        waiting = waiting.with_one(slot.party.mailbox_id, critical=False)
        await asyncio.to_thread(context.waker.wake, waiting.lanes)


async def _count(context: Context, key: UUID, sender: Sender, recipients: Sequence[str]) -> None:
    """Count a mail towards the day, before it goes."""
    begin = partial(
        hand_mails.begin,
        key=key,
        sender=sender,
        recipients=recipients,
        limits=context.settings.pacing.day_limits,
    )
    for _ in range(_TURNS):
        full = await _write(context, begin)
        if full is None:
            return
        if full.wait_seconds > 0:
            whose = f"account {sender.auth_user}" if full.whose == "account" else "tenant"
            raise MustWait(
                f"mailbox {sender.address} may not send now (its {whose} has reached its "
                f"recipients of the day); try again in {full.wait_seconds / 60:.0f} min"
            )
        await asyncio.sleep(_POLL_SECONDS / 5)
    raise MustWait(f"mailbox {sender.address} is busy; try again in some seconds")


async def _write(context: Context, do: Callable[..., T]) -> T:
    def run() -> T:
        with write(context.engine) as conn:
            return do(conn)

    return await asyncio.to_thread(run)


async def _recent(
    context: Context, account: str, window_seconds: float, used_seconds: float
) -> lane.Recent:
    def run() -> lane.Recent:
        with read(context.engine) as conn:
            return lane.recent_submissions(
                conn, account=account, window_seconds=window_seconds, used_seconds=used_seconds
            )

    return await asyncio.to_thread(run)


async def _keep(context: Context, slot: Slot, key: UUID) -> None:
    """Hold on to the slot while servers are slow."""
    lease_seconds = context.settings.visit.claim_seconds
    pause_seconds = min(context.settings.pacing.slot_seconds, lease_seconds) / 4
    while True:
        await asyncio.sleep(pause_seconds)
        with suppress(AlertpostError):
            await slot.renew()
        with suppress(AlertpostError):
            await _write(context, partial(hand_mails.keep, key=key, lease_seconds=lease_seconds))
