"""The short form of `make chaos`: one round on SQLite, always the same schedule."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.chaos.play import Round
from bench.chaos.schedule import draw

SEED = 20261123


@pytest.mark.timeout(120)
def test_nothing_is_lost_in_a_short_storm(tmp_path: Path) -> None:
    """Workers are killed, Redis forgets, the database is locked: every alert is accounted for."""
    plan = draw(SEED, 2, seconds=4.0, mean=4.0, most_mails_per_second=15.0)

    verdict = Round(plan, tmp_path).play().verdict

    assert verdict.breaks == []
    assert verdict.enqueued > 0
    assert verdict.lost == 0


def test_a_seed_repeats_its_schedule() -> None:
    """The same seed and round give the same plan, another round another one."""
    assert draw(SEED, 1) == draw(SEED, 1)
    assert draw(SEED, 1).troubles != draw(SEED, 2).troubles
