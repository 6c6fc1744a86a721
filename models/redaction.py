"""
What must not be read in a log line is taken out here: secrets by name and by look.

Pure functions; ``logs`` applies them to every line, whoever wrote it. They rather take out too
much than too little.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any
from uuid import UUID

REDACTED = "[redacted]"
LONGEST_TEXT = 16_000
"""Characters of one value that are logged; a traceback fits, a mail with attachments does not."""

_SENSITIVE_WORDS = frozenset({
    "assertion", "attachment", "attachments", "authorization", "bearer", "body", "cookie",
    "credential", "credentials", "html", "jwt", "keys", "passphrase", "passwd", "password",
    "payload", "plaintext", "private", "pwd", "refresh", "secret", "secrets", "text", "token",
    "tokens", "verifier", "xoauth2",
})  # fmt: skip
_SENSITIVE_NAMES = frozenset(
    {"auth", "auth_code", "authorization_code", "cache", "code", "device_code", "key", "user_code"}
)
# These hold such a word and yet nothing secret, or are what somebody reads the log for; patterns
# are applied to their values all the same.
_HARMLESS_NAMES = frozenset({"reply_text", "message_id", "event", "exception", "error"})
_HARMLESS_ENDS = (
    "_at", "_bytes", "_count", "_endpoint", "_kind", "_ms", "_seconds", "_source", "_type",
    "_version",
)  # fmt: skip

_KEY_NAMES = (
    r"client_secret|client_assertion|(?:access|refresh|id)_token|assertion|code_verifier|"
    r"device_code|pass(?:word|wd)|secret|authorization"
)
_MECHANISM = r"(?:X?OAUTH2|OAUTHBEARER|PLAIN|LOGIN|(?:CRAM|DIGEST)-MD5|SCRAM-[A-Z0-9-]+|NTLM)"
# What stands after AUTH, Basic and Bearer is as often an ordinary word. What is encoded in base64
# has capitals within, digits or signs: a word in one case is none, a list of mechanisms neither.
_WORD = r"(?:[A-Z]?[a-z]{1,20}|[A-Z]{1,20})[.-]?(?![\w.~+/=-])"
# A token may be anything, so that after Bearer only these words are let through.
_WORD_AFTER_BEARER = (
    r"(?i:auth(?:entication|ori[sz]ation)|assertions?|challenges?|credentials?|mechanisms?)"
    r"[.-]?(?![\w.~+/=-])"
)
_PLACEHOLDER = "PASSWORD"
"""Stands in our sentences for the password of a URL."""
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # SQLAlchemy repeats a statement's parameters in its errors: payloads, subjects, recipients.
    (re.compile(r"\[parameters: [^\n]*"), f"[parameters: {REDACTED}]"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|$)", re.DOTALL),
     REDACTED),
    # The password of a URL.
    (re.compile(rf"(://[^/\s:@]*:)(?!{_PLACEHOLDER}@)[^/\s]*@"), r"\1***@"),
    # What SMTP's AUTH sends: "user=" and "auth=" in base64, or any initial response.
    (re.compile(
        rf"\b((?i:AUTH\s+[A-Z0-9-]+\s+))(?!\[|user=|{_MECHANISM}(?![\w+/=-])|{_WORD})"
        r"[A-Za-z0-9+/=_-]{4,}"
    ), rf"\1{REDACTED}"),
    (re.compile(r"dXNlcj[A-Za-z0-9+/=]{16,}"), REDACTED),
    # Signed (three parts) and encrypted (five parts) web tokens.
    (re.compile(r"eyJ[\w-]{4,}(?:\.[\w-]*){1,4}"), REDACTED),
    (re.compile(rf"\b((?i:bearer))\s+(?!\[|{_WORD_AFTER_BEARER})[\w.~+/=-]{{8,}}"),
     rf"\1 {REDACTED}"),
    (re.compile(rf"\b((?i:basic))\s+(?!\[|{_WORD})[\w.~+/=-]{{8,}}"), rf"\1 {REDACTED}"),
    # Refresh tokens and authorization codes of Entra, and its client secrets.
    (re.compile(r"\b[01]\.A[\w-]{20,}(?:\.[\w.-]*)*"), REDACTED),
    (re.compile(r"[\w~.-]{3}\dQ~[\w~.-]{31,34}"), REDACTED),
    # "name=value" and "name": "value", in forms, queries and JSON; the parameter "code" only in
    # a query, as the word is common elsewhere.
    (re.compile(rf"""(?i)((?:{_KEY_NAMES})\\?["']?\s*[=:]\s*\\?["']?)"""
                rf"""(?!\[|\*|`alertpost )[^\s"'&,;}}\\]+"""),
     rf"\1{REDACTED}"),
    (
        # The number of an error in a link of Microsoft's is not one that buys a token.
        re.compile(r"([?&](?:code|state)=)(?!\[|[0-9]{1,9}(?![^&\s\"'.,;)]))[^&\s\"']+"),
        rf"\1{REDACTED}",
    ),
)  # fmt: skip
# What every pattern needs; most values hold none of it and are done after this one look.
_SUSPECT = re.compile(
    r"@|://|eyJ|dXNlcj|Q~|[01]\.A|-----|\[parameters|state=|"
    r"(?i:auth|bearer|basic|secret|token|assertion|code|pass)"
)
# A local part has 64 octets at most (RFC 5321 section 4.5.3.1.1); without a bound a hostile reply
# could keep the search busy for minutes.
_ADDRESS = re.compile(
    r"""("(?:[^"\\\n]|\\[^\n]){0,64}"|[^\s<>()\[\],;:"'@\\/=]{1,64})@((?:[^\W_](?:[\w-]*[^\W_])?\.)*[^\W_][\w-]+)"""
)

_EXAMPLE = "example.com"
"""Nobody has a mailbox there (RFC 2606 section 3): it stands in our sentences for a domain."""


def redact_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """
    Make the fields of a log line fit to be read by anybody.

    Args:
        event: Fields by name, nested as they like.

    Returns:
        Plain values only: text, numbers, truth values, None, lists and dictionaries of them.
    """
    return {str(name): _by_name(str(name), value) for name, value in event.items()}


def redact_text(text: str) -> str:
    """
    Take what looks like a secret out of a text, and shorten mail addresses.

    Args:
        text: Anything; applying this twice changes no more than once.
    """
    text = redact_secrets(text)
    return _ADDRESS.sub(_shorter, text) if "@" in text else text


def redact_secrets(text: str) -> str:
    """Take what looks like a secret out of a text, for who may read whole addresses."""
    if len(text) > LONGEST_TEXT:
        text = f"{text[:LONGEST_TEXT]}… [cut]"
    if _SUSPECT.search(text):
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
    return text


def shorten_address(address: str) -> str:
    """Show whose domain it is, not whose mailbox: ``alerts@contoso.example`` is ``a***@…``."""
    return _ADDRESS.sub(_shorter, address)


def _shorter(found: re.Match[str]) -> str:
    if found[2] == _EXAMPLE or found[1] == _PLACEHOLDER:
        return found[0]
    local = found[1].lstrip('"')
    return f"{local[:1].rstrip('*')}***@{found[2]}"


def _by_name(name: str, value: Any) -> Any:
    if name == "message_id":
        # It looks like an address, but is made of chance and serves to find the mail again.
        return value if isinstance(value, str) else REDACTED
    if isinstance(value, bool | int | float | None):
        # Numbers of tokens and seconds of refreshes are no secrets; a numeric password is.
        return REDACTED if value is not None and "pass" in name.lower() else value
    return REDACTED if _sensitive(name) else _by_look(value)


@lru_cache(maxsize=1000)
def _sensitive(name: str) -> bool:
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    if plain in _HARMLESS_NAMES or plain.endswith(_HARMLESS_ENDS):
        return False
    return plain in _SENSITIVE_NAMES or not _SENSITIVE_WORDS.isdisjoint(re.split(r"[_.\s]", plain))


def _by_look(value: Any) -> Any:  # noqa: C901, PLR0911 - one line a type
    match value:
        case Enum():
            return _by_look(value.value)
        case str():
            return redact_text(value)
        case bool() | int() | float() | None:
            return value
        case UUID():
            return str(value)
        case PurePath():
            return redact_text(str(value))
        case datetime() | date():
            return value.isoformat()
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case Mapping():
            return redact_event(value)
        case list() | tuple() | set() | frozenset():
            return [_by_look(item) for item in value]
        case BaseException():
            return redact_text(f"{type(value).__name__}: {value}")
        case _:
            # An object's representation may hold anything, a whole mail for example.
            return f"<{type(value).__name__}>"
