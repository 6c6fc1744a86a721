"""Many alerts at once, as JSON lines from a file or a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from console.context import Context, opened
from console.interrupts import Interrupts
from console.line_import import CHUNK, BadLine, Enqueue, LineImport, Tally
from console.line_source import LineSource
from console.output import Json, complain, counted, err, out, print_json
from console.waking import tell_if_nobody_sends
from models import database
from models.database import read
from models.errors import AlertpostError
from models.routes import Routes, routes
from producers.alert_lines import Line, Reader, alertmanager_reader, read_alert, read_lines

_EXIT_BAD = 1
_EXIT_INTERRUPTED = 130
_LINES_A_LOOK = 50

Advance = Callable[[int], None]


class Format(StrEnum):
    """What a line holds."""

    ALERTS = "alerts"
    """One alert e-mail."""
    ALERTMANAGER = "alertmanager"
    """One webhook body of Prometheus Alertmanager, version 4."""


def enqueue(
    file: Annotated[
        str, typer.Argument(metavar="FILE|-", help="JSON lines; - is standard input.")
    ],
    *,
    form: Annotated[Format, typer.Option("--format", help="What a line holds.")] = Format.ALERTS,
    strict: Annotated[
        bool, typer.Option("--strict", help="Enqueue nothing if any line is bad.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the lines.")] = False,
    tenant_label: Annotated[
        str, typer.Option(metavar="LABEL", help="Alertmanager: the label that names the tenant.")
    ] = "tenant",
    default_tenant: Annotated[
        str | None, typer.Option(metavar="SLUG", help="Alertmanager: whose alerts without it are.")
    ] = None,
    chunk: Annotated[
        int, typer.Option(metavar="N", min=1, max=100_000, help="Alerts a transaction, at most.")
    ] = CHUNK,
    as_json: Json = False,
) -> None:  # fmt: skip
    """
    Enqueue many alerts from JSON lines.

    Bad lines are reported with number and reason, the others go in; --json lists them under
    "bad_lines". Lines with idempotency keys can be enqueued again without harm.
    """
    with LineSource.open(file).closing() as opened_source, opened() as context:
        source = opened_source.rewindable() if strict else opened_source
        with source.closing():
            reader, accept = _of_format(context, form, tenant_label, default_tenant)
            job = _Job(context, source, reader, chunk)
            if strict or dry_run:
                tally = job.run(None)
                if dry_run or tally.bad:
                    _tell(job, tally, done=False, as_json=as_json)
                    raise typer.Exit(_EXIT_BAD if tally.bad else 0)
                source.stream.seek(job.start)
            tally = job.run(accept)
            _tell(job, tally, done=True, as_json=as_json)
            if tally.enqueued:
                tell_if_nobody_sends(context)
    if tally.bad:
        raise typer.Exit(_EXIT_BAD)


def _of_format(
    context: Context, form: Format, tenant_label: str, default_tenant: str | None
) -> tuple[Reader, Enqueue]:
    producer = context.producer
    if form is Format.ALERTS:
        return read_alert, producer.enqueue_many
    reader = alertmanager_reader(
        producer.recipients(), tenant_label=tenant_label, default_tenant=default_tenant
    )
    return reader, producer.enqueue_notifications


class _Job:
    """One source, to be read once or twice."""

    def __init__(self, context: Context, source: LineSource, reader: Reader, chunk: int) -> None:
        self._context = context
        self.source = source
        self._reader = reader
        self._chunk = chunk
        self._unread = 0
        self._clock: tuple[datetime, float] | None = None
        self.bad_lines: list[BadLine] = []
        self.start = 0 if source.size is None else source.stream.tell()

    def run(self, accept: Enqueue | None) -> Tally:
        """Read all lines and enqueue, or with None only check, their alerts."""
        self.bad_lines.clear()
        with (
            Interrupts().watched() as interrupts,
            _progress(self.source, "checking" if accept is None else "enqueuing") as advance,
        ):
            work = LineImport(
                accept,
                self._routes,
                on_bad=self._tell_bad,
                whole=interrupts.shielded,
                now=self._now,
                chunk=self._chunk,
            )
            self.source.before_waiting = work.commit
            try:
                tally = work.take_all(self._lines(advance))
            except KeyboardInterrupt:
                if accept is None:
                    complain("stopped while checking; nothing was enqueued")
                else:
                    _complain_of_rest("stopped", work.tally)
                raise typer.Exit(_EXIT_INTERRUPTED) from None
            except AlertpostError:
                if accept is not None:
                    _complain_of_rest("not all could be enqueued", work.tally)
                raise
        if tally.lines == self._unread > 0:
            complain("no line could be read: each must hold one whole JSON object, in UTF-8")
        return tally

    def _lines(self, advance: Advance) -> Iterator[Line]:
        for count, line in enumerate(read_lines(self.source.stream, self._reader)):
            yield line
            if count % _LINES_A_LOOK == 0:
                advance(line.number)

    def _routes(self) -> Routes:
        with read(self._context.engine) as conn:
            return routes(conn)

    def _now(self) -> datetime:
        if self._clock is None:
            with read(self._context.engine) as conn:
                self._clock = database.now(conn), time.monotonic()
        then, at = self._clock
        return then + timedelta(seconds=time.monotonic() - at)

    def _tell_bad(self, bad: BadLine) -> None:
        about = "" if bad.field == "line" else f"{bad.field}: "
        err.print(Text(f"{self.source.name}: line {bad.number}: {about}{bad.reason}"))
        self.bad_lines.append(bad)
        self._unread += bad.field in {"line", "body"}


@contextmanager
def _progress(source: LineSource, doing: str) -> Iterator[Advance]:
    """Show how far it is: by octets of a file, by lines of a stream; nothing off a terminal."""
    if not err.is_terminal:
        yield lambda _lines: None
        return
    by_lines = source.size is None
    columns = (
        (TextColumn("{task.description}"), TextColumn("{task.completed} lines"))
        if by_lines
        else (
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
        )
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(doing, total=source.size)

        def advance(lines: int) -> None:
            progress.update(task, completed=lines if by_lines else source.stream.tell())

        yield advance


def _complain_of_rest(what: str, tally: Tally) -> None:
    committed = tally.enqueued + tally.repeated
    if not committed:
        complain(f"{what}: nothing was committed")
        return
    complain(
        f"{what}: {committed} alerts were committed ({tally.repeated} of them repetitions), the "
        "rest was not. Run it again: what has an idempotency key goes in once; those of the first "
        f"{committed} without one would go in twice"
    )


def _tell(job: _Job, tally: Tally, *, done: bool, as_json: bool) -> None:
    if as_json:
        told = [asdict(bad) for bad in job.bad_lines]
        print_json({**asdict(tally), "committed": done, "bad_lines": told})
        return
    if not tally.lines:
        out.print(Text(f"{job.source.name} is empty: there was nothing to enqueue."))
        return
    lines = counted(tally.lines, "line", "lines")
    bad = f", {tally.bad} of them bad" if tally.bad else ""
    if done:
        out.print(
            Text(
                f"{lines}{bad}: {counted(tally.enqueued, 'alert', 'alerts')} enqueued, "
                f"{tally.repeated} recognised as repetitions"
            )
        )
    elif tally.bad:
        out.print(Text(f"{lines}{bad}: nothing was enqueued"))
    else:
        alerts = counted(tally.alerts, "alert", "alerts")
        out.print(Text(f"{lines} with {alerts}, all good; nothing was enqueued"))
    if tally.different:
        complain(
            f"{tally.different} of the repetitions have another content than the first alert "
            "under their key; they were not taken"
        )
