"""``--help`` without the types by which the code reads options."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup


class PlainHelp(TyperGroup):
    """The whole command line; a switch shows no type, since it takes no value."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _plain(self)


def _plain(command: Any) -> None:
    # Asked for here, `--help` itself is made now and kept by the command.
    for option in command.get_params(typer.Context(command)):
        if getattr(option, "is_flag", False):
            option.metavar = ""
    for inner in getattr(command, "commands", {}).values():
        _plain(inner)
