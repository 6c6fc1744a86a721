"""The whole at one look, as ``alertpost status`` shows it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, insert, text

from models.backlog import in_hand, waiting_lanes
from models.budgets import Budget, Counted, notable_budgets
from models.database import now, read, write
from models.overview import Dead, overview
from models.quota import DayLimits, tenant_subject
from models.standings import MailboxRow, mailbox_rows, standings
from models.tables import METADATA
from tests.models.factories import (
    FAR_AHEAD,
    LONG_AGO,
    MAILBOX,
    World,
    delivery_rows,
    query_plan,
    row_of,
    set_delivery,
    set_mailbox,
    world_rows,
)

COUNT = METADATA.tables["recipient_count"]
NOW = datetime(2027, 3, 2, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)
CONNECTED = MailboxRow("contoso", "a@contoso.example", connected_at=NOW)
PARK = {
    "parked_at": NOW,
    "park_reason": "smtp-auth-disabled-tenant",
    "park_meaning": "It is off.",
    "park_next_step": "Switch it on.",
    "probe_at": NOW + HOUR,
}


def _address(engine: Engine, world: World) -> str:
    with read(engine) as conn:
        return str(conn.scalar(MAILBOX.select().with_only_columns(MAILBOX.c.address).where(
            MAILBOX.c.id == world.mailbox_id
        )))  # fmt: skip


# -- who can send ---------------------------------------------------------------------------------


def test_tenants_are_counted_once() -> None:
    """Ready where all its mailboxes are, waiting where one is not, else without a mailbox."""
    rows = [
        CONNECTED,
        MailboxRow("fabrikam", "a@fabrikam.example", connected_at=NOW),
        MailboxRow("fabrikam", "b@fabrikam.example"),
        MailboxRow("new"),
    ]

    who = standings(rows)

    assert (who.tenants_ready, who.tenants_waiting, who.tenants_empty) == (1, 1, 1)
    assert (who.mailboxes, who.mailboxes_ready) == (3, 2)


def test_mailboxes_that_wait_for_the_same_are_one_group() -> None:
    """The largest group first; of moments the one that tells most."""
    later = {"parked_at": NOW + HOUR, "probe_at": NOW + 2 * HOUR}
    rows = [
        MailboxRow("a", "a@a.example", NOW, paused_until=NOW + HOUR, pause_reason="busy",
                   paused=True),
        MailboxRow("b", "b@b.example", NOW, **PARK),
        MailboxRow("c", "c@c.example", NOW, **(PARK | later)),
        MailboxRow("d", "d@d.example"),
    ]  # fmt: skip

    parked, paused, unconnected = standings(rows).held

    assert (parked.standing, parked.reason) == ("parked", "smtp-auth-disabled-tenant")
    assert (parked.meaning, parked.next_step) == ("It is off.", "Switch it on.")
    assert (parked.mailboxes, parked.tenants) == (("b@b.example", "c@c.example"), ("b", "c"))
    assert (parked.since, parked.tries_at, parked.until) == (NOW, NOW + HOUR, None)
    assert (paused.standing, paused.reason, paused.until) == ("paused", "busy", NOW + HOUR)
    assert (unconnected.standing, unconnected.reason) == ("not connected", None)


def test_standings_are_read(engine: Engine) -> None:
    """A pause that is over is none; a removed mailbox is not there."""
    ready, parked, paused, gone = (world_rows(engine, slug=slug) for slug in "abcd")
    set_mailbox(engine, ready.mailbox_id, paused_until=LONG_AGO, pause_reason="busy")
    set_mailbox(engine, parked.mailbox_id, **PARK, park_scope="tenant")
    set_mailbox(engine, paused.mailbox_id, paused_until=FAR_AHEAD, pause_reason="busy")
    set_mailbox(engine, gone.mailbox_id, parked_at=LONG_AGO, park_reason="removed")
    with read(engine) as conn:
        who = standings(mailbox_rows(conn))

    assert (who.tenants_ready, who.tenants_waiting, who.tenants_empty) == (1, 2, 1)
    assert sorted((held.standing, held.reason) for held in who.held) == [
        ("parked", "smtp-auth-disabled-tenant"), ("paused", "busy"),
    ]  # fmt: skip


# -- what waits -----------------------------------------------------------------------------------


def test_a_lane_tells_how_much_waits_and_since_when(engine: Engine) -> None:
    """What is due, what is critical, the oldest; what is in hand or done does not wait."""
    world, quiet = world_rows(engine, slug="contoso"), world_rows(engine)
    oldest, *_ = delivery_rows(engine, world, 3)
    [critical] = delivery_rows(engine, world, severity=0)
    later, sending, done = delivery_rows(engine, world, 3)
    set_delivery(engine, later, due_at=FAR_AHEAD)
    set_delivery(engine, sending, state="sending")
    set_delivery(engine, done, state="accepted")
    for key in delivery_rows(engine, quiet):
        set_delivery(engine, key, state="accepted")
    with read(engine) as conn:
        [lane] = waiting_lanes(conn)
        assert in_hand(conn) == 1

    assert (lane.tenant, lane.mailbox) == ("contoso", _address(engine, world))
    assert (lane.waiting, lane.due, lane.critical) == (5, 4, 1)
    assert lane.oldest_at == row_of(engine, oldest).enqueued_at
    assert lane.oldest_at <= row_of(engine, critical).enqueued_at
    assert lane.standing == "ready"


def test_the_fullest_lane_comes_first(engine: Engine) -> None:
    """So the head of the list is what to look at."""
    few, many = world_rows(engine, slug="few"), world_rows(engine, slug="many")
    delivery_rows(engine, few, 1)
    delivery_rows(engine, many, 2)
    with read(engine) as conn:
        assert [lane.tenant for lane in waiting_lanes(conn)] == ["many", "few"]


@pytest.mark.parametrize(
    ("mailbox", "due_at", "next_at"),
    [
        ({}, LONG_AGO, LONG_AGO),
        ({}, FAR_AHEAD, FAR_AHEAD),
        ({"paused_until": FAR_AHEAD}, LONG_AGO, FAR_AHEAD),
        ({"paused_until": LONG_AGO}, FAR_AHEAD, FAR_AHEAD),
        ({**PARK, "probe_at": None}, LONG_AGO, None),
        (PARK, LONG_AGO, NOW + HOUR),
        (PARK, FAR_AHEAD, FAR_AHEAD),
        ({"connected_at": None}, LONG_AGO, None),
    ],
    ids=[
        "due", "later", "paused", "pause-over", "parked", "probe", "probe-of-nothing-due",
        "not-connected",
    ],
)  # fmt: skip
def test_when_the_next_may_go(
    engine: Engine, mailbox: dict[str, object], due_at: datetime, next_at: datetime | None
) -> None:
    """Not before the mailbox may send, nor before something is due; perhaps not by itself."""
    world = world_rows(engine)
    set_mailbox(engine, world.mailbox_id, **({"park_scope": None} | mailbox))
    [key] = delivery_rows(engine, world)
    set_delivery(engine, key, due_at=due_at)
    with read(engine) as conn:
        [lane] = waiting_lanes(conn)

    assert lane.next_at == next_at


# -- recipients -----------------------------------------------------------------------------------


def _count(engine: Engine, subject: str, recipients: int, *, ago: timedelta = HOUR) -> None:
    with write(engine) as conn:
        conn.execute(
            insert(COUNT).values(
                subject=subject, ends_at=now(conn) - ago, writer=0, recipients=recipients
            )
        )


def test_budgets_that_are_nearly_used(engine: Engine) -> None:
    """From four fifths on, within the window, with what is in hand; the fullest first."""
    world = world_rows(engine)
    address = _address(engine, world)
    [key] = delivery_rows(engine, world, recipients=["a@x.example", "b@x.example"])
    set_delivery(engine, key, state="sending")
    _count(engine, address, 88)
    _count(engine, "full@x.example", 99)
    _count(engine, "half@x.example", 79)
    _count(engine, "past@x.example", 99, ago=timedelta(hours=25))
    _count(engine, tenant_subject(world.tenant_id), 99)
    with read(engine) as conn:
        assert notable_budgets(conn, DayLimits(recipients=100, critical_reserve=1)) == [
            Budget("full@x.example", Counted.ALL, 99, 100),
            Budget(address, Counted.ALL, 90, 100),
        ]
        assert notable_budgets(conn, DayLimits(recipients=0)) == []


def test_external_recipients_of_a_tenant(engine: Engine) -> None:
    """Those of a trial are limited to 5,000, whatever an account may reach."""
    trial = world_rows(engine, slug="trial", trial=True)
    paid = world_rows(engine, slug="paid", licences=100)
    for world in (trial, paid):
        _count(engine, tenant_subject(world.tenant_id), 4_500)
    with read(engine) as conn:
        for limits in (DayLimits(), DayLimits(recipients=0)):
            assert notable_budgets(conn, limits) == [
                Budget("trial", Counted.EXTERNAL, 4_500, 5_000)
            ]


# -- everything -----------------------------------------------------------------------------------


def test_an_overview_of_nothing(engine: Engine) -> None:
    """A database that was made a moment ago is no error."""
    with read(engine) as conn:
        seen = overview(conn, DayLimits())

    assert (seen.lanes, seen.dead, seen.budgets, seen.expiries) == ((), (), (), ())
    assert (seen.waiting, seen.in_hand, seen.standings.mailboxes) == (0, 0, 0)


def test_dead_letters_by_reason(engine: Engine) -> None:
    """The most frequent reason first; one without a reason is counted too."""
    keys = delivery_rows(engine, world_rows(engine), 4)
    for key, reason in zip(keys, ("b", "a", "b", None), strict=True):
        set_delivery(engine, key, state="dead", settled_at=NOW, reason=reason)
    with read(engine) as conn:
        dead = overview(conn, DayLimits()).dead

    assert dead[0] == Dead("b", 2)
    assert set(dead) == {Dead("b", 2), Dead("a", 1), Dead(None, 1)}


def test_no_look_reads_what_was_sent_before(sqlite_url: str) -> None:
    """Deliveries are found by partial indexes and keys, however many were accepted."""
    plan = query_plan(sqlite_url, lambda conn: overview(conn, DayLimits()))

    deliveries = [step for step in plan if "delivery" in step]
    assert any("ix_delivery_lane" in step for step in deliveries)
    assert not [step for step in deliveries if "INDEX" not in step]
    assert [step for step in plan if "attempt" in step and "ix_attempt_mailbox" in step]


def test_long_lanes_are_counted_in_their_index(postgresql_url: str) -> None:
    """PostgreSQL too counts what waits without reading the rows with their sealed content."""
    from models.backlog import _LANES
    from models.database import create_engine_from

    engine = create_engine_from(postgresql_url)
    try:
        world = world_rows(engine)
        for key in delivery_rows(engine, world, 50):
            set_delivery(engine, key, state="accepted")
        delivery_rows(engine, world, 50)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("VACUUM ANALYZE delivery"))
            conn.execute(text("SET enable_seqscan = off"))
            statement = str(_LANES.compile(conn, compile_kwargs={"literal_binds": True}))
            plan = "\n".join(conn.scalars(text(f"EXPLAIN {statement}")))
    finally:
        engine.dispose()

    assert "Index Only Scan using ix_delivery_lane" in plan
