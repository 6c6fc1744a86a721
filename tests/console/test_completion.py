"""What Tab completes, as a shell asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.console.cli_world import CliWorld

ADDRESS = "alerts@customer-003.northwind-traders.example"


def completed(home: Path, typed: str, **given: str) -> list[str]:
    """Ask as bash does; the last word is the one that was begun."""
    words = typed.split(" ")
    asked = {
        "_ALERTPOST_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
        "ALERTPOST_DATA_DIR": str(home),
    }
    ran = subprocess.run(
        [sys.executable, "-c", "from console.entry import main; main()"],
        env={**os.environ, **asked, **given},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.stderr == ""
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("alertpost ten", ["tenants"]),
        ("alertpost --ver", ["--version"]),
        ("alertpost mailboxes lin", ["link", "links"]),
        ("alertpost tenants show customer-00", [f"customer-{n:03}" for n in range(10)]),
        ("alertpost deliveries list --tenant customer-01", ["customer-010", "customer-011"]),
        ("alertpost mailboxes show alerts@customer-003", [ADDRESS]),
        ("alertpost dead list --mailbox alerts@customer-003", [ADDRESS]),
        ("alertpost doctor customer-003", ["customer-003"]),
        ("alertpost doctor alerts@customer-003", [ADDRESS]),
        ("alertpost apps show m", ["msp"]),
        ("alertpost tenants show customer_00", []),
        ("alertpost tenants add customer-00", []),
    ],
)
def test_commands_tenants_and_mailboxes(
    customers: CliWorld, typed: str, offered: list[str]
) -> None:
    """Whatever names something that is there is completed; what is to be made is not."""
    assert completed(customers.home, typed) == offered


def test_where_nothing_is_nothing_is_said_or_made(tmp_path: Path) -> None:
    """A line that is being typed is no place for a complaint."""
    assert completed(tmp_path / "var", "alertpost tenants show x") == []
    assert completed(tmp_path / "var", "alertpost tenants show x", ALERTPOST_NONSENSE="1") == []
    assert list(tmp_path.iterdir()) == []
