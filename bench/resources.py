"""What processes cost: CPU and memory of some processes, with all their children."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Self

import psutil


class Resources:
    """
    Counts the CPU of processes from the moment of its making, and their largest memory.

    Args:
        pids: Their children count as well, those too that are born later.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._roots = [psutil.Process(pid) for pid in pids]
        self._seconds: dict[int, float] = {}
        self.peak_mb = 0.0
        self.look()
        self._before = dict(self._seconds)

    def look(self) -> Self:
        """Note what has been used; call it now and then, or a child that ends is not counted."""
        memory = 0.0
        for root in self._roots:
            with suppress(psutil.NoSuchProcess):
                for process in (root, *root.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess):
                        times = process.cpu_times()
                        self._seconds[process.pid] = times.user + times.system
                        memory += process.memory_info().rss / 1e6
        self.peak_mb = max(self.peak_mb, memory)
        return self

    @property
    def cpu_seconds(self) -> float:
        """CPU since the making, user and system."""
        return sum(seconds - self._before.get(pid, 0.0) for pid, seconds in self._seconds.items())
