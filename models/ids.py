"""UUID version 7 (RFC 9562 section 5.7): keys that sort by the time they were made."""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

_lock = threading.Lock()
_last = 0


def uuid7() -> UUID:
    """
    Make a key that is greater than every key this process made before.

    48 bits of Unix milliseconds, then 42 bits of which the upper 12 count sub-millisecond steps,
    and 32 bits of chance, so keys made in one burst keep their order (RFC 9562 section 6.2,
    methods 1 and 3).
    """
    global _last  # noqa: PLW0603 - one counter a process is the point
    with _lock:
        # Milliseconds in the upper bits, 1/4096 ms below them: a clock and a counter in one.
        tick = (time.time_ns() * 4096) // 1_000_000
        _last = tick = max(tick, _last + 1)
    milliseconds, fraction = divmod(tick, 4096)
    chance = int.from_bytes(os.urandom(8), "big") >> 2
    return UUID(int=(milliseconds << 80) | (0x7 << 76) | (fraction << 64) | (0b10 << 62) | chance)
