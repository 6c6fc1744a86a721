"""The tables are those that SQLModel makes of the same file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlmodel
from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from models import tables
from models.table_notation import Field, SQLModel


def by_sqlmodel() -> dict[str, Table]:
    source = Path(tables.__file__).read_text("utf-8")
    ours = "from models.table_notation import Field, SQLModel"
    assert ours in source
    names: dict[str, Any] = {"__name__": "tables_by_sqlmodel"}
    theirs = source.replace(ours, "from sqlmodel import Field, SQLModel")
    # Without this file's own way with annotations.
    exec(compile(theirs, tables.__file__, "exec", dont_inherit=True), names)
    assert names["METADATA"] is sqlmodel.SQLModel.metadata
    return dict(names["METADATA"].tables)


THEIRS = by_sqlmodel()


def test_there_are_no_others() -> None:
    """Every table is there, under its name."""
    assert list(tables.METADATA.tables) == list(THEIRS)
    assert len(THEIRS) > 10


@pytest.mark.parametrize("name", list(THEIRS))
def test_a_table_is_as_sqlmodel_makes_it(name: str) -> None:
    """Columns, types, defaults, keys and indexes, in both databases' own words."""
    ours, theirs = tables.METADATA.tables[name], THEIRS[name]

    assert list(map(column, ours.c)) == list(map(column, theirs.c))
    for dialect in (sqlite.dialect(), postgresql.dialect()):
        assert ddl(ours, dialect) == ddl(theirs, dialect)


def column(one: Column[Any]) -> tuple[object, ...]:
    default = one.default and one.default.arg
    # A callable is wrapped anew for each column, and each reading makes helpers of its own.
    said = getattr(getattr(default, "__wrapped__", default), "__qualname__", default)
    # SQLModel's own name for String.
    kind = repr(one.type).replace("AutoString", "String")
    in_sql = one.server_default and str(one.server_default.arg)  # type: ignore[attr-defined]
    return one.name, kind, one.nullable, one.primary_key, said, in_sql


def ddl(table: Table, dialect: Any) -> list[str]:
    made = [str(CreateTable(table).compile(dialect=dialect))]
    return made + sorted(str(CreateIndex(one).compile(dialect=dialect)) for one in table.indexes)


def test_what_it_does_not_know_is_refused() -> None:
    """A notation that would be read wrongly is an error, not another table."""
    with pytest.raises(TypeError, match="no column for"):

        class Strange(SQLModel, table=True):  # type: ignore[misc]
            __tablename__ = "strange"
            what: dict[str, str] = Field(default_factory=dict)

    with pytest.raises(TypeError, match="ondelete"):
        Field(ondelete="CASCADE")
