"""A stop that is wished for by a signal, at whatever moment it comes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

from workers.stop_wish import StopWish

STORM = """
import faulthandler, signal
from workers.stop_wish import StopWish

faulthandler.dump_traceback_later(20, exit=True)
wish = StopWish()
told = 0
def on_alarm(*_):
    global told
    told += 1
    wish.tell()
signal.signal(signal.SIGALRM, on_alarm)
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
while told < 5_000:
    wish = StopWish()
    wish.wait(0.001)
signal.setitimer(signal.ITIMER_REAL, 0)
print("heard")
"""


def test_a_signal_in_the_middle_of_waiting_is_heard() -> None:
    """Thousands of signals, of which many come between two steps of the waiting itself."""
    ran = subprocess.run(
        [sys.executable, "-c", STORM], capture_output=True, text=True, timeout=60, check=False
    )

    assert ran.stdout == "heard\n", ran.stderr[-2000:]


def test_a_wish_ends_the_waiting_at_once_and_is_remembered() -> None:
    """From a handler in this thread, also where it was told before anybody waited."""
    wish = StopWish()
    before = signal.signal(signal.SIGUSR1, wish.tell)
    try:
        threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1)).start()
        began = time.monotonic()
        assert wish.wait(20)
        assert time.monotonic() - began < 10
        assert wish.wait(20)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_without_a_wish_the_time_runs_out() -> None:
    """Nobody said anything."""
    wish = StopWish()

    assert not wish.wait(0.01)
    assert not wish.is_told
