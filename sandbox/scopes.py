"""Scope strings, taken apart by resource."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.entra_errors import EntraError
from sandbox.tokens import SMTP_RESOURCES

GRAPH = "https://graph.microsoft.com"
RESOURCES = SMTP_RESOURCES | {
    GRAPH,
    "https://graph.microsoft.us",
    "https://dod-graph.microsoft.us",
    "https://microsoftgraph.chinacloudapi.cn",
}
OIDC_SCOPES = frozenset({"openid", "profile", "email", "offline_access"})
DEFAULT = ".default"
_ONE_NAME = {"https://outlook.office365.com": "https://outlook.office.com"}


@dataclass(frozen=True, slots=True)
class ScopeRequest:
    """
    What a scope string asks for.

    Attributes:
        oidc: Those of OpenID Connect, ``offline_access`` among them.
        permissions: Permissions with their resource, such as ``https://outlook.office.com/SMTP.Send``.
        resource: The first permission's resource; empty if only OpenID Connect was asked for.
    """

    oidc: frozenset[str]
    permissions: tuple[str, ...]
    resource: str


def parse_scope(text: str) -> ScopeRequest:
    """
    Take a scope string apart.

    Args:
        text: Scopes with blanks between; a bare name means Microsoft Graph, as with Entra.

    Raises:
        EntraError: 70011 for a malformed scope, 500011 for an unknown resource.
    """
    words = text.split()
    oidc = frozenset(word for word in words if word in OIDC_SCOPES)
    pairs = [_split(word) for word in words if word not in OIDC_SCOPES]
    permissions = tuple(dict.fromkeys(f"{resource}/{name}" for resource, name in pairs))
    return ScopeRequest(oidc, permissions, pairs[0][0] if pairs else "")


def resource_of(permission: str) -> str:
    """Give the resource of a permission."""
    return permission.rpartition("/")[0]


def name_of(permission: str) -> str:
    """Give a permission's name without its resource."""
    return permission.rpartition("/")[2]


def one_name(permission: str) -> str:
    """
    Give a permission under one name of its resource: Exchange Online goes by two.

    Consent to a permission under one of them covers it under the other (unconfirmed).
    """
    return (
        f"{_ONE_NAME.get(resource_of(permission), resource_of(permission))}/{name_of(permission)}"
    )


def one_resource(request: ScopeRequest) -> None:
    """
    Demand what a token can hold: permissions of one resource.

    Raises:
        EntraError: 700022 for several.
    """
    if len({resource_of(permission) for permission in request.permissions}) > 1:
        raise EntraError(700022)


def _split(word: str) -> tuple[str, str]:
    if "://" not in word:
        if "/" in word:
            raise EntraError(70011, f"The scope {word} is not known.")
        return GRAPH, word
    resource, _, name = word.rpartition("/")
    resource = resource.rstrip("/").lower()
    if not name or resource in {"https:", "http:"}:
        raise EntraError(70011, f"The scope {word} names no permission.")
    if resource not in RESOURCES:
        raise EntraError(500011, f"The resource is {resource}.")
    return resource, name
