"""
The two actors. Thin: only here is Dramatiq spoken.

They begin a visit on the process' loop and are done: a wake-up is a hint, so there is nothing to
acknowledge at a visit's end, and no thread has to wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import dramatiq

from models import wakeup
from workers.visits import Visits


def declare(broker: dramatiq.Broker, visits: Callable[[], Visits]) -> None:
    """
    Declare the actors.

    Args:
        broker: The workers' broker.
        visits: Gives the process' visits; they exist only once its event loop runs.
    """

    def drain(mailbox_id: str) -> None:
        visits().begin(UUID(mailbox_id), critical=False)

    def drain_critical(mailbox_id: str) -> None:
        visits().begin(UUID(mailbox_id), critical=True)

    dramatiq.actor(broker=broker, queue_name=wakeup.QUEUE, actor_name=wakeup.ACTOR)(drain)
    # Criticals overtake within a process too: lower numbers are taken first.
    dramatiq.actor(
        broker=broker,
        queue_name=wakeup.CRITICAL_QUEUE,
        actor_name=wakeup.CRITICAL_ACTOR,
        priority=-1,
    )(drain_critical)
