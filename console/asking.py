"""Asking before something happens to more than one thing."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from console.output import complain
from models.errors import ConfigurationError

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Force = Annotated[bool, typer.Option("--force", hidden=True, help="Means nothing any more.")]
"""Removals wanted it beside ``--yes`` once, and scripts still give it."""


def ask(question: str, *, yes: bool) -> None:
    """
    Go on only if somebody says yes.

    Args:
        question: What would happen, with its count.
        yes: ``--yes`` was given, so nobody is asked.

    Raises:
        ConfigurationError: There is nobody to ask.
        typer.Exit: The answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} No terminal to ask on: add --yes")
    # On standard error, so that what scripts read holds nothing but the answer.
    if not typer.confirm(question, err=True):
        complain("nothing was changed")
        raise typer.Exit(1)
