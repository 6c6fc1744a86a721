"""
The one place where the loop's visits meet the blocking database: a thread that commits in groups.

Visits hand in operations and await their results. The thread takes everything that has gathered
while the last commit was under way and runs it in one transaction: under load one commit serves
many mails, at rest one mail waits for nobody.

An outcome says what was sent, so it is never dropped, whatever SQL or our own code answers: it is
tried until it is committed, alone where it would fail its group, and its visit waits with it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import structlog
from sqlalchemy import Connection, Engine, text

from models import lane
from models.database import write
from models.errors import StoreUnavailable
from models.outages import in_short, of_the_statement
from models.unrecorded import Unrecorded
from workers.refused import Refused

log = structlog.get_logger()

T = TypeVar("T")
Item = TypeVar("Item")

MAX_GROUP = 256
"""Operations in one transaction at most: bounds how long the first waits for the last."""

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
"""Between tries while SQL is away; short, so that work resumes by itself at once."""

STOP_PAUSE_SECONDS = 0.1
"""Between the last tries of a stop."""

LATE_SECONDS = 2.0
"""An outcome that waits for longer is told to whoever asks how things are."""

MOST_IN_A_ROW = 3
"""So many that meet the same kind of hindrance one after the other: it is in everybody's way."""

_IMPATIENT = text(
    "SELECT set_config('lock_timeout', '250ms', true), set_config('statement_timeout', '5s', true)"
)
"""What is tried alone must not keep the others waiting for a row that somebody holds."""


Together = Callable[[Connection, list[Any]], Sequence[Any]]
"""Does for many what visits want at the same time: their items in, a result for each out."""


@dataclass(slots=True, eq=False)
class _Operation:
    future: asyncio.Future[Any]
    run: Callable[[Connection], Any] | None = None
    together: Together | None = None
    """Instead of ``run``: those of a group that have the same one run it once."""
    item: Any = None
    since: float = field(default_factory=time.monotonic)
    told: bool = False

    @property
    def settles(self) -> bool:
        """Whether it says what was sent."""
        return self.together is lane.settle


class Recorder:
    """
    Commits claims, outcomes and whatever else visits need from SQL, in groups.

    No outcome is dropped: while SQL is away it waits, and where SQL is there and refuses it, for
    whatever reason, it is put aside and tried again alone, so that others go on
    (operations that record no outcome are told so at once).
    Visits wait with it, so nothing is sent that cannot be recorded.
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._pending: list[_Operation] = []
        self._unsettled: set[_Operation] = set()
        self._refused: Refused[_Operation] = Refused()
        self._reason = ""
        self._arrived = threading.Condition()
        self._stopping = False
        self._stop_by = 0.0
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self.available = True
        """Whether the last group was committed."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, *, timeout_seconds: float = 10.0) -> None:
        """
        Commit what is pending, then end the thread.

        Outcomes that cannot be recorded are tried as long as there is time. What is left then is
        told in the log: the claims of these deliveries run out, and the sweep takes them back as
        uncertain.
        """
        with self._arrived:
            self._stopping = True
            self._stop_by = time.monotonic() + 0.9 * timeout_seconds
            self._arrived.notify()
        self._thread.join(timeout_seconds)
        with self._arrived:
            left = [operation.item for operation in self._unsettled]
        if left:
            log.error(
                "outcomes_left",
                outcomes=len(left),
                delivery_ids=[str(outcome.delivery_id) for outcome in left[:20]],
                reason=self._reason,
            )

    def unrecorded(self) -> Unrecorded | None:
        """Tell which outcomes have waited for long; None: there are none."""
        now = time.monotonic()
        with self._arrived:
            ages = [now - operation.since for operation in self._unsettled]
        late = [age for age in ages if age > LATE_SECONDS]
        if not late:
            return None
        return Unrecorded(len(late), max(late), self._reason or "SQL takes long")

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
            operation = _Operation(future, run, together, item)
            self._pending.append(operation)
            if operation.settles:
                self._unsettled.add(operation)
            self._arrived.notify()
        return future

    # -- the thread --------------------------------------------------------------------------

    def _work(self) -> None:
        kept: list[_Operation] = []
        pause = FIRST_PAUSE_SECONDS
        while True:
            with self._arrived:
                self._rest(pause if kept else None)
                if self._stopping and not self._pending and not kept and not self._refused:
                    return
                group = kept + self._pending[:MAX_GROUP]
                del self._pending[:MAX_GROUP]
            kept = self._carefully(self._commit, group) if group else []
            kept += self._carefully(self._try_again, self._refused.due(everything=self._stopping))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS) if kept else FIRST_PAUSE_SECONDS
            if self._stopping and time.monotonic() > self._stop_by:
                self._give_up(kept)
                return

    def _give_up(self, kept: list[_Operation]) -> None:
        """At the end of a stop: tell everybody who still waits."""
        with self._arrived:
            left = [*kept, *self._refused.take_all(), *self._pending]
            self._pending.clear()
        self._tell([(one, StoreUnavailable("SQL is away")) for one in left])

    def _rest(self, pause: float | None) -> None:
        """Wait for something to do; ``pause`` is that between tries while SQL is away."""
        if self._pending:
            return
        if self._stopping:
            if pause is not None or self._refused:
                self._arrived.wait(STOP_PAUSE_SECONDS)
            return
        times = [one for one in (pause, self._refused.next_in()) if one is not None]
        self._arrived.wait_for(
            lambda: self._pending or self._stopping, min(times) if times else None
        )

    def _carefully(
        self, step: Callable[[list[_Operation]], list[_Operation]], group: list[_Operation]
    ) -> list[_Operation]:
        """Do a step of the work; a fault of ours in it, too, must not lose what is out."""
        if not group:
            return []
        try:
            return step(group)
        except Exception as error:
            with suppress(Exception):
                log.exception("recorder_failed")
            return self._put_off([one for one in group if not one.told], error)

    def _commit(self, group: list[_Operation]) -> list[_Operation]:
        """Commit a group and tell everybody; return the outcomes that wait for SQL."""
        try:
            results = self._transact(group)
        except Exception as error:  # noqa: BLE001 - told to whom it concerns
            if _is_away(error):
                return self._put_off(group, error)
            if len(group) == 1:
                self._refuse(group[0], error)
                return []
            return self._one_by_one(group)
        self._done(results)
        return []

    def _one_by_one(self, group: list[_Operation]) -> list[_Operation]:
        """Find out which one is at fault, so only that one fails; outcomes first."""
        group = sorted(group, key=lambda one: not one.settles)
        in_a_row = 0
        for position, operation in enumerate(group):
            try:
                results = self._transact([operation], impatient=True)
            except Exception as error:  # noqa: BLE001 - told to whom it concerns
                if _is_away(error):
                    return self._put_off(group[position:], error)
                self._refuse(operation, error)
                in_a_row = in_a_row + 1 if isinstance(error, StoreUnavailable) else 0
                if in_a_row == MOST_IN_A_ROW:
                    return self._put_off(group[position + 1 :], error)
            else:
                in_a_row = 0
                self._done(results)
        return []

    def _put_off(self, group: Sequence[_Operation], error: Exception) -> list[_Operation]:
        """Keep outcomes until SQL is back; tell the others at once, so that visits end."""
        reason = in_short(error)
        was_available, self.available, self._reason = self.available, False, reason
        if was_available:
            with suppress(Exception):
                log.warning("store_unavailable", reason=reason)
        self._tell([(one, error) for one in group if not one.settles])
        return [one for one in group if one.settles]

    def _refuse(self, operation: _Operation, error: Exception) -> None:
        if not operation.settles:
            self._tell([(operation, error)])
            return
        self._reason = in_short(error)
        self._refused.add(operation, error, outcome=operation.item)

    def _try_again(self, due: list[_Operation]) -> list[_Operation]:
        """Try outcomes that were refused before, each alone."""
        for operation in due:
            try:
                results = self._transact([operation], impatient=True)
            except Exception as error:  # noqa: BLE001 - it is kept
                self._reason = in_short(error)
                self._refused.again(operation, error, outcome=operation.item)
                if _is_away(error):
                    self._refused.rest()
                    return self._put_off([], error)
            else:
                self._refused.remove(operation)
                self._done(results)
        return []

    def _transact(
        self, group: Sequence[_Operation], *, impatient: bool = False
    ) -> list[tuple[_Operation, Any]]:
        results: list[tuple[_Operation, Any]] = []
        shared: dict[Together, list[_Operation]] = {}
        for operation in group:
            if operation.together is not None:
                shared.setdefault(operation.together, []).append(operation)
        with write(self._engine) as connection:
            if impatient and connection.dialect.name == "postgresql":
                connection.execute(_IMPATIENT)
            # Outcomes first: what they settle is no longer in hand when others look.
            for together in sorted(shared, key=lambda one: one is not lane.settle):
                alike = shared[together]
                found = together(connection, [operation.item for operation in alike])
                results += zip(alike, found, strict=True)
            for operation in group:
                if operation.run is not None:
                    results.append((operation, operation.run(connection)))
        return results

    def _done(self, results: Sequence[tuple[_Operation, Any]]) -> None:
        was_available, self.available = self.available, True
        self._tell(results)
        if not was_available:
            with suppress(Exception):
                log.info("store_available")

    def _tell(self, results: Sequence[tuple[_Operation, Any]]) -> None:
        settled = []
        for operation, result in results:
            operation.told = True
            if operation.settles and not isinstance(result, Exception):
                settled.append(operation)
        if settled:
            with self._arrived:
                self._unsettled.difference_update(settled)
                if not self._unsettled:
                    self._reason = ""
        _tell(self._loop, results)


def _is_away(error: Exception) -> bool:
    """Say whether SQL is away for everybody, rather than in the way of what was asked for."""
    return isinstance(error, StoreUnavailable) and not of_the_statement(error)


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
