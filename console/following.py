"""Watching one delivery until it is settled."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from sqlalchemy import Engine

from models.database import read
from models.explain import Standing, standing
from models.lifecycle import State

POLL_SECONDS = 0.1

WAITING = frozenset({State.QUEUED, State.SENDING})
EXIT_WAITING = 5
EXIT_FAILED = 1


def look(engine: Engine, delivery_id: UUID) -> Standing:
    """Tell how a delivery stands now."""
    with read(engine) as conn:
        return standing(conn, delivery_id)


def follow(
    engine: Engine, delivery_id: UUID, *, seconds: float, tell: Callable[[str], None]
) -> Standing:
    """
    Watch a delivery until nothing changes it any more by itself, or time is over.

    Args:
        engine: Where it is.
        delivery_id: Which.
        seconds: How long to wait at most.
        tell: Called with a sentence whenever it was looked at.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = look(engine, delivery_id)
        left = deadline - time.monotonic()
        if found.delivery.state not in WAITING or left <= 0:
            return found
        tell(found.sentence())
        time.sleep(min(POLL_SECONDS, left))


def exit_code(state: State) -> int:
    """Give 0 for a mail that went out, 1 for one that will not, 5 for one that may still."""
    if state in WAITING:
        return EXIT_WAITING
    return 0 if state in {State.ACCEPTED, State.FOLDED} else EXIT_FAILED
