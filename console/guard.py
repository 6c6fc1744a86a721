"""
Stops orphans: a process that outlives its supervisor by just long enough to end what that left.

Run as a program of its own, by path, with nothing but the standard library. It reads lines from
standard input: ``+ <process group> <seconds>`` for a group to watch and how long it may take to
end, ``- <process group>`` for one that is gone. When the input ends, its writer has ended, by
``kill -9`` if groups are left; they are stopped, last one first. This needs no more than pipes,
so it works on every system with process groups, and for grandchildren too.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress

POLL_SECONDS = 0.05


def group_lives(group: int) -> bool:
    """Tell whether a process group has members; those that are ours and ended are collected."""
    with suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS says so of a group whose members have ended and are not collected yet.
        return False
    return True


def end_group(group: int, *, seconds: float) -> bool:
    """
    Ask a process group to end, and end it if it does not.

    Args:
        group: Its id.
        seconds: How long its members may take after SIGTERM.

    Returns:
        Whether it ended by itself.
    """
    deadline = time.monotonic() + seconds
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
    while group_lives(group):
        if time.monotonic() >= deadline:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
            return False
        time.sleep(POLL_SECONDS)
    return True


def main() -> None:
    """Watch until the input ends, then stop what is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched: dict[int, float] = {}
    for line in sys.stdin:
        sign, group, *seconds = line.split()
        if sign == "+":
            watched[int(group)] = float(seconds[0])
        else:
            watched.pop(int(group), None)
    for left, patience in reversed(watched.items()):
        end_group(left, seconds=patience)


if __name__ == "__main__":
    main()
