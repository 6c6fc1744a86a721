"""
Whether Redis does what work needs: asked by doing it, under keys of our own that end by themselves.

A server that answers PING may still refuse every write: full, a replica, a disk that is full, a
user who may only read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from models.redis_trouble import (
    RedisTrouble,
    dropping,
    drops_keys,
    explained,
    silent_on_writes,
)

if TYPE_CHECKING:
    from models.redis_keys import RedisKeys

ANSWER_SECONDS = 2.0
"""How long Redis may take; somebody waits for the answer."""

_KEEP_MS = 5_000

# Every kind of key that work writes, and what it writes them with: a user may be allowed one and
# not the other. Deleted at once; the time to live is for a server that dies in between.
_WRITES: Final = """
redis.call('TIME')
redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[1])
redis.call('HSET', KEYS[2], 'one', '1')
redis.call('PEXPIRE', KEYS[2], ARGV[1])
redis.call('RPUSH', KEYS[3], '1')
redis.call('PEXPIRE', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[4], '1', 'one')
redis.call('PEXPIRE', KEYS[4], ARGV[1])
redis.call('SADD', KEYS[5], 'one')
redis.call('PEXPIRE', KEYS[5], ARGV[1])
return redis.call('DEL', KEYS[1], KEYS[2], KEYS[4], KEYS[5])
"""


@dataclass(frozen=True, slots=True)
class RedisState:
    """
    How Redis is.

    Attributes:
        trouble: Why it is of no use now; None where it takes what is written.
        risk: What is not as it should be although it works; None where nothing is.
    """

    trouble: RedisTrouble | None = None
    risk: RedisTrouble | None = None

    @property
    def answers(self) -> bool:
        """Whether anything can be read there."""
        return self.trouble is None or self.trouble.answers


def client_of(url: str, *, seconds: float = ANSWER_SECONDS) -> redis.Redis:
    """Make a client that asks once and gives up soon."""
    return redis.Redis.from_url(
        url,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=Retry(NoBackoff(), 0),
    )


def look(client: redis.Redis, keys: RedisKeys) -> RedisState:
    """
    Try what workers do, and see whether what is kept there stays.

    Args:
        client: With time-outs; see ``client_of``.
        keys: Under whose prefix the keys stand.
    """
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        return RedisState(trouble=explained(error))
    try:
        probe(client, keys)
    except redis.TimeoutError:
        timeout = client.connection_pool.connection_kwargs.get("socket_timeout")
        return RedisState(trouble=silent_on_writes(timeout or ANSWER_SECONDS))
    except (redis.RedisError, OSError) as error:
        return RedisState(trouble=explained(error))
    return RedisState(risk=_risk(client))


def probe(client: redis.Redis, keys: RedisKeys) -> None:
    """
    Write one key of each kind, and take it away again.

    Raises:
        redis.RedisError: It refuses, or is away.
    """
    mine = keys.probe(uuid4().hex)
    names = [f"{mine}:{kind}" for kind in ("text", "hash", "list", "sorted", "set")]
    client.eval(_WRITES, len(names), *names, str(_KEEP_MS))
    # How wake-ups are waited for.
    waits = names[2]
    try:
        client.blmove(waits, waits, 0.01, "LEFT", "LEFT")  # type: ignore[arg-type]
    finally:
        client.delete(waits)


def _risk(client: redis.Redis) -> RedisTrouble | None:
    try:
        memory = client.info("memory")
    except redis.RedisError:
        # A service may keep that to itself; what it does with writes was seen.
        return None
    policy = str(memory.get("maxmemory_policy") or "")
    limit = int(memory.get("maxmemory") or 0)
    return dropping(policy) if drops_keys(policy, limit) else None
