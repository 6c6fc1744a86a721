"""
A large content: a head that stands in the delivery's row, and octets in pieces beside it.

A row that changes is written anew, on SQLite with all that it holds: to claim a mail of 20 MB
would write 27 MB while everybody else waits. And what is one value can only be read, decrypted and
encoded as a whole. So what is large leaves the row. The head is the alert e-mail without its bodies
and files, and lists them as parts; their octets follow one another in that order and are cut into
pieces of one length, each sealed by itself.

The pieces cannot be exchanged, mixed or left out unnoticed: each opens only under a key that
follows from its delivery and its number, and the head, which is sealed too, says how long the
parts are.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID, uuid5

import pydantic_core

from models.alert import AlertEmail
from models.attachments import Attachment
from models.vault import Vault, content_context

INLINE_OCTETS = 16 * 1024
"""Bodies and files of so much together stand in the row; hardly any alert has more."""

PIECE_OCTETS = 57 * 4096
"""Whole lines of base64, each of 57 octets; some 228 KB."""

HARD_LINE = 998
"""Octets of a line without its end (RFC 5322 section 2.1.1)."""

PLAIN_OCTETS = bytes(range(0x20, 0x7F)) + b"\t\r\n"
"""What a body may hold that needs no encoding."""

_SLICE = 64 * 1024
_LINE_ENDS = re.compile(r"\r\n?")
_PARTS = "parts"


@dataclass(frozen=True, slots=True)
class Part:
    """
    A body or a file, as the head lists it.

    Attributes:
        content_type: ``text/plain`` or ``text/html`` of a body, any media type of a file.
        octets: As stored: of a file its own; of a body UTF-8 with CRLF line ends, the last line's
            included.
        plain: A body whose octets can go into a mail as they are; all others become base64.
        name: Of a file; None for a body.
    """

    content_type: str
    octets: int
    plain: bool = False
    name: str | None = None


@dataclass(frozen=True, slots=True)
class LargeContent:
    """
    What is to be stored of one delivery, sealed only when it is taken.

    Attributes:
        delivery_id: Whose.
        octets: Of all pieces together, before they are sealed.
    """

    delivery_id: UUID
    octets: int
    _alert: AlertEmail = field(repr=False)
    _vault: Vault = field(repr=False)

    def pieces(self) -> Iterator[tuple[UUID, bytes]]:
        """Give key and sealed octets of each piece; one at a time is in memory."""
        for number, octets in enumerate(_cut(_all_octets(self._alert))):
            key = piece_id(self.delivery_id, number)
            yield key, self._vault.seal(octets, context=content_context(key))


@dataclass(frozen=True, slots=True)
class Opened:
    """
    A stored content, opened.

    Attributes:
        alert: Without bodies and files where there are parts.
        parts: In the order of the mail; empty where everything stood in the row.
    """

    alert: AlertEmail
    parts: tuple[Part, ...] = ()


def is_large(alert: AlertEmail) -> bool:
    """Say whether bodies and files of an alert e-mail leave its row."""
    octets = len(alert.text or "") + len(alert.html or "")
    # Most alerts have one short body: that is all that is asked of them.
    if octets > INLINE_OCTETS:
        return True
    octets += sum(len(attachment.content) for attachment in alert.attachments)
    return octets > INLINE_OCTETS


def take_apart(alert: AlertEmail, vault: Vault, delivery_id: UUID) -> tuple[bytes, LargeContent]:
    """Return the head, not yet sealed, and what goes into pieces."""
    parts = [
        _text_part(f"text/{kind}", body)
        for kind, body in (("plain", alert.text), ("html", alert.html))
        if body
    ]
    parts += [Part(one.content_type, len(one.content), name=one.name) for one in alert.attachments]
    head = alert.without_content() | {_PARTS: [asdict(part) for part in parts]}
    large = LargeContent(delivery_id, sum(part.octets for part in parts), alert, vault)
    return pydantic_core.to_json(head), large


def put_together(stored: bytes) -> Opened:
    """Read what stood in a row: a head, or a whole content. Only for our own bytes."""
    head: dict[str, Any] = pydantic_core.from_json(stored)
    parts = tuple(Part(**part) for part in head.pop(_PARTS, ()))
    return Opened(AlertEmail.from_stored(head), parts)


def piece_id(delivery_id: UUID, number: int) -> UUID:
    """Name a piece: by its delivery and its number, from 0."""
    return uuid5(delivery_id, str(number))


def fingerprint(alert: AlertEmail) -> str:
    """
    Return what ``AlertEmail.fingerprint`` does, without a copy of all there is.

    The document that is hashed is made with a mark in the place of each body and file, and what
    belongs there is hashed by pieces when its turn comes.
    """
    marks: dict[bytes, Iterable[bytes]] = {}
    instead: dict[str, Any] = {}
    for name in ("text", "html"):
        if body := getattr(alert, name):
            instead[name] = mark = secrets.token_hex(16)
            marks[mark.encode()] = _as_json(body)
    files = []
    for attachment in alert.attachments:
        marked = Attachment.model_construct(
            name=attachment.name,
            content_type=attachment.content_type,
            content=secrets.token_bytes(24),
        )
        marks[marked.stored()["content"].encode()] = _as_base64(attachment.content)
        files.append(marked)
    if files:
        instead["attachments"] = tuple(files)
    document = alert.fingerprinted(**instead)
    found = hashlib.sha256()
    for part in re.split(b"(" + b"|".join(map(re.escape, marks)) + b")", document):
        for octets in marks.get(part, (part,)):
            found.update(octets)
    return found.hexdigest()


def _as_json(body: str) -> Iterator[bytes]:
    for start in range(0, len(body), _SLICE):
        # Without the quotation marks; every character is escaped by itself.
        yield pydantic_core.to_json(body[start : start + _SLICE])[1:-1]


def _as_base64(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), PIECE_OCTETS):
        part = Attachment.model_construct(
            name="", content_type="", content=content[start : start + PIECE_OCTETS]
        )
        yield part.stored()["content"].encode()


def _text_part(content_type: str, body: str) -> Part:
    octets, line, plain = 0, 0, body.isascii() and "--=_" not in body
    for some in _text_octets(body):
        octets += len(some)
        if plain:
            # A boundary begins with "--=_", and no reader may take a line of a body for one.
            lines = some.split(b"\r\n")
            lengths = [line + len(lines[0]), *map(len, lines[1:])]
            line = lengths[-1]
            plain = not some.translate(None, PLAIN_OCTETS) and max(lengths) <= HARD_LINE
    return Part(content_type, octets, plain=plain)


def _text_octets(body: str) -> Iterator[bytes]:
    """Encode a body with CRLF line ends, the last line's included, slice by slice."""
    held = ""
    for start in range(0, len(body), _SLICE):
        some = held + body[start : start + _SLICE]
        held = ""
        if some.endswith("\r"):
            # Its line feed may stand in the next slice.
            some, held = some[:-1], "\r"
        if "\r" in some:
            some = _LINE_ENDS.sub("\n", some)
        yield some.replace("\n", "\r\n").encode()
    if held or not body.endswith("\n"):
        yield b"\r\n"


def _all_octets(alert: AlertEmail) -> Iterator[bytes]:
    for body in (alert.text, alert.html):
        if body:
            yield from _text_octets(body)
    for attachment in alert.attachments:
        yield attachment.content


def _cut(octets: Iterable[bytes]) -> Iterator[bytes]:
    """Cut octets that come in any lengths into pieces of one length, the last one shorter."""
    held = bytearray()
    for some in octets:
        view = memoryview(some)
        at = 0
        while at < len(view):
            more = view[at : at + PIECE_OCTETS - len(held)]
            at += len(more)
            held += more
            if len(held) == PIECE_OCTETS:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)
