"""Ctrl-C at a moment that can be told apart: never between a commit and its receipt."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_STOPS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_SECONDS = 0.05


def heed_lost_interrupts() -> None:
    """
    See to it that a Ctrl-C gets through at whichever moment it comes.

    Python drops what is raised while an object is collected, with a trace on the screen. A Ctrl-C
    that meets such a moment is pressed again a moment later.
    """
    before = sys.unraisablehook

    def look(lost: sys.UnraisableHookArgs) -> None:
        if lost.exc_type is KeyboardInterrupt:
            # A timer of the system's own: what was interrupted may hold any lock.
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        else:
            before(lost)

    signal.signal(signal.SIGALRM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    sys.unraisablehook = look


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
