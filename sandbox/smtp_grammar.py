"""Reading what an SMTP client says; pure, and cached where the same is said again and again."""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache
from typing import NamedTuple

_PATH = re.compile(rb"(?:FROM|TO):[ \t]*<([^<>]*)>(?:[ \t]+(.*))?", re.IGNORECASE | re.DOTALL)
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\u0080-\U0010ffff-]+"
_LOCAL = re.compile(rf'(?:{_ATEXT}(?:\.{_ATEXT})*|"[^"\\\r\n]+")')
_LABEL = (
    r"[A-Za-z0-9\u0080-\U0010ffff](?:[A-Za-z0-9\u0080-\U0010ffff-]*[A-Za-z0-9\u0080-\U0010ffff])?"
)
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_DOMAIN_LITERAL = re.compile(r"\[(?:[0-9.]+|IPv6:[0-9A-Fa-f:.]+)\]")
_LOCAL_AT_MOST = 64
_ADDRESS_AT_MOST = 254
_RESERVED = ("test", "example", "invalid", "localhost")
_RESERVED_SECOND = ("example.com", "example.net", "example.org")
_HELLO_LABEL = rb"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HELLO = re.compile(
    rb"%(label)b(?:\.%(label)b)*|\[(?:\d{1,3}(?:\.\d{1,3}){3}|(?i:IPv6):[0-9A-Fa-f:.]+)\]"
    % {b"label": _HELLO_LABEL}
)
_HELLO_AT_MOST = 255


class Path(NamedTuple):
    """What follows MAIL or RCPT: the address between the brackets, and the parameters."""

    address: bytes
    parameters: dict[bytes, bytes]


class Credentials(NamedTuple):
    """What an XOAUTH2 response holds."""

    user: str
    token: str


def read_path(said: bytes, keyword: bytes) -> Path | None:
    """
    Read ``FROM:<address> KEY=VALUE``, or ``TO:`` likewise.

    Args:
        said: What follows the verb.
        keyword: ``FROM:`` or ``TO:``.

    Returns:
        None if it is not of that form; Exchange wants the angle brackets.
    """
    match = _PATH.fullmatch(said)
    if match is None or said[: len(keyword)].upper() != keyword:
        return None
    parameters = {}
    for word in (match[2] or b"").split():
        key, _, value = word.partition(b"=")
        parameters[key.upper()] = value
    return Path(match[1], parameters)


@lru_cache(maxsize=65_536)
def judge_address(raw: bytes, *, international: bool, reserved_refused: bool) -> tuple[str, str]:
    """
    Decode an envelope address and say what is wrong with it.

    Args:
        raw: As it stood between the brackets.
        international: Whether SMTPUTF8 was given; without it only ASCII will do.
        reserved_refused: Whether the names of RFC 2606 are refused.

    Returns:
        The address, and the name of the reply that refuses it, empty if it is good.
    """
    try:
        address = raw.decode("utf-8" if international else "ascii")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace"), "invalid_address"
    return address, _wrong_with(address, reserved_refused=reserved_refused)


def _wrong_with(address: str, *, reserved_refused: bool) -> str:
    local, _, domain = address.rpartition("@")
    fits = len(local) <= _LOCAL_AT_MOST and len(address) <= _ADDRESS_AT_MOST
    literal = _DOMAIN_LITERAL.fullmatch(domain) is not None
    if not fits or not _LOCAL.fullmatch(local) or not (literal or _DOMAIN.fullmatch(domain)):
        return "invalid_address"
    if literal:
        return ""
    if "." not in domain:
        return "single_label_domain"
    return "reserved_address" if reserved_refused and _is_reserved(domain.lower()) else ""


def _is_reserved(domain: str) -> bool:
    labels = domain.split(".")
    return labels[-1] in _RESERVED or ".".join(labels[-2:]) in _RESERVED_SECOND


def is_hello_name(name: bytes) -> bool:
    """Say whether EHLO's argument is a domain name or an address in brackets (RFC 5321, 4.1.3)."""
    return len(name) <= _HELLO_AT_MOST and _HELLO.fullmatch(name) is not None


def read_xoauth2(encoded: bytes) -> Credentials | None:
    r"""
    Read an XOAUTH2 response: base64 of ``user=<address>^Aauth=Bearer <token>^A^A``.

    Returns:
        None if it is malformed in any way.
    """
    try:
        decoded = base64.b64decode(encoded, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
    parts = decoded.split("\x01")
    match parts:
        case [user, auth, "", ""] if user.startswith("user=") and auth.startswith("auth="):
            scheme, _, token = auth.removeprefix("auth=").partition(" ")
            address = user.removeprefix("user=")
            if scheme.lower() == "bearer" and token and address:
                return Credentials(address, token)
    return None


def read_chunk_size(said: bytes) -> tuple[int, bool] | None:
    """Read BDAT's arguments: the size, and whether it is the last; None if malformed (RFC 3030)."""
    words = said.split()
    match words:
        case [size] if size.isdigit():
            return int(size), False
        case [size, last] if size.isdigit() and last.upper() == b"LAST":
            return int(size), True
    return None


def unstuff(content: bytes) -> bytes:
    """Take away the dot that each line beginning with a dot was given (RFC 5321 section 4.5.2)."""
    if content[:1] == b".":
        content = content[1:]
    if b"\r\n." in content:
        content = content.replace(b"\r\n.", b"\r\n")
    return content
