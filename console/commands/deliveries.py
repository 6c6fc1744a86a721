"""Looking at deliveries, and taking them back."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text

from console import delivery_view
from console.actor import As, actor
from console.asking import Yes, ask
from console.context import opened
from console.options import Ids, Limit, Mailbox, SeverityOption, Since, Tenant, Why
from console.output import Json, complain, out, print_json, print_table
from console.verbs_cancel import cancel as cancel_deliveries
from models import database, deliveries
from models.database import read, write
from models.deliveries import DeliveryFilter, DeliveryRow
from models.lifecycle import State

app = typer.Typer(no_args_is_help=True, help="What became of alerts, one by one.")

_EXIT_NOT_ALL = 4
_LONGEST_SUBJECT = 60


@app.command("list")
def list_(
    *,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    tenant: Tenant = None,
    mailbox: Mailbox = None,
    severity: SeverityOption = None,
    since: Since = None,
    alert_id: Annotated[str | None, typer.Option(metavar="ID", help="Only this alert's.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List deliveries, the latest first."""
    wanted = DeliveryFilter(
        state=state, tenant=tenant, mailbox=mailbox, severity=severity, since=since,
        alert_id=alert_id,
    )  # fmt: skip
    with opened() as context, read(context.engine) as conn:
        found = deliveries.list_deliveries(conn, wanted, limit=limit)
        now = database.now(conn)
    if as_json:
        print_json([{**asdict(row), "severity": row.severity.label} for row in found])
        return
    print_table(
        ("Id", "Age", "State", "Severity", "Tenant", "Subject"),
        [_cells(row, now) for row in found],
        right=("Age",),
        empty="No delivery matches; `alertpost send` or `alertpost enqueue` makes one."
        if wanted == DeliveryFilter()
        else "No delivery matches; leave a filter out to see more.",
    )
    if len(found) == limit:
        out.print(Text(f"The latest {limit}; --limit shows more."))


@app.command("show")
def show(
    delivery: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning.")],
    as_json: Json = False,
) -> None:
    """Tell why a delivery is where it is, and what was tried."""
    with opened() as context, read(context.engine) as conn:
        shown, why = delivery_view.gather(conn, delivery)
    if as_json:
        print_json(delivery_view.as_json(shown, why))
    else:
        delivery_view.print_delivery(shown, why)


def cancel(
    ids: Ids, why: Why = None, yes: Yes = False, who: As = None, as_json: Json = False
) -> None:
    """Take deliveries back that wait in their lane."""
    name = actor(who)
    with opened() as context:
        with read(context.engine) as conn:
            keys = list(dict.fromkeys(deliveries.find(conn, text) for text in ids))
        if len(keys) > 1:
            ask(f"{len(keys)} deliveries would be cancelled.", yes=yes)
        with write(context.engine) as conn:
            done = cancel_deliveries(conn, keys, actor=name, reason=why)
    for key, sentence in done.kept.items():
        complain(f"{key} cannot be cancelled: {sentence}")
    if as_json:
        print_json({"cancelled": done.cancelled, "kept": {str(k): v for k, v in done.kept.items()}})
    else:
        out.print(Text(f"{len(done.cancelled)} cancelled"))
    if done.kept:
        raise typer.Exit(_EXIT_NOT_ALL)


def _cells(row: DeliveryRow, now: datetime) -> list[object]:
    subject = row.subject
    if len(subject) > _LONGEST_SUBJECT:
        subject = subject[: _LONGEST_SUBJECT - 1] + "…"
    age = _age((now - row.enqueued_at).total_seconds())
    return [row.id, age, row.state, row.severity.label, row.tenant, subject]


def _age(seconds: float) -> str:
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
