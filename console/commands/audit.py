"""The audit trail: who did what, when and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from console.context import opened
from console.options import Limit, Since, Until
from console.output import Json, counted, print_json, print_table
from models import audit
from models.audit import Action, AuditFilter, Recorded
from models.database import read

app = typer.Typer(no_args_is_help=True, help="Who did what, when and why.")


@app.command("list")
def list_(
    *,
    tenant: Annotated[
        str | None,
        typer.Option(metavar="SLUG", help="What was done to it, its mailboxes, its deliveries."),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--who", metavar="NAME", help="Only by whom this is part of.")
    ] = None,
    what: Annotated[
        str | None,
        typer.Option("--what", metavar="ACTION", help="Such as replay, or mailbox for all that "
                     "begins so."),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="NAME", help="Only on this slug, address, name or id."),
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:  # fmt: skip
    """
    List what was done, the latest first.

    What one command did to many deliveries is one line; --json lists each.
    """
    wanted = AuditFilter(tenant=tenant, actor=by, action=what, subject=on, since=since, until=until)
    with opened() as context, read(context.engine) as conn:
        found = audit.find(conn, wanted, limit=limit) if as_json else []
        actions = [] if as_json else audit.actions(conn, wanted, limit=limit)
    if as_json:
        print_json([_as_json(row) for row in found])
        return
    print_table(
        ("When", "Who", "What", "On", "Why"),
        [
            (
                action.first.at,
                action.first.entry.actor,
                action.first.entry.action,
                _concerned(action),
                action.first.entry.reason,
            )
            for action in actions
        ],
        empty="Nothing was recorded."
        if wanted == AuditFilter()
        else "Nothing was recorded that matches; leave a filter out to see more.",
    )


def _as_json(row: Recorded) -> dict[str, object]:
    return {"id": row.id, "at": row.at, **asdict(row.entry)}


def _concerned(action: Action) -> str:
    entry = action.first.entry
    if action.size > 1:
        return counted(action.size)
    return f"{entry.subject_kind} {entry.subject}"


@app.callback()
def _group() -> None:
    """Keep `list` a command of its own: a group of one would swallow its name."""
