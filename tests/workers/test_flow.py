"""What flows is octet by octet the mail that is composed in memory, and is never in memory whole."""

from __future__ import annotations

import base64
import random
import tracemalloc
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from models.alert import AlertEmail
from models.large_content import PIECE_OCTETS, Part, put_together, take_apart
from models.vault import Vault, content_context
from workers.compose import compose
from workers.compose_large import segments_of
from workers.flow import encoded, encoded_size

KEY = UUID("018f0000-0000-7000-8000-000000000001")
MESSAGE_ID = "<018f@contoso.example>"
VAULT = Vault([Vault.new_key()])


def file(octets: int) -> dict[str, str]:
    """Attach a file of so many octets."""
    content = random.Random(octets).randbytes(octets)
    return {"name": f"{octets}.bin", "content": base64.b64encode(content).decode()}


def alert(**content: Any) -> AlertEmail:
    """Make an alert e-mail."""
    usual = {"tenant": "contoso", "to": ["ops@contoso.example"], "subject": "Log"}
    return AlertEmail.parse(usual | content)


def composed(given: AlertEmail, content: bytes | None = None) -> bytes:
    """Compose it in memory, or its headers."""
    return compose(
        given,
        message_id=MESSAGE_ID,
        sender="alerts@contoso.example",
        sender_name=None,
        delivery_id=KEY,
        date=datetime(2026, 11, 30, tzinfo=UTC),
        server_has_smtputf8=True,
        server_has_8bitmime=True,
        content=content,
    ).data


@pytest.mark.parametrize(
    "content",
    [
        {"text": "short", "attachments": [file(n) for n in (0, 1, 2, 3, 56, 57, 58, 113, 114)]},
        {"text": "line\n" * 9, "html": "<p>a</p>", "attachments": [file(PIECE_OCTETS + 1)]},
        {"text": "a\r\nb\rc\n" * 100_000},
        {"html": "<br>\n" * 100_000, "attachments": [file(PIECE_OCTETS), file(PIECE_OCTETS)]},
        {"text": ".", "attachments": [file(n) for n in range(250)]},
    ],
)
def test_same_as_in_memory(content: dict[str, Any]) -> None:
    """The large way and the small way make one and the same mail of the same alert e-mail."""
    given = alert(**content)
    head, large = take_apart(given, VAULT, KEY)
    stored = [VAULT.open(sealed, context=content_context(key)) for key, sealed in large.pieces()]
    opened = put_together(head)
    segments = segments_of(opened.parts, MESSAGE_ID)
    flowed = b"".join(encoded(segments, stored.__getitem__))

    assert composed(opened.alert, content=b"") + flowed == composed(given)
    assert sum(map(encoded_size, segments)) == len(flowed)


def test_never_in_memory_whole() -> None:
    """A file of 20 MB takes no more memory on its way than a few pieces."""
    octets = 20_000_000
    piece = random.Random(1).randbytes(PIECE_OCTETS)
    segments = segments_of([Part("application/zip", octets, name="log.zip")], MESSAGE_ID)
    length = 0
    tracemalloc.start()
    try:
        for some in encoded(segments, lambda number: bytes(bytearray(piece))):
            length += len(some)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert length == sum(map(encoded_size, segments)) > octets * 4 / 3
    assert peak < 12 * PIECE_OCTETS


def test_many_small_files_take_few_turns() -> None:
    """What is handed from thread to loop is worth it."""
    given = alert(text="x", attachments=[file(n) for n in range(250)])
    head, large = take_apart(given, VAULT, KEY)
    stored = [VAULT.open(sealed, context=content_context(key)) for key, sealed in large.pieces()]

    assert (
        len(list(encoded(segments_of(put_together(head).parts, MESSAGE_ID), stored.__getitem__)))
        < 4
    )
