"""
What this machine is called, made fit for what it is said to.

A host may be called anything: nothing, ``my_app``, ``büro``, a name with a trailing dot, a number.
Servers take a domain name or an address in brackets (RFC 5321, section 4.1.3), and refuse the rest.
"""

from __future__ import annotations

import re
import socket
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

import idna

LITERAL: Final = "[127.0.0.1]"
"""What a host without a name that is fit for it calls itself."""

_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_LONGEST: Final = 255
_UNFIT: Final = re.compile(r"[^A-Za-z0-9.-]+")
_LONGEST_SHOWN: Final = 100


def is_domain(name: str) -> bool:
    """
    Tell whether this is a domain name as EHLO takes one.

    Letters, digits and hyphens in labels of 1 to 63, no hyphen at an end of one, 255 in all, and no
    number at the end, with which it would pass for an address (RFC 1123 section 2.1).
    """
    labels = name.split(".")
    return (
        len(name) <= _LONGEST
        and all(_LABEL.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
    )


def is_literal(name: str) -> bool:
    """Tell whether this is an address in brackets: ``[192.0.2.1]``, ``[IPv6:2001:db8::1]``."""
    if not (name.startswith("[") and name.endswith("]")):
        return False
    inside = name[1:-1]
    try:
        if inside[:5].lower() == "ipv6:":
            # A zone, %eth0, means something on this machine only.
            return "%" not in inside and bool(IPv6Address(inside[5:]).compressed)
        return bool(IPv4Address(inside).compressed)
    except AddressValueError:
        return False


def ehlo_name(host: str | None = None) -> str:
    """
    Give the name for EHLO: that of the host where it is a full domain name, else ``LITERAL``.

    Args:
        host: What the host is called; None: ask the system.
    """
    name = _system_name() if host is None else host
    name = name.strip().removesuffix(".")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            return LITERAL
    _, dot, last = name.rpartition(".")
    full = bool(dot) and last[:1].isalpha()
    return name if full and is_domain(name) else LITERAL


def shown_name(host: str | None = None) -> str:
    """Give the host's name in plain letters, for what is stored and shown; never empty."""
    name = _system_name() if host is None else host
    return _UNFIT.sub("-", name.strip())[:_LONGEST_SHOWN].strip("-.") or "host"


def _system_name() -> str:
    try:
        return socket.gethostname()
    except (OSError, UnicodeError):
        # Octets that are no text in the locale's encoding.
        return ""
