"""
Outcomes that a worker cannot record, as it tells them to whoever asks how things are.

They stand in a hash in Redis, each worker's in a field of its own. A worker that is gone is no
longer asked: what it could not record, the sweep takes back as uncertain.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Collection

    import redis

    from models.redis_keys import RedisKeys


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """
    Outcomes of mails that wait to be recorded.

    Attributes:
        outcomes: How many.
        seconds: How long the first of them has waited.
        reason: What SQL answered last.
        worker: Whose they are.
    """

    outcomes: int
    seconds: float
    reason: str
    worker: str = ""

    def as_text(self) -> str:
        """Give it the form in which it stands in Redis."""
        return json.dumps(asdict(self))


def unrecorded(
    client: redis.Redis, keys: RedisKeys, *, workers: Collection[str]
) -> list[Unrecorded]:
    """
    Return what living workers cannot record.

    Raises:
        redis.RedisError: Redis is away.
    """
    found = cast("dict[bytes, bytes]", client.hgetall(keys.unrecorded))
    told: list[dict[str, Any]] = [
        json.loads(text) | {"worker": name.decode()} for name, text in sorted(found.items())
    ]
    known = Unrecorded.__dataclass_fields__
    return [
        Unrecorded(**{name: one[name] for name in known})
        for one in told
        if one["worker"] in workers
    ]
