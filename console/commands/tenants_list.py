"""``alertpost tenants list``: alone in its file, so that it need not wait for the ways to Entra."""

from __future__ import annotations

import typer

from console.context import opened
from console.output import Json, jsonable, print_json, print_table
from models import tenants
from models.database import read
from models.tenants import TenantEntry

app = typer.Typer(help="Customer organisations.", no_args_is_help=True)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List tenants, with how their mailboxes fare; those that need somebody come first."""
    with opened() as context, read(context.engine) as conn:
        entries = sorted(tenants.list_tenants(conn), key=trouble)
    if as_json:
        print_json([jsonable(entry) for entry in entries])
        return
    print_table(
        ("tenant", "name", "app", "cloud", "mailboxes", "connected", "parked", "waiting"),
        [
            (e.slug, e.name, e.app, e.cloud, e.mailboxes, e.connected, e.parked, e.waiting)
            for e in entries
        ],
        right=("mailboxes", "connected", "parked", "waiting"),
        alike=("name", "app", "cloud"),
        spare=("app", "name", "cloud", "connected"),
        empty="There are no tenants yet. `alertpost tenants add --help` says what one needs.",
    )


def trouble(entry: TenantEntry) -> tuple[int, int, int, str]:
    """Order by what is wrong: parked mailboxes, mail before one without consent, no consent."""
    missing = entry.mailboxes - entry.connected
    return -entry.parked, -entry.waiting if missing else 0, -missing, entry.slug
