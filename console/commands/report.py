"""The report: what became of everything, in all and by tenant."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from console.context import opened
from console.options import Since, Tenant
from console.output import Json, counted, out, print_json, print_table
from models.database import read
from models.reports import TOTAL, Figures, Report
from models.reports import report as report_on
from workers.reasons import meaning_of

_SECOND_MS = 1_000
_MINUTE_MS = 60 * _SECOND_MS
_HOUR_MS = 60 * _MINUTE_MS


class Format(StrEnum):
    """How a report is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def report(
    tenant: Tenant = None,
    since: Since = None,
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TABLE,
    as_json: Json = False,
) -> None:
    """
    Report what was accepted, waits, died and expired, and how long it took.

    The last row of the table and of CSV is called "in all"; in JSON it is under "total".
    """
    if as_json and form is Format.CSV:
        raise typer.BadParameter("excludes --format csv", param_hint="--json")
    with opened() as context, read(context.engine) as conn:
        found = report_on(conn, since=since, tenant=tenant)
    if as_json or form is Format.JSON:
        print_json({**found.as_json(), "since": found.since})
    elif form is Format.CSV:
        csv.writer(sys.stdout, lineterminator="\n").writerows(found.csv_rows())
    else:
        _print(found, tenant)


def _print(found: Report, tenant: str | None) -> None:
    if not found.total.enqueued:
        since = "" if found.since is None else " since then"
        out.print(Text(f"Nothing was enqueued{since}; `alertpost send --help` says how."))
        return
    rows = list(_rows(found))
    print_table(
        _STATES,
        [
            (
                name, f.enqueued, f.accepted, f.waiting, f.dead, f.expired, f.cancelled, f.retried,
                f.uncertain, f.recipients_refused,
            )
            for name, f in rows
        ],
        title="Deliveries",
        right=_STATES[1:],
        alike=(_REFUSED,),
        spare=(_REFUSED,),
    )  # fmt: skip
    out.print()
    print_table(
        _TIMES,
        [(name, *map(_span, (f.p50_ms, f.p95_ms, f.p99_ms, f.max_ms))) for name, f in rows],
        title="From enqueued to accepted",
        right=_TIMES[1:],
    )
    if found.total.reasons:
        out.print()
        print_table(
            ("Times", "Reason", "What it means"),
            [(n, rule, _meaning(rule)) for rule, n in found.total.reasons.items()],
            title="Why tries failed",
            right=("Times",),
        )
    if found.total.recipients_refused:
        out.print()
        out.print(Text(_refused(found, tenant)))
    if found.suppressed:
        addresses = counted(found.suppressed, "address is", "addresses are")
        out.print()
        out.print(Text(f"{addresses} not used again: `alertpost suppressions list`."))


_REFUSED = "Recipients refused"
_STATES = (
    "Tenant", "Enqueued", "Accepted", "Waiting", "Dead", "Expired", "Cancelled", "Retried",
    "Uncertain", _REFUSED,
)  # fmt: skip
_TIMES = ("Tenant", "p50", "p95", "p99", "max")


def _rows(found: Report) -> Iterator[tuple[str, Figures]]:
    yield from found.tenants.items()
    yield TOTAL, found.total


def _refused(found: Report, tenant: str | None) -> str:
    """Say how many did not get a mail that counts as accepted, and which mails those are."""
    command = "alertpost deliveries list --refused"
    if tenant is not None:
        command += f" --tenant {tenant}"
    if found.since is not None:
        command += f" --since {found.since:%Y-%m-%dT%H:%M:%SZ}"
    recipients = counted(found.total.recipients_refused, "recipient was", "recipients were")
    mails = counted(found.total.partly_accepted, "accepted mail", "accepted mails")
    return f"{recipients} refused in {mails}: `{command}`."


def _meaning(rule: str) -> str:
    meaning = meaning_of(rule)
    return "" if meaning is None else meaning.meaning


def _span(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "–"
    if milliseconds < _SECOND_MS:
        return f"{milliseconds} ms"
    for length, unit in ((_HOUR_MS, "h"), (_MINUTE_MS, "min")):
        if milliseconds >= length:
            return f"{milliseconds / length:.1f} {unit}"
    return f"{milliseconds / _SECOND_MS:.1f} s"
