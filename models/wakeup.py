"""
The wake-up: what producers send and workers receive, so that neither imports the other.

A wake-up is a hint, never the job: it may be lost, doubled or late without harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dramatiq import Message

if TYPE_CHECKING:
    from uuid import UUID

QUEUE = "alertpost"
CRITICAL_QUEUE = "alertpost-critical"
ACTOR = "drain"
CRITICAL_ACTOR = "drain_critical"

PENDING_MS = 25_000
"""How long a pending wake-up keeps others from being sent; the sweep repairs one that was lost."""


def queue_of(*, critical: bool) -> str:
    """Name the queue; criticals have their own, so that they overtake."""
    return CRITICAL_QUEUE if critical else QUEUE


def message(mailbox_id: UUID, *, critical: bool) -> Message[Any]:
    """
    Say "look at this mailbox's lane".

    The option ``redis_message_id`` is what Dramatiq's Redis broker adds when it enqueues.
    """
    return Message(
        queue_name=queue_of(critical=critical),
        actor_name=CRITICAL_ACTOR if critical else ACTOR,
        args=(str(mailbox_id),),
        kwargs={},
        options={"redis_message_id": str(uuid4())},
    )
