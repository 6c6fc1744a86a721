"""What only Redis knows: which workers live, and what is left of the present windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from models.presence import Presence, living
from models.redaction import redact_text
from models.redis_keys import RedisKeys
from models.settings import Settings
from workers.pacing_view import Window, windows

ANSWER_SECONDS = 2.0
"""How long Redis may take; somebody waits for the rest of the screen."""

_NEVER_STARTED = "none is set, and the embedded one never ran here; `alertpost up` runs it"


@dataclass(frozen=True, slots=True)
class Live:
    """
    What Redis said.

    Attributes:
        away: Why it said nothing; None where it did.
        workers: Those that live; empty too where it said nothing.
        windows: What is left, of the mailboxes that it remembers.
    """

    away: str | None = None
    workers: tuple[Presence, ...] = ()
    windows: Mapping[UUID, Window] = field(default_factory=dict)


def look(settings: Settings, accounts: Mapping[UUID, str]) -> Live:
    """
    Ask Redis; that it is away is an answer too.

    Args:
        settings: With the address of Redis, if one is known.
        accounts: Mailboxes whose windows to look at, each with who signs in for it.
    """
    if not settings.redis_url:
        return Live(away=_NEVER_STARTED)
    keys = RedisKeys(settings.redis_prefix)
    client = redis.Redis.from_url(
        settings.redis_url,
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        return Live(
            workers=tuple(living(client, keys)),
            windows=windows(client, keys, accounts, settings.pacing),
        )
    except redis.RedisError as error:
        return Live(away=redact_text(" ".join(str(error).split())))
    finally:
        client.close()
