"""A command in the wrong place makes nothing, and says where it looked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from console.installation import begun, where_to_type
from models.settings import Settings
from models.vault import Vault

LOOKING = [
    ["status"], ["status", "--json"], ["expiries"], ["warnings"], ["report"], ["audit", "list"],
    ["tenants", "list"], ["mailboxes", "list"], ["mailboxes", "consents"], ["apps", "list"],
    ["deliveries", "list"], ["dead", "list"], ["dead", "replay", "--yes"], ["worker"],
    ["keys", "rotate", "--check"], ["keys", "rotate", "--new"],
    ["tenants", "add", "contoso", "--directory-id", "contoso.example", "--client-id", "x"],
    ["mailboxes", "add", "contoso", "alerts@contoso.example"],
    ["send", "--tenant", "contoso", "--to", "a@x.example", "--subject", "x", "--text", "y"],
    ["enqueue", os.devnull],
]  # fmt: skip

SEALING = ["tenants", "add", "contoso", "--directory-id", "contoso.example", "--client-id", "x",
           "--generate-certificate"]  # fmt: skip


def run(place: Path, *arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "ALERTPOST" not in name}
    return subprocess.run(
        [sys.executable, "-c", "from console.entry import main; main()", *arguments],
        cwd=place,
        env={**clean, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200", **given},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("arguments", LOOKING, ids=" ".join)
def test_where_nothing_is_nothing_is_made(tmp_path: Path, arguments: list[str]) -> None:
    """Not in the working directory, not in the one that is named; and that is no success."""
    ran = run(tmp_path, *arguments)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"there is no installation in {tmp_path / 'var'}" in ran.stderr
    assert "--data-dir" in ran.stderr
    assert "ALERTPOST_DATA_DIR" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_directory_that_was_named_is_told(tmp_path: Path) -> None:
    """However it was named."""
    by_name = run(tmp_path, "status", ALERTPOST_DATA_DIR="elsewhere")
    by_option = run(tmp_path, "--data-dir", "there", "status", ALERTPOST_DATA_DIR="elsewhere")

    assert f"in {tmp_path / 'elsewhere'};" in by_name.stderr
    assert f"in {tmp_path / 'there'};" in by_option.stderr
    assert (by_name.returncode, by_option.returncode) == (2, 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", [["init"], ["db", "upgrade"]], ids=" ".join)
def test_a_verb_makes_one(tmp_path: Path, verb: list[str]) -> None:
    """What says so in its help makes an installation, once; then every command finds it."""
    made = run(tmp_path, "--data-dir", "here", *verb)
    key = (tmp_path / "here/secret.key").read_text()
    again = run(tmp_path, "--data-dir", "here", *verb)
    found = run(tmp_path, "--data-dir", "here", "status")

    assert (made.returncode, again.returncode, found.returncode) == (0, 0, 0), made.stderr
    assert (tmp_path / "here/secret.key").read_text() == key
    assert "Nothing is set up yet" in found.stdout
    assert str(tmp_path / "here") in found.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_key_is_not_made_for_a_database_that_is_elsewhere(tmp_path: Path) -> None:
    """With another key nothing opens that is stored there."""
    url = f"sqlite:///{tmp_path / 'db.sqlite'}"
    missing = run(tmp_path, "status", ALERTPOST_DATABASE_URL=url)
    made = run(tmp_path, "db", "upgrade", ALERTPOST_DATABASE_URL=url)

    assert (missing.returncode, made.returncode) == (2, 0)
    assert f"no database at {tmp_path / 'db.sqlite'}" in missing.stderr
    # To look takes no key; to seal something does.
    looked = run(tmp_path, "status", ALERTPOST_DATABASE_URL=url)
    assert looked.returncode == 0, looked.stderr
    for words in (SEALING, ["worker"], ["keys", "rotate", "--new"], ["keys", "rotate", "--check"]):
        keyless = run(tmp_path, *words, ALERTPOST_DATABASE_URL=url)
        assert (keyless.returncode, keyless.stdout) == (2, "")
        assert f"there is no key in {tmp_path / 'var'}" in keyless.stderr
    assert not (tmp_path / "var").exists()


def test_a_directory_without_an_installation_is_none(tmp_path: Path) -> None:
    """That it is there says nothing; the sandbox may have made it."""
    (tmp_path / "var").mkdir(mode=0o700)
    ran = run(tmp_path, "status")

    assert ran.returncode == 2
    assert list((tmp_path / "var").iterdir()) == []


def test_from_python_nothing_is_made_either(tmp_path: Path) -> None:
    """A program in the wrong directory is told, instead of getting an empty database."""
    code = (
        "from producers.enqueue import enqueue; from models.alert import AlertEmail;"
        "enqueue(AlertEmail.parse({'tenant': 'contoso', 'to': ['a@x.example'], 'subject': 's',"
        " 'text': 't'}))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={
            **{name: value for name, value in os.environ.items() if "ALERTPOST" not in name},
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "ALERTPOST_SECRET_KEYS": Vault.new_key(),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert f"there is no database at {tmp_path / 'var/alertpost.db'}" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_printed_commands_mean_this_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed in another terminal, with its own working directory and environment."""
    monkeypatch.chdir(tmp_path)
    usual, named = Settings(), Settings(data_dir=Path("my data"))

    assert begun(usual, "alertpost status") == "alertpost status"
    assert str(tmp_path) in where_to_type(usual)
    assert begun(named, "alertpost status") == f"alertpost --data-dir '{tmp_path}/my data' status"
    assert where_to_type(named) == ""
