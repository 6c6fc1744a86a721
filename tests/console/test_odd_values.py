"""Whatever is typed for whichever argument or option: a sentence of ours, and an end."""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer

from console import cli
from console.lazy_commands import LazyCommands
from models import files
from tests.console.cli_world import CliWorld, cli_world

NUMBERS = ("", "nan", "1" + "0" * 30, "1e400", "٣", "a\udcff")
TEXTS = (
    "a\udcff\x1b[2J", "x" * 100_000, "", "https://[::1", "9999-12-31", "{fifo}", "/dev/zero", ".."
)  # fmt: skip
SHARED, ENOUGH = TEXTS[:2], 3
"""For a name that several commands before had as well."""

RUN_ON = {"up", "worker", "sandbox", "consents serve", "demo", "mailboxes connect"}
"""Where nothing is refused they go on for ever, so only their numbers are odd here."""

GOOD = {
    "slug": "contoso",
    "tenant": "contoso",
    "address": "alerts@contoso.example",
    "addresses": "alerts@contoso.example",
    "directory_id": "11111111-1111-1111-1111-111111111111",
    "client_id": "22222222-2222-2222-2222-222222222222",
    "subject": "Disk full",
    "to": "ops@x.example",
    "text": "Only 1 % is left.",
}
INSIDE = re.compile(
    r"Traceback|surrogate|invalid literal|could not convert|Input should|validation error|pydantic"
    r"|sqlalchemy|sqlite3|psycopg|\wError\b|Errno|NoneType|codec|IPv6 URL|out of range|too large to"
)


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
    for name in inner or ():
        yield from leaves(inner[name], (*path, name))


def is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def lines(
    path: tuple[str, ...], command: Any, fifo: Path, tried: Counter[str]
) -> Iterator[list[str]]:
    """Yield the command with one odd value in each."""
    needed = {
        one.name: GOOD.get(one.name, "x")
        for one in command.params
        if one.required or is_argument(one) or (path, one.name) == (("send",), "text")
    }
    for odd in command.params:
        number = odd.type_descriptor.annotation in {int, float}
        if getattr(odd, "is_flag", False) or (" ".join(path) in RUN_ON and not number):
            continue
        tried[odd.name] += 1
        for value in NUMBERS if number else TEXTS if tried[odd.name] <= ENOUGH else SHARED:
            given = needed | {odd.name: value.format(fifo=fifo)}
            words = [*path]
            for one in command.params:
                if one.name in given and not is_argument(one):
                    words += [one.opts[0], given[one.name]]
            yield [*words, "--", *(given[one.name] for one in command.params if is_argument(one))]


@pytest.fixture
def world(
    sqlite_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[CliWorld]:
    """Cut off from every server, and with commands that are made once."""

    def nobody(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    monkeypatch.setattr(files, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(LazyCommands, "loaded", cache(LazyCommands.loaded))
    group = typer.main.get_command(cli.command_line())
    monkeypatch.setattr(cli, "command_line", lambda: group)
    monkeypatch.chdir(tmp_path)
    with cli_world(tmp_path / "var", sqlite_template, monkeypatch, capsys) as made:
        yield made


def test_each_argument_and_option_of_each_command(world: CliWorld, tmp_path: Path) -> None:
    """No text of the inside, no fault, no waiting; and what is said of 100 kB is not 100 kB."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    wrong = []
    tried: Counter[str] = Counter()
    for path, command in leaves(cli.command_line()):
        for words in lines(path, command, fifo, tried):
            said = world.run(*words)
            found = INSIDE.search(said.out + said.err)
            if said.code not in range(8) or found or len(said.err) > 5_000:
                wrong.append((" ".join(words)[:200], said.code, (said.out + said.err)[-300:]))

    assert wrong == []
