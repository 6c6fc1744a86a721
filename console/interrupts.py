"""Ctrl-C at a moment that can be told apart: never between a commit and its receipt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def undisturbed() -> Iterator[None]:
    """See a clean-up to its end, however often somebody presses Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears of signals
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM for a Ctrl-C, so that it is cleaned up after it too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
