"""The judge of idle workers finds what it should, and nothing else."""

from __future__ import annotations

from typing import Any

from bench.proofs.idle_spans import Idle, Span, Try, Wait, idle_spans

LIMIT, RESERVE, WINDOW = 4, 1, 10.0


def _judge(
    wait: Wait, tries: list[tuple[float, float]] | None = None, rests: list[Span] | None = None
) -> list[Idle]:
    given = [Try(began, ended, took_permit=True) for began, ended in tries or []]
    return idle_spans(
        [wait], given, rests or [], limit=LIMIT, reserve=RESERVE, window=WINDOW, least=1.0
    )


def _wait(due: float, began: float, **changes: Any) -> Wait:
    return Wait(**({"name": "d", "critical": False, "due": due, "began": began} | changes))


def test_a_wait_for_nothing_is_found() -> None:
    """Nobody was there, permits were, and it took three seconds."""
    (idle,) = _judge(_wait(0.0, 3.0), [(3.0, 3.1)])

    assert (idle.begin, idle.end) == (0.0, 3.0)


def test_a_short_wait_is_no_matter() -> None:
    """A second is allowed."""
    assert _judge(_wait(0.0, 1.0), [(1.0, 1.1)]) == []


def test_a_busy_connection_is_no_idleness() -> None:
    """Others of the lane were sent meanwhile, one after the other."""
    assert _judge(_wait(0.0, 3.0), [(0.5, 1.5), (2.0, 3.0)]) == []


def test_the_longest_gap_counts() -> None:
    """Between two tries nobody did anything for two seconds."""
    (idle,) = _judge(_wait(0.0, 4.0), [(0.2, 1.0), (3.0, 3.5)])

    assert (idle.begin, idle.end) == (1.0, 3.0)


def test_a_rest_is_no_idleness() -> None:
    """Paused or parked."""
    assert _judge(_wait(0.0, 5.0), [(5.0, 5.1)], [(0.1, 4.5)]) == []


def test_a_full_window_is_no_idleness_for_normal_mails() -> None:
    """The reserve is not theirs; the first leaves the window after ten seconds."""
    tries = [(0.0, 0.1), (0.1, 0.2), (0.2, 0.3)]

    assert _judge(_wait(0.3, 10.5), [*tries, (10.5, 10.6)]) == []
    (idle,) = _judge(_wait(0.3, 12.0), [*tries, (12.0, 12.1)])
    assert (round(idle.begin, 3), idle.end) == (10.1, 12.0)


def test_the_reserve_is_a_critical_s_own() -> None:
    """With three of four taken a critical need not wait."""
    tries = [(0.0, 0.1), (0.1, 0.2), (0.2, 0.3), (5.0, 5.1)]

    assert len(_judge(_wait(0.3, 5.0, critical=True), tries)) == 1
    assert _judge(_wait(0.3, 5.0), tries) == []
