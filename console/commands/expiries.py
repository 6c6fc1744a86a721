"""``alertpost expiries``: secrets, certificates and grants that end, before they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated

import typer
from rich.text import Text

from console.attention import NEEDS_A_PERSON, expiry_text
from console.context import opened
from console.expiry_view import print_expiries
from console.output import Json, counted, out, print_json
from models import database
from models.database import read
from models.expiries import Expiry, Level, credential_rows
from models.expiries import expiries as expiries_of


def expiries(
    within: Annotated[
        int, typer.Option(metavar="DAYS", min=0, max=36_500, help="What ends within so many days.")
    ] = 30,
    as_json: Json = False,
) -> None:
    """
    List client secrets, certificates and grants that end soon, with who needs them.

    Those that have ended are listed too, and secrets of which nobody said when they end. Exit
    code 7: something that mailboxes need has ended, will within DAYS, or is refused by Entra while
    no other one works.
    """
    with opened() as context, read(context.engine) as conn:
        now = database.now(conn)
        known = expiries_of(credential_rows(conn), now)
    span = timedelta(days=within)
    shown = [one for one in known if _is_shown(one, now, span)]
    if as_json:
        print_json([asdict(one) for one in shown])
    elif shown:
        print_expiries(shown)
    else:
        _print_none(known, within)
    if any(one.is_due(now, within=span) for one in shown):
        raise typer.Exit(NEEDS_A_PERSON)


def _is_shown(one: Expiry, now: datetime, span: timedelta) -> bool:
    ends = one.ends_at is None or one.level is Level.ENDED or one.ends_at - now <= span
    # What Entra refuses is told whatever the date says; a newer one before the old one ends.
    return ends or bool(one.note) or bool(one.refused)


def _print_none(known: Sequence[Expiry], within: int) -> None:
    text = f"Nothing ends within {counted(within, 'day', 'days')}"
    first = f"; first {expiry_text(known[0])}" if known else ", as nothing is set up yet"
    out.print(Text(f"{text}{first}."))
