"""
The promises of the token lease at their stated size, in real processes.

* Many visits on an expired lease: one request, however slowly or badly the endpoint answers.
* Refresh ahead: under continuous sending nobody waits for a refresh.
* Strict rotation: refreshes by four processes that are killed and frozen, while Redis forgets.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import redis

from bench.proofs.ground import SLUG, Askers, Process, ground
from bench.proofs.told import Claim
from console.stage import Stage

PROCESSES = 4
AIMED_SHARE = 0.33
PROGRESS_SECONDS = 8.0
LONGEST_SECONDS = 600.0
SHORT_SECONDS = 2
LONG_SECONDS = 3600
STRICT_LEASE = {"lock_seconds": 1.0, "request_timeout_seconds": 0.8, "minimum_left_seconds": 1.0}


def _requests(stage: Stage) -> int:
    counted = stage.sandbox.ask("/counters")["by_grant_type"].get("refresh_token", {})
    return sum(counted.values())


def _successes(stage: Stage) -> int:
    counted = stage.sandbox.ask("/counters")["by_grant_type"].get("refresh_token", {})
    return sum(counted.get(result, 0) for result in ("ok", "slow", "cut_after"))


def _lives(stage: Stage, seconds: int) -> None:
    stage.sandbox.tell("PATCH", f"/tenants/{SLUG}", {"access_token_seconds": [seconds] * 2})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How the token endpoint answers, and how many requests that costs at least and at most."""

    name: str
    faults: tuple[dict[str, Any], ...]
    requests: int


ENDPOINTS = (
    Endpoint("at once", (), 1),
    Endpoint("after 10 s", ({"kind": "slow", "seconds": 10, "remaining": 1},), 1),
    Endpoint("503 twice", ({"kind": "unavailable", "remaining": 2, "retry_after_seconds": 2},), 3),
    Endpoint("429, 3 s", ({"kind": "throttled", "remaining": 1, "retry_after_seconds": 3},), 2),
)


def one_request(
    *, callers: int, endpoints: tuple[Endpoint, ...] = ENDPOINTS, processes: int = PROCESSES
) -> Iterator[Claim]:
    """Let callers at several processes find their lease expired, all at once."""
    with ground() as stage:
        for endpoint in endpoints:
            # New processes each time: the copies that these keep last for an hour.
            with Askers(stage, processes) as askers:
                yield _one_request(stage, askers, endpoint, callers)


def _one_request(stage: Stage, askers: Askers, endpoint: Endpoint, callers: int) -> Claim:
    _lives(stage, SHORT_SECONDS)
    _forget(stage)
    askers.tell_all(do="storm", callers=1)
    _lives(stage, LONG_SECONDS)
    time.sleep(SHORT_SECONDS)
    stage.sandbox.tell("POST", "/reset")
    for fault in endpoint.faults:
        stage.sandbox.tell("POST", "/faults/entra", fault | {"grant_type": "refresh_token"})
    said = askers.tell_all(do="storm", callers=callers // len(askers.all))
    served = sum(one["served"] for one in said)
    asked = _requests(stage)
    tokens = {token for one in said for token in one["tokens"]}
    return Claim(
        f"one request, endpoint answers {endpoint.name}",
        bound=f"{endpoint.requests} requests, 1 token, {callers:,} served",
        figures={
            "callers": callers,
            "requests": asked,
            "tokens": len(tokens),
            "served": served,
            "longest_wait_s": round(max(one["longest"] for one in said), 1),
        },
        holds=asked == endpoint.requests and len(tokens) == 1 and served == callers,
    )


def _forget(stage: Stage) -> None:
    with redis.Redis.from_url(stage.settings.redis_url) as client:
        client.flushall()


def refresh_ahead(*, seconds: float, life_seconds: int = 10) -> Iterator[Claim]:
    """Want tokens without a pause while they expire again and again and the endpoint takes 1 s."""
    with ground() as stage, Askers(stage, PROCESSES) as askers:
        _lives(stage, life_seconds)
        _forget(stage)
        slow = {"kind": "slow", "seconds": 1.0, "grant_type": "refresh_token"}
        stage.sandbox.tell("POST", "/faults/entra", slow)
        said = askers.tell_all(do="steady", seconds=seconds)
        waited = sum(one["waited"] for one in said)
        tokens = {token for one in said for token in one["tokens"]}
        calls = sum(one["calls"] for one in said)
        yield Claim(
            "refresh ahead: nobody waits",
            bound="0 waits after the first, over at least 2 tokens",
            figures={
                "calls": calls,
                "waited": waited,
                "tokens": len(tokens),
                "requests": _requests(stage),
            },
            holds=waited == 0 and len(tokens) > 1 and calls > 0,
        )


@dataclass(slots=True)
class _Storm:
    """What was done to the processes, and what came of it."""

    kills: int = 0
    kills_within: int = 0
    freezes: int = 0
    freezes_within: int = 0
    flushes: int = 0
    lost: int = 0
    unexplained: int = 0
    blamed: bool = False
    """A process was struck between asking and having saved since the last consent."""
    saves: list[float] = field(default_factory=list)


def strict_rotation(
    *,
    refreshes: int,
    seed: int,
    database_url: str = "",
    kinds: str = "kill freeze flush",
    processes: int = PROCESSES,
) -> Iterator[Claim]:
    """Refresh at a provider that revokes a grant whose refresh token is presented twice."""
    chance = random.Random(seed)
    storm = _Storm()
    with ground(database_url=database_url, lease=STRICT_LEASE) as stage:
        stage.sandbox.tell("PATCH", f"/tenants/{SLUG}", {"strict_rotation": True})
        began = time.monotonic()
        with Askers(stage, processes) as askers:
            for one in askers.all:
                one.tell(do="churn")
            troubles: dict[str, Callable[[], None]] = {
                "kill": lambda: _kill(_victim(askers, chance), storm),
                "freeze": lambda: _freeze(_victim(askers, chance), storm, chance),
                "flush": lambda: _flush(stage, storm),
            }
            done = 0
            while done < refreshes and time.monotonic() - began < LONGEST_SECONDS:
                done = _progress(stage, done + chance.randint(1, 12))
                troubles[chance.choice(kinds.split())]()
                _see_to_the_grant(stage, askers, storm)
            time.sleep(STRICT_LEASE["lock_seconds"] * 2)
            _see_to_the_grant(stage, askers, storm)
            for one in askers.all:
                storm.saves += one.save_ms
    saves = sorted(storm.saves) or [0.0]
    yield Claim(
        f"strict rotation, {kinds.replace(' ', ', ')}",
        bound=f"{refreshes} refreshes; lost only where struck between asking and having saved",
        figures={
            "refreshes": done,
            "kills": storm.kills,
            "kills_within": storm.kills_within,
            "freezes": storm.freezes,
            "freezes_within": storm.freezes_within,
            "flushes": storm.flushes,
            "grants_lost": storm.lost,
            "unexplained": storm.unexplained,
            "commit_ms_p50": round(median(saves), 1),
            "commit_ms_p99": round(saves[int(len(saves) * 0.99) - 1], 1),
            "seconds": round(time.monotonic() - began),
        },
        holds=done >= refreshes and storm.unexplained == 0,
    )


def _progress(stage: Stage, wanted: int) -> int:
    """Wait until there were so many refreshes, or it takes too long; gives how many there were."""
    until = time.monotonic() + PROGRESS_SECONDS
    while (done := _successes(stage)) < wanted and time.monotonic() < until:
        time.sleep(0.01)
    return done


def _victim(askers: Askers, chance: random.Random) -> Process:
    """Choose whom to strike: a third of the time somebody who is just refreshing."""
    ready = [one for one in askers.all if one.ready] or askers.all
    if chance.random() < AIMED_SHARE:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            for one in ready:
                if one.asking:
                    return one
            time.sleep(0.0005)
    return chance.choice(ready)


def _kill(process: Process, storm: _Storm) -> None:
    storm.kills += 1
    within = process.kill()
    storm.kills_within += within
    storm.blamed |= within
    process.start()
    # It is read once it is ready; the others need not wait for that.
    process.tell(do="churn")


def _freeze(process: Process, storm: _Storm, chance: random.Random) -> None:
    """Stop a process for longer than its lock lasts."""
    storm.freezes += 1
    process.freeze()
    time.sleep(0.05)
    within = process.asking
    storm.freezes_within += within
    storm.blamed |= within
    time.sleep(STRICT_LEASE["lock_seconds"] * chance.uniform(1.2, 2.0))
    process.thaw()


def _flush(stage: Stage, storm: _Storm) -> None:
    storm.flushes += 1
    _forget(stage)


def _see_to_the_grant(stage: Stage, askers: Askers, storm: _Storm) -> None:
    """Where the grant was lost, say whether that can be explained, and consent again."""
    refused = sum(one.refused for one in askers.all)
    if not refused:
        return
    storm.lost += 1
    storm.unexplained += not storm.blamed
    storm.blamed = False
    with _quiet(askers):
        stage.connect(SLUG)
        for one in askers.all:
            one.refused = 0


@contextmanager
def _quiet(askers: Askers) -> Iterator[None]:
    """Let those that were refused hear of the new consent before they are counted again."""
    yield
    time.sleep(1.0)
    for one in askers.all:
        one.refused = 0
