"""``alertpost deliveries list``: alone in its file, so that it loads no more than it uses."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text

from console.context import opened
from console.names import some_of
from console.options import Limit, Mailbox, SeverityOption, Since, Tenant, Until
from console.output import Json, out, print_json, print_table
from models import database, deliveries
from models.database import read
from models.deliveries import DeliveryFilter, DeliveryRow
from models.lifecycle import State

app = typer.Typer(no_args_is_help=True, help="What became of alerts, one by one.")

_LONGEST_SUBJECT = 60

AlertId = Annotated[str | None, typer.Option(metavar="ID", help="Only this alert's.")]
Recipient = Annotated[
    str | None,
    typer.Option("--to", metavar="ADDRESS", help="Only to this address, or a part of one."),
]
Subject = Annotated[str | None, typer.Option(metavar="TEXT", help="Only with this in the subject.")]
Reason = Annotated[
    str | None, typer.Option(metavar="RULE", help="Only what waits, died or expired for this.")
]


Refused = Annotated[
    bool,
    typer.Option("--refused", help="Only accepted mails that some recipients were refused."),
]


@app.command("list")
def list_(
    *,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    tenant: Tenant = None,
    mailbox: Mailbox = None,
    severity: SeverityOption = None,
    to: Recipient = None,
    subject: Subject = None,
    reason: Reason = None,
    refused: Refused = False,
    since: Since = None,
    until: Until = None,
    alert_id: AlertId = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List deliveries, the latest first."""
    if refused and state not in {None, State.ACCEPTED}:
        raise typer.BadParameter(f"excludes --state {state}", param_hint="--refused")
    wanted = DeliveryFilter(
        state=state, tenant=tenant, mailbox=mailbox, severity=severity, since=since, until=until,
        alert_id=alert_id, recipient=to, subject=subject, reason=reason, refused=refused,
    )  # fmt: skip
    with opened() as context, read(context.engine) as conn:
        found = deliveries.list_deliveries(conn, wanted, limit=limit)
        now = database.now(conn)
    if as_json:
        print_json([{**asdict(row), "severity": row.severity.label} for row in found])
        return
    # What is asked for stands instead of what is known.
    third, of = ("Refused", _refused_of) if refused else ("State", _state_of)
    print_table(
        ("Id", "Age", third, "Severity", "Tenant", "Subject"),
        [_cells(row, now, of(row)) for row in found],
        right=("Age",),
        alike=("Tenant",),
        spare=("Tenant", "Severity", "Age"),
        empty="No delivery matches; `alertpost send --help` and `alertpost enqueue --help` "
        "say how to make one."
        if wanted == DeliveryFilter()
        else "No delivery matches; leave a filter out to see more.",
    )
    if len(found) == limit:
        out.print(Text(f"The latest {limit}; --limit shows more."))


def _state_of(row: DeliveryRow) -> str:
    return row.state


def _refused_of(row: DeliveryRow) -> str:
    return f"{len(row.refused)} of {len(row.recipients)}: {some_of(sorted(row.refused))}"


def _cells(row: DeliveryRow, now: datetime, third: str) -> list[object]:
    subject = row.subject
    if len(subject) > _LONGEST_SUBJECT:
        subject = subject[: _LONGEST_SUBJECT - 1] + "…"
    age = _age((now - row.enqueued_at).total_seconds())
    return [row.id, age, third, row.severity.label, row.tenant, subject]


def _age(seconds: float) -> str:
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
