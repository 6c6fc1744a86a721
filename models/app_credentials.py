"""
The stored secrets and certificates of app registrations.

A credential is sealed before it becomes a parameter of a statement, so that neither SQL nor its
log ever sees it in clear.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, func, insert, select, update

from models import database
from models.clock import utc_now
from models.credential import Credential, thumbprint
from models.credential_standing import Kind, Standing, in_turn
from models.errors import VaultError
from models.ids import uuid7
from models.lookups import CREDENTIAL
from models.vault import Vault, app_key_context, app_secret_context

WORKED_EVERY = timedelta(hours=1)
"""So often it is written down that a credential still works."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A stored credential in clear."""

    standing: Standing
    credential: Credential = field(repr=False)


@dataclass(frozen=True, slots=True)
class Refused:
    """That Entra refused a credential: as what, and its code with the trace id."""

    id: UUID
    rule: str
    answer: str


# By what is no secret: who only looks may not even ask of what is sealed whether it is there.
_IS_CERTIFICATE = CREDENTIAL.c.certificate_pem.is_not(None).label("is_certificate")
_LISTED = (
    CREDENTIAL.c.id,
    CREDENTIAL.c.number,
    _IS_CERTIFICATE,
    CREDENTIAL.c.certificate_pem,
    CREDENTIAL.c.expires_at,
    CREDENTIAL.c.added_at,
    CREDENTIAL.c.worked_at,
    CREDENTIAL.c.refused_at,
    CREDENTIAL.c.refused_rule,
    CREDENTIAL.c.refused_answer,
)


def standings(conn: Connection, app_id: UUID | None = None) -> dict[UUID, list[Standing]]:
    """Return how credentials stand, by app registration, the oldest first; of one app or all."""
    query = select(CREDENTIAL.c.app_registration_id, *_LISTED).order_by(CREDENTIAL.c.number)
    if app_id is not None:
        query = query.where(CREDENTIAL.c.app_registration_id == app_id)
    found: dict[UUID, list[Standing]] = {}
    for row in conn.execute(query):
        found.setdefault(row.app_registration_id, []).append(_standing(row))
    return found


def opened(conn: Connection, vault: Vault, app_id: UUID) -> tuple[Opened, ...]:
    """
    Return the credentials of an app registration in clear, in the order in which they are tried.

    Raises:
        VaultError: No key opens any of them.
    """
    known = {one.standing.id: one for one in all_opened(conn, vault, app_id)}
    order = in_turn([one.standing for one in known.values()], database.now(conn))
    return tuple(known[one.id] for one in order)


def all_opened(conn: Connection, vault: Vault, app_id: UUID) -> tuple[Opened, ...]:
    """
    Return the same, those included that have ended and are not tried; the oldest first.

    One that no key opens is left out beside one that opens: nothing has to stop for it.
    """
    rows = conn.execute(
        select(CREDENTIAL, _IS_CERTIFICATE)
        .where(CREDENTIAL.c.app_registration_id == app_id)
        .order_by(CREDENTIAL.c.number)
    )
    found: list[Opened] = []
    sealed: VaultError | None = None
    for row in rows:
        try:
            found.append(Opened(_standing(row), _clear(vault, row)))
        except VaultError as error:
            sealed = error
    if sealed is not None and not found:
        raise sealed
    return tuple(found)


def find(conn: Connection, vault: Vault, app_id: UUID, credential: Credential) -> UUID | None:
    """Tell which stored credential is this very one, whatever end date either has."""
    try:
        known = all_opened(conn, vault, app_id)
    except VaultError:
        return None
    wanted = replace(credential, expires_at=None)
    return next(
        (one.standing.id for one in known if replace(one.credential, expires_at=None) == wanted),
        None,
    )


def store(conn: Connection, vault: Vault, app_id: UUID, credential: Credential) -> int:
    """Add a credential beside those that are there; give its number."""
    latest = conn.scalar(
        select(func.max(CREDENTIAL.c.number)).where(CREDENTIAL.c.app_registration_id == app_id)
    )
    number, key = (latest or 0) + 1, uuid7()
    secret, private_key = credential.client_secret, credential.private_key_pem
    conn.execute(
        insert(CREDENTIAL).values(
            id=key,
            app_registration_id=app_id,
            number=number,
            client_secret_encrypted=(
                vault.seal(secret.encode(), context=app_secret_context(key)) if secret else None
            ),
            private_key_encrypted=(
                vault.seal(private_key.encode(), context=app_key_context(key))
                if private_key
                else None
            ),
            certificate_pem=credential.certificate_pem,
            expires_at=credential.expires_at,
            added_at=utc_now(),
        )
    )
    return number


def date(conn: Connection, credential_id: UUID, expires_at: datetime | None) -> None:
    """Write down when a credential ends."""
    conn.execute(
        update(CREDENTIAL).where(CREDENTIAL.c.id == credential_id).values(expires_at=expires_at)
    )


def drop(conn: Connection, credential_ids: Iterable[UUID]) -> None:
    """Delete credentials."""
    conn.execute(delete(CREDENTIAL).where(CREDENTIAL.c.id.in_(list(credential_ids))))


def note_worked(conn: Connection, credential_id: UUID) -> None:
    """Write down that Entra took a credential just now."""
    conn.execute(
        update(CREDENTIAL)
        .where(CREDENTIAL.c.id == credential_id)
        .values(worked_at=utc_now(), refused_at=None, refused_rule=None, refused_answer=None)
    )


def note_refused(conn: Connection, refused: Refused) -> bool:
    """
    Write down that Entra refused a credential just now.

    Returns:
        Whether that is news: among all that learn it at once only one is told so.
    """
    told_before = CREDENTIAL.c.refused_rule.is_not_distinct_from(refused.rule)
    mine = CREDENTIAL.c.id == refused.id
    values = {
        "refused_at": utc_now(),
        "refused_rule": refused.rule,
        "refused_answer": refused.answer,
    }
    if conn.execute(update(CREDENTIAL).where(mine, ~told_before).values(values)).rowcount:
        return True
    conn.execute(update(CREDENTIAL).where(mine, told_before).values(values))
    return False


def _standing(row: Any) -> Standing:
    return Standing(
        id=row.id,
        number=row.number,
        kind=Kind.CERTIFICATE if row.is_certificate else Kind.SECRET,
        thumbprint=None if row.certificate_pem is None else thumbprint(row.certificate_pem),
        expires_at=row.expires_at,
        added_at=row.added_at,
        worked_at=row.worked_at,
        refused_at=row.refused_at,
        refused_rule=row.refused_rule,
        refused_answer=row.refused_answer,
    )


def _clear(vault: Vault, row: Any) -> Credential:
    secret, key = row.client_secret_encrypted, row.private_key_encrypted
    return Credential(
        client_secret=(
            vault.open(secret, context=app_secret_context(row.id)).decode() if secret else None
        ),
        private_key_pem=vault.open(key, context=app_key_context(row.id)).decode() if key else None,
        certificate_pem=row.certificate_pem,
        expires_at=row.expires_at,
    )
