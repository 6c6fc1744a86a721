"""Taking deliveries back before they are sent; what every door of the console shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, select

from models import audit, lane
from models.explain import standing
from models.lifecycle import State
from models.moves import DELIVERY


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
