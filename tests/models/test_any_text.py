"""Whatever a server, a sender or a person wrote can be stored, in every column, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import JSON, Column, Engine, Table, Uuid, insert, select

from models import intake, lane
from models.batches import as_parameter
from models.database import write
from models.ids import uuid7
from models.lane_outcome import AttemptRecord, Outcome
from models.lane_park import park
from models.lifecycle import RETRY
from models.stored import ANSWER_LIMIT, Answer, Answers, Record, Words, plain_name
from models.tables import METADATA, UtcDateTime
from tests.models.factories import (
    ATTEMPT,
    DELIVERY,
    MAILBOX,
    delivery_rows,
    new_delivery,
    row_of,
    world_rows,
)

ODD = "\x00 \udc80 \ud800 é 😀 " + "too long " * 1_000
FIT = "\N{SYMBOL FOR NULL} \ufffd \ufffd é 😀 too long"
MANY = [ODD, {ODD: [ODD, None, 1, {"a": ODD}]}]


def value_for(column: Column[Any], keys: dict[str, UUID]) -> Any:
    """Make a value: an odd one where that may be, else one that the column's type takes."""
    for reference in column.foreign_keys:
        return keys[reference.column.table.name]
    kind = column.type
    if isinstance(kind, Words):
        return ODD
    if isinstance(kind, Record):
        return MANY
    if isinstance(kind, UtcDateTime):
        return datetime(2026, 11, 1, tzinfo=UTC)
    if isinstance(kind, Uuid):
        return uuid7()
    return {bytes: b"x", int: 1, bool: False}[kind.python_type]


def row_for(table: Table, keys: dict[str, UUID]) -> dict[str, Any]:
    return {column.name: value_for(column, keys) for column in table.columns}


def test_every_column_of_every_table(engine: Engine) -> None:
    """All columns of all tables take the odd text, and what is stored is as much of it as fits."""
    keys: dict[str, UUID] = {}
    for table in METADATA.sorted_tables:
        row = row_for(table, keys)
        with write(engine) as conn:
            conn.execute(insert(table).values(row))
        keys[table.name] = row.get("id", uuid7())
        with engine.connect() as conn:
            stored = conn.execute(select(table)).one()._mapping
        for column in table.columns:
            if isinstance(column.type, Words):
                text = stored[column.name]
                assert text.startswith(FIT[: min(10, column.type.length or 10) - 9]), column
                assert len(text) <= (column.type.length or len(ODD)), column
                text.encode()
            elif isinstance(column.type, Record):
                assert stored[column.name][0].startswith(FIT), column


def test_no_column_goes_by_another_door() -> None:
    """Every column of text or JSON has a type of ``models.stored``, whatever it is declared as."""
    for table in METADATA.tables.values():
        for column in table.columns:
            known = isinstance(column.type, Words | Record)
            assert known or column.type.python_type not in {str, dict, list}, column
            assert known or not isinstance(column.type, JSON), column


def test_many_rows_at_once(engine: Engine) -> None:
    """What goes in as rows of one JSON parameter is as fit as what goes in column by column."""
    world = world_rows(engine)
    [key] = delivery_rows(engine, world)
    outcome = Outcome(
        delivery_id=key,
        mailbox_id=world.mailbox_id,
        claimed_by="v",
        transition=RETRY,
        reason=ODD,
        refused={f"{ODD[:20]}@example.com": ODD},
        taken={f"b{ODD[:20]}@example.com": ODD},
        attempt=AttemptRecord(
            stage=ODD, rule=ODD, enhanced_code=ODD, reply_text=ODD, smtp_host=ODD, worker=ODD
        ),
    )
    with write(engine) as conn:
        lane.claim(conn, mailbox_id=world.mailbox_id, claimed_by="v", limit=1, lease_seconds=9)

    with write(engine) as conn:
        assert lane.settle(conn, [outcome]) == [True]

    row = row_of(engine, key)
    assert row.reply_text.startswith(FIT)
    assert len(row.reply_text) == ANSWER_LIMIT
    assert len(row.reason) == 100
    [said] = row.refused.values()
    assert len(said) == ANSWER_LIMIT
    assert len(row.taken) == 1
    with engine.connect() as conn:
        attempt = conn.execute(select(ATTEMPT)).one()
    assert attempt.worker.startswith(FIT)


def test_odd_keys_are_kept_apart(engine: Engine) -> None:
    """Keys that differ only where they must be changed are two; each is known again."""
    world = world_rows(engine)
    keys = ["k" * 201, "k" * 200 + "x", "k" * 200, "a\x00", "a\N{SYMBOL FOR NULL}", "\ud800", "?"]
    news = [new_delivery(world, idempotency_key=key) for key in keys]
    again = [new_delivery(world, idempotency_key=key) for key in keys]

    with write(engine) as conn:
        first = intake.insert(conn, news)
    with write(engine) as conn:
        second = intake.insert(conn, again)

    assert [receipt.created for receipt in first] == [True] * len(keys)
    assert [receipt.created for receipt in second] == [False] * len(keys)
    assert [one.delivery_id for one in first] == [two.delivery_id for two in second]


def test_a_park_keeps_an_odd_answer(engine: Engine) -> None:
    """A mailbox is parked whatever octets the refusal had in it."""
    world = world_rows(engine)

    with write(engine) as conn:
        park(
            conn,
            mailbox_id=world.mailbox_id,
            scope="mailbox",
            reason=ODD,
            meaning=ODD,
            next_step=ODD,
            answer=ODD,
            probe_after_seconds=None,
        )

    with engine.connect() as conn:
        row = conn.execute(select(MAILBOX)).one()
    assert row.parked_at is not None
    assert row.park_answer.startswith(FIT)


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "\\ud800", 'a"\\', "\u2028"])
def test_what_only_looks_odd_stays(engine: Engine, text: str) -> None:
    """Backslashes that stand for themselves are kept to the letter."""
    world = world_rows(engine)
    with write(engine) as conn:
        intake.insert(conn, [new_delivery(world, idempotency_key=text)])
    with write(engine) as conn:
        [receipt] = intake.insert(conn, [new_delivery(world, idempotency_key=text)])
        kept = conn.scalar(select(DELIVERY.c.idempotency_key))

    assert not receipt.created
    assert kept == text


@given(
    st.recursive(
        st.text(st.characters(codec=None)),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec=None)), inner),
    )
)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_value_is_one_that_both_take(value: Any) -> None:
    """No NUL and no half of a pair is left in any value, and what is fit stays as it is."""
    [dumped] = as_parameter([{"value": value}]).values()
    dumped.encode()
    fit = Record().fit(value)

    assert "\\u0000" not in dumped.replace("\\\\", "")
    assert Record().fit(fit) == fit


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
@settings(max_examples=300, deadline=None)
def test_names_stay_different(one: str, other: str) -> None:
    """Two names are the same afterwards only if they were before."""
    assert (plain_name(one, 30) == plain_name(other, 30)) is (one == other)
    assert len(plain_name(one, 30) or "") <= 30


def test_answers_are_cut() -> None:
    """What a server said is kept up to a bound, alone or by recipient."""
    assert len(Answer().fit("x" * 5_000) or "") == ANSWER_LIMIT
    assert Answers().fit({"a": "x" * 5_000}) == {"a": "x" * ANSWER_LIMIT}
