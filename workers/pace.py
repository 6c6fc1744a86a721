"""Large mails leave most of the processor to small ones, however many of them flow at once."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

REST = 8.0
"""
After what took a processor so long, all large mails together rest so many times as long.

An eighth of a core encodes some 30 MB/s, more than most lines carry. Without the rest a small mail,
which has the loop's attention some twenty times on its way, would each time wait for a piece of
every large one.
"""


class Pace:
    """
    Spaces the pieces of all large mails of a process.

    The mail that began first comes first. So where it is us who limit, mails end one after the
    other; by turns, all of them would end together, late and at one moment.
    """

    def __init__(self) -> None:
        self._begun = count()
        self._next = 0.0
        self._waiting: list[tuple[int, float, asyncio.Future[None]]] = []
        self._alarm: asyncio.TimerHandle | None = None

    def begin(self) -> int:
        """Give the number of a mail that begins now."""
        return next(self._begun)

    async def turn(self, number: int, cpu_seconds: float) -> None:
        """
        Wait until the next piece may be written.

        Args:
            number: Of the mail, from ``begin``.
            cpu_seconds: What it took to make the piece.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting and loop.time() >= self._next:
            self._next = loop.time() + REST * cpu_seconds
            return
        turn: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._waiting, (number, cpu_seconds, turn))
        self._set_alarm(loop)
        await turn

    def _set_alarm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._alarm is None and self._waiting:
            self._alarm = loop.call_at(self._next, self._serve, loop)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm = None
        while self._waiting:
            _, cpu_seconds, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._next = loop.time() + REST * cpu_seconds
                turn.set_result(None)
                break
        self._set_alarm(loop)
