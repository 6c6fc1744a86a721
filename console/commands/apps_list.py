"""``alertpost apps list``: alone in its file, so that it need not wait for the ways to Entra."""

from __future__ import annotations

import typer

from console.context import opened
from console.credential_view import credential_text
from console.output import Json, jsonable, print_json, print_table
from models import app_registrations
from models.database import read

app = typer.Typer(help="App registrations that several tenants share.", no_args_is_help=True)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List app registrations, with when their secrets end."""
    with opened() as context, read(context.engine) as conn:
        entries = app_registrations.list_apps(conn)
    if as_json:
        print_json([jsonable(entry) for entry in entries])
        return
    print_table(
        ("app", "client id", "credential", "tenants"),
        [(e.name, e.client_id, credential_text(e), e.tenants) for e in entries],
        right=("tenants",),
        empty="There are none yet: `alertpost tenants add --help` says how to make one for a "
        "tenant, "
        "`alertpost apps add --help` one to share.",
    )
