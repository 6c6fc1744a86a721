"""The life cycle: states change along its arrows and along nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from models import lane
from models.database import write
from models.lane import AttemptRecord, Outcome
from models.lifecycle import (
    ACCEPT,
    EXPIRE,
    FINAL,
    GIVE_UP,
    PERMITTED,
    RETRY,
    RETURN,
    State,
    Transition,
    permitted,
)
from models.moves import move
from tests.models.factories import (
    DELIVERY,
    LONG_AGO,
    delivery_rows,
    row_of,
    set_delivery,
    states,
    world_rows,
)

VISITS = ("v1", "v2", "v3")
TRY = AttemptRecord(stage="body", rule="any")


@pytest.mark.parametrize("transition", PERMITTED, ids=lambda arrow: arrow.letter)
def test_move_keeps_to_its_origins(engine: Engine, transition: Transition) -> None:
    """A statement takes along its arrow what is in one of its origins, and leaves the rest."""
    world = world_rows(engine)
    rows = dict(zip(State, delivery_rows(engine, world, len(State)), strict=True))
    for state, key in rows.items():
        set_delivery(engine, key, state=state.value)

    with write(engine) as conn:
        changed = conn.execute(move(transition)).rowcount

    assert changed == len(transition.origins)
    for state, key in rows.items():
        expected = transition.target if state in transition.origins else state
        assert row_of(engine, key).state == expected.value


def test_letters_are_unique() -> None:
    """Each arrow has a letter of its own in the diagram."""
    assert len({arrow.letter for arrow in PERMITTED}) == len(PERMITTED)


def test_folded_is_the_end() -> None:
    """No arrow leaves what went into a digest."""
    assert not any(permitted(State.FOLDED, state) for state in State)
    assert State.FOLDED in FINAL


OUTCOMES = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(VISITS),
        st.sampled_from([ACCEPT, RETRY, RETURN, GIVE_UP, EXPIRE]),
    ),
    max_size=4,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("claim"),
            st.sampled_from(VISITS),
            st.integers(1, 3),
            # Some claims have run out as soon as they are made.
            st.sampled_from([20.0, -1.0]),
        ),
        st.tuples(st.just("settle"), OUTCOMES),
        st.tuples(st.just("give back"), st.sampled_from(VISITS), st.integers(0, 5)),
        st.tuples(st.just("renew"), st.sampled_from(VISITS)),
        st.tuples(st.just("sweep")),
        st.tuples(st.just("cancel"), st.integers(0, 5)),
        st.tuples(st.just("deadline"), st.integers(0, 5)),
    ),
    max_size=20,
)


def act(conn: Any, world: Any, ids: list[Any], step: tuple[Any, ...]) -> None:
    """Do one step of a walk."""
    match step:
        case ("claim", visit, limit, seconds):
            lane.claim(
                conn,
                mailbox_id=world.mailbox_id,
                claimed_by=visit,
                limit=limit,
                lease_seconds=seconds,
            )
        case ("settle", outcomes):
            lane.settle(
                conn,
                [
                    Outcome(ids[n], world.mailbox_id, visit, arrow, attempt=TRY)
                    for n, visit, arrow in outcomes
                ],
            )
        case ("give back", visit, n):
            lane.give_back(conn, claimed_by=visit, ids=[ids[n]])
        case ("renew", visit):
            lane.renew(conn, claimed_by=visit, lease_seconds=20)
        case ("sweep",):
            lane.sweep(conn)
        case ("cancel", n):
            lane.cancel(conn, [ids[n]])
        case ("deadline", n):
            conn.execute(
                DELIVERY.update().where(DELIVERY.c.id == ids[n]).values(expires_at=LONG_AGO)
            )


@settings(
    max_examples=25,
    deadline=None,
    # The database serves all walks of the test; each has a tenant of its own.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
def test_walks_stay_on_the_arrows(engine: Engine, steps: list[tuple[Any, ...]]) -> None:
    """Whatever visits, sweeps and people do in whatever order, every change is an arrow."""
    world = world_rows(engine)
    ids = delivery_rows(engine, world, 6)
    with engine.connect() as conn:
        before = states(conn)

    for step in steps:
        with write(engine) as conn:
            act(conn, world, ids, step)
            after = states(conn)
            rows = conn.execute(select(DELIVERY).where(DELIVERY.c.id.in_(ids))).all()

        # One settle may hold several reports on one delivery; only single changes are compared.
        reported = [n for n, _, _ in step[1]] if step[0] == "settle" else []
        for key in ids:
            if reported.count(ids.index(key)) < 2 and before[key] != after[key]:
                assert permitted(State(before[key]), State(after[key])), step
        for row in rows:
            assert (row.claimed_by is not None) == (row.state == "sending")
            assert (row.settled_at is not None) == (row.state not in {"queued", "sending"})
        before = after
