"""
What an access token says of itself, for diagnostics only. Pure.

Nothing is verified, and nothing that decides is taken from here: the token is for Exchange, not
for us, and its form may change (fact sheet, section 4.2).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from console.doctor.checks import Finding, failed, ok, warning
from models.clouds import CLOUDS
from models.grants import APP_ONLY
from models.senders import Sender

_PARTS = 3
_GRAPH = frozenset({"00000003-0000-0000-c000-000000000000"}) | {
    cloud.graph for cloud in CLOUDS.values()
}
_EXCHANGE = frozenset({"00000002-0000-0ff1-ce00-000000000000"}) | {
    scope.rpartition("/")[0]
    for cloud in CLOUDS.values()
    for scope in (cloud.delegated_scope, cloud.app_scope)
}
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


def judge_claims(sender: Sender, claims: Claims | None) -> Finding:
    """Judge whether a token can be what Exchange wants."""
    edit = f"alertpost tenants edit {sender.tenant_slug}"
    if claims is None:
        return warning(
            "it cannot be read from here",
            "Such tokens are opaque to all but the server; what it is good for shows at AUTH.",
            "nothing, if AUTH succeeds",
        )
    seen = _shown(claims)
    if claims.audience.rstrip("/") in _GRAPH:
        return failed(
            seen,
            "This token is for Microsoft Graph; Exchange refuses it with 535 5.7.3. The scope "
            f"decides: {' '.join(sender.scopes)} is asked for, which must begin with the address "
            "of Outlook.",
            f"`{edit} --reset scope`, then `alertpost mailboxes connect {sender.address}`",
        )
    if sender.directory_id.count("-") == 4 and claims.tenant_id not in {  # noqa: PLR2004
        "",
        sender.directory_id.lower(),
    }:
        return failed(
            seen,
            f"It is of directory {claims.tenant_id}, the tenant's is {sender.directory_id}.",
            f"`alertpost mailboxes connect {sender.address}` with an account of this tenant, or "
            f"`{edit} --directory-id {claims.tenant_id}`",
        )
    asked = {scope.rpartition("/")[0] for scope in sender.scopes}
    if claims.audience.rstrip("/") not in _EXCHANGE | asked:
        return warning(
            seen,
            f"The audience {claims.audience or '(none)'} is none that we know of Exchange.",
            f"nothing, if AUTH succeeds; else `{edit} --reset scope`",
        )
    return _rights(sender, claims, seen)


def _rights(sender: Sender, claims: Claims, seen: str) -> Finding:
    needed = "SMTP.SendAsApp" if sender.grant_kind == APP_ONLY else "SMTP.Send"
    if sender.oidc_authority is None and needed not in claims.rights:
        if sender.grant_kind == APP_ONLY:
            return warning(
                seen,
                "It has no role SMTP.SendAsApp, which is right only where the tenant gives the "
                "right by RBAC for Applications.",
                "grant SMTP.SendAsApp (Office 365 Exchange Online, application permission) with "
                f"the administrator's consent: `alertpost tenants show {sender.tenant_slug}`",
            )
        return failed(
            seen,
            "It lacks SMTP.Send, so Exchange refuses it with 535 5.7.3.",
            "add the delegated permission SMTP.Send to the app registration, then "
            f"`alertpost mailboxes connect {sender.address}`",
        )
    if claims.user and claims.user.lower() != sender.auth_user.lower():
        return warning(
            seen,
            f"It is a token of {claims.user}, but {sender.auth_user} signs in with it. That is "
            "well where both are names of one account; else Exchange answers 535 5.7.3.",
            f"nothing, if AUTH succeeds; else `alertpost mailboxes connect {sender.address}`, "
            f"signing in as {sender.auth_user}",
        )
    return ok(seen)


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


def _shown(claims: Claims) -> str:
    parts = [
        f"audience {claims.audience or '(none)'}",
        f"rights {' '.join(claims.rights) or '(none)'}",
        f"directory {claims.tenant_id}" if claims.tenant_id else "",
        f"user {claims.user}" if claims.user else "",
        f"until {claims.ends_at:%Y-%m-%d %H:%M:%SZ}" if claims.ends_at else "",
    ]
    return ", ".join(part for part in parts if part)
