"""What is left of mailboxes' windows, for people to see; see ``pacing`` for the law itself."""

from __future__ import annotations

from collections.abc import Sequence
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
"""Integers of one mailbox in the reply."""


class Window(NamedTuple):
    """
    What is left of a mailbox' window.

    Attributes:
        permits: Mails that may go now, if they are not critical.
        critical_permits: Mails that may go now, if they are.
        wait_ms: Until the next that is not critical may go; a pause of the mailbox included.
    """

    permits: int
    critical_permits: int
    wait_ms: int


def windows(
    client: redis.Redis, keys: RedisKeys, mailbox_ids: Sequence[UUID], pacing: PacingSettings
) -> dict[UUID, Window]:
    """
    Look at many mailboxes; those that Redis does not remember are left out.

    Raises:
        redis.RedisError: Redis is away.
    """
    view = client.register_script(_VIEW)
    law = (
        round(pacing.window_seconds * 1000),
        pacing.messages_per_window,
        pacing.critical_reserve,
    )
    found = {}
    for first in range(0, len(mailbox_ids), _BATCH):
        batch = mailbox_ids[first : first + _BATCH]
        names = [
            name for key in batch for name in (keys.slots(key), keys.permits(key), keys.pause(key))
        ]
        flat = cast("list[int]", view(keys=names, args=law))
        for i, mailbox_id in enumerate(batch):
            known, *left = flat[i * _WIDTH : (i + 1) * _WIDTH]
            if known:
                found[mailbox_id] = Window(*left)
    return found
