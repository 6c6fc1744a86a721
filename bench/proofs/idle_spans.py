"""
Looks for idle spans: times in which work that might have been sent was not.

A delivery waits from the moment when it was due until its try begins. In that time its mailbox may
have had no permit, been paused, or been parked. Where it had a permit, no pause, and not one of its
connections was in use for more than a second, nobody looked at the lane although somebody should.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CRITICAL = 0

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Try:
    """An attempt: when it began and ended, and whether it took a permit."""

    began: float
    ended: float
    took_permit: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """A delivery: due since, and when its try began that was the last one."""

    name: str
    critical: bool
    due: float
    began: float


@dataclass(frozen=True, slots=True)
class Idle:
    """A span in which a delivery waited for nothing."""

    name: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.end - self.begin


def idle_spans(
    waits: Iterable[Wait],
    tries: Sequence[Try],
    rests: Sequence[Span],
    *,
    limit: int,
    reserve: int,
    window: float,
    least: float,
) -> list[Idle]:
    """
    Find the longest idle span of each wait of one mailbox that is longer than ``least``.

    Args:
        waits: Its deliveries.
        tries: Its attempts.
        rests: When it was paused or parked.
        limit: Permits in any window.
        reserve: Of those, for criticals alone.
        window: Its length in seconds.
        least: Shorter spans are of no interest, in seconds.
    """
    busy = _united([*((one.began, one.ended) for one in tries), *rests])
    stamps = sorted(one.ended for one in tries if one.took_permit)
    without = {
        critical: _without_permit(stamps, limit if critical else limit - reserve, window)
        for critical in (False, True)
    }
    closed = {critical: _united([*busy, *spans]) for critical, spans in without.items()}
    found = []
    for wait in waits:
        if wait.began - wait.due <= least:
            continue
        gaps = _gaps(closed[wait.critical], wait.due, wait.began)
        begin, end = max(gaps, key=lambda gap: gap[1] - gap[0], default=(0.0, 0.0))
        if end - begin > least:
            found.append(Idle(wait.name, begin, end))
    return found


def _without_permit(stamps: Sequence[float], allowed: int, window: float) -> list[Span]:
    """Name the times in which as many mails as allowed are in the window."""
    return [
        (stamps[last], stamps[last - allowed + 1] + window)
        for last in range(allowed - 1, len(stamps))
        if stamps[last - allowed + 1] + window > stamps[last]
    ]


def _united(spans: Iterable[Span]) -> list[Span]:
    united: list[Span] = []
    for begin, end in sorted(spans):
        if united and begin <= united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], end))
        else:
            united.append((begin, end))
    return united


def _gaps(closed: Sequence[Span], begin: float, end: float) -> list[Span]:
    """Give what is left of a time when the closed spans are taken out."""
    gaps = []
    position = max(0, bisect.bisect_right(closed, (begin, float("inf"))) - 1)
    for opens, closes in closed[position:]:
        if opens >= end:
            break
        if opens > begin:
            gaps.append((begin, opens))
        begin = max(begin, closes)
    if begin < end:
        gaps.append((begin, end))
    return gaps
