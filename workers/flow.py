"""
The octets of a large mail, made while they are written: at no moment is all of it in memory.

Of what is read from SQL a piece at a time, a thread opens and encodes the next piece while the loop
writes the one before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from models.large_content import Part
from workers.base64_lines import LINE_OCTETS, base64_lines
from workers.pace import Pace

WORTH_OCTETS = 64 * 1024
"""Less is not handed from thread to loop by itself: a mail may have hundreds of small files."""

SHORT_OCTETS = 320 * 1024
"""A mail of one piece is made at once; it costs little more than one that is small."""

T = TypeVar("T")

Segment = bytes | Part
"""What stands in the mail: octets as they are, or a part of the stored content."""


@dataclass(frozen=True, slots=True)
class Flow:
    """
    What follows the headers of a large mail.

    Attributes:
        segments: In the order of the mail, its parts in the order in which they are stored.
        open_piece: Reads and opens a piece by its number; blocks. Whatever it raises ends the
            mail before its end.
        executor: Where that is done.
        pace: Shared with all that flows.
    """

    segments: tuple[Segment, ...]
    open_piece: Callable[[int], bytes]
    executor: Executor
    pace: Pace

    @property
    def size(self) -> int:
        """Octets."""
        return sum(map(encoded_size, self.segments))

    async def octets(self) -> AsyncGenerator[bytes, None]:
        """
        Give the octets by pieces, not dot-stuffed.

        Raises:
            Unread: The rest of them cannot be had.
        """
        made = encoded(self.segments, self.open_piece)
        if self.size <= SHORT_OCTETS:
            try:
                yield await self._run(b"".join, made)
            except Exception as reason:
                raise Unread(reason) from reason
            return
        number = self.pace.begin()
        ahead = self._make(made)
        try:
            while True:
                try:
                    octets, cpu_seconds = await ahead
                except Exception as reason:
                    raise Unread(reason) from reason
                if octets is None:
                    return
                await self.pace.turn(number, cpu_seconds)
                ahead = self._make(made)
                yield octets
        finally:
            ahead.cancel()
            with suppress(asyncio.CancelledError, Exception):
                # It may have failed meanwhile; nobody is left who would want to know.
                await asyncio.shield(ahead)

    def _make(self, made: Iterator[bytes]) -> asyncio.Future[tuple[bytes | None, float]]:
        return self._run(_timed, made)

    def _run(self, job: Callable[[Iterator[bytes]], T], made: Iterator[bytes]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self.executor, job, made)


class Unread(Exception):  # noqa: N818 - reads as what it is
    """
    The rest of a mail could not be read, so it was broken off before its end.

    Attributes:
        reason: What kept it from being read.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _timed(made: Iterator[bytes]) -> tuple[bytes | None, float]:
    begun = time.thread_time()
    return next(made, None), time.thread_time() - begun


def encoded_size(segment: Segment) -> int:
    """Tell how many octets a segment is in the mail."""
    if isinstance(segment, bytes):
        return len(segment)
    if segment.plain:
        return segment.octets
    digits = (segment.octets + 2) // 3 * 4
    # An empty file has the one line end that a boundary asks for.
    return digits + 2 * max(1, -(-digits // 76))


def encoded(segments: tuple[Segment, ...], open_piece: Callable[[int], bytes]) -> Iterator[bytes]:
    """Give the octets of segments, in pieces that are worth a turn of their own."""
    held = bytearray()
    for some in _each(segments, open_piece):
        if not held and len(some) >= WORTH_OCTETS:
            yield some
            continue
        held += some
        if len(held) >= WORTH_OCTETS:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _each(segments: tuple[Segment, ...], open_piece: Callable[[int], bytes]) -> Iterator[bytes]:
    stored = _Stored(open_piece)
    for segment in segments:
        if isinstance(segment, bytes):
            yield segment
        elif segment.plain:
            yield from stored.take(segment.octets)
        else:
            yield from _in_lines(stored.take(segment.octets))


def _in_lines(octets: Iterator[bytes]) -> Iterator[bytes]:
    held = b""
    empty = True
    for more in octets:
        some = held + more
        whole = len(some) - len(some) % LINE_OCTETS
        held = some[whole:]
        if whole:
            empty = False
            yield base64_lines(some[:whole])
    if held or empty:
        yield base64_lines(held)


class _Stored:
    """The stored octets from the first piece on, in any lengths."""

    def __init__(self, open_piece: Callable[[int], bytes]) -> None:
        self._open_piece = open_piece
        self._number = 0
        self._held = memoryview(b"")

    def take(self, octets: int) -> Iterator[bytes]:
        while octets:
            if not self._held:
                self._held = memoryview(self._open_piece(self._number))
                self._number += 1
            some = self._held[:octets]
            self._held = self._held[len(some) :]
            octets -= len(some)
            yield bytes(some)
