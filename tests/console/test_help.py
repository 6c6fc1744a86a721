"""What ``--help`` says of options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from console.cli import app


def paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from paths(inner, (*path, name))


@pytest.mark.parametrize("path", list(paths(typer.main.get_command(app))), ids=" ".join)
def test_values_have_names_for_people(path: tuple[str, ...]) -> None:
    """No type by which the code reads an option is shown, such as ``<int range>``."""
    said = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200"})

    assert said.exit_code == 0
    assert not re.findall(r"--.*<(?:bool|str|int|float|path|file)\b[^>]*>", said.output)
