"""What the stores say now: whether they take what is written, who lives, what windows have left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

import redis

from models import redis_probe, sql_probe
from models.presence import Presence, living
from models.redis_keys import RedisKeys
from models.redis_trouble import RedisTrouble, explained
from models.settings import Settings
from models.sql_probe import Looked
from models.unrecorded import Unrecorded, unrecorded
from workers.pacing_view import Window, windows

ANSWER_SECONDS = 2.0
"""How long Redis may take; somebody waits for the rest of the screen."""

_NEVER_STARTED = "none is set, and the embedded one never ran here; `alertpost up` runs it"
_NO_ANSWER = "Redis does not answer: "


@dataclass(frozen=True, slots=True)
class Live:
    """
    What Redis said, and whether SQL takes what is written.

    Attributes:
        away: Why Redis said nothing; None where it did.
        workers: Those that live; empty too where it said nothing, or takes no sign of life.
        windows: What is left, of the mailboxes that it remembers.
        refuses: Why it does not do what work needs, although it answers; None where it does.
        risk: What is not as it should be there although it works; None where nothing is.
        sql: Whether SQL takes what is written, as far as this user may find out.
        unrecorded: What living workers cannot record.
    """

    away: str | None = None
    workers: tuple[Presence, ...] = ()
    windows: Mapping[UUID, Window] = field(default_factory=dict)
    refuses: RedisTrouble | None = None
    risk: RedisTrouble | None = None
    sql: Looked = field(default_factory=Looked)
    unrecorded: tuple[Unrecorded, ...] = ()

    @property
    def knows_workers(self) -> bool:
        """Whether workers could say that they live: who is refused is not dead."""
        return self.away is None and self.refuses is None


def look(settings: Settings, accounts: Mapping[UUID, str]) -> Live:
    """
    Ask both stores, by what work does there; that one is away is an answer too.

    Args:
        settings: With the address of Redis, if one is known.
        accounts: Mailboxes whose windows to look at, each with who signs in for it.
    """
    sql = sql_probe.look_as_permitted(settings)
    if not settings.redis_url:
        return Live(away=_NEVER_STARTED, sql=sql)
    keys = RedisKeys(settings.redis_prefix)
    client = redis_probe.client_of(settings.redis_url, seconds=ANSWER_SECONDS)
    try:
        state = redis_probe.look(client, keys)
        if state.trouble is not None and not state.answers:
            return Live(away=state.trouble.text.removeprefix(_NO_ANSWER), sql=sql)
        try:
            workers = tuple(living(client, keys))
            left = windows(client, keys, accounts, settings.pacing)
            waiting = unrecorded(client, keys, workers={worker.name for worker in workers})
        except redis.RedisError as error:
            return Live(refuses=state.trouble or explained(error), sql=sql)
        return Live(
            workers=workers if state.trouble is None else (),
            windows=left,
            refuses=state.trouble,
            risk=state.risk,
            sql=sql,
            unrecorded=tuple(waiting),
        )
    finally:
        client.close()
