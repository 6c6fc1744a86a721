"""Looking for words in texts as people do: wherever they stand, capital letters or not."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import ColumnElement, false
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from models.stored import AsText

_LOWER = "alertpost_lower"
_LONGEST = 5_000
"""Characters; no text that is searched has so many in a row, and SQLite takes no such pattern."""


class _Lowered(FunctionElement[str]):
    """A text in small letters, those beyond ASCII too."""

    type = AsText()
    inherit_cache = True
    name = "lowered"


@compiles(_Lowered, "postgresql")
def _postgresql(element: _Lowered, compiler: SQLCompiler, **kw: Any) -> str:
    # By code points, as our columns compare, it knows the letters of ASCII only.
    return f'lower(({compiler.process(element.clauses, **kw)}) COLLATE "default")'


@compiles(_Lowered, "sqlite")
def _sqlite(element: _Lowered, compiler: SQLCompiler, **kw: Any) -> str:
    return f"{_LOWER}({compiler.process(element.clauses, **kw)})"


def teach_letters(connection: sqlite3.Connection) -> None:
    """Give a connection to SQLite what ``mentions`` needs: its own ``lower`` knows ASCII only."""
    connection.create_function(_LOWER, 1, _lower, deterministic=True)


def mentions(column: ColumnElement[str], part: str) -> ColumnElement[bool]:
    """Return the condition that a text holds these words; percent signs stand for themselves."""
    if len(part) > _LONGEST:
        return false()
    return _Lowered(column).contains(part.lower(), autoescape=True)


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()
