"""Opening a file that a person named: it may be a directory, or a pipe that nobody writes into."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

PATIENCE_SECONDS: Final = 5.0
"""A pipe's writer may be started after its reader."""

_READ: Final = os.O_RDONLY | os.O_CLOEXEC


def open_to_read(path: Path) -> BinaryIO:
    """
    Open a file for reading, without waiting for ever for the other end of a pipe.

    Raises:
        OSError: It cannot be read; ``strerror`` says why, for people.
    """
    if path.is_dir():
        raise IsADirectoryError(0, "it is a directory")
    return os.fdopen(open_descriptor(path), "rb")


def open_descriptor(path: Path) -> int:
    """Do so, a directory included, and return the descriptor."""
    return _open_pipe(path) if path.is_fifo() else os.open(path, _READ)


def _open_pipe(path: Path) -> int:
    opened: list[int | OSError] = []

    def open_when_written() -> None:
        try:
            opened.append(os.open(path, _READ))
        except OSError as error:
            opened.append(error)

    waiting = threading.Thread(target=open_when_written, daemon=True)
    waiting.start()
    waiting.join(PATIENCE_SECONDS)
    if waiting.is_alive():
        # A writer that comes and goes ends the waiting.
        with suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        waiting.join(PATIENCE_SECONDS)
        for descriptor in opened:
            if isinstance(descriptor, int):
                os.close(descriptor)
        raise OSError(0, "nobody writes to this pipe")
    (found,) = opened
    if isinstance(found, OSError):
        raise found
    return found
