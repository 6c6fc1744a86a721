"""
Wall clocks that can be stepped, and a disk that can be full, for the processes of a round.

A small library (``shim.c``) is preloaded into them; it needs no privilege, but a C compiler. Where
there is none, the troubles that need it are left out, and the run says so.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Self

SOURCE = Path(__file__).with_name("shim.c")


@cache
def compiler() -> str | None:
    """Find the C compiler."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


class Shims:
    """What each part of the installation is told. A context manager."""

    def __enter__(self) -> Self:
        # Everybody may read it: PostgreSQL runs under a user of its own where we are root.
        self._folder = Path(tempfile.mkdtemp(prefix="chaos-shim-"))
        self._folder.chmod(0o755)
        self._library = self._folder / "shim.so"
        self._told: dict[str, tuple[int, bool]] = {}
        self._steps: dict[str, list[tuple[float, int]]] = {}
        self._lock = threading.Lock()
        program = compiler()
        self.usable = program is not None
        if program is not None:
            argv = (program, "-O2", "-shared", "-fPIC", "-o", str(self._library), str(SOURCE))
            subprocess.run((*argv, "-ldl"), check=True, capture_output=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def environment(self, part: str) -> dict[str, str]:
        """Give the variables under which a process listens to what its part is told."""
        if not self.usable:
            return {}
        with self._lock:
            if part not in self._told:
                self._tell(part, 0, full=False)
        return {"LD_PRELOAD": str(self._library), "CHAOS_SHIM": str(self._folder / part)}

    def step(self, part: str, ahead_seconds: int) -> None:
        """Set a part's wall clock: so far ahead of the true one."""
        with self._lock:
            self._tell(part, ahead_seconds, full=self._told[part][1])
            self._steps.setdefault(part, []).append((time.time(), ahead_seconds))

    def fill_disk(self, part: str, *, full: bool) -> None:
        """Let SQLite find the disk full, or with room again."""
        with self._lock:
            self._tell(part, self._told[part][0], full=full)

    def steps(self, part: str) -> list[float]:
        """Tell when a part's clock was set."""
        return [moment for moment, _ in self._steps.get(part, [])]

    def true_time(self, part: str, moment: float) -> float:
        """Give the true moment at which a part's clock showed this one."""
        begin, ahead = 0.0, 0
        for until, then in [*self._steps.get(part, []), (float("inf"), 0)]:
            # Steps are far longer than a round, so at most one reading fits.
            if begin - 1 <= moment - ahead <= until + 1:
                return moment - ahead
            begin, ahead = until, then
        return moment

    def _tell(self, part: str, ahead: int, *, full: bool) -> None:
        self._told[part] = (ahead, full)
        file = self._folder / part
        if not file.exists():
            file.write_bytes(bytes(16))
            file.chmod(0o644)
        with file.open("r+b", buffering=0) as out:
            out.write(struct.pack("qq", ahead, full))
