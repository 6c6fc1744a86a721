"""``alertpost mailboxes consents`` and what belongs to it, without the ways to Entra."""

from __future__ import annotations

import typer

from console.commands import consent_links

app = typer.Typer(help="Sender accounts.", no_args_is_help=True)
consent_links.register(app)
