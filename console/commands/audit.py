"""The audit trail: who did what, when and why."""

from __future__ import annotations

import typer

from console.context import opened
from console.options import Limit, Since
from console.output import Json, print_json, print_table
from models import audit
from models.database import read

app = typer.Typer(no_args_is_help=True, help="Who did what, when and why.")


@app.command("list")
def list_(since: Since = None, limit: Limit = 100, as_json: Json = False) -> None:
    """List what was done, the latest first."""
    with opened() as context, read(context.engine) as conn:
        found = audit.entries(conn, since=since, limit=limit)
    if as_json:
        print_json(
            [
                {
                    "id": row.id,
                    "at": row.at,
                    "actor": row.entry.actor,
                    "action": row.entry.action,
                    "subject_kind": row.entry.subject_kind,
                    "subject": row.entry.subject,
                    "reason": row.entry.reason,
                    "detail": row.entry.detail,
                }
                for row in found
            ]
        )
        return
    print_table(
        ("When", "Who", "What", "On", "Why"),
        [
            (
                row.at,
                row.entry.actor,
                row.entry.action,
                f"{row.entry.subject_kind} {row.entry.subject}",
                row.entry.reason,
            )
            for row in found
        ],
        empty="Nothing was recorded."
        if since is None
        else "Nothing was recorded since; without --since all is listed.",
    )


@app.callback()
def _group() -> None:
    """Keep `list` a command of its own: a group of one would swallow its name."""
