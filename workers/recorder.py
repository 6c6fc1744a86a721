"""
The one place where the loop's visits meet the blocking database: a thread that commits in groups.

Visits hand in operations and await their results. The thread takes everything that has gathered
while the last commit was under way and runs it in one transaction: under load one commit serves
many mails, at rest one mail waits for nobody.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import structlog
from sqlalchemy import Connection, Engine

from models import lane
from models.database import write
from models.errors import StoreUnavailable

log = structlog.get_logger()

T = TypeVar("T")

MAX_GROUP = 256
"""Operations in one transaction at most: bounds how long the first waits for the last."""

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
"""Between tries while SQL is away; short, so that work resumes by itself at once."""


@dataclass(slots=True)
class _Operation:
    future: asyncio.Future[Any]
    run: Callable[[Connection], Any] | None
    """None for a settlement, which is recorded together with the others of its group."""
    outcome: lane.Outcome | None = None


class Recorder:
    """
    Commits claims, outcomes and whatever else visits need from SQL, in groups.

    While SQL is away no outcome is dropped: it waits and is tried again until it is committed
    (operations that record no outcome are told so at once).
    Visits wait with it, so nothing is sent that cannot be recorded.
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._pending: list[_Operation] = []
        self._arrived = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self.available = True
        """Whether the last group was committed."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, *, timeout_seconds: float = 10.0) -> None:
        """Commit what is pending, then end the thread."""
        with self._arrived:
            self._stopping = True
            self._arrived.notify()
        self._thread.join(timeout_seconds)

    def settle(self, outcome: lane.Outcome) -> asyncio.Future[bool]:
        """Record an outcome; await the result before the connection's next mail is submitted."""
        return cast("asyncio.Future[bool]", self._add(None, outcome))

    def run(self, operation: Callable[[Connection], T]) -> asyncio.Future[T]:
        """
        Run an operation in a transaction shared with others.

        The operation may run a second time if the group had to be repeated, so it must do nothing
        but talk to the database.

        Raises (when awaited):
            StoreUnavailable: SQL is away.
        """
        return cast("asyncio.Future[T]", self._add(operation, None))

    def _add(
        self, operation: Callable[[Connection], Any] | None, outcome: lane.Outcome | None
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        with self._arrived:
            if self._stopping and not self._thread.is_alive():
                raise StoreUnavailable("the recorder has stopped")
            self._pending.append(_Operation(future, operation, outcome))
            self._arrived.notify()
        return future

    def _work(self) -> None:
        kept: list[_Operation] = []
        pause = FIRST_PAUSE_SECONDS
        while True:
            with self._arrived:
                if not kept:
                    self._arrived.wait_for(lambda: self._pending or self._stopping)
                elif not self._pending and not self._stopping:
                    self._arrived.wait(pause)
                if not self._pending and not kept:
                    return
                group = kept + self._pending[:MAX_GROUP]
                del self._pending[:MAX_GROUP]
            kept = self._commit(group)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS) if kept else FIRST_PAUSE_SECONDS
            if kept and self._stopping:
                _tell(self._loop, [(one, StoreUnavailable("SQL is away")) for one in kept])
                return

    def _commit(self, group: list[_Operation]) -> list[_Operation]:
        """Commit a group and tell everybody; return the outcomes that could not be recorded."""
        try:
            results = self._transact(group)
        except StoreUnavailable as away:
            # Outcomes are kept and tried until they are committed: they say what was sent.
            # Everything else is told at once, so that visits end instead of hanging.
            if self.available:
                log.warning("store_unavailable", reason=str(away))
            self.available = False
            _tell(self._loop, [(one, away) for one in group if one.outcome is None])
            return [one for one in group if one.outcome is not None]
        except Exception as error:  # noqa: BLE001 - told to whom it concerns
            if len(group) == 1:
                _tell(self._loop, [(group[0], error)])
                return []
            # One operation is at fault: repeat them one by one, so only that one fails.
            return [kept for operation in group for kept in self._commit([operation])]
        if not self.available:
            log.info("store_available")
        self.available = True
        _tell(self._loop, results)
        return []

    def _transact(self, group: Sequence[_Operation]) -> list[tuple[_Operation, Any]]:
        results: list[tuple[_Operation, Any]] = []
        with write(self._engine) as connection:
            settlements = [operation for operation in group if operation.outcome is not None]
            if settlements:
                outcomes = [cast("lane.Outcome", operation.outcome) for operation in settlements]
                settled = lane.settle(connection, outcomes)
                results += zip(settlements, settled, strict=True)
            for operation in group:
                if operation.run is not None:
                    results.append((operation, operation.run(connection)))
        return results


def _tell(loop: asyncio.AbstractEventLoop, results: Sequence[tuple[_Operation, Any]]) -> None:
    # A loop that is closed has nobody left who waits.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_resolve, results)


def _resolve(results: Sequence[tuple[_Operation, Any]]) -> None:
    for operation, result in results:
        if operation.future.done():
            continue
        if isinstance(result, Exception):
            operation.future.set_exception(result)
        else:
            operation.future.set_result(result)
