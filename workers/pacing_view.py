"""What is left of accounts' windows, for people to see; see ``pacing`` for the law itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple, cast
from uuid import UUID

if TYPE_CHECKING:
    import redis

    from models.redis_keys import RedisKeys
    from models.settings import PacingSettings

_VIEW: Final = files("workers").joinpath("pacing_view.lua").read_text(encoding="utf-8")

_BATCH = 256
_WIDTH = 4
"""Integers of one account in the reply."""


class Window(NamedTuple):
    """
    What is left of an account's window.

    Attributes:
        permits: Mails that may go now, if they are not critical.
        critical_permits: Mails that may go now, if they are.
        wait_ms: Until the next that is not critical may go; a pause included.
    """

    permits: int
    critical_permits: int
    wait_ms: int


def windows(
    client: redis.Redis, keys: RedisKeys, accounts: Mapping[UUID, str], pacing: PacingSettings
) -> dict[UUID, Window]:
    """
    Look at many mailboxes; those whose account Redis does not remember are left out.

    Args:
        client: Redis.
        keys: Names of the keys.
        accounts: Who signs in for each mailbox.
        pacing: The limits.

    Raises:
        redis.RedisError: Redis is away.
    """
    view = client.register_script(_VIEW)
    law = (
        round(pacing.window_seconds * 1000),
        pacing.messages_per_window,
        pacing.critical_reserve,
    )
    found: dict[str, Window] = {}
    wanted = list(dict.fromkeys(accounts.values()))
    for first in range(0, len(wanted), _BATCH):
        batch = wanted[first : first + _BATCH]
        names = [keys.generation]
        for account in batch:
            names += (keys.slots(account), keys.permits(account), keys.pause(account))
        flat = cast("list[int]", view(keys=names, args=law))
        for i, account in enumerate(batch):
            known, *left = flat[i * _WIDTH : (i + 1) * _WIDTH]
            if known:
                found[account] = Window(*left)
    return {one: found[account] for one, account in accounts.items() if account in found}
