"""How commands speak: tables for people, ``--json`` for scripts, errors in one line."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.text import Text

from console.encoding import fits
from console.table_layout import Column, body_lines, fitted, head_lines, without_alike

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
"""The option that every listing takes."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave to the command line what becomes of a reader that has enough, `head` say."""
        raise BrokenPipeError


out = _Console(highlight=False, soft_wrap=True)
err = _Console(stderr=True, highlight=False, soft_wrap=True)


_DRIVES_TERMINAL = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Controls but the line feed, line separators, and what turns the reading direction."""


_LONGEST_WORD, _WORD = 3_000, 60
"""Characters; the address at which an administrator consents has some hundred."""

_ENDLESS = re.compile(rf"\S{{{_LONGEST_WORD},}}")


def printable(text: str) -> str:
    """
    Make words of others safe to print: control characters could drive the reader's terminal.

    Line feeds stay, as replies have several lines; so do spaces and joiners of all scripts.
    """
    return _DRIVES_TERMINAL.sub(_written_out, text.replace("\r\n", "\n"))


def _written_out(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def print_json(value: object) -> None:
    """Print a value as JSON, one document; it is the same document, however odd its texts."""
    safe = _as_json(value, ascii_only=False)
    if not fits(safe, sys.stdout):
        safe = _as_json(value, ascii_only=True)
    try:
        sys.stdout.write(f"{safe}\n")
    except BrokenPipeError:
        # As raised it has a number, at which Typer would end with 1 by itself.
        raise BrokenPipeError from None


def _as_json(value: object, *, ascii_only: bool) -> str:
    text = json.dumps(value, default=jsonable, ensure_ascii=ascii_only, indent=2)
    # JSON escapes some controls itself; the rest stand in texts only, where escapes are allowed.
    return _DRIVES_TERMINAL.sub(lambda found: json.dumps(found[0])[1:-1], text)


def jsonable(value: object) -> object:
    """Shape what JSON does not know: ids, times, paths, enums, dataclasses."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, UUID | Path):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, timedelta):
        return value.total_seconds()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    right: Sequence[str] = (),
    alike: Sequence[str] = (),
    spare: Sequence[str] = (),
    empty: str = "Nothing to show.",
) -> None:
    """
    Print a table; on a terminal no word of it is broken, however narrow that is.

    Args:
        columns: Headings.
        rows: Cells; None shows as nothing, times as UTC to the second, controls written out.
        title: Above it.
        right: Headings whose cells are aligned right.
        alike: Headings of columns that a terminal does without where each row says the same;
            empty ones it does without anyway.
        spare: Headings of columns that a narrow terminal does without, the first one first.
        empty: What to say where there are no rows.
    """
    if not rows:
        out.print(Text(printable(empty)))
        return
    shown = [
        _column(heading, [row[index] for row in rows], right=heading in right)
        for index, heading in enumerate(columns)
    ]
    # A pipe is no terminal: what is cut or left out there is lost for grep.
    width = out.width if out.is_terminal else None
    if width is not None:
        shown = without_alike(shown, [cell(heading) for heading in alike])
    layout = fitted(shown, width, [cell(heading) for heading in spare])
    if title is not None:
        out.print(Text(printable(title), "italic"))
    head = "\n".join(head_lines(layout))
    if head:
        out.print(Text(head, "bold"))
    out.print(Text("\n".join(body_lines(layout, width))))


def _column(heading: str, values: Sequence[object], *, right: bool) -> Column:
    times = any(isinstance(value, datetime) for value in values)
    return Column(
        heading=cell(heading),
        cells=tuple(map(cell, values)),
        short=tuple(map(_short, values)) if times else None,
        right=right,
        whole=times,
    )


def _short(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%MZ")
    return cell(value)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values, one pair on each line; None is left out."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        if value is not None:
            out.print(Text.assemble((cell(name).ljust(width + 2), "bold"), cell(value)))


def cell(value: object) -> str:
    """Say a value in a cell, on one line that is safe for a terminal."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, Mapping):
        return ", ".join(f"{cell(name)}: {cell(part)}" for name, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return ", ".join(cell(part) for part in value)
    text = str(jsonable(value)) if isinstance(value, Enum | UUID | Path) else str(value)
    # A line of its own could pass for the next field or row.
    return printable(text).replace("\n", " / ")


def counted(number: int, singular: str = "delivery", plural: str = "deliveries") -> str:
    """Say how many of something there are: "1 delivery", "2 deliveries"."""
    return f"{number:,} {singular if number == 1 else plural}"


def complain(message: str) -> None:
    """Print an error to standard error."""
    err.print(Text.assemble(("alertpost: ", "bold red"), printable(shortened(message))))


def shortened(message: str) -> str:
    """Cut words that nobody reads to their end, such as a whole file in place of its name."""
    return _ENDLESS.sub(
        lambda found: f"{found[0][:_WORD]}… ({len(found[0]):,} characters)", message
    )


@contextmanager
def reporting(total: int, done: str) -> Iterator[Callable[[int], None]]:
    """
    Show on a terminal how far long work has come; on standard error, and gone at its end.

    Args:
        total: How many there are to do.
        done: What becomes of them, such as "cancelled".
    """
    if not err.is_terminal:
        yield lambda _count: None
        return
    with err.status(Text(f"0 of {total:,} {done}")) as status:
        yield lambda count: status.update(Text(f"{count:,} of {total:,} {done}"))


def give_up_output() -> None:
    """Drop what could not be written, so that the interpreter does not try again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def rows_of(items: Sequence[Any], *names: str) -> list[list[object]]:
    """Take attributes of objects as rows."""
    return [[getattr(item, name) for name in names] for item in items]
