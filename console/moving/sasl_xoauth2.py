"""
Token files of the SASL plugin sasl-xoauth2, as Postfix uses it.

A token file is a JSON object with ``refresh_token``, ``access_token`` and ``expiry``. It may also
hold what else stands in the plugin's configuration, which it then overrides: ``client_id``,
``client_secret``, ``token_endpoint``, ``scope``, ``use_client_credentials``. The file does not say
whose mailbox it is for: Postfix' ``sasl_passwd`` does.

Source:
    github.com/tarickb/sasl-xoauth2: src/token_store.cc (keys, overrides, the default endpoint),
    src/config.cc (yes and no as text), docs/sasl-xoauth2.conf.5.md (the configuration's keys). Both
    files are read with JsonCpp, see ``lenient_json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from console.moving import lenient_json
from console.moving.found import FoundGrant, read_endpoint
from console.moving.placeholders import is_placeholder
from console.moving.reading import read_text
from models import grants
from models.app_registrations import Credential
from models.errors import ConfigurationError

PROGRAM = "sasl-xoauth2"
CONFIGURATION = "/etc/sasl-xoauth2.conf"
_DEFAULT_ENDPOINT = "https://accounts.google.com/o/oauth2/token"
"""What the plugin asks where neither file names an endpoint."""

_SETTINGS = (
    "client_id", "client_secret", "token_endpoint", "use_client_credentials",
    "manage_token_externally",
)  # fmt: skip


def read_token_file(path: str, *, configuration: str | None, address: str) -> FoundGrant:
    """
    Read a token file, and the configuration behind it.

    Args:
        path: The token file.
        configuration: The plugin's configuration; None: its usual place, where there is one.
        address: The mailbox that Postfix uses it for.

    Raises:
        ConfigurationError: It cannot be read, or holds no grant that could be taken over.
    """
    if configuration is None and Path(CONFIGURATION).exists():
        configuration = CONFIGURATION
    settings: dict[str, Any] = {}
    if configuration is not None:
        settings = _object(configuration, "the configuration")
    tokens = _object(path, "the token file")
    settings |= {name: tokens[name] for name in _SETTINGS if name in tokens}
    try:
        return _found(settings, tokens, address)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _found(settings: Mapping[str, Any], tokens: Mapping[str, Any], address: str) -> FoundGrant:
    endpoint = read_endpoint(_text(settings, "token_endpoint") or _DEFAULT_ENDPOINT)
    client_id, secret = _text(settings, "client_id"), _text(settings, "client_secret")
    if not client_id:
        raise ConfigurationError(
            "it names no client_id; give the plugin's configuration with --sasl-config FILE "
            f"(as a rule {CONFIGURATION})"
        )
    for name, value in (("client_id", client_id), ("client_secret", secret)):
        if is_placeholder(value):
            # Not quoted where it should be a secret, in case that it is one.
            quoted = f" ({value[:60]!r})" if name == "client_id" else ""
            raise ConfigurationError(
                f"its {name} is still the placeholder of the packaged file{quoted}: give the "
                "configuration that Postfix really uses with --sasl-config FILE"
            )
    app_only = _yes(settings, "use_client_credentials")
    refresh_token = None if app_only else _text(tokens, "refresh_token")
    if not app_only and not refresh_token:
        hint = (
            "; another program keeps its tokens (manage_token_externally)"
            if _yes(settings, "manage_token_externally")
            else ""
        )
        raise ConfigurationError(
            f"it holds no refresh_token, so there is no grant to take over{hint}: "
            f"`alertpost mailboxes connect {quote(address)}` asks for consent"
        )
    return FoundGrant(
        program=PROGRAM,
        address=address,
        kind=grants.APP_ONLY if app_only else grants.DELEGATED,
        client_id=client_id,
        credential=Credential.secret(secret) if secret else None,
        endpoint=endpoint,
        refresh_token=refresh_token,
    )


def _object(path: str, what: str) -> dict[str, Any]:
    text = read_text(path, what)
    try:
        found = lenient_json.load(text)
    except ValueError as error:
        # Its message quotes nothing of the text; the text itself holds secrets.
        place = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ConfigurationError(f"{what} {path} is not JSON{place}") from None
    except RecursionError:
        raise ConfigurationError(f"{what} {path} is not JSON of this plugin") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{what} {path} is not a JSON object: it is another file")
    return found


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name, "")
    if not isinstance(value, str | int | float):
        raise ConfigurationError(f"its {name} is not text")
    return str(value).strip()


def _yes(values: Mapping[str, Any], name: str) -> bool:
    value = values.get(name, False)
    return value is True or (isinstance(value, str) and value.strip().lower() in {"yes", "true"})
