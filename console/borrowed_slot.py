"""One of a mailbox's connections, borrowed by a command as a visit takes it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from console.context import Context
from console.dialogue_lines import Line, Tell
from models import lane
from models.database import read
from models.errors import AlertpostError
from models.redis_keys import RedisKeys
from models.senders import Sender
from workers.pacing import Pacer, PacingLimits

REDIS_SECONDS = 3.0
SLOT_WAIT_SECONDS = 3.0
"""Workers let go of an idle connection within half a second of somebody asking for its slot."""

_POLL_SECONDS = 0.25


class MustWait(AlertpostError):  # noqa: N818 - reads as what it is
    """The mailbox's limits leave no room now; nothing was sent."""


@asynccontextmanager
async def redis_client(context: Context) -> AsyncIterator[redis.asyncio.Redis | None]:
    """Give a client, or None where no Redis is known or none answers."""
    if not context.settings.redis_url:
        yield None
        return
    client = impatient_client(context.settings.redis_url)
    try:
        try:
            await client.ping()
        except RedisError:
            answers = False
        else:
            answers = True
        yield client if answers else None
    finally:
        await client.aclose()


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
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """
    Hold a slot for the block; what is given takes the permit, to be awaited before a mail.

    Without Redis nothing is asked, as no worker sends then.

    Raises:
        MustWait: All connections of the mailbox are in use; or, of the permit, its mails are.
    """

    async def unasked() -> None:
        return None

    if client is None:
        yield unasked
        return
    pacing = context.settings.pacing
    pacer = Pacer(
        client,
        RedisKeys(context.settings.redis_prefix),
        PacingLimits.of(pacing),
    )
    key, visit_id = sender.mailbox_id, f"test-{os.getpid()}/{uuid4().hex[:12]}"
    used = False

    async def take() -> None:
        nonlocal used
        started = time.perf_counter()
        permit = await pacer.permit(key, visit_id, critical=False, stamp=False)
        seconds = time.perf_counter() - started
        if not permit.granted:
            wait = max(permit.wait_ms, permit.pause_ms) / 1000
            why = "it pauses" if permit.pause_ms else "its mails of this minute are used up"
            raise MustWait(
                f"mailbox {sender.address} may not send now ({why}); try again in {wait:.0f} s"
            )
        used = True
        tell(Line("pacing", "permit", "granted: within the mailbox's limits", seconds))

    started = time.perf_counter()
    await _slot(context, pacer, sender, visit_id)
    tell(Line("pacing", "slot", "free: one connection is ours", time.perf_counter() - started))
    keeper = asyncio.create_task(_keep(pacer, key, visit_id, pacing.slot_seconds))
    try:
        yield take
    finally:
        keeper.cancel()
        await pacer.leave(key, visit_id, stamp=used)
        if context.waker is not None:
            # Coming here took the lane's wake-up away.
            await asyncio.to_thread(context.waker.wake, [(key, False)])


async def _slot(context: Context, pacer: Pacer, sender: Sender, visit_id: str) -> None:
    deadline = time.monotonic() + SLOT_WAIT_SECONDS
    while True:
        entry = await pacer.enter(sender.mailbox_id, visit_id, critical=False)
        if not entry.known:
            window = context.settings.pacing.window_seconds
            recent = await asyncio.to_thread(_recent, context, sender.mailbox_id, window)
            await pacer.seed(
                sender.mailbox_id,
                ages_ms=recent.ages_ms,
                holders=[(holder, round(left * 1000)) for holder, left in recent.in_hand],
                era=entry.era,
            )
            continue
        if entry.slot:
            return
        if time.monotonic() > deadline:
            raise MustWait(
                f"all connections that mailbox {sender.address} may have are in use; "
                "try again in some seconds"
            )
        await asyncio.sleep(_POLL_SECONDS)


def _recent(context: Context, mailbox_id: UUID, window_seconds: float) -> lane.Recent:
    with read(context.engine) as conn:
        return lane.recent_submissions(conn, mailbox_id=mailbox_id, window_seconds=window_seconds)


async def _keep(pacer: Pacer, mailbox_id: UUID, visit_id: str, slot_seconds: float) -> None:
    """Renew the slot while servers are slow."""
    while True:
        await asyncio.sleep(slot_seconds / 4)
        await pacer.renew(mailbox_id, visit_id)
