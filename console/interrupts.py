"""Ctrl-C at a moment that can be told apart: never between a commit and its receipt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Lets Ctrl-C through at once, but for blocks that must be seen to their end."""

    def __init__(self) -> None:
        self._shielded = False
        self._asked = False

    @contextmanager
    def watched(self) -> Iterator[Interrupts]:
        """Take SIGINT over, and give it back at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield self  # only the main thread hears of signals
            return
        before = signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """
        See a block to its end.

        Raises:
            KeyboardInterrupt: After the block, if Ctrl-C was pressed meanwhile.
        """
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        if self._asked:
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if not self._shielded:
            signal.default_int_handler(number, frame)
