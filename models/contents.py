"""What deliveries hold: read by key beside the lane's statements, large contents by pieces."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    Uuid,
    bindparam,
    delete,
    exists,
    insert,
    select,
)

from models import database
from models.batches import as_parameter, table_of_rows
from models.database import write
from models.large_content import LargeContent
from models.moves import DELIVERY
from models.tables import METADATA

PORTION_BYTES = 2 * 1024 * 1024
"""Of pieces, in one transaction: what is written in some 20 ms keeps nobody out for long."""

FORGOTTEN_AFTER_SECONDS = 24 * 3600
"""Pieces without their delivery are as old at least when they go, whatever a clock says."""

_D = DELIVERY.c
_PIECE = METADATA.tables["content_piece"]


def store_ahead(engine: Engine, contents: Sequence[LargeContent]) -> frozenset[UUID]:
    """
    Commit pieces before the deliveries that they belong to, where they are many.

    Who wrote them all together with the deliveries would keep every other writer out of SQLite's
    one file for seconds. If the deliveries never come, ``forget`` removes what was stored; after a
    crash ``orphans`` names it.

    Returns:
        The deliveries whose pieces are stored; none where all of them are small enough to go with
        their deliveries.

    Raises:
        StoreUnavailable: SQL is away.
    """
    if sum(one.octets for one in contents) <= PORTION_BYTES:
        return frozenset()
    portion: list[dict[str, Any]] = []
    size = 0
    for content in contents:
        for key, sealed in content.pieces():
            portion.append(_row(content, key, sealed))
            size += len(sealed)
            if size >= PORTION_BYTES:
                _commit(engine, portion)
                portion, size = [], 0
    if portion:
        _commit(engine, portion)
    return frozenset(one.delivery_id for one in contents)


def add(conn: Connection, contents: Iterable[LargeContent]) -> None:
    """Store pieces in the transaction of their deliveries."""
    for content in contents:
        conn.execute(
            insert(_PIECE), [_row(content, key, sealed) for key, sealed in content.pieces()]
        )


def forget(engine: Engine, delivery_ids: Collection[UUID]) -> None:
    """Remove the pieces of deliveries that did not come about."""
    for delivery_id in delivery_ids:
        with write(engine) as conn:
            conn.execute(delete(_PIECE).where(_PIECE.c.delivery_id == delivery_id))


def orphans(conn: Connection, *, limit: int = 100) -> list[UUID]:
    """Name deliveries that have pieces and never came about, because their producer died."""
    # The key of a delivery begins with the moment at which it was made, in milliseconds.
    latest = database.now(conn).timestamp() - FORGOTTEN_AFTER_SECONDS
    statement = (
        select(_PIECE.c.delivery_id)
        .distinct()
        .where(
            _PIECE.c.delivery_id < UUID(int=int(latest * 1000) << 80),
            ~exists().where(_D.id == _PIECE.c.delivery_id),
        )
        .limit(limit)
    )
    return list(conn.execute(statement).scalars())


def heads(conn: Connection, delivery_ids: Collection[UUID]) -> dict[UUID, bytes]:
    """Read what stands in the rows of deliveries, sealed; those that are gone are left out."""
    given = as_parameter([{"id": one.hex} for one in delivery_ids])
    return {row[0]: row[1] for row in conn.execute(_heads(conn.dialect.name), given)}


def piece(conn: Connection, piece_id: UUID) -> bytes | None:
    """Read one piece, sealed; None if it is not there."""
    sealed: bytes | None = conn.execute(_ONE_PIECE, {"piece": piece_id}).scalar_one_or_none()
    return sealed


def _commit(engine: Engine, rows: Sequence[dict[str, Any]]) -> None:
    with write(engine) as conn:
        conn.execute(insert(_PIECE), rows)


def _row(content: LargeContent, key: UUID, sealed: bytes) -> dict[str, Any]:
    return {"id": key, "delivery_id": content.delivery_id, "octets_encrypted": sealed}


@cache
def _heads(dialect: str) -> Select[Any]:
    given = table_of_rows(dialect, {"id": Uuid()}).c
    return select(_D.id, _D.payload_encrypted).where(_D.id == given.id)


_ONE_PIECE = select(_PIECE.c.octets_encrypted).where(
    _PIECE.c.id == bindparam("piece", type_=Uuid())
)
