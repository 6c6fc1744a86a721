"""
Outcomes that SQL, or our own code, refuses: kept, tried again each by itself, and told loudly.

One line in the log when it begins, one a minute while it lasts, one when it is over.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from models.errors import AlertpostError
from models.outages import in_short

log = structlog.get_logger()

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
"""Between tries of one; longer where there are many."""

TRIES_A_SECOND = 50
"""Of all together at most: others must be able to go on beside them."""

AT_ONCE = 16
"""Tries before others have their turn."""

TOLD_EVERY_SECONDS = 60.0


@dataclass(slots=True)
class _Case:
    tries: int
    next_at: float


class Refused(Generic[T]):
    """What was refused; belongs to one thread."""

    def __init__(self) -> None:
        self._cases: dict[T, _Case] = {}
        self._since = 0.0
        self._all = 0
        self._told_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._cases)

    def add(self, one: T, error: Exception, *, outcome: Any) -> None:
        """Keep one that was refused for the first time."""
        if not self._cases:
            self._since, self._all, self._told_at = time.monotonic(), 0, 0.0
        self._all += 1
        self._cases[one] = _Case(0, 0.0)
        self.again(one, error, outcome=outcome)

    def again(self, one: T, error: Exception, *, outcome: Any) -> None:
        """Put the next try of one off."""
        case, now = self._cases[one], time.monotonic()
        longest = max(LONGEST_PAUSE_SECONDS, len(self._cases) / TRIES_A_SECOND)
        case.next_at = now + min(FIRST_PAUSE_SECONDS * 2.0 ** min(case.tries, 20), longest)
        case.tries += 1
        if self._told_at and now - self._told_at < TOLD_EVERY_SECONDS:
            return
        self._told_at = now
        # A log that is gone must not end the thread that keeps these.
        with suppress(Exception):
            log.error(
                "outcome_not_recorded",
                delivery_id=str(outcome.delivery_id),
                mailbox_id=str(outcome.mailbox_id),
                outcome=outcome.transition.target.value,
                reason=in_short(error),
                waiting=len(self._cases),
                seconds=round(now - self._since, 1),
                # Only a fault of our own needs more than its words.
                exc_info=None if isinstance(error, AlertpostError | SQLAlchemyError) else error,
            )

    def remove(self, one: T) -> None:
        """Take one away that is recorded; what stood in its way may be gone for the others too."""
        self._cases.pop(one, None)
        for case in self._cases.values():
            case.next_at = 0.0
        if not self._cases:
            seconds = round(time.monotonic() - self._since, 1)
            with suppress(Exception):
                log.warning("outcomes_recorded", outcomes=self._all, seconds=seconds)

    def rest(self) -> None:
        """Let all of them wait: SQL is away for everybody."""
        soonest = time.monotonic() + LONGEST_PAUSE_SECONDS / 2
        for case in self._cases.values():
            case.next_at = max(case.next_at, soonest)

    def take_all(self) -> list[T]:
        """Give up on all that are left."""
        left = list(self._cases)
        self._cases.clear()
        return left

    def due(self, *, everything: bool) -> list[T]:
        """Name those to be tried now."""
        now = time.monotonic()
        due = [one for one, case in self._cases.items() if everything or case.next_at <= now]
        # Those that have waited longest for their turn come first.
        return sorted(due, key=lambda one: self._cases[one].next_at)[:AT_ONCE]

    def next_in(self) -> float | None:
        """Say in how many seconds the next one is due."""
        if not self._cases:
            return None
        soonest = min(case.next_at for case in self._cases.values())
        return max(0.0, soonest - time.monotonic())
