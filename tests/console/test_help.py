"""What ``--help`` says of options."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
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


@pytest.mark.parametrize("columns", ["80", "60"])
@pytest.mark.parametrize("path", list(paths(typer.main.get_command(command_line()))), ids=" ".join)
def test_help_fits_a_narrow_terminal(path: tuple[str, ...], columns: str) -> None:
    """Names of options are whole, lines are no longer than the terminal, nothing is cut short."""
    command: Any = typer.main.get_command(command_line())
    for name in path:
        command = command.commands[name]
    said = CliRunner().invoke(command_line(), [*path, "--help"], env={"COLUMNS": columns}).output

    words = said.replace(",", " ").split()
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    for option in (name for parameter in shown for name in parameter.opts):
        if option.startswith("-"):
            assert option in words
    assert "…" not in said
    longest = max(said.split(), key=len)
    assert [line for line in said.splitlines() if len(line) > max(int(columns), len(longest))] == []


def test_sentences_are_reflowed() -> None:
    """A line ends where the terminal does, not where the source had room."""
    said = CliRunner().invoke(command_line(), ["up", "--help"], env={"COLUMNS": "60"}).output
    text = said.partition("Options:")[0]

    lines = [line for line in text.splitlines()[1:] if line.strip()]
    for line, following in itertools.pairwise(lines):
        first = following.split()[0]
        paragraph_ends = line.rstrip().endswith(".") and len(line) + 1 + len(first) <= 60
        assert paragraph_ends or len(line) + 1 + len(first) > 60, text


@pytest.mark.parametrize("words", ["--help", "--version"])
def test_what_needs_nothing_loads_nothing(words: str) -> None:
    """It says so in a tenth of the time of SQLModel: only Typer is there, and what it needs."""
    code = (
        "import atexit, sys; from console.entry import main;"
        "atexit.register(lambda: print(sorted({'sqlalchemy', 'pydantic', 'structlog', 'redis'}"
        " & set(sys.modules)), file=sys.stderr)); main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, words], capture_output=True, text=True, check=True, timeout=60
    )

    assert ran.stderr == "[]\n"
    assert ran.stdout.startswith(("Usage: alertpost", f"alertpost {version('alertpost')}"))
