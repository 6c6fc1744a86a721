"""A tenant's OpenID configuration, fetched as MSAL does it, and the time that came with it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from console.doctor.places import Place
from models.errors import ConfigurationError, TokenUnavailable
from models.proxies import Proxies
from models.secret_routes import AllowedHosts
from models.senders import Sender
from workers.entra_http import EntraHttp

_HTTPS = 443
_HALF_SECOND = 0.5


@dataclass(frozen=True, slots=True)
class Discovery:
    """
    What the sign-in service said of a tenant.

    Attributes:
        status: HTTP status; None where no answer came.
        document: The answer's JSON, a refusal as well; empty where it was none.
        error: What went wrong on the way; empty where nothing did.
        clock_ahead_seconds: By how much the server's clock is ahead of ours; None: it did not say.
    """

    status: int | None
    document: dict[str, Any]
    error: str = ""
    clock_ahead_seconds: float | None = None


def sign_in_place(sender: Sender) -> Place:
    """Name the host that tokens come from."""
    parts = urlsplit(authority(sender))
    return Place(parts.hostname or "", parts.port or _HTTPS, sender.ca_file)


def authority(sender: Sender) -> str:
    """Give the address of the tenant at its sign-in service."""
    return (sender.oidc_authority or sender.authority_url or "").rstrip("/")


def configuration_url(sender: Sender) -> str:
    """Say where the configuration is (OpenID Connect Discovery section 4; Entra's version 2)."""
    version = "" if sender.oidc_authority else "/v2.0"
    return f"{authority(sender)}{version}/.well-known/openid-configuration"


def discover(
    sender: Sender,
    *,
    ca_file: str,
    timeout_seconds: float,
    hosts: AllowedHosts,
    proxies: Proxies,
) -> Discovery:
    """Fetch the configuration. Blocks: call it in a thread."""
    http = EntraHttp(
        ca_file=ca_file, timeout_seconds=timeout_seconds, hosts=hosts, proxies=proxies
    ).call()
    asked = time.time()
    try:
        answer = http.get(configuration_url(sender))
    except (TokenUnavailable, ConfigurationError) as error:
        return Discovery(http.status, {}, str(error))
    middle = (asked + time.time()) / 2
    try:
        document = json.loads(answer.text)
    except ValueError:
        document = {}
    return Discovery(
        answer.status_code,
        document if isinstance(document, dict) else {},
        clock_ahead_seconds=_ahead(answer.headers, middle),
    )


def _ahead(headers: dict[str, str], ours: float) -> float | None:
    date = next((value for name, value in headers.items() if name.lower() == "date"), "")
    try:
        shown = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    # Cut to the second, so that it was half a second later on the average.
    return shown.replace(tzinfo=shown.tzinfo or UTC).timestamp() + _HALF_SECOND - ours
