"""What is shown of a window is what the law would answer, and looking changes nothing."""

from __future__ import annotations

from uuid import UUID

import pytest
import redis
import redis.asyncio

from models.redis_keys import RedisKeys
from models.settings import PacingSettings
from tests.workers.pacing_parts import OneMemory, some_party
from workers.pacing import Pacer, PacingLimits, Party
from workers.pacing_view import Window, windows

PACING = PacingSettings(messages_per_window=5, critical_reserve=2, slot_seconds=5)
LIMITS = PacingLimits(messages=5, critical_reserve=2, window_ms=60_000, slot_ms=5_000)


@pytest.fixture
def pacer(redis_async: redis.asyncio.Redis, redis_keys: RedisKeys) -> Pacer:
    return Pacer(redis_async, redis_keys, OneMemory(), LIMITS)


async def _known(pacer: Pacer, mailbox: Party, *, ages_ms: tuple[int, ...] = ()) -> Party:
    era = (await pacer.enter(mailbox, "first", critical=False)).era
    await pacer.seed(mailbox, ages_ms=ages_ms, holders=[], era=era)
    return mailbox


def _who(*parties: Party) -> dict[UUID, str]:
    return {one.mailbox_id: one.account for one in parties}


def _dump(client: redis.Redis, keys: RedisKeys) -> dict[bytes, bytes | None]:
    return {key: client.dump(key) for key in client.scan_iter(f"{keys.prefix}:*")}


async def test_it_shows_what_a_visit_would_be_told(
    pacer: Pacer, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Permits that are used, held, and left; the wait is until the oldest leaves the window."""
    mailbox = await _known(pacer, some_party(), ages_ms=(20_000, 10_000))
    await pacer.enter(mailbox, "a", critical=False)

    [before] = windows(redis_client, redis_keys, _who(mailbox), PACING).values()
    assert before == Window(permits=1, critical_permits=3, wait_ms=0)

    assert (await pacer.permit(mailbox, "a", critical=False, stamp=False)).granted
    [held] = windows(redis_client, redis_keys, _who(mailbox), PACING).values()
    told = await pacer.enter(mailbox, "b", critical=True)

    assert (held.permits, held.critical_permits) == (told.permits, told.critical_permits) == (0, 2)
    assert 39_000 < held.wait_ms <= 40_001


async def test_looking_changes_nothing(
    pacer: Pacer, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Not even what has left the window is tidied away."""
    mailbox = await _known(pacer, some_party(), ages_ms=(59_990, 10))
    await pacer.enter(mailbox, "a", critical=True)
    before = _dump(redis_client, redis_keys)

    windows(redis_client, redis_keys, _who(mailbox, some_party()), PACING)

    assert before
    assert _dump(redis_client, redis_keys) == before


async def test_a_pause_leaves_nothing(
    pacer: Pacer, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """While Exchange has asked for patience no permit is to be had, and the wait says how long."""
    mailbox = await _known(pacer, some_party())
    await pacer.pause(mailbox, 30)

    [window] = windows(redis_client, redis_keys, _who(mailbox), PACING).values()

    assert (window.permits, window.critical_permits) == (0, 0)
    assert 29_000 < window.wait_ms <= 30_000


async def test_what_a_dead_visit_held_counts_as_sent(
    pacer: Pacer, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Its slot has run out, nobody came by since: the law would count it at that moment."""
    mailbox = await _known(pacer, some_party())
    seconds, _ = redis_client.time()
    redis_client.hset(
        redis_keys.slots(mailbox.account),
        "s:gone",
        f"{seconds * 1000 - 5_000} 1 0 0 0 {mailbox.mailbox_id}",
    )

    [window] = windows(redis_client, redis_keys, _who(mailbox), PACING).values()
    told = await pacer.enter(mailbox, "b", critical=False)

    assert (window.permits, window.critical_permits) == (told.permits, told.critical_permits)
    assert window.permits == 2


async def test_many_mailboxes_and_those_nobody_remembers(
    pacer: Pacer, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """More than one call's worth; who is not remembered is left out."""
    known = [await _known(pacer, some_party(), ages_ms=(1_000,) * (n % 3)) for n in range(300)]
    strangers = [some_party() for _ in range(10)]

    seen = windows(redis_client, redis_keys, _who(*strangers, *known), PACING)

    assert list(seen) == [one.mailbox_id for one in known]
    assert [seen[key.mailbox_id].permits for key in known] == [3 - n % 3 for n in range(300)]
