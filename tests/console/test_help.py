"""What ``--help`` says of options."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from console.cli import command_line
from console.commands import COMMANDS


def paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths(inner, (*path, name))


@pytest.mark.parametrize("path", list(paths(typer.main.get_command(command_line()))), ids=" ".join)
def test_values_have_names_for_people(path: tuple[str, ...]) -> None:
    """No type by which the code reads an option is shown, such as ``<int range>``."""
    said = CliRunner().invoke(command_line(), [*path, "--help"], env={"COLUMNS": "200"})

    assert said.exit_code == 0
    assert not re.findall(r"--.*<(?:bool|str|int|float|path|file)\b[^>]*>", said.output)


def test_one_command_loads_no_other() -> None:
    """Who lists deliveries does not wait for the box, the way to Entra and Alembic to load."""
    code = (
        "import sys; from console.cli import command_line; command_line(['deliveries', 'list']);"
        "print({'sandbox.server', 'msal', 'alembic'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"


def test_every_command_is_offered() -> None:
    """Whichever is loaded alone is the one of the whole command line."""
    whole = typer.main.get_command(command_line()).commands
    assert set(whole) == set(COMMANDS)
    for name in COMMANDS:
        alone = typer.main.get_command(command_line([name])).commands
        assert list(alone) == [name]
        assert alone[name].help == whole[name].help


@pytest.mark.parametrize("path", [(), ("keys",), ("keys", "rotate"), ("report",)], ids=" ".join)
def test_help_has_a_short_name(path: tuple[str, ...]) -> None:
    """What a usage error recommends, ``-h``, is there."""
    said = CliRunner().invoke(command_line(path), [*path, "-h"], env={"COLUMNS": "200"})

    assert said.exit_code == 0
    assert "Usage:" in said.output
    assert "-h" in said.output
