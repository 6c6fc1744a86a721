"""Settling: what an outcome changes, who may report it, and what is written about the try."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, Update, select, text

from models import lane, lane_settle, lifecycle
from models.batches import as_parameter
from models.database import write
from models.errors import LifecycleError
from models.lane import AttemptRecord, Outcome
from models.lane_outcome import as_row
from models.quota import charge
from tests.models.factories import (
    ATTEMPT,
    LONG_AGO,
    World,
    delivery_rows,
    row_of,
    set_delivery,
    world_rows,
)

TRY = AttemptRecord(
    stage="body",
    rule="accepted",
    reply_code=250,
    enhanced_code="2.0.0",
    reply_text="2.0.0 OK <id> [Hostname=…]",
    smtp_host="smtp.office365.com",
    worker="host-1",
    duration_ms=250,
    took_permit=True,
    recipients=2,
)


def hold(engine: Engine, count: int = 1, visit: str = "v1") -> tuple[World, list[UUID]]:
    """Make a world whose first deliveries a visit holds."""
    world = world_rows(engine)
    ids = delivery_rows(engine, world, count)
    with write(engine) as conn:
        lane.claim(
            conn, mailbox_id=world.mailbox_id, claimed_by=visit, limit=count, lease_seconds=20
        )
    return world, ids


def outcome(world: World, key: UUID, **changes: Any) -> Outcome:
    given = {
        "delivery_id": key,
        "mailbox_id": world.mailbox_id,
        "claimed_by": "v1",
        "transition": lifecycle.ACCEPT,
        "counted": True,
        "attempt": TRY,
    }
    return Outcome(**(given | changes))


def settle(engine: Engine, *outcomes: Outcome) -> list[bool]:
    with write(engine) as conn:
        return lane.settle(conn, outcomes)


def attempts(engine: Engine, key: UUID) -> list[Any]:
    with engine.connect() as conn:
        query = select(ATTEMPT).where(ATTEMPT.c.delivery_id == key).order_by(ATTEMPT.c.number)
        return list(conn.execute(query).all())


@pytest.mark.parametrize(
    ("transition", "state", "settled"),
    [
        (lifecycle.ACCEPT, "accepted", True),
        (lifecycle.RETRY, "queued", False),
        (lifecycle.RETURN, "queued", False),
        (lifecycle.GIVE_UP, "dead", True),
        (lifecycle.EXPIRE, "expired", True),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_transition(
    engine: Engine, transition: lifecycle.Transition, state: str, settled: bool
) -> None:
    """An outcome takes its delivery along its arrow and lets go of it."""
    world, [key] = hold(engine)
    set_delivery(engine, key, claims=2)

    changed = settle(engine, outcome(world, key, transition=transition, reason="why"))

    row = row_of(engine, key)
    assert changed == [True]
    assert (row.state, row.reason, row.claims) == (state, "why", 0)
    assert (row.claimed_by, row.claimed_until) == (None, None)
    assert (row.settled_at is not None) is settled
    assert (row.reply_code, row.enhanced_code) == (250, "2.0.0")
    assert row.attempts == 1
    assert row.first_attempt_at is not None


def test_many_at_once(engine: Engine) -> None:
    """Outcomes of all kinds settle together, each answer at its place."""
    world, ids = hold(engine, 4)
    arrows = [lifecycle.ACCEPT, lifecycle.RETRY, lifecycle.ACCEPT, lifecycle.GIVE_UP]
    given = [outcome(world, key, transition=arrow) for key, arrow in zip(ids, arrows, strict=True)]
    foreign = outcome(world, ids[0], transition=lifecycle.RETRY, claimed_by="other")

    changed = settle(engine, *given[:2], foreign, *given[2:])

    assert changed == [True, True, False, True, True]
    assert [row_of(engine, key).state for key in ids] == ["accepted", "queued", "accepted", "dead"]


def test_retry_delay(engine: Engine) -> None:
    """A delay counts from now; without one the due time stays."""
    world, [first, second] = hold(engine, 2)
    before = row_of(engine, second).due_at

    settle(
        engine,
        outcome(world, first, transition=lifecycle.RETRY, delay_seconds=60.0),
        outcome(world, second, transition=lifecycle.RETRY),
    )

    [tried] = attempts(engine, first)
    assert abs((row_of(engine, first).due_at - tried.finished_at).total_seconds() - 60) < 1
    assert row_of(engine, second).due_at == before


def test_uncounted(engine: Engine) -> None:
    """A try that does not count leaves attempts and the time of the first one alone."""
    world, [key] = hold(engine)

    settle(engine, outcome(world, key, transition=lifecycle.RETURN, counted=False))

    row = row_of(engine, key)
    assert (row.attempts, row.first_attempt_at) == (0, None)
    assert [a.counted for a in attempts(engine, key)] == [False]


def test_first_attempt_stays(engine: Engine) -> None:
    """The time of the first counted attempt is set once."""
    world, [key] = hold(engine)
    set_delivery(engine, key, first_attempt_at=LONG_AGO, attempts=1)

    settle(engine, outcome(world, key))

    assert (row_of(engine, key).first_attempt_at, row_of(engine, key).attempts) == (LONG_AGO, 2)


def test_without_attempt(engine: Engine) -> None:
    """An outcome without a try writes no attempt and keeps the last reply."""
    world, [key] = hold(engine)
    set_delivery(engine, key, reply_code=451, reply_text="busy")

    settle(
        engine,
        outcome(world, key, transition=lifecycle.RETURN, attempt=None, counted=False),
    )

    assert attempts(engine, key) == []
    assert (row_of(engine, key).reply_code, row_of(engine, key).reply_text) == (451, "busy")


def test_attempt_row(engine: Engine) -> None:
    """Attempts are numbered from 1 and tell what the try was and where it led."""
    world, [key] = hold(engine)
    settle(engine, outcome(world, key, transition=lifecycle.RETRY, counted=False))
    with write(engine) as conn:
        lane.claim(conn, mailbox_id=world.mailbox_id, claimed_by="v1", limit=1, lease_seconds=20)
    settle(engine, outcome(world, key, uncertain=True, refused={"a@example.com": "550 no"}))

    first, second = attempts(engine, key)
    assert (first.number, first.outcome, second.number, second.outcome) == (
        1, "queued", 2, "accepted",
    )  # fmt: skip
    assert (second.stage, second.rule, second.worker) == ("body", "accepted", "host-1")
    assert (second.took_permit, second.recipients, second.uncertain) == (True, 2, True)
    assert second.refused == {"a@example.com": "550 no"}
    assert abs((second.finished_at - second.started_at).total_seconds() - 0.25) < 0.002
    assert row_of(engine, key).uncertain is True


def test_refused_merge(engine: Engine) -> None:
    """Recipients refused in later tries are added to those of earlier ones."""
    world, [key] = hold(engine)
    set_delivery(engine, key, refused={"a@example.com": "550 one", "b@example.com": "550 two"})

    settle(engine, outcome(world, key, refused={"b@example.com": "550 new", "c@x.org": "5"}))

    assert row_of(engine, key).refused == {
        "a@example.com": "550 one",
        "b@example.com": "550 new",
        "c@x.org": "5",
    }


@pytest.mark.parametrize(
    "text",
    ["NUL \x00 inside", "lone \udc80 surrogate", "x" * 100_000, "quote ' \" \\ {} % :a ?"],
    ids=["nul", "surrogate", "long", "quotes"],
)
def test_any_reply_is_storable(engine: Engine, text: str) -> None:
    """A strange reply cannot make the group fail; every delivery in it is settled."""
    world, ids = hold(engine, 2)
    record = AttemptRecord(
        stage="body", rule=text, enhanced_code=text, reply_text=text, smtp_host=text, worker=text
    )

    changed = settle(
        engine,
        outcome(world, ids[0], attempt=record, reason=text, refused={"a@example.com": text}),
        outcome(world, ids[1]),
    )

    assert changed == [True, True]
    assert row_of(engine, ids[0]).reply_text


@pytest.mark.parametrize(
    ("state", "lands"),
    [("queued", True), ("dead", True), ("cancelled", False), ("expired", False)],
)
def test_late_accept(engine: Engine, state: str, lands: bool) -> None:
    """A 250 that is reported after the claim was lost still counts, unless all is over."""
    world, [key] = hold(engine)
    set_delivery(engine, key, state=state, claimed_by=None, claimed_until=None)

    changed = settle(engine, outcome(world, key))

    assert changed == [lands]
    assert row_of(engine, key).state == ("accepted" if lands else state)
    assert len(attempts(engine, key)) == 1


def test_late_accept_while_another_sends(engine: Engine) -> None:
    """The new holder keeps the delivery, which is marked as going out twice."""
    world, [key] = hold(engine)
    set_delivery(engine, key, claimed_by="other")

    changed = settle(engine, outcome(world, key))

    row = row_of(engine, key)
    assert changed == [False]
    assert (row.state, row.claimed_by, row.uncertain) == ("sending", "other", True)
    assert [a.outcome for a in attempts(engine, key)] == ["sending"]


@pytest.mark.parametrize("state", ["accepted", "cancelled", "expired"])
def test_late_accept_of_what_is_over(engine: Engine, state: str) -> None:
    """A delivery that another visit sent, or that was ended, is marked when a late 250 meets it."""
    world, [key] = hold(engine)
    set_delivery(engine, key, state=state, claimed_by=None, claimed_until=None)

    changed = settle(engine, outcome(world, key))

    row = row_of(engine, key)
    assert changed == [False]
    assert (row.state, row.uncertain) == (state, True)


def test_late_accept_of_some(engine: Engine) -> None:
    """Recipients that have it already are left out of the next try, though others try by now."""
    world, [key] = hold(engine)
    set_delivery(engine, key, claimed_by="other", taken={"a@example.com": "250 first"})
    late = outcome(
        world, key, transition=lifecycle.RETRY, delay_seconds=5.0, taken={"b@example.com": "250 ok"}
    )

    changed = settle(engine, late)

    row = row_of(engine, key)
    assert changed == [False]
    assert (row.state, row.claimed_by, row.uncertain) == ("sending", "other", True)
    assert row.taken == {"a@example.com": "250 first", "b@example.com": "250 ok"}


def test_late_doubt(engine: Engine) -> None:
    """A mail whose reply never came is marked also where the claim was lost meanwhile."""
    world, [key] = hold(engine)
    set_delivery(engine, key, state="queued", claimed_by=None, claimed_until=None)

    settle(engine, outcome(world, key, transition=lifecycle.RETRY, uncertain=True))

    assert row_of(engine, key).uncertain is True


@pytest.mark.parametrize("transition", [lifecycle.ACCEPT, lifecycle.RETRY, lifecycle.GIVE_UP])
def test_recorded_twice_is_recorded_once(engine: Engine, transition: lifecycle.Transition) -> None:
    """Where the answer to a commit was lost, trying again changes nothing and marks nothing."""
    world, [key] = hold(engine)
    spent = charge(
        ["ops@example.com"], account="a@example.com", tenant_id=world.tenant_id,
        accepted_domains=None, bucket_seconds=900.0,
    )  # fmt: skip
    told = outcome(world, key, transition=transition, spent=spent)

    first = settle(engine, told)
    before = row_of(engine, key)
    again = settle(engine, told)

    assert (first, again) == ([True], [True])
    assert row_of(engine, key) == before
    assert before.uncertain is False
    assert len(attempts(engine, key)) == 1
    with engine.connect() as conn:
        counted = conn.execute(text("SELECT sum(recipients) FROM recipient_count")).scalar_one()
    assert counted == 1


def test_late_retry_is_refused(engine: Engine) -> None:
    """A visit that lost its claim cannot settle what another one holds."""
    world, [key] = hold(engine)
    set_delivery(engine, key, claimed_by="other")

    changed = settle(engine, outcome(world, key, transition=lifecycle.RETRY))

    assert changed == [False]
    assert row_of(engine, key).claimed_by == "other"
    assert len(attempts(engine, key)) == 1


def test_same_delivery_twice(engine: Engine) -> None:
    """Two reports on one delivery in one group take effect one after the other."""
    world, [key] = hold(engine)

    changed = settle(engine, outcome(world, key, transition=lifecycle.RETRY), outcome(world, key))

    assert changed == [True, True]
    assert row_of(engine, key).state == "accepted"
    assert [a.number for a in attempts(engine, key)] == [1, 2]


def test_wrong_arrow(engine: Engine) -> None:
    """An arrow that does not begin at sending is our own mistake and says so."""
    world, [key] = hold(engine)

    with pytest.raises(LifecycleError, match="cancel"):
        settle(engine, outcome(world, key, transition=lifecycle.CANCEL))


def test_nothing(engine: Engine) -> None:
    """No outcomes are no work."""
    assert settle(engine) == []


def test_settling_looks_its_rows_up_by_key(engine: Engine) -> None:
    """
    However many others are being sent, or were since the last vacuum, no index of those is read.

    Reading it made a commit six times as dear on PostgreSQL.
    """
    world, ids = hold(engine, count=40)
    outcomes = [outcome(world, key) for key in ids[:2]]

    with write(engine) as conn:
        if engine.dialect.name == "postgresql":
            conn.execute(text("SET LOCAL enable_seqscan = off"))
        statement = lane_settle._settled(engine.dialect.name, lifecycle.ACCEPT)
        plan = explain(conn, statement, as_parameter([as_row(one) for one in outcomes]))

    assert "delivery_pkey" in plan or "sqlite_autoindex_delivery" in plan
    assert "ix_delivery" not in plan


def explain(conn: Connection, statement: Update, given: dict[str, str]) -> str:
    """Tell how the database would run a statement."""
    compiled = statement.compile(dialect=conn.dialect)
    words = "EXPLAIN QUERY PLAN" if conn.dialect.name == "sqlite" else "EXPLAIN"
    values: Any = compiled.construct_params(given)
    if compiled.positional:
        values = tuple(values[name] for name in compiled.positiontup or ())
    return "\n".join(str(row) for row in conn.exec_driver_sql(f"{words} {compiled}", values))
