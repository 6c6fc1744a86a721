"""``--help`` without the types by which the code reads options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperGroup


class PlainHelp(TyperGroup):
    """The whole command line; a switch shows no type, since it takes no value."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        _plain(self, self.context_settings)


def _plain(command: Any, settings: Mapping[str, Any]) -> None:
    # Asked for here, `--help` itself is made now and kept by the command: under all of its names.
    for option in command.get_params(typer.Context(command, **settings)):
        if getattr(option, "is_flag", False):
            option.metavar = ""
    for inner in getattr(command, "commands", {}).values():
        _plain(inner, settings)
