"""
Which workers live: each says so every few seconds, in one sorted set in Redis.

A worker that is gone, or whose loop stands still, is missing from it after ``ALIVE_SECONDS``. The
moments are by Redis' own clock, so that hosts whose clocks differ agree on them.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, cast

from models.host_name import shown_name

if TYPE_CHECKING:
    import redis

    from models.redis_keys import RedisKeys

BEAT_SECONDS = 5.0
"""How often a worker says that it lives."""

ALIVE_SECONDS = 15.0
"""How long that counts: two beats may be lost."""


@dataclass(frozen=True, slots=True)
class Presence:
    """
    What a worker says of itself.

    Attributes:
        name: As it stands in claims and attempts.
        version: Of alertpost.
        concurrency: Visits that it has at once.
    """

    name: str
    host: str
    pid: int
    version: str
    started_at: datetime
    concurrency: int

    @classmethod
    def of_this_process(cls, name: str, *, concurrency: int) -> Presence:
        """Describe the process that calls."""
        return cls(
            name=name,
            host=shown_name(),
            pid=os.getpid(),
            version=_version(),
            started_at=datetime.now(UTC),
            concurrency=concurrency,
        )

    def as_text(self) -> str:
        """Give it the form in which it stands in Redis; the same one for all of its life."""
        return json.dumps({**asdict(self), "started_at": self.started_at.isoformat()})

    @classmethod
    def from_text(cls, text: str | bytes) -> Presence:
        """Read it back; what a later version says besides is left out."""
        said = json.loads(text)
        known = {name: said[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "started_at": datetime.fromisoformat(said["started_at"])})


def living(client: redis.Redis, keys: RedisKeys) -> list[Presence]:
    """
    Return the workers that live, the oldest first.

    Raises:
        redis.RedisError: Redis is away.
    """
    with client.pipeline(transaction=False) as asked:
        asked.time()
        asked.zrange(keys.workers, 0, -1, withscores=True)
        (seconds, microseconds), workers = cast("tuple[Any, Any]", tuple(asked.execute()))
    now_ms = seconds * 1000 + microseconds // 1000
    alive = [Presence.from_text(text) for text, until_ms in workers if until_ms > now_ms]
    return sorted(alive, key=lambda one: (one.started_at, one.name))


def _version() -> str:
    try:
        return version("alertpost")
    except PackageNotFoundError:
        # A checkout that was never installed works all the same.
        return "unknown"
