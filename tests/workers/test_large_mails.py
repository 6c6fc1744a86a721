"""Large mails: claimed without their content, read and written by pieces, bounded in memory."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, event, func, select, update

from models.database import read, write
from models.large_content import INLINE_OCTETS, PIECE_OCTETS, put_together
from models.tables import METADATA
from models.vault import delivery_context
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, drain, send, visit
from workers.visit import VisitEnd

DELIVERY = METADATA.tables["delivery"]
PIECE = METADATA.tables["content_piece"]


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    """Tries follow each other quickly."""
    return IMPATIENT


def some(octets: int) -> bytes:
    """Make octets that no compression would shorten."""
    return random.Random(octets).randbytes(octets)  # noqa: S311 - no secret


def attached(octets: int, name: str = "log.zip") -> dict[str, str]:
    """Attach a file."""
    content = base64.b64encode(some(octets)).decode()
    return {"name": name, "content_type": "application/zip", "content": content}


def arrived(whole: Whole, number: int = 0) -> Any:
    """Parse what Exchange took as a mail program would."""
    return email.message_from_bytes(whole.outbox()[number].data, policy=email.policy.default)


async def test_arrives_as_it_was(whole: Whole) -> None:
    """Files and bodies of a large mail arrive octet by octet."""
    ...
