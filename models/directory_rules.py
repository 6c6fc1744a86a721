"""
What an entry of the directory must look like; one pure check for each field.

Whoever types it in reads at once what is wrong and what would be right, instead of finding a
parked mailbox an hour later.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import SplitResult
from uuid import UUID

from models.addresses import checked_name, parse_address
from models.errors import ConfigurationError
from models.severity import Severity
from models.urls import split_url

UNCERTAIN_POLICIES = ("resend", "hold")
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_APP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}")
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\]|[0-9A-Fa-f:]*::?[0-9A-Fa-f:.]+")
_CLIENT_ID = re.compile(r"[\x21-\x7e]{1,100}")
_SHARED_DIRECTORIES = frozenset({"common", "organizations", "consumers"})
_CONSUMER_DOMAINS = frozenset({"outlook.com", "hotmail.com", "live.com", "msn.com"})
_MAX_PORT = 65_535
_MAX_URL = 500
_MAX_NAME = 200
_MAX_HOST = 255
_MAX_DOMAIN = 100
_SMALLEST_MAIL = 10_000
_LARGEST_MAIL = 157_286_400
_MOST_LICENCES = 10_000_000


def slug(value: str) -> str:
    """Return a tenant's short name, which stands in commands, addresses and reports."""
    if not _SLUG.fullmatch(value):
        raise ConfigurationError(
            f"tenant {value!r}: use 1 to 63 lower-case letters, digits and hyphens, "
            "beginning with a letter or digit"
        )
    return value


def app_name(value: str) -> str:
    """Return the name under which tenants refer to an app registration."""
    if not _APP_NAME.fullmatch(value):
        raise ConfigurationError(
            f"app registration {value!r}: use 1 to 100 letters, digits, spaces, dots, hyphens "
            "and underscores, beginning with a letter or digit"
        )
    return value


def directory_id(value: str) -> str:
    """Return a customer's Entra directory: its GUID or one of its domains, in lower case."""
    value = value.strip().lower()
    if value in _SHARED_DIRECTORIES:
        raise ConfigurationError(
            f"directory id {value!r} stands for all directories; give the customer's own, "
            "a GUID or a domain such as contoso.onmicrosoft.com"
        )
    try:
        return str(UUID(value))
    except ValueError:
        if len(value) <= _MAX_DOMAIN and _DOMAIN.fullmatch(value):
            return value
    raise ConfigurationError(
        f"directory id {value!r} is neither a GUID nor a domain such as contoso.onmicrosoft.com; "
        "it is shown in the Entra admin center as 'Tenant ID'"
    )


def client_id(value: str) -> str:
    """Return an application's client id: a GUID with Microsoft, a word with other providers."""
    value = value.strip()
    if not _CLIENT_ID.fullmatch(value):
        raise ConfigurationError(
            "client id: give the 'Application (client) ID', 1 to 100 characters without spaces"
        )
    return value


def authority(value: str) -> str:
    """Return a base address ``https://host[:port]``, to which the directory id is appended."""
    parts = _https("authority", value.rstrip("/"))
    if parts.path:
        raise ConfigurationError(
            f"authority {value!r}: give the base address without a path, such as "
            f"https://{parts.netloc}; the directory id is appended to it "
            "(a whole issuer goes into the OIDC authority)"
        )
    return f"https://{parts.netloc.lower()}"


def oidc_authority(value: str) -> str:
    """Return a whole issuer's address, as its discovery document spells it."""
    if value.endswith("/"):
        raise ConfigurationError(
            f"OIDC authority {value!r}: leave the slash at the end away; MSAL appends "
            "/.well-known/openid-configuration"
        )
    _https("OIDC authority", value)
    return value


def smtp_host(value: str) -> str:
    """Return a submission server's name or address."""
    value = value.strip()
    if len(value) > _MAX_HOST or not _HOST.fullmatch(value):
        raise ConfigurationError(
            f"SMTP host {value!r} is not a host name; the port is a setting of its own"
        )
    return value.strip("[]").lower()


def smtp_port(value: int) -> int:
    """Return a port that TCP has."""
    if not 1 <= value <= _MAX_PORT:
        raise ConfigurationError(f"SMTP port {value} is not between 1 and {_MAX_PORT}")
    return value


def ca_file(value: str) -> str:
    """
    Return the absolute path of a file with trusted certificates, after reading it once.

    It is read again by the workers, so it must exist under the same path there.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        path = Path(value).expanduser().absolute()
        if path.exists() and not path.is_file():
            # The workers open it again, and a pipe is empty by then.
            raise ConfigurationError(f"CA file {value!r} is not a file that can be read again")
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        pass  # The same as a file of nothing but revocation lists: nobody to trust.
    except (OSError, ValueError, RuntimeError) as error:
        cause = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"CA file {value!r} cannot be read: {cause}") from error
    if not context.cert_store_stats()["x509"]:
        raise ConfigurationError(
            f"CA file {str(path)!r} holds no readable certificate in PEM form "
            "(-----BEGIN CERTIFICATE-----)"
        )
    return str(path)


def scope(value: str) -> str:
    """Return one or more OAuth scopes, separated by single spaces."""
    words = value.split()
    if not words:
        raise ConfigurationError(
            "scope: give at least one, such as https://outlook.office.com/SMTP.Send"
        )
    joined = " ".join(words)
    if len(joined) > _MAX_URL or not joined.isascii() or not joined.isprintable():
        raise ConfigurationError(f"scope: use up to {_MAX_URL} printable ASCII characters")
    return joined


def uncertain_policy(value: str) -> str:
    """Return what becomes of a mail whose fate is unknown."""
    if value not in UNCERTAIN_POLICIES:
        raise ConfigurationError(
            f"uncertain policy {value!r}: choose 'resend' (it may arrive twice) or 'hold' "
            "(it becomes a dead letter and waits for a person)"
        )
    return value


def max_message_bytes(value: int) -> int:
    """Return a largest mail that is neither useless nor above the service's ceiling."""
    if not _SMALLEST_MAIL <= value <= _LARGEST_MAIL:
        raise ConfigurationError(
            f"largest message {value}: give bytes, between {_SMALLEST_MAIL} and {_LARGEST_MAIL}"
        )
    return value


def licences(value: int) -> int:
    """Return a number of paid mail licences."""
    if not 0 < value <= _MOST_LICENCES:
        raise ConfigurationError(
            f"licences {value}: give the paid mail licences, 1 to {_MOST_LICENCES:,}; a tenant "
            "that has none is a trial"
        )
    return value


def accepted_domains(value: Sequence[str]) -> list[str]:
    """Return the domains whose recipients are internal, in lower case."""
    domains = sorted({domain.strip().lower().removeprefix("@") for domain in value})
    for domain in domains:
        if len(domain) > _MAX_DOMAIN or not _DOMAIN.fullmatch(domain):
            raise ConfigurationError(
                f"accepted domain {domain!r}: give a domain such as contoso.com"
            )
    return domains


def tenant_name(value: str) -> str:
    """Return a customer's name as people read it."""
    value = value.strip()
    if len(value) > _MAX_NAME or not (value.isprintable() or not value):
        raise ConfigurationError(f"name: use up to {_MAX_NAME} printable characters")
    return value


def notify(value: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return a notification list: addresses under ``default`` and under severities."""
    keys = ("default", *(severity.label for severity in Severity))
    checked: dict[str, list[str]] = {}
    for key, addresses in value.items():
        if key not in keys:
            raise ConfigurationError(f"notification list {key!r}: choose one of {', '.join(keys)}")
        entries = []
        for position, address in enumerate(addresses, start=1):
            try:
                entries.append(str(parse_address(address)))
            except ValueError as error:
                raise ConfigurationError(
                    f"notification list {key!r}, address {position} {error}"
                ) from error
        if entries:
            checked[key] = entries
    return checked


def mailbox_address(value: str) -> str:
    """
    Return a sender's address in lower case.

    Source:
        Personal accounts: Microsoft's page says that they submit with OAuth [L-OAUTH]; in the field
        a valid token is refused and there is no switch [OBS], so they are refused here. The tags
        stand in docs/sources.md.
    """
    try:
        address = parse_address(value)
    except ValueError as error:
        raise ConfigurationError(f"mailbox: the address {error}") from error
    if address.name:
        raise ConfigurationError(
            "mailbox: give the bare address; the name that recipients see is a field of its own"
        )
    if address.domain in _CONSUMER_DOMAINS:
        raise ConfigurationError(
            f"mailbox: {address.domain} holds personal accounts, which cannot submit mail this "
            "way; use a mailbox of the customer's Microsoft 365 organisation"
        )
    return address.spec.lower()


def display_name(value: str) -> str:
    """Return the name that recipients see beside the address."""
    try:
        return checked_name(value)
    except ValueError as error:
        raise ConfigurationError(f"display name: the mailbox {error}") from error


def auth_user(value: str) -> str:
    """Return the user that authenticates where it is not the mailbox itself."""
    try:
        # In lower case: recipients are counted by it, and Exchange does not tell the cases apart.
        return parse_address(value).spec.lower()
    except ValueError as error:
        raise ConfigurationError(
            f"authenticating user: the address {error}; for a shared mailbox give the user "
            "that may send as it"
        ) from error


def _https(what: str, value: str) -> SplitResult:
    try:
        parts = split_url(value)
    except ValueError as error:
        raise ConfigurationError(
            f"{what} {value!r} is not a URL; write https://host or https://host:port"
        ) from error
    if parts.scheme != "https" or not parts.hostname:
        raise ConfigurationError(
            f"{what} {value!r}: give an address that begins with https://; MSAL takes no other"
        )
    if parts.username or parts.password or parts.query or parts.fragment or parts.port == 0:
        raise ConfigurationError(
            f"{what}: give host and port only, without user, question mark or hash sign"
        )
    if len(value) > _MAX_URL or not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigurationError(f"{what}: use up to {_MAX_URL} ASCII characters without spaces")
    return parts
