"""
Mail addresses as they enter: read strictly, kept in one canonical form.

An address ends up in an SMTP command and in a header, so whatever could end either of them, or be
read as a second address by a lenient parser further on, is refused here and never repaired.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import idna

_MAX_INPUT = 1_000
_MAX_NAME = 200
_MAX_LOCAL_OCTETS = 64  # RFC 5321 section 4.5.3.1.1
_MAX_DOMAIN_OCTETS = 253
_MAX_ADDRESS_OCTETS = 254  # RFC 5321 section 4.5.3.1.3 allows 256 with the angle brackets

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_PLAIN = re.compile(  # the usual case in one step; everything else takes the long way
    rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*@(?:[a-z0-9](?:[a-z0-9\-]{{0,61}}[a-z0-9])?\.)+[a-z][a-z0-9\-]*"
)
_LOCAL_ASCII = re.compile(rf"[{_ATEXT}]")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")
_UNQUOTED_SPECIALS = re.compile(r'[<>",;:\\]')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_LINE_OR_CONTROL = frozenset({"Cc", "Cs", "Zl", "Zp"})
_INVISIBLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})


@dataclass(frozen=True, slots=True)
class Address:
    """
    One mail address, with or without a display name.

    Attributes:
        name: Display name without quoting, empty where none was given.
        local: What stands before the ``@``; UTF-8 letters ask for SMTPUTF8.
        domain: What stands behind it, in lower-case A-labels, as DNS and RCPT TO want it.
        unicode_domain: The same in U-labels, as people read it.
    """

    name: str
    local: str
    domain: str
    unicode_domain: str

    @property
    def spec(self) -> str:
        """``local@domain`` as it goes into the envelope."""
        return f"{self.local}@{self.domain}"

    @property
    def unicode_spec(self) -> str:
        """``local@domain`` as people read it."""
        return f"{self.local}@{self.unicode_domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only a server with SMTPUTF8 can take it (RFC 6531); the domain never asks."""
        return not self.local.isascii()

    def __str__(self) -> str:
        if not self.name:
            return self.spec
        quoted = self.name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}" <{self.spec}>'


@lru_cache(maxsize=8192)
def parse_address(text: str) -> Address:
    """
    Read ``local@domain``, ``Name <local@domain>`` or ``"Name" <local@domain>``.

    Args:
        text: One address. Case is kept before the ``@`` and folded behind it; domains in any
            script become A-labels (UTS 46), local parts and names are put into NFC.

    Raises:
        ValueError: It is not exactly one safe address; the text says why, without the address.

    Source:
        RFC 5321 section 4.1.2, RFC 5322 section 3.4, RFC 6531, UTS 46. Quoted local parts, address
        literals, comments, groups and single-label domains are refused: Exchange Online refuses
        most of them too, and counts each refusal towards a lock-out.
    """
    if len(text) > _MAX_INPUT:
        raise ValueError(f"is longer than {_MAX_INPUT} characters")
    text = text.strip(" ")
    if len(text) <= _MAX_ADDRESS_OCTETS and "--" not in text and _PLAIN.fullmatch(text):
        local, _, domain = text.partition("@")
        if len(local) <= _MAX_LOCAL_OCTETS and all(len(s) <= 63 for s in domain.split(".")):  # noqa: PLR2004
            if domain.endswith("-"):
                raise ValueError("has a domain that is not a domain name")
            return Address("", local, domain, domain)
    name, spec = _split(text)
    local, at, domain = spec.rpartition("@")
    if not at:
        raise ValueError("has no @; write name@example.com or Name <name@example.com>")
    local = _checked_local(local)
    ascii_domain, unicode_domain = _checked_domain(domain)
    address = Address(name, local, ascii_domain, unicode_domain)
    if len(address.spec.encode()) > _MAX_ADDRESS_OCTETS:
        raise ValueError(f"is longer than {_MAX_ADDRESS_OCTETS} octets")
    return address


def checked_name(name: str) -> str:
    """
    Return a display name in NFC, if it is safe to show beside an address.

    Raises:
        ValueError: It holds what could end the header, pose as an address or turn the reading
            direction of what follows.
    """
    name = unicodedata.normalize("NFC", name)
    if not name.isprintable():  # spaces of other scripts and joiners inside emoji are fine
        if any(unicodedata.category(c) in _LINE_OR_CONTROL for c in name):
            raise ValueError("has a line break or control character in its display name")
        if _DIRECTIONS.search(name):
            raise ValueError("has a character that overrides the reading direction")
    if "<" in name or ">" in name:
        raise ValueError("has an angle bracket in its display name")
    if len(name) > _MAX_NAME:
        raise ValueError(f"has a display name of more than {_MAX_NAME} characters")
    return name.strip()


def _split(text: str) -> tuple[str, str]:
    if not text.endswith(">"):
        return "", text
    name, bracket, spec = text[:-1].rpartition("<")
    if not bracket:
        raise ValueError("has a closing angle bracket without an opening one")
    name = name.strip(" ")
    if quoted := _QUOTED.fullmatch(name):
        name = _ESCAPED.sub(r"\1", quoted[1])
    elif _UNQUOTED_SPECIALS.search(name):
        raise ValueError(
            "has one of < > , ; : \\ or a quote in its display name; put the name into double "
            'quotes, and each recipient into an entry of its own: "Doe, Jane" <jane@example.com>',
        )
    return checked_name(name), spec


def _checked_local(local: str) -> str:
    local = unicodedata.normalize("NFC", local)
    for character in local:
        if character == "." or _LOCAL_ASCII.match(character):
            continue
        if character.isascii() or unicodedata.category(character) in _INVISIBLE:
            raise ValueError(
                "has a character before the @ that is not allowed there; give one address per "
                "entry, without quotes, spaces, commas, brackets or invisible characters",
            )
    if not local or local[0] == "." or local[-1] == "." or ".." in local:
        raise ValueError("has an empty part before the @")
    if len(local.encode()) > _MAX_LOCAL_OCTETS:
        raise ValueError(f"has more than {_MAX_LOCAL_OCTETS} octets before the @")
    return local


def _checked_domain(domain: str) -> tuple[str, str]:
    if domain.isascii():
        ascii_domain = domain.lower()
    else:
        # UTS 46 maps many characters away; invisible ones have no business here to begin with.
        if any(unicodedata.category(c) in _INVISIBLE - {"Cf"} for c in domain):
            raise ValueError("has a character in its domain that is not allowed there")
        if _DIRECTIONS.search(domain) or "\u200e" in domain or "\u200f" in domain:
            raise ValueError("has a character that overrides the reading direction")
        try:
            ascii_domain = idna.encode(domain, uts46=True).decode("ascii").lower()
        except (idna.IDNAError, UnicodeError) as error:
            raise ValueError("has a domain that IDNA 2008 does not allow") from error
    labels = ascii_domain.split(".")
    if len(labels) < 2:  # noqa: PLR2004 - a name and a top-level domain
        raise ValueError("has a domain without a dot, which Exchange Online refuses (5.1.6)")
    if len(ascii_domain) > _MAX_DOMAIN_OCTETS or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("has a domain that is not a domain name")
    if labels[-1].isdigit():
        raise ValueError("has an IP address for a domain; use a domain name")
    return ascii_domain, _unicode_labels(labels)


def _unicode_labels(labels: list[str]) -> str:
    shown = []
    for label in labels:
        try:
            shown.append(idna.decode(label) if label.startswith("xn--") else label)
        except (idna.IDNAError, UnicodeError):
            # Registered before IDNA 2008 (emoji, for one): it resolves, so show it as it is.
            shown.append(label)
    return ".".join(shown)
