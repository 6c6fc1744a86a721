"""What is printed is safe for a terminal, whoever wrote it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console import output
from models.lifecycle import State

CLEAR = "\x1b[2J"
TITLE = "\x9d0;owned\x9c"
REVERSED = "\u202egnp.exe"

Printer = Callable[[str], None]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("250 2.0.0 OK", "250 2.0.0 OK", id="a reply"),
        pytest.param("550 no\r\n550 really", "550 no\n550 really", id="lines"),
        pytest.param(f"a{CLEAR}b", r"a\x1b[2Jb", id="escape"),
        pytest.param(f"a{TITLE}b", r"a\x9d0;owned\x9cb", id="C1"),
        pytest.param("a\rb\bc\td\x7f", r"a\rb\x08c\td\x7f", id="C0"),
        pytest.param(REVERSED, r"\u202egnp.exe", id="direction"),
        pytest.param("a\ud800b", r"a\ud800b", id="half a pair"),
        pytest.param(
            "Größe\u00a0完了\u3000👩\u200d🔧", "Größe\u00a0完了\u3000👩\u200d🔧", id="scripts"
        ),
    ],
)
def test_controls_are_written_out(text: str, shown: str) -> None:
    """What drives a terminal is written out; text of every script stays as it is."""
    assert output.printable(text) == shown


@given(st.text())
def test_nothing_that_is_printed_drives_a_terminal(text: str) -> None:
    """However odd a text, no control is left but line feeds, and in a cell not even those."""
    controls = {letter for letter in output.printable(text) if unicodedata.category(letter) == "Cc"}

    assert controls <= {"\n"}
    assert "\n" not in output.cell(text)
    assert output.printable(output.printable(text)) == output.printable(text)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (True, "yes"),
        (State.DEAD, "dead"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02 03:04:05Z"),
        (["a\nb", CLEAR], r"a / b, \x1b[2J"),
        ({"a": "b\r\nc", "d\x07": 1}, r"a: b / c, d\x07: 1"),
        (Path("/tmp/\x07"), r"/tmp/\x07"),
    ],
)
def test_a_cell_is_one_safe_line(value: object, shown: str) -> None:
    """Whatever its kind, a value is told on one line without controls."""
    assert output.cell(value) == shown


@pytest.mark.parametrize(
    "show",
    [
        pytest.param(lambda text: output.print_table(["reply"], [[text]]), id="table"),
        pytest.param(lambda text: output.print_table([text], [["x"]], title=text), id="headings"),
        pytest.param(lambda text: output.print_table(["x"], [], empty=text), id="empty table"),
        pytest.param(lambda text: output.print_fields({"reply": text}), id="fields"),
        pytest.param(lambda text: output.print_fields({text: "x"}), id="names"),
        pytest.param(output.complain, id="complaint"),
        pytest.param(lambda text: output.print_json({text: text}), id="JSON"),
    ],
)
def test_no_door_lets_a_control_through(show: Printer, capsys: pytest.CaptureFixture[str]) -> None:
    """A server's words neither clear the screen nor set a title, however they are printed."""
    show(f"250 {CLEAR}{TITLE}{REVERSED} OK")
    said = "".join(capsys.readouterr())

    assert "250 " in said
    assert not {"\x1b", "\x9d", "\x9c", "\u202e"} & set(said)


@given(st.recursive(st.text() | st.integers(), lambda part: st.dictionaries(st.text(), part)))
def test_json_says_what_it_was_given(value: Any) -> None:
    """Written out or not, JSON reads back as what was printed."""
    with redirect_stdout(io.StringIO()) as told:
        output.print_json(value)

    assert json.loads(told.getvalue()) == value


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("json_wanted", [[], ["--json"]])
def test_a_full_disk_is_one_sentence(tmp_path: Path, json_wanted: list[str]) -> None:
    """What cannot be written is told once, without a stack trace."""
    with Path("/dev/full").open("w") as full:
        ran = _report(tmp_path, json_wanted, full)
        _, told = ran.communicate(timeout=30)

    assert told == "alertpost: the disk cannot be written to (No space left on device)\n"
    assert ran.returncode == 5


@pytest.mark.parametrize("json_wanted", [[], ["--json"]])
def test_a_reader_may_have_enough(tmp_path: Path, json_wanted: list[str]) -> None:
    """A pipe into `head` is no fault."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        ran = _report(tmp_path, json_wanted, pipe)
        _, told = ran.communicate(timeout=30)

    assert (ran.returncode, told) == (0, "")


def _report(home: Path, options: list[str], out: IO[str]) -> subprocess.Popen[str]:
    given = os.environ | {"ALERTPOST_DATA_DIR": str(home / "var")}
    made = [sys.executable, "-m", "console.cli", "init"]
    subprocess.run(made, env=given, check=True, capture_output=True, timeout=60)
    return subprocess.Popen(
        [sys.executable, "-m", "console.cli", "report", *options],
        env=given,
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
    )
