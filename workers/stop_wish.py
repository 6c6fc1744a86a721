"""The wish of whoever runs a worker that it stop, as a signal brings it."""

from __future__ import annotations

import queue
from contextlib import suppress


class StopWish:
    """
    Told by a signal handler, heard by the main thread.

    A ``threading.Event`` will not do. A handler runs in the main thread, between two of its steps:
    where these are steps of the event's own ``wait``, the handler's ``set`` waits for a lock that
    its own thread holds, for ever. ``SimpleQueue.put`` may be called there: it is reentrant, says
    Python's documentation of ``queue``.
    """

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.is_told = False

    def tell(self, *_: object) -> None:
        """Say that the worker shall stop; takes what a signal handler is given."""
        self.is_told = True
        self._told.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait so long at most; says whether the worker shall stop."""
        if not self.is_told:
            with suppress(queue.Empty):
                self._told.get(timeout=seconds)
        return self.is_told
