"""Who acts: the name under which the audit trail keeps what a command did."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from typing import Annotated

import typer

from models.errors import ConfigurationError

As = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="NAME", help="Who does this, for the audit trail; else your login."
    ),
]
"""The option of every command that leaves a trace."""

_DOOR = "cli"
_LONGEST = 100 - len(_DOOR) - 1  # what the column holds


def actor(given: str | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """
    Name who acts, such as ``cli:alice``.

    Args:
        given: What ``--as`` said.
        environment: Where SUDO_USER and USER are looked up; who used sudo is the one who acts.

    Raises:
        ConfigurationError: The name is empty, too long or not one line of plain text.
    """
    name = given if given is not None else _login(environment)
    name = name.strip()
    if not name or len(name) > _LONGEST or not name.isprintable():
        raise ConfigurationError(f"--as takes a name of 1 to {_LONGEST} characters in one line")
    return f"{_DOOR}:{name}"


def _login(environment: Mapping[str, str]) -> str:
    for variable in ("SUDO_USER", "USER"):
        if name := environment.get(variable, "").strip():
            return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user often has a number and no name.
        return f"uid-{os.getuid()}"
