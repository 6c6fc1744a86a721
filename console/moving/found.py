"""A grant as another program keeps it, and where its tokens come from. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from console.moving.placeholders import is_placeholder, placeholder_in_path
from models.app_registrations import Credential
from models.clouds import CLOUDS
from models.errors import ConfigurationError
from models.urls import split_url

_TOKEN_PATH = re.compile(r"/([^/]+)/oauth2(?:/v2\.0)?/token/?")
_SHARED = frozenset({"common", "organizations"})
_GOOGLE = ("google.com", "googleapis.com")
_OTHER_NAMES = {
    "login.microsoft.com": "login.microsoftonline.com",
    "login.windows.net": "login.microsoftonline.com",
    "sts.windows.net": "login.microsoftonline.com",
    "login.chinacloudapi.cn": "login.partner.microsoftonline.cn",
}
"""Names under which the same sign-in service answers, as MSAL knows them."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    A token endpoint of Entra, or of what speaks like it.

    Attributes:
        authority: ``https://host[:port]``, without the directory.
        directory: Which one its path names; None for ``common`` and ``organizations``.
        cloud: The name of its cloud; None where the host is none of Microsoft's.
    """

    authority: str
    directory: str | None
    cloud: str | None

    @property
    def host(self) -> str:
        """Host and port, under one name for those that have several."""
        return one_host(self.authority)


@dataclass(frozen=True, slots=True)
class FoundGrant:
    """
    A grant that another program got.

    Attributes:
        program: Which program, for people.
        address: The mailbox that it sends for.
        kind: ``grants.DELEGATED`` or ``grants.APP_ONLY``.
        client_id: The app that it was given to; it works for no other.
        credential: The app's, where the file holds one.
        endpoint: Where tokens come from.
        refresh_token: None for an app-only grant.
    """

    program: str
    address: str
    kind: str
    client_id: str
    credential: Credential | None = field(repr=False)
    endpoint: Endpoint
    refresh_token: str | None = field(repr=False)


def read_endpoint(address: str) -> Endpoint:
    """
    Take a token endpoint's address apart.

    Args:
        address: Such as ``https://login.microsoftonline.com/<directory>/oauth2/v2.0/token``.

    Raises:
        ConfigurationError: It is none of Entra's.
    """
    try:
        parts = split_url(address.strip())
    except ValueError:
        raise ConfigurationError("its token endpoint is not a URL") from None
    unfilled = placeholder_in_path(parts.path)
    if unfilled is not None or is_placeholder(address):
        raise ConfigurationError(
            f"its token endpoint still holds a placeholder ({(unfilled or address)[:60]!r}) where "
            "the directory should be: give the configuration that is really used"
        )
    host = (parts.hostname or "").lower()
    if host.endswith(_GOOGLE):
        raise ConfigurationError(
            f"its tokens come from {host}, which is Google: only mailboxes of Microsoft 365 can be "
            "moved over"
        )
    matched = _TOKEN_PATH.fullmatch(parts.path)
    if parts.scheme != "https" or not host or matched is None:
        raise ConfigurationError(
            f"its token endpoint {host or address!r} is none of Microsoft Entra, which look like "
            "https://login.microsoftonline.com/DIRECTORY/oauth2/v2.0/token"
        )
    directory = matched[1].lower()
    if directory == "consumers":
        raise ConfigurationError(
            "it is a personal Microsoft account's, which cannot submit mail this way; use a "
            "mailbox of the customer's Microsoft 365 organisation"
        )
    authority = f"https://{parts.netloc.lower()}"
    cloud = next(
        (name for name, one in CLOUDS.items() if one_host(one.authority) == one_host(authority)),
        None,
    )
    return Endpoint(authority, None if directory in _SHARED else directory, cloud)


def one_host(address: str) -> str:
    """Give an address's host and port, under one name for those that have several."""
    place = urlsplit(address).netloc.lower().removesuffix(":443")
    return _OTHER_NAMES.get(place, place)
