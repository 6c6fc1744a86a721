from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import insert

from models import audit, deliveries, explain
from models.database import now, read, write
from models.deliveries import DeliveryFilter
from models.errors import Conflict, NotFound
from models.ids import uuid7
from models.lifecycle import State
from models.severity import Severity
from tests.models.factories import (
    ATTEMPT,
    FAR_AHEAD,
    LONG_AGO,
    delivery_rows,
    set_delivery,
    world_rows,
)


def test_a_list_shows_the_latest_first(engine):
    """A short list is of what just came in, whatever its tenant."""
    world = world_rows(engine, slug="contoso")
    keys = delivery_rows(engine, world, 3)
    with read(engine) as conn:
        listed = deliveries.list_deliveries(conn, limit=2)

    assert [row.id for row in listed] == [keys[2], keys[1]]
    assert (listed[0].tenant, listed[0].state) == ("contoso", State.QUEUED)
    assert (listed[0].severity, listed[0].recipients) == (Severity.NORMAL, ("ops@example.com",))


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, {"plain", "dead", "critical", "named", "old", "other"}),
        ({"state": State.DEAD}, {"dead"}),
        ({"tenant": "fabrikam"}, {"other"}),
        ({"severity": Severity.CRITICAL}, {"critical"}),
        ({"alert_id": "A-1"}, {"named"}),
        (
            {"since": LONG_AGO + timedelta(days=1), "tenant": "contoso"},
            {"plain", "dead", "critical", "named"},
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_list_can_be_narrowed(engine, fields, found):
    """Each filter leaves exactly what it names."""
    world, other = world_rows(engine, slug="contoso"), world_rows(engine, slug="fabrikam")
    keys = {
        "plain": delivery_rows(engine, world)[0],
        "dead": delivery_rows(engine, world)[0],
        "critical": delivery_rows(engine, world, severity=0)[0],
        "named": delivery_rows(engine, world, alert_id="A-1")[0],
        "old": delivery_rows(engine, world)[0],
        "other": delivery_rows(engine, other)[0],
    }
    set_delivery(engine, keys["dead"], state="dead")
    set_delivery(engine, keys["old"], enqueued_at=LONG_AGO)
    with read(engine) as conn:
        listed = deliveries.list_deliveries(conn, DeliveryFilter(**fields))
        by_mailbox = deliveries.list_deliveries(
            conn, DeliveryFilter(mailbox=listed[0].mailbox.upper())
        )

    assert {row.id for row in listed} == {keys[name] for name in found}
    assert {row.mailbox for row in by_mailbox} == {listed[0].mailbox}


def test_an_unknown_name_is_no_empty_list(engine):
    """A misspelt tenant or mailbox is said, not answered with nothing."""
    with read(engine) as conn:
        for wanted in (DeliveryFilter(tenant="nobody"), DeliveryFilter(mailbox="a@b.example")):
            with pytest.raises(NotFound):
                deliveries.list_deliveries(conn, wanted)


def test_a_delivery_is_found_by_the_beginning_of_its_id(engine):
    """Hyphens and case do not matter; what several share is answered with the candidates."""
    world = world_rows(engine)
    one = UUID("01890000-0000-7000-8000-000000000001")
    two = UUID("01890000-0000-7000-8000-0000000000ff")
    delivery_rows(engine, world, id=one)
    delivery_rows(engine, world, id=two)
    with read(engine) as conn:
        assert deliveries.find(conn, str(one)) == one
        assert deliveries.find(conn, two.hex.upper()) == two
        assert deliveries.find(conn, "01890000-0000-7000-8000-0000000000F") == two
        with pytest.raises(Conflict, match=f"{one}, {two}"):
            deliveries.find(conn, "01890000")
        for unknown in ("01890001", "0189", "0189000g", "", "01" * 17, "%" * 8):
            with pytest.raises(NotFound):
                deliveries.find(conn, unknown)


def test_a_delivery_is_shown_with_its_tries_in_order(engine):
    """One look tells what was tried, when, and what the server said."""
    world = world_rows(engine)
    [key] = delivery_rows(engine, world)
    delivery_rows(engine, world)
    with write(engine) as conn:
        for number, rule in ((2, "accepted"), (1, "server-busy")):
            conn.execute(
                insert(ATTEMPT).values(
                    id=uuid7(),
                    delivery_id=key,
                    mailbox_id=world.mailbox_id,
                    number=number,
                    stage="body",
                    rule=rule,
                    outcome="queued",
                    started_at=LONG_AGO,
                    finished_at=LONG_AGO + timedelta(seconds=1.5),
                )
            )
        shown = deliveries.show(conn, key)

    assert shown.delivery.id == key
    assert [(t.number, t.rule, t.duration_ms) for t in shown.attempts] == [
        (1, "server-busy", 1500),
        (2, "accepted", 1500),
    ]


def test_a_place_in_the_lane_counts_what_goes_first(engine):
    """Ahead are the more severe and the older ones that are due in the same lane."""
    world, other = world_rows(engine), world_rows(engine)
    first, mine, behind = delivery_rows(engine, world, 3)
    delivery_rows(engine, world, severity=0)
    delivery_rows(engine, world, severity=3)
    delivery_rows(engine, world, severity=0, not_before=FAR_AHEAD)
    [sent] = delivery_rows(engine, world, severity=0)
    delivery_rows(engine, other, 5, severity=0)
    set_delivery(engine, sent, state="accepted")
    with read(engine) as conn:
        ahead = [explain.standing(conn, key).delivery.ahead for key in (first, mine, behind)]
        standing = explain.standing(conn, mine)

        assert ahead == [1, 2, 3]
        assert "Waits behind 2 others" in standing.sentence()
        assert abs(standing.now - now(conn)) < timedelta(minutes=1)
        assert explain.standing(conn, sent).delivery.ahead == 0
        with pytest.raises(NotFound):
            explain.standing(conn, uuid7())


def test_the_audit_can_be_read_by_subject_and_time(engine):
    """Entries come back as they were written, the latest first."""
    one = audit.Entry("cli:ann", "tenant-add", "tenant", "contoso", "new customer", {"app": "main"})
    two = audit.Entry("web:bob", "mailbox-remove", "mailbox", "alerts@contoso.example")
    with write(engine) as conn:
        audit.write(conn, one, two)
        audit.write(conn)
        [later, earlier] = audit.entries(conn)

        assert (earlier.entry, later.entry) == (one, two)
        assert [e.entry for e in audit.entries(conn, subject_kind="tenant")] == [one]
        assert [e.entry for e in audit.entries(conn, subject="alerts@contoso.example")] == [two]
        assert audit.entries(conn, since=FAR_AHEAD) == []
        assert audit.entries(conn, limit=1) == [later]
