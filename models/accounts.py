"""
Who signs in for a mailbox.

Microsoft's limits hold per account that signs in, and one account may do so for many mailboxes,
in several tenants. So whatever is counted, held or paused for Microsoft's sake is kept by account.

For a shared mailbox that is the account that consented, also where AUTH names the mailbox itself
(``auth_forms``): whose limits count then is not documented, and the account's are never wider than
those of any of its mailboxes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Float,
    Select,
    Uuid,
    bindparam,
    delete,
    func,
    insert,
    select,
    union,
)

from models.clock import utc_after, utc_now
from models.ids import uuid7
from models.lookups import MAILBOX
from models.tables import METADATA

KEPT_SECONDS = 2 * 86_400.0
"""Who signed in before is of interest for a window, or for a day; then it is deleted."""

_FORMER = METADATA.tables["former_account"]


def account_of(address: str, auth_user: str | None) -> str:
    """Name the account that signs in for a mailbox; letter case makes no difference."""
    return (auth_user or address).lower()


def accounts(conn: Connection, mailbox_ids: Collection[UUID]) -> dict[UUID, str]:
    """Name the accounts of many mailboxes; unknown ones are missing."""
    if not mailbox_ids:
        return {}
    rows = conn.execute(_ACCOUNTS, {"mailboxes": list(mailbox_ids)})
    return {row.id: account_of(row.address, row.auth_user) for row in rows}


def served_by(conn: Connection, account: str) -> list[UUID]:
    """Name the mailboxes for which an account signs in."""
    return list(conn.scalars(_SERVED, {"account": account}))


def note_change(conn: Connection, *, mailbox_id: UUID, before: str) -> None:
    """
    Keep that another account signed in for a mailbox until now: what it sent counts for that one.

    Args:
        conn: The transaction that changes it.
        mailbox_id: The mailbox.
        before: Its account until now.
    """
    conn.execute(delete(_FORMER).where(_FORMER.c.ended_at < utc_after(-KEPT_SECONDS)))
    conn.execute(
        insert(_FORMER).values(
            id=uuid7(), mailbox_id=mailbox_id, account=before, ended_at=utc_now()
        )
    )


def counted_for() -> Select[Any]:
    """
    Select the mailboxes whose mails count, or counted lately, for one account.

    The statement takes ``account``, and ``lately``: seconds, negative.
    """
    return select(
        union(
            _SERVED,
            select(_FORMER.c.mailbox_id).where(
                _FORMER.c.account == _ACCOUNT,
                _FORMER.c.ended_at > utc_after(bindparam("lately", type_=Float())),
            ),
        ).subquery()
    )


def changed_lately(conn: Connection, *, seconds: float) -> dict[UUID, UUID]:
    """Name the mailboxes for which another account signed in lately, each with its last change."""
    return {row.mailbox_id: row.id for row in conn.execute(_CHANGED, {"lately": -float(seconds)})}


def both(one: Sequence[UUID], other: Sequence[UUID]) -> list[UUID]:
    """Join two lists of mailboxes, each named once."""
    return list(dict.fromkeys([*one, *other]))


_ACCOUNT = bindparam("account", type_=MAILBOX.c.auth_user.type)

_CHANGED = (
    select(_FORMER.c.mailbox_id, _FORMER.c.id)
    .where(_FORMER.c.ended_at > utc_after(bindparam("lately", type_=Float())))
    .order_by(_FORMER.c.ended_at)
)

_ACCOUNTS = select(MAILBOX.c.id, MAILBOX.c.address, MAILBOX.c.auth_user).where(
    MAILBOX.c.id.in_(bindparam("mailboxes", type_=Uuid(), expanding=True))
)

_SERVED = select(MAILBOX.c.id).where(
    func.lower(func.coalesce(func.nullif(MAILBOX.c.auth_user, ""), MAILBOX.c.address)) == _ACCOUNT
)
