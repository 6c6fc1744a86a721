"""Waking lanes after a commit."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from console.context import Context
from console.output import complain
from models import redis_probe
from models.redis_keys import RedisKeys
from models.redis_trouble import RedisTrouble


def tell_if_nobody_sends(context: Context) -> None:
    """
    Say so where Redis is away or refuses: what was just enqueued is kept, but nobody sends it now.

    Asked by writing, since a wake-up that was on its way already tells nothing.
    """
    trouble = None if context.waker is None else context.waker.trouble or _trouble(context)
    if trouble is not None and trouble.answers:
        complain(
            f"{trouble.text}, so nothing is sent now; it is kept, and goes out once that is mended:"
            f" {trouble.next_step}"
        )
    elif trouble is not None or context.waker is None:
        complain(
            "no Redis answers, so nothing is sent now; it is kept, and goes out once Redis and "
            "workers run, which `alertpost up` brings along"
        )


def _trouble(context: Context) -> RedisTrouble | None:
    client = redis_probe.client_of(context.settings.redis_url)
    try:
        return redis_probe.look(client, RedisKeys(context.settings.redis_prefix)).trouble
    finally:
        client.close()


def wake(context: Context, mailboxes: Iterable[UUID]) -> None:
    """Wake these lanes; where no Redis is known or it is away, the sweep does so soon."""
    if context.waker is not None:
        context.waker.wake([(mailbox_id, False) for mailbox_id in mailboxes])
