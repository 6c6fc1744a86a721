"""``alertpost mailboxes list``: alone in its file, so that it need not wait for ways to Entra."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from console.context import opened
from console.options import Tenant
from console.output import Json, cell, jsonable, out, print_json, print_table
from models import mailboxes
from models.database import read
from models.mailboxes import MailboxEntry

app = typer.Typer(help="Sender accounts.", no_args_is_help=True)


class Standing(StrEnum):
    """How a mailbox stands, as it is typed."""

    READY = "ready"
    PARKED = "parked"
    PAUSED = "paused"
    HELD = "held"
    NOT_CONNECTED = "not-connected"


@app.command("list")
def list_(
    tenant: Tenant = None,
    standing: Annotated[
        list[Standing] | None,
        typer.Option(
            "--standing", metavar="|".join(Standing), help="Only those that stand so; repeatable."
        ),
    ] = None,
    parked: Annotated[bool, typer.Option("--parked", help="Short for --standing parked.")] = False,
    as_json: Json = False,
) -> None:
    """List mailboxes, with what they wait for."""
    wanted = {one.value for one in standing or ()} | ({"parked"} if parked else set())
    with opened() as context, read(context.engine) as conn:
        entries = mailboxes.list_mailboxes(conn, tenant_slug=tenant)
    if wanted:
        entries = [entry for entry in entries if entry.standing.replace(" ", "-") in wanted]
    if as_json:
        print_json([jsonable(entry) for entry in entries])
        return
    print_table(
        ("mailbox", "tenant", "standing", "reason", "waiting", "dead"),
        [_cells(entry) for entry in entries],
        right=("waiting", "dead"),
        alike=("standing",) if wanted else (),
        # The tenant shows in the address, as a rule.
        spare=("tenant", "dead"),
        empty="No mailbox stands so."
        if wanted
        else "There are no mailboxes yet. `alertpost mailboxes add TENANT ADDRESS` adds one.",
    )
    if entries and out.is_terminal:
        out.print("* takes its tenant's alerts that name no mailbox", style="dim", markup=False)


def _reason(entry: MailboxEntry) -> str | None:
    if entry.standing == "held" and entry.held_until is not None:
        return f"{entry.held_reason} at {entry.held_by}, until {cell(entry.held_until)}"
    return entry.park_reason or (entry.pause_reason if entry.standing == "paused" else None)


def _cells(entry: MailboxEntry) -> tuple[object, ...]:
    return (
        f"{entry.address} *" if entry.is_default else entry.address,
        entry.tenant_slug,
        entry.standing,
        _reason(entry),
        entry.waiting,
        entry.dead,
    )
