"""The two actors. Thin: only here is Dramatiq spoken."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import dramatiq
import structlog

from models import wakeup
from workers.visit import Visits

log = structlog.get_logger()


def declare(broker: dramatiq.Broker, visits: Callable[[], Visits]) -> None:
    """
    Declare the actors.

    Args:
        broker: The workers' broker.
        visits: Gives the process' visits; they exist only once its event loop runs.
    """

    async def drain(mailbox_id: str) -> None:
        await _visit(visits(), mailbox_id, critical=False)

    async def drain_critical(mailbox_id: str) -> None:
        await _visit(visits(), mailbox_id, critical=True)

    dramatiq.actor(broker=broker, queue_name=wakeup.QUEUE, actor_name=wakeup.ACTOR)(drain)
    # Criticals overtake within a process too: lower numbers are taken first.
    dramatiq.actor(
        broker=broker,
        queue_name=wakeup.CRITICAL_QUEUE,
        actor_name=wakeup.CRITICAL_ACTOR,
        priority=-1,
    )(drain_critical)


async def _visit(visits: Visits, mailbox_id: str, *, critical: bool) -> None:
    try:
        end = await visits.run(UUID(mailbox_id), critical=critical)
        log.debug("visit", mailbox_id=mailbox_id, critical=critical, end=end.value)
    except Exception:
        # A wake-up is a hint: failing it would achieve nothing; the sweep comes back to the lane.
        log.exception("visit_failed", mailbox_id=mailbox_id)
