"""What is printed to be typed can be pasted: every command in the code and on the pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.console.pasted import fault, literals, quoted

ROOT = Path(__file__).parents[2]
ROOMS = ("models", "workers", "producers", "console")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
POWERSHELL = re.compile(r"\b(?:Add|Enable|Get|New|Remove|Set|Test)-[A-Z]\w+")


@pytest.mark.parametrize("room", ROOMS)
def test_every_command_in_our_texts_can_be_pasted(room: str) -> None:
    """It exists, its options exist, nothing is missing; names with spaces or quotes are quoted."""
    found = [
        (f"{path.relative_to(ROOT)}:{line}", command)
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, text in literals(path)
        for command in quoted(text)
    ]

    assert found
    assert [(*one, said) for one in found if (said := fault(one[1]))] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_in_a_block_of_a_page_can_be_pasted(path: Path) -> None:
    """A block is copied whole; in a sentence a command may stand by its name alone."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in re.findall(r"(?m)^    \S.*$", text)]
    lines += [
        line for block in re.findall(r"(?s)```\w*\n(.*?)```", text) for line in block.split("\n")
    ]
    commands = [
        re.split(r" (?:#|>|\|)", line)[0] for line in lines if line.startswith("alertpost ")
    ]

    assert [(command, said) for command in commands if (said := fault(command))] == []


@pytest.mark.parametrize("room", ROOMS)
def test_powershell_is_one_command_between_backticks(room: str) -> None:
    """The backtick is PowerShell's escape and ';' goes on whatever failed before."""
    wrong = [
        (f"{path.relative_to(ROOT)}:{line}", one)
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, text in literals(path)
        for one in re.findall(r"`([^`]*)`", text)
        if len(POWERSHELL.findall(one)) > 1 or (POWERSHELL.search(one) and re.search(r"[<>…]", one))
    ]

    assert wrong == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("alertpost tenants edit contoso", "changes nothing"),
        ("alertpost mailboxes connect", "Missing argument"),
        ("alertpost mailboxes conect a@x.example", "names no command"),
        ("alertpost mailboxes connect <address>", "placeholder"),
        ("alertpost apps secret our app --pfx-file FILE", "extra argument"),
        ("alertpost mailboxes resume o'neil@x.example", "quotation"),
        ("alertpost dead list --tennant x", "No such option"),
    ],
)
def test_what_cannot_be_pasted_is_seen(command: str, said: str) -> None:
    """The tests above can fail."""
    assert said in (fault(command) or "")
