"""The short forms of `make proofs`: the same plays with less of everything."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from bench.proofs import lease, limits, schedules
from bench.proofs.told import Claim

SEED = 20261125


def _broken(claims: Iterable[Claim]) -> list[Claim]:
    told = list(claims)
    assert told
    return [claim for claim in told if not claim.holds]


@pytest.mark.timeout(120)
def test_an_expired_lease_costs_one_request_over_real_processes() -> None:
    """Two processes, two hundred callers, an endpoint that is away once."""
    away = {"kind": "unavailable", "remaining": 1, "retry_after_seconds": 1}

    assert _broken(
        lease.one_request(
            callers=200, endpoints=(lease.Endpoint("503 once", (away,), 2),), processes=2
        )
    ) == []  # fmt: skip


@pytest.mark.timeout(120)
def test_a_strict_provider_keeps_its_grant_through_kills_and_flushes() -> None:
    """Two processes that refresh without a pause, while one is killed and Redis forgets."""
    assert _broken(lease.strict_rotation(refreshes=24, seed=SEED, processes=2)) == []


@pytest.mark.timeout(120)
def test_the_limits_are_kept_through_kills_flushes_and_a_slow_line() -> None:
    """Two workers, a window of 6 s, a line that is up to 0.2 s late."""
    assert _broken(
        limits.never_above(
            seconds=8, seed=SEED, window=6.0, workers=2, mailboxes=2, most_delay=0.2
        )
    ) == []  # fmt: skip


@pytest.mark.timeout(180)
def test_no_worker_is_idle_while_there_is_work() -> None:
    """Some hundreds of deliveries of four mailboxes; one is paused, one parked."""
    assert _broken(
        schedules.schedules(deliveries=250, seconds=5, seed=8, mailboxes=4, window=2.0)
    ) == []  # fmt: skip
