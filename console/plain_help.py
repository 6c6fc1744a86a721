"""
``--help`` as plain text that fits the terminal: names of options whole, sentences reflowed.

Typer's own help is made of boxes, whose columns cut the names of options short at 80 columns and
keep the line breaks of the source.
"""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import typer

from console.completion import complete_names
from console.typed_values import read_plainly

_WIDEST, _NARROWEST = 100, 40
_NAMES_END = 28
"""A longer name stands on a line of its own, and what it means below."""


class PlainFormatter:
    """What Typer writes help into, part by part; breaks lines between words and nowhere else."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._parts: list[str] = []
        self._indent = 0

    def write_usage(self, prog: str, args: str = "") -> None:
        """Say how the command is called."""
        self._add(_filled(f"Usage: {prog} {args}".rstrip(), self.width, hanging=4))

    def write_text(self, text: str) -> None:
        """Write paragraphs."""
        self._add(_paragraphs(text, self.width, " " * self._indent))

    def write_paragraph(self) -> None:
        """Leave a line empty."""
        if self._parts:
            self._parts.append("\n")

    def indentation(self) -> _Indented:
        """Move what follows to the right."""
        return _Indented(self)

    def section(self, name: str) -> _Indented:
        """Begin a part with a heading."""
        self.write_paragraph()
        self._add(f"{name}:")
        return _Indented(self)

    def write_dl(self, rows: Sequence[tuple[str, str]], **_: Any) -> None:
        """Write names, each with what it means beside it, or below where there is no room."""
        widest = max((len(name) for name, _ in rows), default=0)
        begin = self._indent + min(widest, _NAMES_END, self.width // 3) + 2
        for name, meaning in rows:
            head = " " * self._indent + self._breakable(name)
            told = _paragraphs(meaning, self.width, " " * begin)
            if not told.strip():
                self._add(_filled(head, self.width, hanging=self._indent + 4))
            elif len(head) + 2 <= begin:
                self._add(head.ljust(begin) + told.lstrip())
            else:
                self._add(_filled(head, self.width, hanging=self._indent + 4))
                self._add(told)

    def getvalue(self) -> str:
        """Return all of it."""
        return "".join(self._parts)

    def _breakable(self, name: str) -> str:
        """Let very many choices go on in the next line."""
        longest = max(map(len, name.split()), default=0)
        return name.replace("|", "| ") if self._indent + 4 + longest > self.width else name

    def _add(self, text: str) -> None:
        self._parts.append(f"{text}\n")


class _Indented:
    def __init__(self, formatter: PlainFormatter) -> None:
        self._formatter = formatter

    def __enter__(self) -> None:
        self._formatter._indent += 2  # noqa: SLF001 - a part of it

    def __exit__(self, *_: object) -> None:
        self._formatter._indent -= 2  # noqa: SLF001 - a part of it


def make_plain(command: Any, settings: Mapping[str, Any]) -> None:
    """
    Let a command and all below it speak plainly: help, completed names, typed values.

    Args:
        command: A command or group of Typer's.
        settings: Of its context: under which names ``--help`` goes.
    """
    command.rich_markup_mode = None
    command.get_help = partial(_help, command)
    # Asked for here, `--help` itself is made now and kept by the command: under all of its names.
    for option in command.get_params(typer.Context(command, **settings)):
        if getattr(option, "is_flag", False):
            # A switch takes no value, so it has no type to show.
            option.metavar = ""
        if option.param_type_name == "argument":
            # Its name says what it is; "<str>" would not.
            option.display_type_rich = _no_type
        complete_names(command, option)
        read_plainly(option)
    inner = getattr(command, "commands", {})
    for one in inner.values():
        make_plain(one, settings)
    if inner:
        command.format_commands = partial(_write_inner, command)


def write_commands(formatter: Any, rows: Sequence[tuple[str, str]]) -> None:
    """Write what each command is for."""
    with formatter.section("Commands"):
        formatter.write_dl(rows)


def summary(command: Any) -> str:
    """Take the first paragraph of a command's help, on one line."""
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())


def help_width() -> int:
    """Tell how wide help may be here: the terminal's width, unless lines would get too long."""
    return max(min(shutil.get_terminal_size().columns, _WIDEST), _NARROWEST)


def _no_type(**_: Any) -> str:
    return ""


def _help(command: Any, ctx: Any) -> str:
    formatter = PlainFormatter(help_width())
    command.format_help(ctx, formatter)
    return formatter.getvalue().rstrip("\n")


def _write_inner(command: Any, _ctx: Any, formatter: Any) -> None:
    rows = [(name, summary(one)) for name, one in command.commands.items() if not one.hidden]
    write_commands(formatter, rows)


def _paragraphs(text: str, width: int, indent: str) -> str:
    r"""Reflow paragraphs; one that begins with a line ``\b`` keeps its lines."""
    told = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.splitlines()
        if lines and lines[0].strip() == "\b":
            told.append("\n".join(f"{indent}{line}" for line in lines[1:]))
        else:
            told.append(_filled(indent + " ".join(paragraph.split()), width, len(indent)))
    return "\n\n".join(told)


def _filled(text: str, width: int, hanging: int) -> str:
    return "\n".join(
        textwrap.wrap(
            text,
            width,
            subsequent_indent=" " * hanging,
            # Options and addresses have hyphens, and are typed as they stand here.
            break_on_hyphens=False,
            break_long_words=False,
        )
    )
