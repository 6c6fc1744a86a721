"""
Whose turn it is to write to an SQLite file, among all threads and processes of one host.

SQLite lets writers poll for its one lock with pauses that grow up to a tenth of a second. A process
that takes the lock again as soon as it let go is nearly always first, and the others wait for
seconds. So writers queue before they ask SQLite. The queue is a courtesy: safe is the file because
of SQLite's own lock, which everybody still takes.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from models.errors import StoreUnavailable

LOOK_SECONDS = 0.001
"""Between looks at a lock of the queue: about a short transaction. It never grows."""


class Turns:
    """
    A queue of writers; the threads of a process at the head of it share the process' place.

    Between processes it is a queue of two places, each an advisory lock on an empty file beside the
    database: ``-next`` and ``-turn``. Who holds *next* is the only one that waits for *turn*, and
    lets *next* go once it has both. So whoever gave the turn back and wants it again stands behind
    one that has waited, however fast it is. The kernel releases what a dead process held.

    Args:
        path: The database.
        seconds: How long a thread waits for the others of its process.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._threads = threading.Lock()
        self._seconds = seconds
        # Through links, as SQLite does for its write-ahead log: all must meet at the same files.
        real = os.path.realpath(path)
        self._next, self._turn = f"{real}-next", f"{real}-turn"
        self._patience = self._most_patience = seconds / 2

    @contextmanager
    def turn(self) -> Iterator[None]:
        """
        Wait for the turn and hold it.

        Raises:
            StoreUnavailable: Another thread of this process held it all the time.
        """
        if not self._threads.acquire(timeout=self._seconds):
            raise StoreUnavailable(
                f"the SQLite database was busy for {self._seconds:.0f} s; another writer holds it"
            )
        try:
            with ExitStack() as held:
                self._queue(held)
                yield
        finally:
            self._threads.release()

    def _queue(self, held: ExitStack) -> None:
        """
        Take the turn among the processes, or go on without it.

        One that was stopped in the queue must not lock the others out of a file that nobody writes
        to. Who waited in vain asks SQLite, and does not wait here again until the queue moves.
        """
        until = time.monotonic() + self._patience
        with ExitStack() as waiting:
            try:
                came = _locked(self._next, waiting, until) and _locked(self._turn, held, until)
            except OSError:
                # Where no file can be made, SQLite says why; or it can write, without a queue.
                return
        self._patience = self._most_patience if came else 0.0


def _locked(path: str, holder: ExitStack, until: float) -> bool:
    """Lock a file until the holder closes; tells whether that came about in time."""
    # Opened each time: a lock belongs to an opened file, so threads and engines of one process
    # exclude each other as well, and a file that somebody deleted is made again.
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    holder.callback(os.close, file)
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(LOOK_SECONDS)
        else:
            # Said aloud: a process forked meanwhile holds a copy of the opened file.
            holder.callback(fcntl.flock, file, fcntl.LOCK_UN)
            return True
