"""
How many visits a process takes on at once.

A visit costs little while it waits for a server, so those that have waited long do not count: a
server that trickles its replies holds up its own mailboxes and nobody else's. Only the number of
sockets, and of what each visit remembers, bounds them.
"""

from __future__ import annotations

import threading

MOST_TIMES = 4
"""All visits together, those that do not count included, are at most so many times the others."""

CRITICAL_SHARE = 8
"""Criticals may take one part in so many beyond what others may."""


class Room:
    """
    Room for visits; consumers ask from their threads, the loop tells what changes.

    Args:
        visits: That count, at the same time.
    """

    def __init__(self, visits: int) -> None:
        self._visits = visits
        self._lock = threading.Lock()
        self._open = 0
        self._waiting = 0
        self._listeners: list[threading.Event] = []

    def free(self, *, critical: bool) -> int:
        """Say how many more visits may begin."""
        with self._lock:
            mine = self._visits + (self._visits // CRITICAL_SHARE + 1 if critical else 0)
            counting = self._open - min(self._waiting, self._open)
            return max(0, min(mine - counting, mine * MOST_TIMES - self._open))

    def take(self) -> None:
        """Begin a visit; one too many is no error, only the last."""
        with self._lock:
            self._open += 1

    def give(self) -> None:
        """End a visit."""
        with self._lock:
            self._open -= 1
        self._tell()

    @property
    def crowded(self) -> bool:
        """Whether it is worth finding out how many of the visits wait."""
        return self._open >= self._visits or self._waiting > 0

    def set_waiting(self, visits: int) -> None:
        """Say how many of the open visits have waited for long."""
        with self._lock:
            more = visits > self._waiting
            self._waiting = visits
        if more:
            self._tell()

    def listen(self, event: threading.Event) -> None:
        """Set an event whenever there may be more room."""
        self._listeners.append(event)

    def _tell(self) -> None:
        for event in self._listeners:
            event.set()
