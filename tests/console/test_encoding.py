"""Commands speak in any encoding of their output, and JSON is the same document in all of them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from console import encoding
from tests.console.cli_world import ROOT, CliWorld

NAME = "B\u00fccher \u2013 \u6771\u4eac \u2603 \U0001f600"


def said(cli: CliWorld, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a real process: encodings belong to it."""
    return subprocess.run(
        cli.command(*words),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        check=False,
    )


@pytest.fixture
def named(bare: CliWorld) -> CliWorld:
    """A tenant with a name in several scripts."""
    secret = bare.home / "secret"
    secret.write_text("a-secret")
    added = bare.run(
        "tenants", "add", "contoso", "--name", NAME, "--client-secret-file", secret,
        "--directory-id", "11111111-1111-1111-1111-111111111111",
        "--client-id", "22222222-2222-2222-2222-222222222222",
    )  # fmt: skip
    assert added.code == 0, added.err
    return bare


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("codec", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_will_do(named: CliWorld, codec: str) -> None:
    """A table shows what the encoding has and an escape for the rest; JSON reads back the same."""
    given = {"PYTHONIOENCODING": codec, "ALERTPOST_LOG__LEVEL": "error"}

    table = said(named, "tenants", "list", **given)
    document = said(named, "tenants", "list", "--json", **given)

    assert (table.returncode, document.returncode) == (0, 0), table.stderr + document.stderr
    shown = table.stdout.decode(codec)
    assert "contoso" in shown
    assert ("\u2603" if codec == "utf-8" else "\\u2603") in shown
    (tenant,) = json.loads(document.stdout.decode(codec))
    assert tenant["name"] == NAME


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_help_and_errors_in_ascii(named: CliWorld) -> None:
    """Rich's own marks and what was typed are no reason for a trace."""
    given = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}

    for words, code in (("tenants add --help", 0), ("tenants show b\u00fcro", 3)):
        ran = said(named, *words.split(), **given)
        assert ran.returncode == code, ran.stderr
        assert b"Traceback" not in ran.stderr


def test_what_an_encoding_lacks_is_written_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own marks by what people type for them, lines of boxes by hyphens, the rest escaped."""
    octets = io.BytesIO()
    stream = io.TextIOWrapper(octets, encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)

    encoding.take_every_text()
    stream.write("a\u2026b \u2500\u2502 \u2192 \u2603 \ud83d")

    assert octets.getvalue() == b"a...b -- -> \\u2603 \\ud83d"


@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
@pytest.mark.parametrize("option", ["--subject", "--text", "--alert-id", "--key"])
def test_a_word_in_another_encoding_is_told_as_that(
    named: CliWorld, option: str, tmp_path: Path
) -> None:
    """Octets that are no UTF-8 reach us as surrogates; nobody outside knows what those are."""
    given = {"--subject": "s", "--text": "t"} | {option: "gr\udcf6\udcdfe"}
    words = [part for pair in given.items() for part in pair]

    ran = named.run("send", "--tenant", "contoso", "--to", "ops@x.example", *words)

    assert ran.code == 2
    assert "UTF-8" in ran.err
    assert "surrogate" not in ran.err
