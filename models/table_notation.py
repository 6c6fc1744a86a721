"""
SQLModel's notation of tables, read straight into SQLAlchemy Core.

``models.tables`` is written as SQLModel has it, and type checkers see it so. But all statements are
Core, nothing makes an object of these classes, and to build them with their validators and mappers
takes as long as all the rest of a listing. So this reads the same annotations and makes the tables
alone. What it does not know it refuses; a test reads the same file with SQLModel and compares.
"""

# Annotations are read when a class is made, as SQLModel does.
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Uuid,
)

_TYPES: dict[type, Callable[[], Any]] = {
    UUID: Uuid,
    bool: Boolean,
    int: Integer,
    float: Float,
    datetime: DateTime,
    bytes: LargeBinary,
}


@dataclass(frozen=True, slots=True)
class _Field:
    default: Any = ...
    default_factory: Callable[[], Any] | None = None
    primary_key: bool = False
    foreign_key: str | None = None
    unique: bool = False
    index: bool = False
    max_length: int | None = None
    nullable: bool | None = None
    sa_type: Any = None
    sa_column_kwargs: Mapping[str, Any] | None = None


Field: Any = _Field
"""As SQLModel's; it has those of its arguments that the tables use."""


class SQLModel:
    """A class with ``table=True`` becomes a table of ``metadata``, under ``__table__``."""

    metadata = MetaData()
    __table__: Table

    def __init_subclass__(cls, *, table: bool = False) -> None:
        if table:
            name = cls.__dict__.get("__tablename__") or cls.__name__.lower()
            notes = inspect.get_annotations(cls)
            columns = [
                _column(key, note, cls.__dict__.get(key, ...)) for key, note in notes.items()
            ]
            more = cls.__dict__.get("__table_args__", ())
            cls.__table__ = Table(name, SQLModel.metadata, *columns, *more)


def _column(name: str, note: Any, given: Any) -> Column[Any]:
    told = given if isinstance(given, _Field) else _Field(default=given)
    kind, optional = _kind(note)
    default: dict[str, Any] = {}
    if told.default_factory is not None:
        default["default"] = told.default_factory
    elif told.default is not ...:
        default["default"] = told.default
    nullable = told.nullable
    if nullable is None:
        nullable = optional and not told.primary_key
    return Column(
        name,
        _type(name, kind, told),
        *([ForeignKey(told.foreign_key)] if told.foreign_key else []),
        primary_key=told.primary_key,
        nullable=nullable,
        # A constraint and an index are each made once.
        index=told.index,
        unique=told.unique,
        **default,
        **(told.sa_column_kwargs or {}),
    )


def _kind(note: Any) -> tuple[Any, bool]:
    """Tell the type of an annotation, and whether it may be None."""
    if typing.get_origin(note) in {typing.Union, types.UnionType}:
        parts = [part for part in typing.get_args(note) if part is not types.NoneType]
        if len(parts) == 1:
            return parts[0], True
    return note, False


def _type(name: str, kind: Any, told: _Field) -> Any:
    if told.sa_type is not None:
        return told.sa_type
    if kind is str:
        return String(told.max_length)
    try:
        return _TYPES[kind]()
    except (KeyError, TypeError):
        raise TypeError(f"{name}: no column for {kind!r} without sa_type") from None
