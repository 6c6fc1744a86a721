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
from console.names import some_of
from console.options import Limit, Mailbox, SeverityOption, Since, Tenant, Until, Why
from console.output import Json, complain, counted, out, print_json, print_table, reporting
from console.verbs_cancel import cancel as cancel_deliveries
from console.verbs_cancel import cancel_waiting, waiting
from models import database, deliveries
from models.database import read, write
from models.deliveries import DeliveryFilter, DeliveryRow
from models.lifecycle import State

app = typer.Typer(no_args_is_help=True, help="What became of alerts, one by one.")

_EXIT_NOT_ALL = 4
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
        whole = delivery_view.gather(conn, delivery)
    if as_json:
        print_json(delivery_view.as_json(whole))
    else:
        delivery_view.print_delivery(whole)


def cancel(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids, or beginnings of them.")
    ] = None,
    *,
    tenant: Tenant = None,
    mailbox: Mailbox = None,
    severity: SeverityOption = None,
    to: Recipient = None,
    subject: Subject = None,
    since: Since = None,
    until: Until = None,
    alert_id: AlertId = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    why: Why = None,
    yes: Yes = False,
    who: As = None,
    as_json: Json = False,
) -> None:
    """
    Take deliveries back that wait in their lane: by id, or all that a filter matches.

    What comes in after the command was typed is left alone.
    """
    wanted = DeliveryFilter(
        tenant=tenant, mailbox=mailbox, severity=severity, since=since, until=until,
        alert_id=alert_id, recipient=to, subject=subject,
    )  # fmt: skip
    filtered = wanted != DeliveryFilter()
    if bool(ids) is filtered:
        raise typer.BadParameter(
            "ids and filters do not go together: use one of them"
            if ids
            else "give ids, or a filter such as --tenant, --mailbox or --alert-id",
            param_hint="ID",
        )
    if filtered:
        _cancel_waiting(wanted, why, dry_run=dry_run, yes=yes, name=actor(who), as_json=as_json)
    else:
        _cancel_each(ids or [], why, dry_run=dry_run, yes=yes, name=actor(who), as_json=as_json)


def _cancel_waiting(
    wanted: DeliveryFilter, why: str | None, *, dry_run: bool, yes: bool, name: str, as_json: bool
) -> None:
    with opened() as context:
        fixed, size = waiting(context.engine, wanted)
        done = 0
        if size and not dry_run:
            ask(f"{counted(size)} would be cancelled.", yes=yes)
            with reporting(size, "cancelled") as progress:
                done = cancel_waiting(
                    context.engine, fixed, actor=name, reason=why, progress=progress
                )
    if as_json:
        print_json({"matching": size, "cancelled": done, "dry_run": dry_run})
    elif not size:
        out.print(Text("Nothing that waits matches; `alertpost deliveries list --state queued`"
                       " shows what there is."))  # fmt: skip
    elif dry_run:
        out.print(Text(f"Dry run, nothing was changed; {counted(size)} would be cancelled."))
    else:
        gone = f"; {size - done:,} had left their lanes by then" if done < size else ""
        out.print(Text(f"{counted(done)} cancelled{gone}"))


def _cancel_each(
    ids: list[str], why: str | None, *, dry_run: bool, yes: bool, name: str, as_json: bool
) -> None:
    with opened() as context:
        with read(context.engine) as conn:
            keys = list(dict.fromkeys(deliveries.find(conn, text) for text in ids))
        if len(keys) > 1 and not dry_run:
            ask(f"{len(keys)} deliveries would be cancelled.", yes=yes)
        try:
            with write(context.engine) as conn:
                done = cancel_deliveries(conn, keys, actor=name, reason=why)
                if dry_run:
                    raise _Rehearsed
        except _Rehearsed:
            pass
    for key, sentence in done.kept.items():
        complain(f"{key} cannot be cancelled: {sentence}")
    if as_json:
        kept = {str(key): sentence for key, sentence in done.kept.items()}
        print_json({"cancelled": done.cancelled, "kept": kept, "dry_run": dry_run})
    elif dry_run:
        out.print(Text(f"Dry run, nothing was changed; {counted(len(done.cancelled))} would be "
                       "cancelled."))  # fmt: skip
    else:
        out.print(Text(f"{len(done.cancelled)} cancelled"))
    if done.kept:
        raise typer.Exit(_EXIT_NOT_ALL)


class _Rehearsed(Exception):  # noqa: N818 - no error: it rolls the transaction back
    pass


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
