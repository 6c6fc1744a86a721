"""Ctrl-C while the command line still loads."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

START = "from console.entry import main; main()"


@pytest.mark.parametrize("module", ["typer", "sqlalchemy.sql", "console.context"])
def test_an_interrupt_while_loading_is_one_sentence(module: str) -> None:
    """There is no trace of whatever was being imported at that moment."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-c", START, "tenants", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    # The interpreter tells each module that it has loaded.
    for line in process.stderr:
        if line.rpartition("|")[2].strip().startswith(module):
            break
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=30)

    assert (process.returncode, out) == (130, "")
    assert [line for line in told.splitlines() if not line.startswith("import time:")] == [
        "alertpost: stopped"
    ]


def test_an_interrupt_that_is_switched_off_stays_so() -> None:
    """What a shell starts behind itself does not stop at its Ctrl-C."""
    ignoring = (
        "import atexit, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        f"atexit.register(lambda: print(signal.getsignal(signal.SIGINT))); {START}"
    )
    ran = subprocess.run(
        [sys.executable, "-c", ignoring, "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert ran.stdout.splitlines()[-1] == str(signal.SIG_IGN)
