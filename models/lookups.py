"""From the names that people use to the keys that rows have."""

from __future__ import annotations

from difflib import get_close_matches
from shlex import quote
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, or_, select

from models.errors import NotFound
from models.tables import METADATA

APP = METADATA.tables["app_registration"]
CREDENTIAL = METADATA.tables["app_credential"]
TENANT = METADATA.tables["tenant"]
MAILBOX = METADATA.tables["mailbox"]

BY_HAND = "by-hand"
"""Reason under which a person parked a mailbox; only a person resumes it."""

REMOVED = "removed"
"""Reason under which a mailbox is parked that was removed but whose deliveries are kept."""


def live_mailbox() -> ColumnElement[bool]:
    """Return the condition that a mailbox was not removed."""
    return or_(MAILBOX.c.park_reason.is_(None), MAILBOX.c.park_reason != REMOVED)


def tenant_id(conn: Connection, slug: str) -> UUID:
    """
    Return a tenant's key.

    Raises:
        NotFound: No tenant has this slug; the text names the nearest one.
    """
    key = conn.scalar(select(TENANT.c.id).where(TENANT.c.slug == slug))
    if key is None:
        raise unknown_tenant(conn, slug)
    return UUID(str(key))


def mailbox_id(conn: Connection, address: str) -> UUID:
    """
    Return the key of a mailbox, removed ones included.

    Raises:
        NotFound: No mailbox has this address; the text names the nearest one.
    """
    key = conn.scalar(select(MAILBOX.c.id).where(MAILBOX.c.address == address.lower()))
    if key is None:
        raise unknown_mailbox(conn, address)
    return UUID(str(key))


def app_id(conn: Connection, name: str) -> UUID:
    """
    Return an app registration's key.

    Raises:
        NotFound: No app registration has this name; the text names the nearest one.
    """
    key = conn.scalar(select(APP.c.id).where(APP.c.name == name))
    if key is None:
        raise NotFound(
            f"there is no app registration {name!r}{_nearest(conn, APP.c.name, name)}; "
            f"`alertpost apps add {quote(name)} --client-id ID --client-secret-file FILE` makes one"
        )
    return UUID(str(key))


def app_name(conn: Connection, key: UUID) -> str:
    """Return an app registration's name; empty where it was removed."""
    return str(conn.scalar(select(APP.c.name).where(APP.c.id == key)) or "")


def unknown_tenant(conn: Connection, slug: str) -> NotFound:
    """Build the error for a slug that no tenant has."""
    return NotFound(f"there is no tenant {slug!r}{_nearest(conn, TENANT.c.slug, slug)}")


def unknown_mailbox(conn: Connection, address: str) -> NotFound:
    """Build the error for an address that no mailbox has."""
    return NotFound(
        f"there is no mailbox {address!r}{_nearest(conn, MAILBOX.c.address, address.lower())}"
    )


def nearest_mailbox(conn: Connection, address: str) -> str | None:
    """Return the address that was perhaps meant."""
    return _close(conn, MAILBOX.c.address, address.lower())


def _nearest(conn: Connection, column: Any, wanted: str) -> str:
    close = _close(conn, column, wanted)
    return f"; the nearest is {close!r}" if close else ""


def _close(conn: Connection, column: Any, wanted: str) -> str | None:
    known = [str(value) for value in conn.scalars(select(column))]
    close = get_close_matches(wanted, known, n=1)
    return close[0] if close else None
