"""
The distance between visits to a mailbox where visits end by a fault of ours.

A fault of ours is whatever nobody foresaw, and also an answer whose consequence, a pause or a park,
could not be recorded: without it the next visit would only ask for the same answer again.

It is kept in this process, because nothing else may be there to keep it: not Redis, not SQL. Each
worker process rests by itself; from the second fault in a row on the mailbox pauses for all of
them, as far as that can be recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

VISIT_FAILED = "visit-failed"
"""Reason of a mailbox that pauses because visits to it fail, and of a try that ended so."""

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 900.0

PAUSE_FROM = 2
"""Faults in a row after which the mailbox pauses, for `alertpost status` to show."""

_FORGIVEN_SECONDS = 2 * LONGEST_SECONDS
"""So long after a rest the next fault is the first again."""


@dataclass(slots=True)
class Rest:
    """How many faults there were in a row, and how long to rest after the last of them."""

    times: int
    seconds: float
    until: float


class Faults:
    """What one process remembers of visits that failed, by mailbox."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rests: dict[UUID, Rest] = {}

    def note(self, mailbox_id: UUID) -> Rest:
        """Remember a fault."""
        now = self._clock()
        self._rests = {
            key: rest for key, rest in self._rests.items() if rest.until + _FORGIVEN_SECONDS > now
        }
        before = self._rests.get(mailbox_id)
        times = 1 if before is None else before.times + 1
        seconds = FIRST_SECONDS if before is None else min(before.seconds * 2, LONGEST_SECONDS)
        rest = self._rests[mailbox_id] = Rest(times, seconds, now + seconds)
        return rest

    def seconds_left(self, mailbox_id: UUID) -> float:
        """Say for how long the mailbox is still to be left alone; 0.0 where it need not be."""
        rest = self._rests.get(mailbox_id)
        return 0.0 if rest is None else max(0.0, rest.until - self._clock())

    def rested(self, mailbox_id: UUID) -> None:
        """End the rest; the next fault is one more in a row all the same."""
        rest = self._rests.get(mailbox_id)
        if rest is not None:
            rest.until = self._clock()

    def forget(self, mailbox_id: UUID) -> None:
        """A mail went out: whatever it was is over."""
        self._rests.pop(mailbox_id, None)
