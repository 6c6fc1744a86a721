"""Handing in what is large: in portions that keep nobody out, and all of it or nothing."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, event, func, insert, select

from models import contents
from models.alert import AlertEmail
from models.database import read, write
from models.errors import StoreUnavailable
from models.large_content import PIECE_OCTETS
from models.tables import METADATA
from models.vault import Vault
from producers.enqueue import Producer
from tests.models.factories import world_rows
from workers.contents import Contents

DELIVERY = METADATA.tables["delivery"]
PIECE = METADATA.tables["content_piece"]


@pytest.fixture
def producer(engine: Engine) -> Producer:
    """Give a producer before the tenant contoso."""
    world_rows(engine, slug="contoso")
    return Producer(engine, Vault([Vault.new_key()]), None)


def alert(octets: int, **more: Any) -> AlertEmail:
    """Make an alert e-mail with a file."""
    file = {"name": "log.zip", "content": base64.b64encode(bytes(octets)).decode()}
    usual = {"tenant": "contoso", "to": ["ops@example.com"], "subject": "Log", "text": "x"}
    return AlertEmail.parse(usual | {"attachments": [file]} | more)


def count(engine: Engine, table: Any) -> int:
    """Count rows."""
    with read(engine) as conn:
        return conn.execute(select(func.count()).select_from(table)).scalar_one()


@contextmanager
def written(engine: Engine) -> Iterator[list[int]]:
    """Watch how many octets of content each transaction writes."""
    sizes = [0]

    def begun(_conn: Connection) -> None:
        sizes.append(0)

    def executed(*given: Any) -> None:
        rows = given[3] if given[5] else [given[3]]
        for row in rows:
            values = row.values() if isinstance(row, dict) else row
            # The driver of PostgreSQL wraps them.
            plain = [getattr(value, "obj", value) for value in values]
            sizes[-1] += sum(len(value) for value in plain if isinstance(value, bytes))

    event.listen(engine, "begin", begun)
    event.listen(engine, "before_cursor_execute", executed)
    try:
        yield sizes
    finally:
        event.remove(engine, "begin", begun)
        event.remove(engine, "before_cursor_execute", executed)


def test_no_transaction_grows_with_the_content(engine: Engine, producer: Producer) -> None:
    """Twenty megabytes are written in many transactions, between which others have their turn."""
    with written(engine) as sizes:
        producer.enqueue_many([alert(9_000_000), alert(100), alert(11_000_000)])

    assert sum(sizes) > 20_000_000
    assert max(sizes) < contents.PORTION_BYTES + 2 * PIECE_OCTETS
    assert count(engine, DELIVERY) == 3
    assert count(engine, PIECE) == -(-9_000_001 // PIECE_OCTETS) + -(-11_000_001 // PIECE_OCTETS)


def test_a_repeated_key_leaves_nothing(engine: Engine, producer: Producer) -> None:
    """What comes a second time is recognised, and its content goes again."""
    large = alert(contents.PORTION_BYTES + 1, idempotency_key="k")
    first = producer.enqueue(large)
    before = count(engine, PIECE)
    second = producer.enqueue(large)
    small = alert(50_000, idempotency_key="k")
    other = producer.enqueue(small)

    assert (second.delivery_id, second.created, second.same_content) == (
        first.delivery_id, False, True,
    )  # fmt: skip
    assert (other.created, other.same_content) == (False, False)
    assert count(engine, PIECE) == before


def test_nothing_is_accepted_where_a_portion_fails(
    engine: Engine, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stored before SQL went away belongs to nothing, and is removed one day."""
    commit = contents._commit
    turns = iter([commit, commit])

    def failing(*given: Any) -> None:
        done = next(turns, None)
        if done is None:
            raise StoreUnavailable("SQL is away")
        done(*given)

    monkeypatch.setattr(contents, "_commit", failing)
    with pytest.raises(StoreUnavailable):
        producer.enqueue(alert(9_000_000))

    assert count(engine, DELIVERY) == 0
    assert count(engine, PIECE) > 0


def key_of(age_seconds: float) -> UUID:
    """Make a key as if it had been made so long ago."""
    return UUID(int=(int((time.time() - age_seconds) * 1000) << 80) | (7 << 76) | (2 << 62))


async def test_leftovers_go_after_a_day(engine: Engine, producer: Producer) -> None:
    """Pieces without a delivery go, unless a slow producer may still be at work on it."""
    kept = producer.enqueue(alert(3 * PIECE_OCTETS)).delivery_id
    day = contents.FORGOTTEN_AFTER_SECONDS
    left, recent = key_of(day + 3600), key_of(day - 3600)
    with write(engine) as conn:
        for number, owner in enumerate((left, left, recent)):
            conn.execute(
                insert(PIECE).values(
                    id=UUID(int=number), delivery_id=owner, octets_encrypted=b"sealed"
                )
            )
    reader = Contents(engine, asyncio.get_running_loop())

    assert await asyncio.to_thread(reader.forget_orphans) == 1
    with read(engine) as conn:
        owners = set(conn.execute(select(PIECE.c.delivery_id)).scalars())
    assert owners == {kept, recent}
    assert await asyncio.to_thread(reader.forget_orphans) == 0
