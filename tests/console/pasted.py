"""Commands that we print, and what the command line makes of them when they are pasted."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import typer.main

from console.cli import command_line
from console.commands import COMMANDS

_DIRECTORY = "11111111-2222-3333-4444-555555555555"
_QUOTED = re.compile(r"`(alertpost [^`]*)`")
_WHOLE = re.compile(rf"alertpost (?:{'|'.join(COMMANDS)})(?: .*)?")
_CHANGES = {"tenants edit": "--", "mailboxes edit": "--", "apps secret": "-file"}
"""Commands that do nothing without an option such as these."""

_HOLES = (
    (r"credential_commands\.new_secret\(", "alertpost apps secret msp --client-secret-file FILE"),
    (r"credential_commands\.show_certificate\(", "alertpost apps certificate msp --show"),
    (r"credential_commands\.ask_entra\(", "alertpost apps credentials msp --check"),
    (r"credential_commands\.retire\(", "alertpost apps retire msp 2"),
    (r"credential_commands\.new_certificate\(", "alertpost apps secret msp --pfx-file FILE"),
    (r"directory", _DIRECTORY),
    (r"issuer|url\b", "https://id.example/realm"),
    (r"number", "2"),
    (r"command", "show"),
    (r"slug|target|\.tenant\b|\['slug'\]", "contoso"),
    (r"address|mailbox|account|needed|removed", "o'neil@contoso.example"),
    (r"\bapp\b|name", "our app"),
    (r"state", "dead"),
    (r"which", "--reason expired"),
    (r"elsewhere", "--smtp-host smtp.example"),
)


def quoted(text: str) -> list[str]:
    """Find the commands in what we say: in backticks, or what is a command as a whole."""
    found = _QUOTED.findall(text)
    return found or [text.strip()] * bool(_WHOLE.fullmatch(text.strip()))


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of a module with the lines they stand in, holes filled with samples."""
    tree = ast.parse(path.read_text("utf-8"))
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in inside | silent:
            continue
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(map(_filled, node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def fault(command: str) -> str | None:
    """
    Give what the command line says of a command that is pasted; None where it would run it.

    Nothing is run: it is read as far as its arguments.
    """
    if re.search(r"[<>…]", command.replace("...", "…")):
        return "has a placeholder that no shell reads"
    try:
        words = [_sample(word) for word in shlex.split(command)[1:]]
    except ValueError as unquoted:
        return str(unquoted)
    if words[:1] == ["--data-dir"]:
        del words[:2]
    step: Any = typer.main.get_command(command_line(words))
    name = []
    while words and words[0] in getattr(step, "commands", ()):
        name.append(words.pop(0))
        step = step.commands[name[-1]]
    needed = _CHANGES.get(" ".join(name), "")
    if needed not in " ".join(words) and "--help" not in words:
        return f"changes nothing without a {needed} option"
    try:
        step.make_context(step.name, words)
    except typer.Exit:
        return None  # --help, --version
    except typer.BadParameter.__mro__[2] as refused:
        return str(refused.format_message())
    return None if not hasattr(step, "commands") else "names no command of the group"


def _filled(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue)
    hole: ast.expr = part.value
    if isinstance(hole, ast.IfExp):
        hole = hole.body
    if isinstance(hole, ast.BoolOp):
        hole = hole.values[0]
    if isinstance(hole, ast.Constant):
        return str(hole.value)
    words = ast.unparse(hole)
    sample = next((sample for name, sample in _HOLES if re.search(name, words)), "?")
    return shlex.quote(sample) if words.startswith("quote(") else sample


def _sample(word: str) -> str:
    samples = {"DATE": "2030-01-01", "NUMBER": "2", "ID": _DIRECTORY, "URL": "https://id.example/"}
    return samples.get(word, word)


def printed(text: str) -> list[str]:
    """Find the commands in what was printed: in backticks, in a cell, at the end of a line."""
    cells = re.findall(rf"(?m)(?:^|\s\s|: )({_WHOLE.pattern}?)(?=\s\s|\s*$)", text)
    return _QUOTED.findall(text) + [one for one in cells if "`" not in one]
