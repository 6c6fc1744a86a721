"""
The one door into SQL for texts: what any sender, server or person may have written can be stored.

PostgreSQL takes no NUL and no half of a surrogate pair, and refuses what is longer than its
column; SQLite takes the first and the third and fails at the second. One such text in one row
fails a whole transaction, so it is made fit here, by the type of the column, and nobody has to
think of it: ``made_storable`` gives these types to every column of every table.

On PostgreSQL they compare and sort by code points, as SQLite does. In the order of a language a
comma may stand before a plus sign, and an index serves only as long as nobody updates the
operating system's idea of that language.
"""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import JSON, Column, MetaData, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from models.legible import legible

ANSWER_LIMIT = 4000
"""Characters kept of what a server said; real answers have a few hundred."""

_DIGEST = 16


def plain(text: str | None, limit: int | None = None) -> str | None:
    """Make any text storable: no NUL, no lone surrogate, not longer than it may be."""
    if text is None:
        return None
    if limit is not None:
        text = text[:limit]
    text = legible(text)
    return text.replace("\x00", "\N{SYMBOL FOR NULL}") if "\x00" in text else text


def plain_name(text: str | None, limit: int | None = None) -> str | None:
    """
    Make a text storable that names something: of two different ones no two become the same.

    Whatever has to change for it ends in a digest of what it was.
    """
    kept = plain(text, limit)
    if text is None or kept is None or kept == text:
        return kept
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    if limit is None:
        return f"{kept}~{digest}"
    return f"{kept[: max(0, limit - _DIGEST - 1)]}~{digest}"[:limit]


def plain_value(value: Any, limit: int | None = None) -> Any:
    """Make all texts of a JSON value storable, names included; the limit holds for each value."""
    if isinstance(value, str):
        return plain(value, limit)
    if isinstance(value, dict):
        return {
            plain(key) if isinstance(key, str) else key: plain_value(one, limit)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain_value(one, limit) for one in value]
    return value


class Words(TypeDecorator[str]):
    """
    A text.

    Args:
        length: Of the column, in characters; None: it has no bound.
        limit: Keep no more of it than that; None: the column's length.
        name: It names something, see ``plain_name``.
    """

    impl = String
    cache_ok = True

    def __init__(
        self, length: int | None = None, limit: int | None = None, *, name: bool = False
    ) -> None:
        super().__init__(length)
        self.length = length
        self.limit = limit
        self.name = name

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:  # noqa: D102
        collation = "C" if dialect.name == "postgresql" else None
        if self.length is None:
            return Text(collation=collation)
        return String(self.length, collation=collation)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002, D102
        return self.fit(value)

    def fit(self, value: str | None) -> str | None:
        """Make a text storable in such a column."""
        limit = self.length if self.limit is None else self.limit
        return plain_name(value, limit) if self.name else plain(value, limit)


class AsText(Words):
    """A text that stands in no column: what a value is cast to, or one beside such a value."""

    cache_ok = True

    def __init__(self) -> None:
        super().__init__()

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:  # noqa: ARG002, D102
        # Neither database takes a collation in a cast.
        return Text()


class Answer(Words):
    """What a server said, or what was said of it."""

    cache_ok = True

    def __init__(self) -> None:
        super().__init__(None, ANSWER_LIMIT)


class Record(TypeDecorator[Any]):
    """
    A JSON value.

    Args:
        limit: Keep no more of any text in it than that; None: all.
    """

    impl = JSON
    cache_ok = True

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        """Leave paths into the value to SQLAlchemy's own type."""
        return self.impl_instance.coerce_compared_value(op, value)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002, D102
        return self.fit(value)

    def fit(self, value: Any) -> Any:
        """Make a value storable in such a column."""
        return plain_value(value, self.limit)


class Answers(Record):
    """A JSON object of what a server said, by whom it concerns."""

    cache_ok = True

    def __init__(self) -> None:
        super().__init__(ANSWER_LIMIT)


def made_storable(metadata: MetaData) -> MetaData:
    """
    Give every column of text or JSON a type of this module, where it has none.

    What is unique or indexed names something.
    """
    for table in metadata.tables.values():
        named = {
            column.name
            for index in [*table.indexes, *table.constraints]
            for column in getattr(index, "columns", ())
        }
        for column in table.columns:
            column.type = _storable(column, name=column.name in named)
    return metadata


def _storable(column: Column[Any], *, name: bool) -> TypeEngine[Any]:
    kind = column.type
    inner = kind.impl_instance if isinstance(kind, TypeDecorator) else kind
    if isinstance(kind, Words | Record):
        return kind
    if isinstance(inner, JSON):
        return Record()
    if isinstance(inner, String):
        return Words(inner.length, name=name)
    return kind
