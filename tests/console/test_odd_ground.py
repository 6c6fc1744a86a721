"""Where there is no home, no room for a copy, or what is given is no text: a sentence, no trace."""

from __future__ import annotations

import io
import os
import pathlib
import re
import sys
import tempfile
from typing import NoReturn

import pytest

from console.line_source import LineSource
from console.paths import typed_path
from models.errors import ConfigurationError
from models.settings import Settings
from tests.console.cli_world import CliWorld

ADD = (
    "tenants", "add", "contoso", "--directory-id", "11111111-1111-1111-1111-111111111111",
    "--client-id", "22222222-2222-2222-2222-222222222222", "--client-secret-file",
)  # fmt: skip


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with a number and no entry, as a container's often is."""

    def nobody(_path: object) -> NoReturn:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "expanduser", nobody)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_home_that_is_not_there(bare: CliWorld) -> None:
    """``~`` means nothing: the text says so, and what to write instead."""
    said = bare.run(*ADD, "~/secret")

    assert said.code == 2
    assert "no such home directory" in said.err
    assert "write the whole path" in said.err


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_names_no_file(name: str) -> None:
    """An empty name, or one that no system takes."""
    with pytest.raises(ConfigurationError, match="names no file"):
        typed_path(name)


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_secret_on_standard_input_that_is_no_text(
    bare: CliWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Octets of another program's output, say."""
    given = io.TextIOWrapper(io.BytesIO(b"gr\xf6\xdfe"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", given)

    said = bare.run(*ADD, "-")

    assert said.code == 2
    assert "it is not text" in said.err


def test_no_room_for_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only root without a temporary directory: the setting that helps is named."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    reading, writing = os.pipe()
    os.close(writing)

    with (
        LineSource("-", reading, None).closing() as source,
        pytest.raises(ConfigurationError, match="TMPDIR"),
    ):
        source.rewindable()


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "words",
    [
        (*ADD, "/dev/zero"),
        (*ADD[:-1], "--pfx-file", "/dev/zero"),
        (*ADD[:-1], "--certificate-file", "/dev/zero", "--private-key-file", "/dev/zero"),
        ("tenants", "import", "/dev/zero"),
    ],
    ids=["secret", "pfx", "certificate", "sheet"],
)
def test_a_file_without_an_end(bare: CliWorld, words: tuple[str, ...]) -> None:
    """It is not read into memory until there is none left."""
    said = bare.run(*words)

    assert said.code == 2
    assert re.search("octets|larger than|is a device", said.err)


def test_a_setting_that_names_a_file_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the variable."""
    monkeypatch.setenv("ALERTPOST_SECRET_KEYS_FILE", "/dev/zero")

    with pytest.raises(ConfigurationError, match=r"^ALERTPOST_SECRET_KEYS_FILE: .* octets"):
        Settings.load()
