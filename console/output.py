"""How commands speak: tables for people, ``--json`` for scripts, errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
"""The option that every listing takes."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """Print a value as JSON, one document."""
    sys.stdout.write(json.dumps(value, default=jsonable, ensure_ascii=False, indent=2) + "\n")


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
    empty: str = "Nothing to show.",
) -> None:
    """
    Print a table.

    Args:
        columns: Headings.
        rows: Cells; None shows as nothing, times as UTC to the second.
        title: Above it.
        right: Headings whose cells are aligned right.
        empty: What to say where there are no rows.
    """
    if not rows:
        out.print(empty)
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    # A pipe is no terminal: what is cut at 80 columns there is lost for grep.
    (out if out.is_terminal else Console(width=240, highlight=False)).print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values, one pair on each line; None is left out."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        if value is not None:
            out.print(Text.assemble((name.ljust(width + 2), "bold"), cell(value)))


def cell(value: object) -> str:
    """Say a value in a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {cell(part)}" for name, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return ", ".join(cell(part) for part in value)
    return str(jsonable(value)) if isinstance(value, Enum | UUID | Path) else str(value)


def complain(message: str) -> None:
    """Print an error to standard error."""
    err.print(Text.assemble(("alertpost: ", "bold red"), message))


def rows_of(items: Sequence[Any], *names: str) -> list[list[object]]:
    """Take attributes of objects as rows."""
    return [[getattr(item, name) for name in names] for item in items]
