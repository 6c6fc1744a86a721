"""
What goes wrong in a round, and when: drawn from a seed, so that a schedule can be repeated.

Pure: the same seed, round and length give the same plan. What then happens in detail is up to the
operating system, so a repeated schedule is the same storm, not the same lightning.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

TENANTS = ("contoso", "northwind", "fabrikam", "litware", "adatum", "wingtip")
STRICT = frozenset({"fabrikam", "wingtip"})
"""Presenting a used refresh token revokes the grants of these tenants."""

MOST_WORKERS = 4
CALM_SECONDS = 1.5
"""Nothing goes wrong so soon after the start."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """
    One thing that goes wrong.

    Attributes:
        at: Seconds after the start of the round.
        what: Name of the method of ``Breaking`` that does it.
        given: Its arguments.
    """

    at: float
    what: str
    given: dict[str, Any]

    def __str__(self) -> str:
        details = ", ".join(f"{name}={value}" for name, value in self.given.items())
        return f"{self.what}({details})"


@dataclass(frozen=True, slots=True)
class Plan:
    """A round: on what it runs, who sends, what goes wrong."""

    number: int
    seed: str
    database: str
    workers: int
    producers: int
    mails_per_second: float
    seconds: float
    troubles: tuple[Trouble, ...]


def draw(
    seed: int,
    number: int,
    *,
    seconds: float = 14.0,
    mean: float = 12.0,
    most_mails_per_second: float = 50.0,
) -> Plan:
    """
    Draw a round.

    Args:
        seed: Of the whole run.
        number: Of the round, from 1.
        seconds: How long things go wrong.
        mean: About how many things do.
        most_mails_per_second: That producers hand in.
    """
    name = f"{seed}:{number}"
    chance = random.Random(name)
    workers = chance.randint(2, MOST_WORKERS)
    database = ("sqlite", "postgresql")[number % 2]
    count = max(4, round(chance.gauss(mean, 2)))
    troubles = [_trouble(chance, database, workers, seconds) for _ in range(count)]
    # Every round has at least one crash of each kind that the promises speak of.
    for what in ("kill_worker", chance.choice(("kill_redis", "flush_redis", "freeze_worker"))):
        at = chance.uniform(CALM_SECONDS, seconds)
        troubles.append(Trouble(at, what, _DRAWN[what](chance, workers)))
    return Plan(
        number=number,
        seed=name,
        database=database,
        workers=workers,
        producers=chance.randint(1, 2),
        mails_per_second=round(most_mails_per_second * chance.choice((0.4, 0.7, 1.0)), 1),
        seconds=seconds,
        troubles=tuple(sorted(troubles, key=lambda trouble: trouble.at)),
    )


def _trouble(chance: random.Random, database: str, workers: int, seconds: float) -> Trouble:
    kinds = {what: weight for what, weight in _WEIGHTS.items() if what not in _ONLY[database]}
    what = chance.choices(list(kinds), list(kinds.values()))[0]
    at = round(chance.uniform(CALM_SECONDS, seconds), 2)
    if what == "cut_line":
        given = _cut(chance, database)
    elif what == "step_clock":
        given = _step(chance, database, workers)
    else:
        given = _DRAWN[what](chance, workers)
    return Trouble(at, what, given)


def _cut(chance: random.Random, database: str) -> dict[str, Any]:
    return {
        "line": chance.choice(LINES[database]),
        "how": chance.choice(("reset", "silence")),
        "seconds": _pause(chance, 0.5, 6),
    }


def _step(chance: random.Random, database: str, workers: int) -> dict[str, Any]:
    part = chance.choice(CLOCKS[database])
    if part == "worker":
        part = f"worker-{chance.randrange(workers)}"
    return {
        "part": part,
        "ahead": chance.choice((-HOUR_SECONDS, HOUR_SECONDS)),
        "seconds": _pause(chance, 1, 8),
    }


_WEIGHTS = {
    "kill_worker": 5,
    "freeze_worker": 4,
    "roll_workers": 1,
    "kill_redis": 2,
    "flush_redis": 2,
    "freeze_redis": 2,
    "stop_postgresql": 3,
    "freeze_postgresql": 3,
    "lock_sqlite": 5,
    "cut_line": 7,
    "delay_network": 2,
    "fill_disk": 3,
    "step_clock": 4,
    "exchange_fault": 9,
    "entra_fault": 4,
    "revoke": 2,
    "kill_producer": 1,
}
_ONLY = {
    "sqlite": {"stop_postgresql", "freeze_postgresql"},
    "postgresql": {"lock_sqlite", "fill_disk"},
}

LINES = {
    "sqlite": ("worker-exchange", "worker-entra", "worker-redis", "producer-redis"),
    "postgresql": (
        "worker-exchange", "worker-entra", "worker-redis", "producer-redis", "worker-sql",
        "producer-sql",
    ),
}  # fmt: skip
"""What can be cut from what; SQLite has no line."""

HOUR_SECONDS = 3600
CLOCKS = {
    "sqlite": ("machine", "redis"),
    "postgresql": ("worker", "worker", "producers", "sql", "redis"),
}
"""
Whose wall clock may be wrong. Nothing is decided by those of workers and producers; by those of
Redis and SQL it is. SQLite's is that of the machine that workers and producers are on.
"""


def _pause(chance: random.Random, least: float, most: float) -> float:
    return round(chance.uniform(least, most), 2)


def _exchange(chance: random.Random, _: int) -> dict[str, Any]:
    temporary = "451 4.7.0 Temporary server error. Please try again later. PRX5"
    kinds: list[dict[str, Any]] = [
        {"phase": "body", "behaviour": "cut_after_dot", "taken": True, "probability": 0.1,
         "times": 4},
        {"phase": "body", "behaviour": "cut_after_dot", "taken": False, "probability": 0.1,
         "times": 4},
        {"phase": "data", "behaviour": "cut_inside", "after_bytes": 200, "probability": 0.2,
         "times": 6},
        {"phase": "body", "reply": temporary, "probability": 0.2, "times": 20},
        {"phase": "mail", "reply": temporary, "probability": 0.1, "times": 10},
        {"phase": "auth", "reply": temporary, "times": 2},
        {"phase": "data", "reply": "432 4.3.2 Concurrent connections limit exceeded", "times": 1},
        {"phase": "mail", "reply": "421 4.3.2 Service not available", "times": 2},
        {"phase": "*", "behaviour": "slow", "seconds": 0.1, "jitter_seconds": 0.6},
        {"phase": "body", "behaviour": "slow", "seconds": 0.5, "jitter_seconds": 2.0},
        {"phase": "body", "behaviour": "stall", "times": 2},
        {"phase": "mail", "behaviour": "stall", "times": 2},
        {"phase": "banner", "behaviour": "stall", "times": 2},
        {"phase": "*", "behaviour": "close", "when": "before", "probability": 0.05, "times": 8},
        {"phase": "body", "behaviour": "close", "when": "after", "probability": 0.2, "times": 4},
    ]  # fmt: skip
    return {"fault": chance.choice(kinds), "seconds": _pause(chance, 3, 8)}


def _entra(chance: random.Random, _: int) -> dict[str, Any]:
    kinds: list[dict[str, Any]] = [
        {"kind": "unavailable", "remaining": 3},
        {"kind": "unavailable", "remaining": 2, "retry_after_seconds": 1},
        {"kind": "throttled", "remaining": 2, "retry_after_seconds": 1},
        {"kind": "slow", "remaining": 4, "seconds": _pause(chance, 1, 3)},
        {"kind": "cut", "remaining": 3},
        {"kind": "not_json", "remaining": 2},
    ]
    return {"fault": chance.choice(kinds), "seconds": _pause(chance, 3, 8)}


_DRAWN: dict[str, Any] = {
    "kill_worker": lambda chance, workers: {
        "number": chance.randrange(workers), "seconds": _pause(chance, 0.2, 2)
    },
    "freeze_worker": lambda chance, workers: {
        "number": chance.randrange(workers), "seconds": _pause(chance, 1, 14)
    },
    "roll_workers": lambda _chance, _workers: {},
    "kill_redis": lambda chance, _workers: {"seconds": _pause(chance, 0, 4)},
    "flush_redis": lambda _chance, _workers: {},
    "freeze_redis": lambda chance, _workers: {"seconds": _pause(chance, 0.5, 5)},
    "stop_postgresql": lambda chance, _workers: {
        "kill": chance.random() < 0.3, "seconds": _pause(chance, 0.2, 4)
    },
    "freeze_postgresql": lambda chance, _workers: {"seconds": _pause(chance, 0.5, 6)},
    "lock_sqlite": lambda chance, _workers: {"seconds": _pause(chance, 0.5, 12)},
    "fill_disk": lambda chance, _workers: {"seconds": _pause(chance, 0.5, 8)},
    "delay_network": lambda chance, _workers: {
        "most": chance.choice((0.2, 1.0, 2.0)), "seconds": _pause(chance, 3, 6)
    },
    "exchange_fault": _exchange,
    "entra_fault": _entra,
    "revoke": lambda chance, _workers: {
        "slug": chance.choice(TENANTS), "seconds": _pause(chance, 0.5, 3)
    },
    "kill_producer": lambda chance, _workers: {"number": chance.randrange(2)},
}  # fmt: skip
