"""What the server took, by mailbox: light records, and the content of as many as wanted."""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

_HEADERS_AT_MOST = 64 * 1024


class Headers(NamedTuple):
    """The few header fields that the sandbox looks at; empty where missing."""

    message_id: str
    alert_id: str
    subject: str
    author: str


def read_headers(raw: bytes) -> Headers:
    """
    Find the fields without parsing the mail; this runs for each of thousands of mails a second.

    Args:
        raw: Content as received, dots unstuffed.

    Returns:
        Values stripped, still encoded and folded as they came.
    """
    end = raw.find(b"\r\n\r\n", 0, _HEADERS_AT_MOST)
    block = b"\n" + (raw[:end] if end >= 0 else raw[:_HEADERS_AT_MOST])
    lower = block.lower()
    return Headers(
        _value(block, lower, b"\nmessage-id:"),
        _value(block, lower, b"\nx-alertpost-id:"),
        _value(block, lower, b"\nsubject:"),
        _value(block, lower, b"\nfrom:"),
    )


def _value(block: bytes, lower: bytes, field: bytes) -> str:
    at = lower.find(field)
    if at < 0:
        return ""
    start = at + len(field)
    stop = block.find(b"\n", start)
    # A line that begins with blank space continues the field.
    while stop >= 0 and block[stop + 1 : stop + 2] in (b" ", b"\t"):
        stop = block.find(b"\n", stop + 1)
    return (block[start:stop] if stop >= 0 else block[start:]).decode("utf-8", "replace").strip()


def author_address(author: str) -> str:
    """Take the address out of a From field, in lower case; empty if there is none."""
    opening = author.rfind("<")
    if opening >= 0:
        author = author[opening + 1 :].partition(">")[0]
    return author.strip().lower() if "@" in author else ""


class MailRecord(NamedTuple):
    """
    One mail that arrived in full.

    Attributes:
        sequence: Counts all mails of the store, from 1, in the order of acceptance.
        time: Final dot, by the server's clock.
        delivered_at: When it leaves; later than ``time`` only for mails beyond the rate.
        mailbox: Who submitted.
        sender: Envelope sender.
        recipients: Envelope recipients.
        size: Bytes of content.
        message_id: The client's Message-ID with its angle brackets; empty if missing.
        assigned_id: The Message-ID that the reply named.
        alert_id: X-Alertpost-Id.
        subject: Subject as it came, still encoded and folded.
        answered: False if the line was cut (by a fault) before the 250 was said.
        later_bounce: Name of the reply with which it would be bounced afterwards; or empty.
    """

    sequence: int
    time: float
    delivered_at: float
    mailbox: str
    sender: str
    recipients: tuple[str, ...]
    size: int
    message_id: str
    assigned_id: str
    alert_id: str
    subject: str
    answered: bool
    later_bounce: str


class Shelf:
    """Content of mails by sequence number: all of them, or the last few of the store."""

    def __init__(self, *, keep: int | None) -> None:
        self._keep = keep
        self._order: deque[int] = deque()
        self._content: dict[int, bytes] = {}

    def put(self, sequence: int, raw: bytes) -> None:
        """Keep a mail's content, and let go of the oldest."""
        if self._keep == 0:
            return
        self._content[sequence] = raw
        self._order.append(sequence)
        if self._keep is not None and len(self._order) > self._keep:
            del self._content[self._order.popleft()]

    def get(self, sequence: int) -> bytes | None:
        """Give a mail's content, None if it was not kept."""
        return self._content.get(sequence)

    def clear(self) -> None:
        """Let go of everything."""
        self._order.clear()
        self._content.clear()


class Outbox:
    """
    What one mailbox handed in.

    Attributes:
        mails: Records of what was taken, oldest first; the last ``keep_records`` of them.
        taken: Mails taken, however many records are kept.
        recipients: Recipients of the mails taken, summed up.
        lost: Records of mails that a fault threw away after the final dot; they were never sent.
    """

    def __init__(self, shelf: Shelf, *, keep_records: int | None = None) -> None:
        self._shelf = shelf
        self._by_message_id: dict[str, int] = {}
        self._by_alert_id: dict[str, int] = {}
        self.mails: deque[MailRecord] = deque(maxlen=keep_records)
        self.lost: deque[MailRecord] = deque(maxlen=keep_records)
        self.taken = 0
        self.recipients = 0

    def __len__(self) -> int:
        return self.taken

    def put(self, mail: MailRecord, raw: bytes) -> None:
        """Record a mail that was taken."""
        self.mails.append(mail)
        self.taken += 1
        self.recipients += len(mail.recipients)
        self._shelf.put(mail.sequence, raw)
        if mail.message_id:
            seen = self._by_message_id
            seen[mail.message_id] = seen.get(mail.message_id, 0) + 1
        if mail.alert_id:
            seen = self._by_alert_id
            seen[mail.alert_id] = seen.get(mail.alert_id, 0) + 1

    def content(self, mail: MailRecord) -> bytes | None:
        """Give the content of a mail, None if it was not kept."""
        return self._shelf.get(mail.sequence)

    def duplicate_message_ids(self) -> Counter[str]:
        """Give each Message-ID that was taken more than once, with how often."""
        return Counter({each: n for each, n in self._by_message_id.items() if n > 1})

    def duplicate_alert_ids(self) -> Counter[str]:
        """Give each X-Alertpost-Id that was taken more than once, with how often."""
        return Counter({each: n for each, n in self._by_alert_id.items() if n > 1})

    def alert_ids(self) -> frozenset[str]:
        """Give every X-Alertpost-Id that was taken."""
        return frozenset(self._by_alert_id)

    def clear(self) -> None:
        """Forget everything, counts included."""
        self.mails.clear()
        self.lost.clear()
        self._by_message_id.clear()
        self._by_alert_id.clear()
        self.taken = self.recipients = 0
