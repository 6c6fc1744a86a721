"""Large mails leave most of the processor to small ones, however many of them flow at once."""

from __future__ import annotations

import asyncio

REST = 8.0
"""
After what took a processor so long, all large mails together rest so many times as long.

An eighth of a core encodes some 30 MB/s, more than most lines carry. Without the rest a small mail,
which has the loop's attention some twenty times on its way, would each time wait for a piece of
every large one.
"""


class Pace:
    """Spaces the pieces of all large mails of a process; one after the other, in turn."""

    def __init__(self) -> None:
        self._next = 0.0

    async def turn(self, cpu_seconds: float) -> None:
        """
        Wait until the next piece may be written.

        Args:
            cpu_seconds: What it took to make it.
        """
        now = asyncio.get_running_loop().time()
        at = max(now, self._next)
        self._next = at + REST * cpu_seconds
        if at > now:
            await asyncio.sleep(at - now)
