"""Waking lanes after a commit."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from console.context import Context


def wake(context: Context, mailboxes: Iterable[UUID]) -> None:
    """Wake these lanes; where no Redis is known or it is away, the sweep does so soon."""
    if context.waker is not None:
        context.waker.wake([(mailbox_id, False) for mailbox_id in mailboxes])
