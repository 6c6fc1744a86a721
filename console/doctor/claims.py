"""Whether an access token is for what it is wanted for, by what it says of itself. Pure."""

from __future__ import annotations

from shlex import quote

from console.doctor.checks import Finding, failed, ok, warning
from console.token_claims import Claims
from models.clouds import CLOUDS
from models.grants import APP_ONLY
from models.senders import Sender

_GRAPH = frozenset({"00000003-0000-0000-c000-000000000000"}) | {
    cloud.graph for cloud in CLOUDS.values()
}
_EXCHANGE = frozenset({"00000002-0000-0ff1-ce00-000000000000"}) | {
    scope.rpartition("/")[0]
    for cloud in CLOUDS.values()
    for scope in (cloud.delegated_scope, cloud.app_scope)
}


def judge_claims(sender: Sender, claims: Claims | None) -> Finding:
    """Judge whether a token can be what Exchange wants."""
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
            f"`alertpost tenants edit {sender.tenant_slug} --reset scope`, then `alertpost "
            f"mailboxes connect {quote(sender.address)}`",
        )
    if sender.directory_id.count("-") == 4 and claims.tenant_id not in {  # noqa: PLR2004
        "",
        sender.directory_id.lower(),
    }:
        return failed(
            seen,
            f"It is of directory {claims.tenant_id}, the tenant's is {sender.directory_id}.",
            f"`alertpost mailboxes connect {quote(sender.address)}` with an account of this "
            "tenant, or "
            f"`alertpost tenants edit {sender.tenant_slug} --directory-id {claims.tenant_id}`",
        )
    asked = {scope.rpartition("/")[0] for scope in sender.scopes}
    if claims.audience.rstrip("/") not in _EXCHANGE | asked:
        return warning(
            seen,
            f"The audience {claims.audience or '(none)'} is none that we know of Exchange.",
            f"nothing, if AUTH succeeds; else `alertpost tenants edit {sender.tenant_slug} "
            "--reset scope`",
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
            f"`alertpost mailboxes connect {quote(sender.address)}`",
        )
    if claims.user and claims.user.lower() != sender.auth_user.lower():
        return warning(
            seen,
            f"It is a token of {claims.user}, but {sender.auth_user} signs in with it. That is "
            "well where both are names of one account; else Exchange answers 535 5.7.3.",
            "nothing, if AUTH succeeds; else `alertpost mailboxes connect "
            f"{quote(sender.address)}`, "
            f"signing in as {sender.auth_user}",
        )
    return ok(seen)


def _shown(claims: Claims) -> str:
    parts = [
        f"audience {claims.audience or '(none)'}",
        f"rights {' '.join(claims.rights) or '(none)'}",
        f"directory {claims.tenant_id}" if claims.tenant_id else "",
        f"user {claims.user}" if claims.user else "",
        f"until {claims.ends_at:%Y-%m-%d %H:%M:%SZ}" if claims.ends_at else "",
    ]
    return ", ".join(part for part in parts if part)
