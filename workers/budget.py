"""How much of mails' contents a process has in memory at once; who wants more waits for a turn."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

CRITICAL_SHARE = 8
"""Criticals may take one part in so many beyond what others may."""


class Budget:
    """
    Octets that are taken before a content is read and given back when it is out of hand.

    First come, first served, whatever each wants: a large mail is not overtaken by small ones for
    ever. Criticals come before all others and have a reserve, so that they do not wait for a slow
    server to take what somebody else sends. Nobody holds one part and waits for another: there is
    no circle to wait in.

    Args:
        octets: At once, of all but criticals.
    """

    def __init__(self, octets: int) -> None:
        self._most = octets
        self._reserve = octets // CRITICAL_SHARE
        self._in_hand = 0
        self._waiting: dict[bool, deque[tuple[int, asyncio.Future[bool]]]] = {
            True: deque(),
            False: deque(),
        }
        self._closed = False

    @property
    def in_hand(self) -> int:
        """Octets that are taken now."""
        return self._in_hand

    async def take(self, octets: int, *, critical: bool) -> int:
        """
        Wait for room.

        Args:
            octets: What is wanted; more than there ever is waits until nothing else is in hand.
            critical: Comes first.

        Returns:
            What ``give`` has to be given; 0: no more is begun, the process stops.
        """
        if self._closed:
            return 0
        wanted = max(1, min(octets, self._most))
        is_first = not self._waiting[True] and (critical or not self._waiting[False])
        if is_first and self._has_room(wanted, critical=critical):
            self._in_hand += wanted
            return wanted
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        entry = (wanted, turn)
        self._waiting[critical].append(entry)
        try:
            return wanted if await turn else 0
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._waiting[critical].remove(entry)
            # It may have been given at the very moment at which nobody wanted it any more.
            given = turn.done() and not turn.cancelled() and turn.result()
            self.give(wanted if given else 0)
            raise

    def give(self, octets: int) -> None:
        """Give back what ``take`` returned."""
        self._in_hand -= octets
        self._serve()

    def close(self) -> None:
        """Let nobody wait any longer: what waits has not begun."""
        self._closed = True
        for waiting in self._waiting.values():
            while waiting:
                _, turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(False)

    def _has_room(self, wanted: int, *, critical: bool) -> bool:
        most = self._most + (self._reserve if critical else 0)
        return self._in_hand + wanted <= most

    def _serve(self) -> None:
        for critical in (True, False):
            waiting = self._waiting[critical]
            while waiting:
                wanted, turn = waiting[0]
                if not turn.done():
                    if not self._has_room(wanted, critical=critical):
                        # Who is first waits; those behind must not live on what it waits for.
                        return
                    self._in_hand += wanted
                    turn.set_result(True)
                waiting.popleft()
