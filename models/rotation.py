"""
Brings everything encrypted at rest under the first key, while producers and workers go on.

Before it every process must know the new key, and every process must seal under it before the old
one goes. So a rotation is: append the new key to ALERTPOST_SECRET_KEYS everywhere and restart; put
it first everywhere and restart; run this; when nothing is left under the old key, remove it. See
docs/operating.md, and console/key_rotation.py for the steps with a key file. Access tokens in Redis
are no part of it: they end within an hour and a half, and the console drops those of an old key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, LargeBinary, Table, and_, func, literal, select, update

from models import database, tables
from models.errors import VaultError
from models.vault import (
    HEAD_BYTES,
    PREFIX_BYTES,
    Vault,
    app_key_context,
    app_secret_context,
    consent_token_context,
    content_context,
    delivery_context,
    grant_context,
    route_context,
)

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Engine

Progress = Callable[[str, int, int], None]
"""Called with what is rotated, how many of it were looked at, and how many there are."""

_PASSES = 3
_TRANSACTION_BYTES = 4 * 1024 * 1024
"""A page of deliveries with attachments is written in several transactions, not in a huge one."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that no known key opens; it stays as it is."""

    kind: str
    id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class RotationReport:
    """
    What a rotation did.

    Attributes:
        resealed: Values now under the first key, by kind.
        left: Values still under another key, by kind; zeros when the old key can go.
        unreadable: Those of them that no known key opens.
    """

    resealed: dict[str, int]
    left: dict[str, int]
    unreadable: tuple[Unreadable, ...]

    @property
    def complete(self) -> bool:
        """Whether the old keys can be removed."""
        return not any(self.left.values())


@dataclass(frozen=True, slots=True)
class _Place:
    """A column of sealed values."""

    kind: str
    table: Table
    column: ColumnElement[Any]
    context: Callable[[UUID], str]
    versioned: bool = False

    @property
    def id(self) -> ColumnElement[Any]:
        return self.table.c.id

    def head(self, length: int) -> ColumnElement[Any]:
        return func.substr(self.column, 1, length, type_=LargeBinary)

    def is_old(self, vault: Vault) -> ColumnElement[bool]:
        prefix = literal(vault.prefix, LargeBinary)
        # An empty value holds nothing to protect.
        return and_(func.length(self.column) > 0, self.head(PREFIX_BYTES) != prefix)


def _places() -> tuple[_Place, ...]:
    credentials, grants, links, deliveries, contents, tenants = (
        tables.METADATA.tables[model.__tablename__]
        for model in (
            tables.AppCredential, tables.Grant, tables.ConsentLink, tables.Delivery,
            tables.ContentPiece, tables.Tenant,
        )
    )  # fmt: skip
    secret, key = credentials.c.client_secret_encrypted, credentials.c.private_key_encrypted
    return (
        _Place("app secrets", credentials, secret, app_secret_context),
        _Place("app keys", credentials, key, app_key_context),
        _Place("grants", grants, grants.c.cache_encrypted, grant_context, versioned=True),
        _Place("tenant addresses", tenants, tenants.c.route_encrypted, route_context),
        _Place("consent links", links, links.c.token_encrypted, consent_token_context),
        _Place("deliveries", deliveries, deliveries.c.payload_encrypted, delivery_context),
        _Place("large contents", contents, contents.c.octets_encrypted, content_context),
    )


def rotate(
    engine: Engine,
    vault: Vault,
    *,
    batch: int = 500,
    progress: Progress = lambda _kind, _done, _total: None,
) -> RotationReport:
    """
    Seal everything under the vault's first key that another one sealed.

    Can be stopped at any time and run again: it goes on with what is left.

    Args:
        engine: Where the tables are.
        vault: Knows the new key, first, and the old ones.
        batch: Rows in one page; the largest number in one transaction.
        progress: Told after each transaction.

    Raises:
        StoreUnavailable: SQL is away; what was done so far is kept.
    """
    resealed: dict[str, int] = {}
    unreadable: list[Unreadable] = []
    for place in _places():
        resealed[place.kind] = 0
        for _ in range(_PASSES):
            run = _Pass(engine, vault, place, batch, progress)
            run.go()
            resealed[place.kind] += run.resealed
            if not run.overtaken:
                break
        unreadable += run.unreadable
    return RotationReport(
        resealed=resealed, left=count_old(engine, vault), unreadable=tuple(unreadable)
    )


def count_old(engine: Engine, vault: Vault) -> dict[str, int]:
    """Count what is not under the vault's first key, by kind."""
    with database.read(engine) as conn:
        return {
            place.kind: conn.execute(
                select(func.count()).select_from(place.table).where(place.is_old(vault))
            ).scalar_one()
            for place in _places()
        }


class _Pass:
    """One walk over a column, in the order of keys, so that no row is looked at twice."""

    def __init__(
        self, engine: Engine, vault: Vault, place: _Place, batch: int, progress: Progress
    ) -> None:
        self._engine, self._vault, self._place = engine, vault, place
        self._batch, self._progress = batch, progress
        self.resealed = 0
        self.overtaken = 0
        """Rows that somebody else wrote between our reading and our writing."""
        self.unreadable: list[Unreadable] = []

    def go(self) -> None:
        total = count_old(self._engine, self._vault)[self._place.kind]
        after: UUID | None = None
        done = 0
        while page := self._page(after):
            for ids in _portions(page):
                self._reseal(ids)
                done += len(ids)
                self._progress(self._place.kind, done, max(done, total))
            after = page[-1][0]

    def _page(self, after: UUID | None) -> Sequence[Any]:
        place = self._place
        query = select(place.id, func.length(place.column)).where(place.is_old(self._vault))
        if after is not None:
            query = query.where(place.id > after)
        with database.read(self._engine) as conn:
            return conn.execute(query.order_by(place.id).limit(self._batch)).all()

    def _reseal(self, ids: Sequence[UUID]) -> None:
        place = self._place
        version = place.table.c.version if place.versioned else literal(0)
        with database.read(self._engine) as conn:
            rows = conn.execute(
                select(place.id, place.column, version).where(
                    place.id.in_(ids), place.is_old(self._vault)
                )
            ).all()
        self.overtaken += len(ids) - len(rows)
        # Cryptography happens between the transactions, where it holds nobody up.
        changes = [
            (row_id, sealed, moved, row_version)
            for row_id, sealed, row_version in rows
            if (moved := self._moved(row_id, sealed)) is not None
        ]
        with database.write(self._engine) as conn:
            for row_id, sealed, moved, row_version in changes:
                # Only over what was read: a token that was refreshed meanwhile must stay. The
                # version does not grow, else a refresh under way would lose in its turn.
                unchanged = place.head(HEAD_BYTES) == literal(sealed[:HEAD_BYTES], LargeBinary)
                statement = update(place.table).where(place.id == row_id, unchanged)
                if place.versioned:
                    statement = statement.where(place.table.c.version == row_version)
                changed = conn.execute(statement.values({place.column: moved})).rowcount
                self.resealed += changed
                self.overtaken += 1 - changed

    def _moved(self, row_id: UUID, sealed: bytes) -> bytes | None:
        try:
            return self._vault.reseal(sealed, context=self._place.context(row_id))
        except VaultError as error:
            self.unreadable.append(Unreadable(self._place.kind, row_id, str(error)))
            return None


def _portions(page: Sequence[Any]) -> Iterator[list[UUID]]:
    """Cut a page into what one transaction may carry; a single large row is one."""
    ids: list[UUID] = []
    size = 0
    for row_id, length in page:
        if ids and size + length > _TRANSACTION_BYTES:
            yield ids
            ids, size = [], 0
        ids.append(row_id)
        size += length
    yield ids
