"""
Bulk import: lines in, deliveries out, many in one transaction; a bad line stops no other.

Pure of printing: the caller hears of bad lines and of progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime

from models.alert import AlertEmail
from models.errors import InvalidAlert, NotFound, PastDeadline, StoreUnavailable
from models.intake import Receipt
from models.intake_checks import past
from models.recipients import with_recipients
from models.routes import Routes
from producers.alert_lines import Line

CHUNK = 1_000
"""Alerts a transaction."""

_CHUNK_OCTETS = 32_000_000
"""Attachments count too: a thousand of them would not fit into memory."""

_CHUNK_SECONDS = 1.0
"""A stream that trickles without a pause must not hold its alerts back."""

_ROUNDS = 3
"""How often tenants may be removed under our hands before we give up on a chunk."""

Enqueue = Callable[[Sequence[AlertEmail]], Sequence[Receipt]]


@dataclass(frozen=True, slots=True)
class BadLine:
    """
    A line that could not be taken.

    Attributes:
        number: Counted from 1.
        field: What is wrong; ``line`` or ``body`` where it holds no alert at all.
        reason: What is wrong with that.
    """

    number: int
    field: str
    reason: str


@dataclass(slots=True)
class Tally:
    """
    How an import stands; only what is committed counts as enqueued.

    Attributes:
        lines: Lines that held something.
        alerts: Alerts on good lines.
        repeated: Recognised by their idempotency keys; they made no second mail.
        different: Those of the repeated whose content is not that of the first.
    """

    lines: int = 0
    bad: int = 0
    alerts: int = 0
    enqueued: int = 0
    repeated: int = 0
    different: int = 0


class LineImport:
    """
    Takes lines and commits their alerts in chunks.

    Args:
        enqueue: Commits alerts, all of them or none; None only checks.
        read_routes: Reads which tenants and mailboxes there are.
        on_bad: Hears of each bad line.
        whole: Gives a block that is seen to its end; a commit and its count stand in one.
        now: Tells the time by the database's clock; None: deadlines are not checked beforehand.
        chunk: Alerts a transaction; a line's alerts stay together.
    """

    def __init__(
        self,
        enqueue: Enqueue | None,
        read_routes: Callable[[], Routes],
        *,
        on_bad: Callable[[BadLine], None],
        whole: Callable[[], AbstractContextManager[None]] = nullcontext,
        now: Callable[[], datetime] | None = None,
        chunk: int = CHUNK,
    ) -> None:
        self.tally = Tally()
        self._enqueue = enqueue
        self._read_routes = read_routes
        self._routes = read_routes()
        self._on_bad = on_bad
        self._whole = whole
        self._now = now
        self._chunk = chunk
        self._pending: list[Line] = []
        self._alerts = 0
        self._octets = 0
        self._since = 0.0

    def take_all(self, lines: Iterable[Line]) -> Tally:
        """Take every line and commit what is left at the end."""
        for line in lines:
            self.take(line)
        self.commit()
        return self.tally

    def take(self, line: Line) -> None:
        """Take one line; commits where that makes a chunk full."""
        self.tally.lines += 1
        error = line.error or self._unroutable(line) or self._late(line)
        if error is not None:
            self._refuse(line, error)
            return
        self.tally.alerts += len(line.alerts)
        if self._enqueue is None:
            return
        if not self._pending:
            self._since = time.monotonic()
        self._pending.append(line)
        self._alerts += len(line.alerts)
        self._octets += sum(map(_octets, line.alerts))
        if (
            self._alerts >= self._chunk
            or self._octets >= _CHUNK_OCTETS
            or time.monotonic() - self._since >= _CHUNK_SECONDS
        ):
            self.commit()

    def commit(self) -> None:
        """
        Commit what was taken and is not committed yet.

        Raises:
            StoreUnavailable: SQL is away; the chunk was not accepted, those before it were.
        """
        if self._enqueue is None or not self._pending:
            return
        with self._whole():
            self._count(self._enqueued(self._enqueue))
            self._pending, self._alerts, self._octets = [], 0, 0

    def _enqueued(self, enqueue: Enqueue) -> Sequence[Receipt]:
        rounds = 0
        while rounds < _ROUNDS:
            try:
                return enqueue([alert for line in self._pending for alert in line.alerts])
            except PastDeadline as late:
                # Fewer lines each time, so this ends; their number says nothing of tenants.
                self._pending = self._without_late(late)
            except NotFound:
                rounds += 1
                # A tenant or mailbox was removed since we looked: its lines are bad now.
                self._routes = self._read_routes()
                self._pending = [line for line in self._pending if self._still_good(line)]
        raise StoreUnavailable("tenants change faster than alerts can be enqueued")

    def _count(self, receipts: Sequence[Receipt]) -> None:
        created = sum(receipt.created for receipt in receipts)
        self.tally.enqueued += created
        self.tally.repeated += len(receipts) - created
        self.tally.different += sum(not receipt.same_content for receipt in receipts)

    def _without_late(self, refused: PastDeadline) -> list[Line]:
        """Refuse the lines whose deadlines are past; keep the others."""
        late, kept, position = set(refused.positions), list[Line](), 0
        for line in self._pending:
            places = range(position, position + len(line.alerts))
            position += len(line.alerts)
            if late.isdisjoint(places):
                kept.append(line)
            else:
                self.tally.alerts -= len(line.alerts)
                self._refuse(line, InvalidAlert(refused.field, refused.said))
        return kept

    def _still_good(self, line: Line) -> bool:
        error = self._unroutable(line)
        if error is not None:
            self.tally.alerts -= len(line.alerts)
            self._refuse(line, error)
        return error is None

    def _refuse(self, line: Line, error: InvalidAlert) -> None:
        self.tally.bad += 1
        self._on_bad(BadLine(line.number, error.field, error.reason))

    def _late(self, line: Line) -> InvalidAlert | None:
        """
        Where lines are only checked: look at their deadlines, which else ``enqueue`` does.

        Not where an idempotency key may show that it was accepted in time.
        """
        if self._enqueue is not None or self._now is None:
            return None
        for alert in line.alerts:
            if alert.expires_at is None or alert.idempotency_key is not None:
                continue
            now = self._now()
            if alert.expires_at <= now:
                return InvalidAlert("expires_at", past(alert.expires_at, now))
        return None

    def _unroutable(self, line: Line) -> InvalidAlert | None:
        for alert in line.alerts:
            try:
                with_recipients(alert, self._routes.find(alert.tenant, alert.mailbox))
            except InvalidAlert as error:
                return error
            except NotFound as error:
                return InvalidAlert("mailbox" if alert.mailbox else "tenant", str(error))
        return None


def _octets(alert: AlertEmail) -> int:
    return (
        len(alert.text or "")
        + len(alert.html or "")
        + sum(len(attachment.content) for attachment in alert.attachments)
    )
