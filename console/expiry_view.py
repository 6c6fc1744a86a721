"""Ends of secrets, certificates and grants, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from console.attention import expiry_text
from console.names import some_of
from console.output import cell, counted, out
from models.expiries import Expiry, Level

_STYLES = {
    Level.ENDED: "bold red",
    Level.REFUSED: "bold red",
    Level.DAY: "bold red",
    Level.WEEK: "bold yellow",
}


def print_expiries(shown: Sequence[Expiry]) -> None:
    """Print one block each: what ends, who needs it, what to do and how."""
    for one in shown:
        # How near the end of a spare one is says nothing: nothing depends on it.
        spare = one.state and not one.mailboxes and one.level is Level.LATER
        head = f"{'spare' if spare else one.level:>7}  {expiry_text(one).removeprefix('the ')}"
        out.print(Text(cell(head), _STYLES.get(one.level, "bold")))
        out.print(Text(f"         Needed by: {cell(needed_by(one))}"))
        if one.note:
            out.print(Text(f"         Note:      {cell(one.note)}"))
        out.print(Text(f"         Next:      {cell(one.next_step)}"))
        out.print(Text(f"         Command:   {cell(one.command)}"))


def needed_by(one: Expiry) -> str:
    """Say how many mailboxes need it, and which."""
    if not one.mailboxes:
        return f"no mailbox ({one.state})" if one.state else "no mailbox"
    tenants = counted(len(one.tenants), "tenant", "tenants")
    boxes = counted(len(one.mailboxes), "mailbox", "mailboxes")
    return f"{boxes} of {tenants}: {some_of(one.mailboxes)}"
