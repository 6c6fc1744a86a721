"""Ctrl-C in the demo: nothing stays behind, however impatient somebody is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

START = "from console.entry import main; main()"


@pytest.mark.parametrize(
    ("moment", "stop"),
    [
        ("consent given (1 of 12)", signal.SIGINT),
        ("2 worker processes start", signal.SIGINT),
        ("2 worker processes start", signal.SIGTERM),
    ],
)
def test_nothing_stays_behind(tmp_path: Path, moment: str, stop: signal.Signals) -> None:
    """Every process ends, the directory goes, and nobody sees a stack trace."""
    demo = subprocess.Popen(
        [sys.executable, "-c", START, "demo"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    for line in demo.stdout:
        if moment in line:
            demo.send_signal(stop)
        if "Stopping" in line:
            # Once more, now that it cleans up.
            demo.send_signal(stop)
    # Its children hold the same output: that it ends says that none of them is left.
    _, told = demo.communicate(timeout=60)

    assert (demo.returncode, told) == (130, "alertpost: stopped\n")
    assert list(tmp_path.iterdir()) == []
