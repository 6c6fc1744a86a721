"""Taking deliveries back before they are sent; what every door of the console shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Connection, Engine, func, select

from models import audit, database, deliveries, lane
from models.database import read, write
from models.deliveries import DeliveryFilter
from models.explain import standing
from models.lifecycle import State
from models.moves import DELIVERY

PORTION = 500
"""Deliveries that one transaction takes back: others want to write meanwhile."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """
    What a cancellation did.

    Attributes:
        kept: Deliveries that could not be taken back, each with why.
    """

    cancelled: tuple[UUID, ...]
    kept: dict[UUID, str]


def cancel(
    conn: Connection, ids: Sequence[UUID], *, actor: str, reason: str | None = None
) -> Cancelled:
    """
    Take queued deliveries back, with a trace of who did it.

    Args:
        conn: A transaction that may write.
        ids: Any number; those that do not wait in their lane stay as they are.
        actor: Who asks for it.
        reason: Why, for the audit.

    Raises:
        NotFound: An id names no delivery.
    """
    wanted = sorted(set(ids))
    # Locked, so that what is seen queued here is what is cancelled below.
    queued = set(
        conn.scalars(
            select(DELIVERY.c.id)
            .where(DELIVERY.c.id.in_(wanted), DELIVERY.c.state == State.QUEUED.value)
            .order_by(DELIVERY.c.id)
            .with_for_update()
        )
    )
    kept = {key: standing(conn, key).sentence() for key in wanted if key not in queued}
    taken = [key for key in wanted if key in queued]
    lane.cancel(conn, taken)
    audit.write_all(
        conn,
        (
            audit.Entry(
                actor=actor, action="cancel", subject_kind="delivery", subject=str(key),
                reason=reason,
            )
            for key in taken
        ),
    )  # fmt: skip
    return Cancelled(tuple(taken), kept)


def waiting(engine: Engine, wanted: DeliveryFilter) -> tuple[DeliveryFilter, int]:
    """
    Fix what a cancellation by filter would concern: what waits now, and not what comes after.

    Returns:
        The filter with its end, to be handed to ``cancel_waiting``, and how many match it.

    Raises:
        NotFound: The filter names a tenant or mailbox that does not exist.
    """
    with read(engine) as conn:
        now = database.now(conn)
        until = now if wanted.until is None else min(wanted.until, now)
        fixed = replace(wanted, state=State.QUEUED, until=until)
        size = select(func.count()).select_from(DELIVERY)
        return fixed, conn.scalar(size.where(*deliveries.conditions(conn, fixed))) or 0


def cancel_waiting(
    engine: Engine,
    wanted: DeliveryFilter,
    *,
    actor: str,
    reason: str | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> int:
    """
    Take back all that waits and matches, in portions.

    Args:
        engine: Where they are.
        wanted: From ``waiting``.
        actor: Who asks for it.
        reason: Why, for the audit.
        progress: Told after each portion how many are cancelled.

    Returns:
        How many were taken back. Those that a worker took in hand meanwhile are not among them.
    """
    done = 0
    while True:
        with write(engine) as conn:
            portion = list(
                conn.scalars(
                    select(DELIVERY.c.id)
                    .where(*deliveries.conditions(conn, wanted))
                    .order_by(DELIVERY.c.id)
                    .limit(PORTION)
                )
            )
            done += len(cancel(conn, portion, actor=actor, reason=reason).cancelled)
        progress(done)
        if len(portion) < PORTION:
            return done
