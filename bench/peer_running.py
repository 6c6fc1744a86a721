"""Running a contender that is not ours, and seeing from the sandbox what it has sent."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.resources import Resources
from console.stage import Stage

LOOK_SECONDS = 0.25
LONGEST_SECONDS = 180.0
READY_SECONDS = 30.0


class NotMeasured(Exception):  # noqa: N818 - reads as what it is
    """A contender cannot be measured here; the text says why."""


@contextmanager
def peer(
    argv: Sequence[str], environment: Mapping[str, str], log: Path, ready: bytes
) -> Iterator[subprocess.Popen[bytes]]:
    """
    Run a peer for the time of a block, from when it says that it is ready.

    Raises:
        NotMeasured: It ended, or takes too long; carries its last words.
    """
    with log.open("wb") as said:
        process = subprocess.Popen(argv, env=os.environ | environment, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while ready not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotMeasured(f"did not start: {log.read_text('utf-8', 'replace')[-300:]}")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def taken_so_far(given: Stage) -> int:
    """Number the last mail that the sandbox took."""
    return int(given.sandbox.ask("/mailboxes")["taken"])


def until_taken(given: Stage, seen: int, mails: int, watched: Resources) -> float:
    """
    Wait until the sandbox took so many more mails; returns seconds from the first to the last.

    Raises:
        NotMeasured: It takes too long.
    """
    deadline = time.monotonic() + LONGEST_SECONDS
    # Asks for the last one only: the answer costs the sandbox nothing until it is there.
    while not (last := given.sandbox.ask(f"/outbox?after={seen + mails - 1}&limit=1")):
        if time.monotonic() > deadline:
            raise NotMeasured(f"{mails} mails took more than {LONGEST_SECONDS:.0f} s")
        watched.look()
        time.sleep(LOOK_SECONDS)
    first = given.sandbox.ask(f"/outbox?after={seen}&limit=1")
    return float(last[0]["time"] - first[0]["time"])
