"""
From an alert e-mail to the octets that follow DATA.

A template rather than a tree of objects: the standard library's ``EmailMessage`` takes some thirty
to sixty times as long for the same mail. The price is that every rule it would have known stands
here, and that the tests hold each mail against its parser.

Sources:
    RFC 5322 (headers, folding), RFC 2045 to 2047 (MIME, encoded words), RFC 2231 (file names),
    RFC 3834 (Auto-Submitted), RFC 6532 (UTF-8 in headers), RFC 2183 (attachments).
"""

from __future__ import annotations

import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from models.addresses import Address, checked_name, parse_address
from models.alert_lock import look_again
from models.errors import InvalidAlert
from models.message_ids import MAX_MESSAGE_ID, thread_root_id
from models.severity import Severity
from workers.base64_lines import base64_lines
from workers.line_locks import locked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from models.alert import AlertEmail
    from models.attachments import Attachment

_WISHED = 78  # RFC 5322 section 2.1.1, without the line end
_HARD = 998
_ENCODED_LINE = 76  # RFC 2047 section 2: a line that holds an encoded word
_WORD_OCTETS = 45  # becomes 60 of base64, 72 as an encoded word

_MESSAGE_ID = re.compile(r"<[!-;=?A-~]+@[!-;=?A-~]+>")
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\- ]*")
_PLAIN_FILE_NAME = re.compile(r"[A-Za-z0-9._+()&,;@#~!$\-]+(?: [A-Za-z0-9._+()&,;@#~!$\-]+)*")
_PLAIN_OCTETS = bytes(range(0x20, 0x7F)) + b"\t\r\n"
_LINE_ENDS = re.compile(r"\r\n?")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_URGENT = "Importance: high\r\nX-Priority: 1 (Highest)\r\n"


@dataclass(frozen=True, slots=True)
class ComposedMail:
    """
    A mail ready for DATA.

    Attributes:
        data: Headers and body with CRLF line ends, the last line included; neither dot-stuffed
            nor followed by the final dot.
        smtputf8: Whether MAIL FROM must say SMTPUTF8 and BODY=8BITMIME; else it is all 7bit.
    """

    data: bytes
    smtputf8: bool

    @property
    def size(self) -> int:
        """Octets, for the SIZE parameter of MAIL FROM."""
        return len(self.data)


def compose(
    alert: AlertEmail,
    *,
    message_id: str,
    sender: str,
    sender_name: str | None,
    delivery_id: UUID,
    date: datetime,
    server_has_smtputf8: bool,
    server_has_8bitmime: bool,
    content: bytes | None = None,
) -> ComposedMail:
    """
    Build the mail of one delivery.

    Args:
        alert: What to say, and to whom.
        message_id: With angle brackets; the same on every attempt.
        sender: Address for From.
        sender_name: Display name for From.
        delivery_id: Goes into ``X-Alertpost-Id``, which survives where a server replaces the
            Message-ID.
        date: Aware; when this mail was first composed, so that a second attempt is identical.
        server_has_smtputf8: Whether EHLO named SMTPUTF8.
        server_has_8bitmime: Whether EHLO named 8BITMIME. Bodies are 7bit either way, since a relay
            further on may lack it; only UTF-8 in an address needs both.
        content: What follows ``MIME-Version``; None: it is made of the bodies and files.

    Raises:
        InvalidAlert: An address holds UTF-8 before the ``@`` and the server cannot take that, the
            sender is no address, or something would break out of its header.
        ValueError: ``message_id`` is none, or ``date`` is not aware.
    """
    look_again(alert)
    if not _MESSAGE_ID.fullmatch(message_id) or len(message_id) > MAX_MESSAGE_ID:
        raise ValueError("message_id is not of the form <id@example.com>")
    origin = _origin(sender, sender_name)
    smtputf8 = origin.needs_smtputf8 or alert.needs_smtputf8
    if smtputf8 and not (server_has_smtputf8 and server_has_8bitmime):
        raise InvalidAlert(
            "mailbox" if origin.needs_smtputf8 else "to",
            "has letters beyond ASCII before the @, which this server cannot take (no SMTPUTF8)",
        )
    headers = [
        _address_header("From", (origin,)),
        # RFC 5322 section 3.6.3 allows no empty To; this group is the customary stand-in.
        _address_header("To", alert.to) if alert.to else "To: undisclosed-recipients:;\r\n",
    ]
    if alert.cc:
        headers.append(_address_header("Cc", alert.cc))
    if alert.reply_to:
        headers.append(_address_header("Reply-To", alert.reply_to))
    headers.append(_text_header("Subject", alert.subject))
    headers.append(f"Date: {_date(date)}\r\nMessage-ID: {message_id}\r\n")
    if alert.alert_id:
        root = thread_root_id(alert.tenant, alert.alert_id, origin.domain)
        headers.append(f"In-Reply-To: {root}\r\nReferences: {root}\r\n")
    headers.append(
        f"X-Alertpost-Id: {delivery_id}\r\nX-Alertpost-Severity: {alert.severity.label}\r\n"
        f"{_URGENT if alert.severity is Severity.CRITICAL else ''}"
        "Auto-Submitted: auto-generated\r\nX-Auto-Response-Suppress: All\r\n",
    )
    headers.extend(_text_header(name, value) for name, value in alert.headers.items())
    headers.append("MIME-Version: 1.0\r\n")
    head = locked("".join(headers)).encode("utf-8" if smtputf8 else "ascii")
    body = _content(alert, message_id) if content is None else content
    return ComposedMail(data=head + body, smtputf8=smtputf8)


def _origin(sender: str, sender_name: str | None) -> Address:
    try:
        address = parse_address(sender)
        name = checked_name(sender_name or "")
    except ValueError as error:
        raise InvalidAlert("mailbox", str(error)) from error
    return Address(name, address.local, address.domain, address.unicode_domain)


def _date(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError("date has no time zone")
    return _date_of(moment.replace(microsecond=0))


@lru_cache(maxsize=256)
def _date_of(second: datetime) -> str:
    # Alerts come in bursts: many mails have the same second.
    at = second.astimezone(UTC)
    # strftime would write the names in the language of the process.
    return (
        f"{_DAYS[at.weekday()]}, {at.day:02d} {_MONTHS[at.month - 1]} {at.year:04d} "
        f"{at.hour:02d}:{at.minute:02d}:{at.second:02d} +0000"
    )


def _address_header(name: str, addresses: Sequence[Address]) -> str:
    tokens: list[str] = []
    for address in addresses:
        if not address.name:
            tokens.append(f"{address.spec},")
            continue
        tokens.extend(_phrase(address.name, first=_ENCODED_LINE - len(name) - 2))
        tokens.append(f"<{address.spec}>,")
    tokens[-1] = tokens[-1][:-1]
    return _folded(name, tokens)


def _phrase(name: str, *, first: int) -> list[str]:
    if not name.isascii() or "=?" in name:
        return _encoded_words(name, first=first)
    if _PHRASE.fullmatch(name) and "  " not in name:
        return name.split(" ")
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return [f'"{escaped}"']


def _text_header(name: str, value: str) -> str:
    # What is no encoded word must not look like one (RFC 2047 section 7).
    if value.isascii() and "=?" not in value:
        if len(name) + 2 + len(value) <= _WISHED:
            return f"{name}: {value}\r\n"
        tokens = value.split(" ")
        if all(len(token) < _HARD - _WISHED for token in tokens):
            return _folded(name, tokens)
    return _folded(name, _encoded_words(value, first=_ENCODED_LINE - len(name) - 2))


def _folded(name: str, tokens: Sequence[str]) -> str:
    """
    Join tokens by single spaces, breaking lines before a token that would not fit.

    No line may consist of blanks alone (RFC 5322 section 3.2.2), so it never breaks beside one of
    the empty tokens that a row of spaces leaves.
    """
    line = f"{name}: {tokens[0]}"
    lines: list[str] = []
    after_blank = not tokens[0]
    for token in tokens[1:]:
        if token and not after_blank and len(line) + 1 + len(token) > _WISHED:
            lines.append(line)
            line = ""
        line = f"{line} {token}"
        after_blank = not token
    lines.append(line)
    return "\r\n".join(lines) + "\r\n"


def _encoded_words(text: str, *, first: int) -> list[str]:
    """
    Write text as encoded words that each hold whole characters.

    Args:
        text: Any text without lone surrogates.
        first: Columns that are left on the line of the first one.
    """
    octets = text.encode()
    room = max(4, min(_WORD_OCTETS, (first - 12) // 4 * 3))
    words = []
    start = 0
    while start < len(octets):
        end = min(start + room, len(octets))
        while end < len(octets) and octets[end] & 0xC0 == 0x80:  # noqa: PLR2004 - inside a character
            end -= 1
        word = binascii.b2a_base64(octets[start:end], newline=False).decode("ascii")
        words.append(f"=?utf-8?b?{word}?=")
        start, room = end, _WORD_OCTETS
    return words


def _content(alert: AlertEmail, message_id: str) -> bytes:
    """Return the MIME headers of the whole, the empty line and the body."""
    parts = [
        _text_part(kind, body)
        for kind, body in (("plain", alert.text), ("html", alert.html))
        if body
    ]
    content = parts[0] if len(parts) == 1 else _multipart("alternative", parts, message_id)
    if not alert.attachments:
        return content
    return _multipart("mixed", [content, *map(_attachment_part, alert.attachments)], message_id)


def _multipart(kind: str, parts: Sequence[bytes], message_id: str) -> bytes:
    attempt = 0
    while True:
        # "=_" cannot occur in quoted-printable or base64; a 7bit text has to be looked at.
        boundary = boundary_of(kind, message_id, attempt=attempt)
        if not any(boundary in part for part in parts):
            break
        attempt += 1
    opened = b"".join(b"--%b\r\n%b" % (boundary, part) for part in parts)
    return b"%b%b--%b--\r\n" % (multipart_head(kind, boundary), opened, boundary)


def boundary_of(kind: str, message_id: str, *, attempt: int = 0) -> bytes:
    """Give what parts the parts of a mail; the same on every attempt to send it."""
    digest = hashlib.sha256(f"{kind} {attempt} {message_id}".encode()).hexdigest()[:32]
    return f"=_{digest}".encode("ascii")


def multipart_head(kind: str, boundary: bytes) -> bytes:
    """Give the headers of parts that belong together."""
    return b'Content-Type: multipart/%b;\r\n boundary="%b"\r\n\r\n' % (kind.encode(), boundary)


def _text_part(kind: str, body: str) -> bytes:
    if "\r" in body:
        body = _LINE_ENDS.sub("\n", body)
    if not body.endswith("\n"):
        body += "\n"
    octets = body.replace("\n", "\r\n").encode()
    encoding, encoded = _transfer_encoded(octets)
    return text_head(f"text/{kind}", encoding) + encoded


def text_head(content_type: str, encoding: bytes) -> bytes:
    """Give the headers of a body."""
    return b'Content-Type: %b; charset="utf-8"\r\nContent-Transfer-Encoding: %b\r\n\r\n' % (
        content_type.encode(),
        encoding,
    )


def _transfer_encoded(octets: bytes) -> tuple[bytes, bytes]:
    """Choose the shortest of 7bit, quoted-printable and base64; octets end with CRLF."""
    if (
        octets.isascii()
        and not octets.translate(None, _PLAIN_OCTETS)
        and (len(octets) <= _HARD or max(map(len, octets.split(b"\r\n"))) <= _HARD)
    ):
        return b"7bit", octets
    printable = binascii.b2a_qp(octets, istext=True)
    if len(printable) <= (len(octets) + 2) // 3 * 4 * 78 // 76:
        return b"quoted-printable", printable
    return b"base64", base64_lines(octets)


def _attachment_part(attachment: Attachment) -> bytes:
    return file_head(attachment.content_type, attachment.name) + base64_lines(attachment.content)


def file_head(content_type: str, name: str) -> bytes:
    """Give the headers of a file, which is always base64."""
    return (
        f"Content-Type: {content_type}\r\n"
        "Content-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: attachment;{_file_name(name)}\r\n\r\n"
    ).encode("ascii")


def _file_name(name: str) -> str:
    if len(name) <= 60 and _PLAIN_FILE_NAME.fullmatch(name):  # noqa: PLR2004 - stays on its line
        return f'\r\n filename="{name}"'
    # RFC 2231 section 3: numbered pieces, none of which may cut a %XX in two.
    encoded = quote(name, safe="")
    pieces: list[str] = []
    start = 0
    while start < len(encoded):
        end = min(start + 54, len(encoded))
        if end < len(encoded):
            end -= 1 if encoded[end - 1] == "%" else 2 if encoded[end - 2] == "%" else 0
        pieces.append(encoded[start:end])
        start = end
    if len(pieces) == 1:
        return f"\r\n filename*=utf-8''{pieces[0]}"
    pieces[0] = f"utf-8''{pieces[0]}"
    return ";".join(f"\r\n filename*{n}*={piece}" for n, piece in enumerate(pieces))
