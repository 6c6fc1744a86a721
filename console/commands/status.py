"""``alertpost status``: the whole on one screen, and an exit code for monitoring."""

from __future__ import annotations

from shlex import quote

import typer
from rich.text import Text

from console import live
from console.attention import NEEDS_A_PERSON, concerns
from console.context import opened
from console.installation import named
from console.output import Json, cell, out, print_json
from console.status_json import status_json
from console.status_view import print_status
from models.accounts import accounts
from models.database import read
from models.operator_mailbox import operator_mailbox
from models.overview import Overview, overview

_FIRST_TENANT = (
    "alertpost tenants add SLUG --directory-id ID --client-id ID --client-secret-file FILE "
    "--notify ADDRESS"
)


def status(as_json: Json = False) -> None:
    """
    Show who can send, what waits and why, what died, what ends soon, and whether workers live.

    Exit code 7: something needs a person. It is parked mailboxes, mail that waits at a mailbox
    which is not connected, dead letters, a secret, certificate or grant that has ended, will
    within 7 days, or is refused by Entra while no other one works, mail that could go while no
    worker lives, Redis or SQL refusing what work needs of them, or warnings that cannot be mailed.
    """
    with opened() as context:
        with read(context.engine) as conn:
            seen = overview(conn, context.settings.pacing.day_limits)
            operator = operator_mailbox(conn, context.settings)
            who = accounts(conn, [lane.mailbox_id for lane in seen.lanes])
        settings = context.settings
        said = live.look(settings, who)
    needed = concerns(seen, said, operator)
    first = first_step(seen)
    if as_json:
        print_json(status_json(seen, said, needed, first, operator))
        raise typer.Exit(NEEDS_A_PERSON if needed else 0)
    out.print(Text(named(settings), "dim"))
    if first == _FIRST_TENANT:
        out.print(Text(f"Nothing is set up yet. A customer comes first: `{first}`."))
        for concern in needed:
            out.print(Text(f"  ! {cell(concern.text)}"))
    else:
        print_status(seen, said, needed, first, operator)
    if needed:
        raise typer.Exit(NEEDS_A_PERSON)


def first_step(seen: Overview) -> str | None:
    """Name the command that an installation needs next; None once some mailbox can send."""
    who = seen.standings
    if not who.mailboxes and not who.tenants_empty:
        return _FIRST_TENANT
    if not who.mailboxes:
        return "alertpost mailboxes add TENANT ADDRESS"
    unconnected = [held for held in who.held if held.standing == "not connected"]
    if sum(len(held.mailboxes) for held in unconnected) == who.mailboxes:
        return f"alertpost mailboxes connect {quote(unconnected[0].mailboxes[0])}"
    return None
