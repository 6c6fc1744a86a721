"""
What an access token says of itself, to be shown to people. Pure.

Nothing is verified, and nothing that decides is taken from here: the token is for Exchange, not
for us, and Microsoft may change its form.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

_PARTS = 3
_USER_NAMES = ("upn", "preferred_username", "unique_name", "email")


@dataclass(frozen=True, slots=True)
class Claims:
    """
    What a token says; empty where it says nothing.

    Attributes:
        rights: Scopes of a user's token, roles of an app's.
        object_id: Of who is signed in; of an app that acts for itself that is its service
            principal, which the portal calls the enterprise application.
    """

    audience: str
    rights: tuple[str, ...]
    tenant_id: str
    client_id: str
    user: str
    object_id: str
    ends_at: datetime | None


def read_claims(token: str) -> Claims | None:
    """Read a token; None where it is not one that can be read."""
    parts = token.split(".")
    if len(parts) != _PARTS:
        return None
    try:
        raw = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        said = json.loads(raw)
    except (binascii.Error, ValueError):
        return None
    return _claims(said) if isinstance(said, dict) else None


def _claims(said: Mapping[str, Any]) -> Claims:
    roles = said.get("roles")
    rights = str(said.get("scp") or said.get("scope") or "").split()
    rights += [str(role) for role in roles] if isinstance(roles, list) else []
    audience = said.get("aud")
    ends = said.get("exp")
    return Claims(
        audience=str(audience[0] if isinstance(audience, list) and audience else audience or ""),
        rights=tuple(rights),
        tenant_id=str(said.get("tid") or "").lower(),
        client_id=str(said.get("appid") or said.get("azp") or ""),
        user=next((str(said[name]) for name in _USER_NAMES if said.get(name)), ""),
        object_id=str(said.get("oid") or ""),
        ends_at=_moment(ends),
    )


def _moment(seconds: object) -> datetime | None:
    if not isinstance(seconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None
