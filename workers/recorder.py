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
Item = TypeVar("Item")

MAX_GROUP = 256
"""Operations in one transaction at most: bounds how long the first waits for the last."""

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
"""Between tries while SQL is away; short, so that work resumes by itself at once."""


Together = Callable[[Connection, list[Any]], Sequence[Any]]
"""Does for many what visits want at the same time: their items in, a result for each out."""


@dataclass(slots=True)
class _Operation:
    future: asyncio.Future[Any]
    run: Callable[[Connection], Any] | None = None
    together: Together | None = None
    """Instead of ``run``: those of a group that have the same one run it once."""
    item: Any = None

    @property
    def settles(self) -> bool:
        """Whether it says what was sent."""
        return self.together is lane.settle


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
        return cast(
            "asyncio.Future[bool]", self._add(together=cast("Together", lane.settle), item=outcome)
        )

    def together(
        self, operation: Callable[[Connection, list[Item]], Sequence[T]], item: Item
    ) -> asyncio.Future[T]:
        """
        Run an operation once for the items of all visits that ask for the same one meanwhile.

        It is subject to what ``run`` says.

        Args:
            operation: The same object each time.
            item: What this visit asks for.
        """
        given = cast("Together", operation)
        return cast("asyncio.Future[T]", self._add(together=given, item=item))

    def run(self, operation: Callable[[Connection], T]) -> asyncio.Future[T]:
        """
        Run an operation in a transaction shared with others.

        The operation may run a second time if the group had to be repeated, so it must do nothing
        but talk to the database.

        Raises (when awaited):
            StoreUnavailable: SQL is away.
        """
        return cast("asyncio.Future[T]", self._add(run=operation))

    def _add(
        self,
        *,
        run: Callable[[Connection], Any] | None = None,
        together: Together | None = None,
        item: Any = None,
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        with self._arrived:
            if self._stopping and not self._thread.is_alive():
                raise StoreUnavailable("the recorder has stopped")
            self._pending.append(_Operation(future, run, together, item))
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
            _tell(self._loop, [(one, away) for one in group if not one.settles])
            return [one for one in group if one.settles]
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
        shared: dict[Together, list[_Operation]] = {}
        for operation in group:
            if operation.together is not None:
                shared.setdefault(operation.together, []).append(operation)
        with write(self._engine) as connection:
            # Outcomes first: what they settle is no longer in hand when others look.
            for together in sorted(shared, key=lambda one: one is not lane.settle):
                alike = shared[together]
                found = together(connection, [operation.item for operation in alike])
                results += zip(alike, found, strict=True)
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
