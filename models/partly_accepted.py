"""
Mails that were accepted although the server refused some of their recipients.

Somebody did not get them, and no dead letter says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Float,
    Integer,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from models.clock import utc_after
from models.lifecycle import State
from models.lookups import MAILBOX
from models.moves import DELIVERY, in_state
from models.stored import AsText
from models.tables import METADATA

SHOWN = timedelta(days=1)
"""So far back it is shown how things stand."""

_A = METADATA.tables["attempt"].c
_NOBODY: list[ColumnElement[str]] = [literal_column("'{}'"), literal_column("'null'")]


@dataclass(frozen=True, slots=True)
class Refusals:
    """
    Recipients who were refused in mails that others got.

    Attributes:
        recipients: Counted once in each mail.
        mails: In so many.
    """

    recipients: int = 0
    mails: int = 0


NO_REFUSALS = Refusals()


def partly_accepted() -> ColumnElement[bool]:
    """Return the condition that a mail was accepted, but not for all."""
    return and_(in_state(State.ACCEPTED), _names_some(DELIVERY.c.refused))


def number_refused(column: ColumnElement[Any] = DELIVERY.c.refused) -> ColumnElement[int]:
    """Count the recipients that a column names, as a value; 0 where it names none."""
    # Unpacked only where there is something: nearly every row says "{}".
    return case((_names_some(column), _Keys(column)), else_=literal_column("0", Integer()))


def lately_refused(conn: Connection, *, within: timedelta = SHOWN) -> Refusals:
    """
    Count the recipients who were refused within this time in mails that are accepted.

    The cost follows what was tried within this time, by the index of attempts.
    """
    row = conn.execute(_LATELY, {"since": -within.total_seconds()}).one()
    return Refusals(recipients=row.recipients, mails=row.mails)


def _names_some(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Look at the text, as it is stored; what is NULL names nobody either."""
    return cast(column, AsText()).not_in(_NOBODY)


class _Keys(FunctionElement[int]):
    """How many names a JSON object has."""

    type = Integer()
    inherit_cache = True
    name = "keys"


@compiles(_Keys, "postgresql")
def _postgresql(element: _Keys, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(SELECT count(*) FROM json_object_keys({compiler.process(element.clauses, **kw)}))"


@compiles(_Keys, "sqlite")
def _sqlite(element: _Keys, compiler: SQLCompiler, **kw: Any) -> str:
    return f"(SELECT count(*) FROM json_each({compiler.process(element.clauses, **kw)}))"


_LATELY = (
    select(
        # A sum is a NUMERIC to PostgreSQL.
        cast(func.coalesce(func.sum(number_refused(_A.refused)), 0), BigInteger()).label(
            "recipients"
        ),
        func.count(DELIVERY.c.id.distinct()).label("mails"),
    )
    .join_from(METADATA.tables["attempt"], DELIVERY, _A.delivery_id == DELIVERY.c.id)
    .where(
        # All of them: said so, the index of mailbox and time serves, mailbox by mailbox.
        _A.mailbox_id.in_(select(MAILBOX.c.id)),
        _A.finished_at > utc_after(bindparam("since", type_=Float())),
        _names_some(_A.refused),
        in_state(State.ACCEPTED),
    )
)
