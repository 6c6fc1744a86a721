"""A Ctrl-C gets through, whatever Python does at that moment."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import signal, sys, time, weakref
from console.interrupts import heed_lost_interrupts

class Thing: pass

heed_lost_interrupts()
thing = Thing()
watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
try:
    del thing
    time.sleep(30)
except KeyboardInterrupt:
    print("stopped")
"""


def test_ctrl_c_while_an_object_is_collected_stops_the_program() -> None:
    """Python drops what is raised there; the program stops all the same, without a trace."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=20, check=False
    )

    assert (ended.stdout, ended.stderr, ended.returncode) == ("stopped\n", "", 0)


def test_other_faults_in_a_collection_are_still_told() -> None:
    """Only a lost Ctrl-C is taken for one."""
    program = PROGRAM.replace("signal.raise_signal(signal.SIGINT)", "1 / 0").replace("30", "0")

    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )

    assert "ZeroDivisionError" in ended.stderr
