"""What the trials beside the storm share: a stage with real times, and how its lanes stand."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from sqlalchemy import func, select

from bench.chaos.servers import Postgresql
from console.stage import Stage
from models.alert import AlertEmail
from models.database import read
from models.tables import METADATA

NO_LIMITS: Mapping[str, Any] = {
    "messages_per_window": None,
    "recipients_per_day": None,
    "lock_out_errors": None,
}
POLL_SECONDS = 0.1

_D = METADATA.tables["delivery"].c


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a trial takes place."""

    stage: Stage
    postgresql: Postgresql | None


@contextmanager
def ground(
    database: str,
    *,
    tenants: int = 4,
    limits: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Ground]:
    """Set a stage on a database, everybody connected; its directory is kept for reading."""
    with ExitStack() as stack:
        postgresql = None
        if database == "postgresql":
            postgresql = stack.enter_context(Postgresql())
        stage = stack.enter_context(
            Stage(
                Path(mkdtemp(prefix="chaos-trial-")),
                [f"tenant{number}" for number in range(tenants)],
                limits=limits,
                database_url="" if postgresql is None else postgresql.url(),
                settings=settings,
            )
        )
        stage.add_tenants()
        for _ in stage.connect_all():
            pass
        yield Ground(stage, postgresql)


def alert(slug: str, number: int) -> AlertEmail:
    """Make an alert."""
    return AlertEmail(
        tenant=slug,
        to=[f"ops@{slug}.example"],
        subject=f"Alert {number}",
        text="Disk C: is full\n" * 20,
    )


def states(stage: Stage) -> Counter[str]:
    """Count deliveries by state."""
    with read(stage.engine) as connection:
        rows = connection.execute(select(_D.state, func.count()).group_by(_D.state))
        return Counter({str(state): int(count) for state, count in rows})


def uncertain(stage: Stage) -> int:
    """Count deliveries whose fate was in doubt."""
    with read(stage.engine) as connection:
        return int(connection.execute(select(func.count()).where(_D.uncertain)).scalar_one())


def copies(stage: Stage) -> tuple[int, int]:
    """Count mails that Exchange took, and those of them beyond the first of an alert."""
    taken = Counter(mail["alert_id"] for mail in stage.sandbox.ask("/outbox"))
    return taken.total(), taken.total() - len(taken)


def wait_until(condition: Callable[[], bool], *, seconds: float) -> float:
    """
    Wait; gives how long it took.

    Raises:
        TimeoutError: It never came.
    """
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - begun
