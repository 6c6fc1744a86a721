"""
Addresses that are not used again, of each tenant: the suppression list.

A server that refuses an address for good says so every time, and Microsoft shuts a mailbox out of
sending that keeps naming bad ones (5.2.255). So refusals are counted, and after as many as the
verdict says the address is suppressed: mails to it are accounted as refused without being sent.
A critical alert still tries it once a day; a mail that is taken ends it, and so does a person.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from models.clock import utc_now
from models.errors import NotFound
from models.lookups import TENANT, tenant_id
from models.severity import Severity
from models.stored import plain
from models.tables import METADATA
from models.upserts import upsert_into

RECIPIENT_SUPPRESSED = "recipient-suppressed"
"""Reason of a delivery of which no recipient may be used."""

CRITICAL_EVERY = timedelta(days=1)

_ANSWER_LIMIT = 2000
_ADDRESS_LIMIT = 320
_TABLE = METADATA.tables["suppression"]
_S = _TABLE.c


@dataclass(frozen=True, slots=True)
class Suppression:
    """
    An address that was refused.

    Attributes:
        suppressed_at: Since when it is not used; None: it is only counted.
    """

    tenant: str
    address: str
    rule: str
    answer: str
    refusals: int
    first_at: datetime
    last_at: datetime
    suppressed_at: datetime | None

    def bars(self, severity: Severity, now: datetime) -> bool:
        """Say whether a mail of this severity may not be sent to it now."""
        if self.suppressed_at is None:
            return False
        return severity != Severity.CRITICAL or now < self.last_at + CRITICAL_EVERY

    @property
    def sentence(self) -> str:
        """Say what stands beside the recipient of a mail that was not sent to it."""
        since = self.suppressed_at or self.last_at
        return (
            f"suppressed since {since:%Y-%m-%d} ({self.rule}): not tried; the last answer was:"
            f" {self.answer}"
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """One recipient refused for good: under which rule, how, and after how many it is enough."""

    address: str
    rule: str
    answer: str
    enough: int


def key_of(address: str) -> str:
    """Spell an address as the list has it."""
    return (plain(address, _ADDRESS_LIMIT) or "").lower()


def known(conn: Connection, tenant: UUID, addresses: Collection[str]) -> dict[str, Suppression]:
    """Look these addresses up; by ``key_of``, those that were never refused are missing."""
    keys = sorted({key_of(address) for address in addresses})
    rows = conn.execute(_listing().where(_S.tenant_id == tenant, _S.address.in_(keys)))
    return {row.address: Suppression(*row) for row in rows}


def note(conn: Connection, tenant: UUID, refusals: Sequence[Refusal]) -> list[str]:
    """Count refusals; return the addresses that are suppressed from now on."""
    fresh = []
    for one in sorted(refusals, key=lambda each: each.address):
        where = (_S.tenant_id == tenant, _S.address == key_of(one.address))
        row = conn.execute(
            select(_S.rule, _S.refusals, _S.suppressed_at).where(*where).with_for_update()
        ).one_or_none()
        count = row.refusals + 1 if row is not None and row.rule == one.rule else 1
        values: dict[str, Any] = {
            "rule": one.rule,
            "answer": one.answer,
            "refusals": count,
            "last_at": utc_now(),
        }
        if (row is None or row.suppressed_at is None) and count >= one.enough:
            values["suppressed_at"] = utc_now()
            fresh.append(one.address)
        if row is None:
            _insert(conn, tenant, key_of(one.address), values)
        else:
            conn.execute(update(_TABLE).where(*where).values(**values))
    return fresh


def took(conn: Connection, tenant: UUID, addresses: Collection[str]) -> list[str]:
    """Take addresses off the list to which a mail went out; return those that were suppressed."""
    keys = sorted({key_of(address) for address in addresses})
    rows = conn.execute(
        delete(_TABLE)
        .where(_S.tenant_id == tenant, _S.address.in_(keys))
        .returning(_S.address, _S.suppressed_at)
    ).all()
    return [row.address for row in rows if row.suppressed_at is not None]


def list_suppressions(
    conn: Connection, *, tenant_slug: str | None = None, limit: int | None = None
) -> list[Suppression]:
    """
    List what is suppressed, by tenant and address.

    Raises:
        NotFound: There is no such tenant.
    """
    statement = _listing().where(_S.suppressed_at.is_not(None))
    if tenant_slug is not None:
        statement = statement.where(_S.tenant_id == tenant_id(conn, tenant_slug))
    rows = conn.execute(statement.order_by(TENANT.c.slug, _S.address).limit(limit))
    return [Suppression(*row) for row in rows]


def count(conn: Connection, *, tenant: UUID | None = None) -> int:
    """Count what is suppressed."""
    which: list[ColumnElement[bool]] = [] if tenant is None else [_S.tenant_id == tenant]
    found = conn.scalar(
        select(func.count()).select_from(_TABLE).where(_S.suppressed_at.is_not(None), *which)
    )
    return found or 0


def remove(conn: Connection, address: str, *, tenant_slug: str | None = None) -> list[Suppression]:
    """
    Let an address be used again; return what was taken off, one for each tenant.

    Raises:
        NotFound: There is no such tenant, or the address is not suppressed there.
    """
    which = [_S.address == key_of(address)]
    if tenant_slug is not None:
        which.append(_S.tenant_id == tenant_id(conn, tenant_slug))
    rows = conn.execute(_listing().where(*which, _S.suppressed_at.is_not(None)))
    found = [Suppression(*row) for row in rows]
    if not found:
        where = "" if tenant_slug is None else f" at tenant {tenant_slug!r}"
        raise NotFound(f"{address!r} is not suppressed{where}; `alertpost suppressions list`")
    conn.execute(delete(_TABLE).where(*which))
    return found


def forget_tenant(conn: Connection, tenant: UUID) -> None:
    """Delete all that is known of a tenant's addresses."""
    conn.execute(delete(_TABLE).where(_S.tenant_id == tenant))


def _insert(conn: Connection, tenant: UUID, key: str, values: dict[str, Any]) -> None:
    # Two workers may meet the first refusal of one address at once; one of them counts it.
    row = {"tenant_id": tenant, "address": key, "first_at": utc_now(), **values}
    insert = upsert_into(conn.dialect.name, _TABLE).values(**row)
    conn.execute(insert.on_conflict_do_nothing())


def _listing() -> Any:
    return select(
        TENANT.c.slug,
        _S.address,
        _S.rule,
        _S.answer,
        _S.refusals,
        _S.first_at,
        _S.last_at,
        _S.suppressed_at,
    ).join_from(_TABLE, TENANT, _S.tenant_id == TENANT.c.id)
