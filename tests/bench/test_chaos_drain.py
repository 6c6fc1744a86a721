"""How long a round of chaos waits for its lanes: what the pace needs, and little more."""

from __future__ import annotations

import pytest

from bench.chaos.play import SETTLING_SECONDS, WINDOW_SECONDS, longest_drain


def test_a_large_lane_is_given_the_time_that_its_pace_takes() -> None:
    """255 mails at 28 in each window of 9 s take 90 s: one that drains so fast is not stuck."""
    assert longest_drain(255) == pytest.approx(10 * WINDOW_SECONDS + SETTLING_SECONDS)


def test_small_lanes_are_given_no_more_than_one_window() -> None:
    """What fits into one window may have to wait for it, and not longer."""
    assert longest_drain(28) == pytest.approx(WINDOW_SECONDS + SETTLING_SECONDS)
    assert longest_drain(0) == SETTLING_SECONDS
