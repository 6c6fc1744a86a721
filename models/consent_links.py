"""
Consent links: what a customer's administrator opens to connect a mailbox, without an account here.

A link ends with a token that the vault made. In it, sealed, are the link's id, its mailbox, its end
and who made it; nothing in it can be read, guessed or changed. The row says whether the link still
holds. A link is worth nothing after its end, once its mailbox was removed or connected, once it
was withdrawn, and once another one was made for the same mailbox.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, and_, delete, insert, select, update

from models import database
from models.clock import utc_now
from models.errors import ConfigurationError, NotFound, VaultError
from models.ids import uuid7
from models.lookups import MAILBOX
from models.tables import METADATA
from models.vault import Vault, consent_token_context

LINK = METADATA.tables["consent_link"]
SIGN_IN = METADATA.tables["sign_in"]

LONGEST = timedelta(days=90)
"""A link lies in mailboxes and ticket systems; this is long enough for the slowest customer."""

LONGEST_NOTE = 500
LONGEST_TOKEN = 1024
"""Characters; far more than any that we make."""

_CONTEXT = "consent-link"


class Standing(StrEnum):
    """Whether a link holds, and if not, why."""

    HOLDS = "holds"
    CONNECTED = "connected"
    WITHDRAWN = "withdrawn"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Link:
    """
    A link as it is stored, without its token.

    Attributes:
        made_by: Who made it, as the audit trail names them.
        note: For whoever opens it.
        opened_at: When somebody, or a mail scanner, opened it first.
        started_at: When somebody pressed the button last.
        refusal: Why the last sign-in brought nothing; None where none was refused.
        connected_at: When its mailbox was connected, by it or otherwise.
        withdrawn_at: When somebody withdrew it, or made another one.
    """

    id: UUID
    mailbox_id: UUID
    made_by: str
    note: str
    created_at: datetime
    expires_at: datetime
    opened_at: datetime | None
    started_at: datetime | None
    refused_at: datetime | None
    refusal: str | None
    connected_at: datetime | None
    withdrawn_at: datetime | None
    standing: Standing


def make(
    conn: Connection,
    vault: Vault,
    *,
    mailbox_id: UUID,
    lasts: timedelta,
    made_by: str,
    note: str = "",
) -> tuple[Link, str]:
    """
    Make a link; earlier ones of the mailbox are worth nothing from now on.

    Args:
        conn: An open transaction.
        vault: Makes the token.
        mailbox_id: Which mailbox is to be connected by it.
        lasts: How long it holds.
        made_by: Who makes it, for the audit trail.
        note: For whoever opens it.

    Returns:
        The link, and the token that its address ends with.

    Raises:
        ConfigurationError: It would hold too long, or the note is too long.
    """
    if not timedelta(0) < lasts <= LONGEST:
        raise ConfigurationError(f"a consent link holds for 1 to {LONGEST.days} days")
    note = " ".join(note.split())
    if len(note) > LONGEST_NOTE or not note.isprintable():
        raise ConfigurationError(f"the note is one line of at most {LONGEST_NOTE} characters")
    # The mailbox' row is held, so that of two links made at once one replaces the other.
    conn.execute(select(MAILBOX.c.id).where(MAILBOX.c.id == mailbox_id).with_for_update())
    withdraw(conn, [mailbox_id])
    key, expires_at = uuid7(), database.now(conn) + lasts
    token = _token(vault, key, mailbox_id, expires_at, made_by)
    conn.execute(
        insert(LINK).values(
            id=key,
            mailbox_id=mailbox_id,
            token_encrypted=vault.seal(token.encode("ascii"), context=consent_token_context(key)),
            token_sha256=_hash(token),
            made_by=made_by,
            note=note,
            created_at=utc_now(),
            expires_at=expires_at,
        )
    )
    made = by_id(conn, key)
    assert made is not None
    return made, token


def find(conn: Connection, vault: Vault, token: str) -> Link | None:
    """
    Look up the link that a token belongs to, whether it still holds or not.

    Returns:
        None: its mailbox was removed.

    Raises:
        NotFound: This is no token of ours.
    """
    unknown = NotFound("this is not a consent link of ours")
    if len(token) > LONGEST_TOKEN or not token.isascii():
        raise unknown
    try:
        sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise unknown from None
    try:
        inside = vault.open(sealed, context=_CONTEXT)
    except VaultError:
        # Either made up, or its key was taken away by a rotation since; then the row knows it.
        known = _one(conn, LINK.c.token_sha256 == _hash(token))
        if known is None:
            raise unknown from None
        return known
    link_id, mailbox_id = UUID(bytes=inside[:16]), UUID(bytes=inside[16:32])
    return _one(conn, and_(LINK.c.id == link_id, LINK.c.mailbox_id == mailbox_id))


def by_id(conn: Connection, link_id: UUID) -> Link | None:
    """Return a link, None where there is none any more."""
    return _one(conn, LINK.c.id == link_id)


def token_of(conn: Connection, vault: Vault, link_id: UUID) -> str:
    """
    Return the token of a link that is there, the same as when it was made.

    Raises:
        VaultError: No key opens it.
    """
    sealed = conn.execute(select(LINK.c.token_encrypted).where(LINK.c.id == link_id)).scalar_one()
    return vault.open(sealed, context=consent_token_context(link_id)).decode("ascii")


def latest(conn: Connection) -> dict[UUID, Link]:
    """Return the last link of each mailbox that has one, by mailbox."""
    rows = conn.execute(_links().order_by(LINK.c.created_at, LINK.c.id))
    return {row.mailbox_id: _link(row) for row in rows}


def note_opened(conn: Connection, link_id: UUID) -> bool:
    """Note that somebody opened it; True for the first time."""
    opened = conn.execute(
        update(LINK)
        .where(LINK.c.id == link_id, LINK.c.opened_at.is_(None))
        .values(opened_at=utc_now())
    )
    return opened.rowcount == 1


def note_refused(conn: Connection, link_id: UUID, refusal: str) -> None:
    """Note why a sign-in by it brought nothing; it goes on holding."""
    conn.execute(
        update(LINK).where(LINK.c.id == link_id).values(refused_at=utc_now(), refusal=refusal)
    )


def note_connected(conn: Connection, mailbox_id: UUID) -> None:
    """End the links of a mailbox that was connected: they have served."""
    conn.execute(update(LINK).where(*_unsettled([mailbox_id])).values(connected_at=utc_now()))


def withdraw(conn: Connection, mailbox_ids: Sequence[UUID]) -> int:
    """
    End the links of some mailboxes.

    Returns:
        How many of them held.
    """
    return conn.execute(
        update(LINK)
        .where(*_unsettled(mailbox_ids), LINK.c.expires_at > utc_now())
        .values(withdrawn_at=utc_now())
    ).rowcount


def forget(conn: Connection, mailbox_ids: Sequence[UUID]) -> None:
    """Delete the links of mailboxes that are removed, and the sign-ins begun by them."""
    theirs = select(LINK.c.id).where(LINK.c.mailbox_id.in_(mailbox_ids))
    conn.execute(delete(SIGN_IN).where(SIGN_IN.c.link_id.in_(theirs)))
    conn.execute(delete(LINK).where(LINK.c.mailbox_id.in_(mailbox_ids)))


def _token(vault: Vault, key: UUID, mailbox_id: UUID, expires_at: datetime, made_by: str) -> str:
    # Packed, since it is going to be part of a line in a mail.
    until = int(expires_at.timestamp()).to_bytes(8, "big")
    inside = key.bytes + mailbox_id.bytes + until + made_by.encode()
    sealed = vault.seal(inside, context=_CONTEXT)
    return base64.urlsafe_b64encode(sealed).decode("ascii").rstrip("=")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _unsettled(mailbox_ids: Sequence[UUID]) -> tuple[Any, ...]:
    return (
        LINK.c.mailbox_id.in_(mailbox_ids),
        LINK.c.withdrawn_at.is_(None),
        LINK.c.connected_at.is_(None),
    )


def _links() -> Any:
    return select(
        *(column for column in LINK.c if column.name not in {"token_encrypted", "token_sha256"}),
        (LINK.c.expires_at <= utc_now()).label("ended"),
    )


def _one(conn: Connection, condition: Any) -> Link | None:
    row = conn.execute(_links().where(condition)).one_or_none()
    return None if row is None else _link(row)


def _link(row: Any) -> Link:
    fields = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name begins so
    ended = fields.pop("ended")
    standing = Standing.HOLDS
    if row.connected_at is not None:
        standing = Standing.CONNECTED
    elif row.withdrawn_at is not None:
        standing = Standing.WITHDRAWN
    elif ended:
        standing = Standing.ENDED
    return Link(**fields, standing=standing)
