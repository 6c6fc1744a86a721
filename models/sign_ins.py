"""
Sign-ins that were begun by a consent link and wait for their callback.

Any process may get the callback, so what it needs lies in SQL: found by a hash of its ``state``,
sealed, usable once and for ten minutes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, func, insert, select, update

from models.clock import utc_after, utc_now
from models.consent_links import LINK, SIGN_IN
from models.vault import Vault, sign_in_context

LASTS = timedelta(minutes=10)
"""As long as an authorization code of Entra's."""

AT_ONCE = 6
"""Sign-ins by one link within a minute; a person needs one."""

_KEPT = timedelta(days=1)
"""So long one that is over is told from one that never was."""


class Unusable(StrEnum):
    """Why a state is worth nothing."""

    UNKNOWN = "unknown"
    ENDED = "ended"
    USED = "used"


@dataclass(frozen=True, slots=True)
class SignIn:
    """
    A sign-in whose callback has come.

    Attributes:
        link_id: The consent link by which it was begun.
        flow: What ``Entra.begin`` gave.
    """

    link_id: UUID
    flow: dict[str, Any] = field(repr=False)


def is_busy(conn: Connection, link_id: UUID) -> bool:
    """Tell whether so many sign-ins were begun by this link a moment ago that it must wait."""
    lately = conn.scalar(
        select(func.count())
        .select_from(SIGN_IN)
        .where(SIGN_IN.c.link_id == link_id, SIGN_IN.c.created_at > utc_after(-60))
    )
    return (lately or 0) >= AT_ONCE


def begin(conn: Connection, vault: Vault, *, link_id: UUID, flow: Mapping[str, Any]) -> None:
    """
    Keep a sign-in for its callback, and forget those of yesterday.

    Args:
        conn: An open transaction.
        vault: Seals the flow.
        link_id: By which link it was begun.
        flow: What ``Entra.begin`` gave; its ``state`` finds it again.
    """
    key = _key(str(flow["state"]))
    conn.execute(delete(SIGN_IN).where(SIGN_IN.c.expires_at < utc_after(-_KEPT.total_seconds())))
    conn.execute(
        insert(SIGN_IN).values(
            state_sha256=key,
            link_id=link_id,
            flow_encrypted=vault.seal(json.dumps(flow).encode(), context=sign_in_context(key)),
            created_at=utc_now(),
            expires_at=utc_after(LASTS.total_seconds()),
        )
    )
    conn.execute(update(LINK).where(LINK.c.id == link_id).values(started_at=utc_now()))


def take(conn: Connection, vault: Vault, state: str) -> SignIn | Unusable:
    """
    Take the sign-in that a callback belongs to; of two callbacks one gets it.

    Raises:
        VaultError: It was sealed under a key that is gone.
    """
    key = _key(state)
    taken = conn.execute(
        update(SIGN_IN)
        .where(
            SIGN_IN.c.state_sha256 == key,
            SIGN_IN.c.used_at.is_(None),
            SIGN_IN.c.expires_at > utc_now(),
        )
        .values(used_at=utc_now())
        .returning(SIGN_IN.c.link_id, SIGN_IN.c.flow_encrypted)
    ).one_or_none()
    if taken is not None:
        flow = json.loads(vault.open(taken.flow_encrypted, context=sign_in_context(key)))
        return SignIn(taken.link_id, flow)
    there = conn.execute(
        select(SIGN_IN.c.used_at).where(SIGN_IN.c.state_sha256 == key)
    ).one_or_none()
    if there is None:
        return Unusable.UNKNOWN
    return Unusable.USED if there.used_at is not None else Unusable.ENDED


def _key(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()
