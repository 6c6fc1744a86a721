"""Waking lanes after a commit."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from console.context import Context
from console.output import complain


def tell_if_nobody_sends(context: Context) -> None:
    """Say so where Redis is away: what was just enqueued is kept, but no worker sends it now."""
    if context.waker is None or context.waker.away:
        complain(
            "no Redis answers, so nothing is sent now; it is kept, and goes out once Redis and "
            "workers run, which `alertpost up` brings along"
        )


def wake(context: Context, mailboxes: Iterable[UUID]) -> None:
    """Wake these lanes; where no Redis is known or it is away, the sweep does so soon."""
    if context.waker is not None:
        context.waker.wake([(mailbox_id, False) for mailbox_id in mailboxes])
