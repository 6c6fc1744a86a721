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
        ({"until": LONG_AGO + timedelta(days=1)}, {"old"}),
        ({"reason": "mail-too-large"}, {"dead"}),
        ({"subject": "DISK 100%"}, {"named"}),
        ({"subject": "disk 1_0%"}, set()),
        ({"recipient": "Smith@Partner.example"}, {"named"}),
        ({"recipient": "partner.ex"}, {"named", "critical"}),
        ({"recipient": "mith@partner.example"}, set()),
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
        "critical": delivery_rows(
            engine, world, severity=0, recipients=["ops@example.com", "blacksmith@partner.example"]
        )[0],
        "named": delivery_rows(
            engine,
            world,
            alert_id="A-1",
            subject="Disk 100% full",
            recipients=["SMITH@partner.example"],
        )[0],
        "old": delivery_rows(engine, world)[0],
        "other": delivery_rows(engine, other)[0],
    }
    set_delivery(engine, keys["dead"], state="dead", reason="mail-too-large")
    set_delivery(engine, keys["old"], enqueued_at=LONG_AGO)
    with read(engine) as conn:
        listed = deliveries.list_deliveries(conn, DeliveryFilter(**fields))

    assert {row.id for row in listed} == {keys[name] for name in found}


def test_a_mailbox_is_found_however_it_is_written(engine):
    """Addresses are kept in lower case; people write them otherwise."""
    world = world_rows(engine, mailboxes=2)
    [key] = delivery_rows(engine, world)
    with read(engine) as conn:
        [row] = deliveries.list_deliveries(conn)
        by_mailbox = deliveries.list_deliveries(conn, DeliveryFilter(mailbox=row.mailbox.upper()))

    assert [row.id for row in by_mailbox] == [key]


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


@pytest.fixture
def trail(engine):
    """Entries of two tenants: on themselves, a mailbox each, and deliveries of one."""
    world = world_rows(engine, slug="contoso")
    world_rows(engine, slug="fabrikam")
    one, two = delivery_rows(engine, world, 2)
    with read(engine) as conn:
        mailbox = deliveries.list_deliveries(conn)[0].mailbox
    with write(engine) as conn:
        audit.write(
            conn,
            audit.Entry("cli:ann", "tenant-add", "tenant", "contoso"),
            audit.Entry("cli:ann", "tenant-add", "tenant", "fabrikam"),
            audit.Entry("web:bob", "mailbox-park", "mailbox", mailbox, "maintenance"),
            audit.Entry("web:bob", "replay", "delivery", str(one), "link works again"),
            audit.Entry("web:bob", "replay", "delivery", str(two), "link works again"),
            audit.Entry("cli:ann", "discard", "delivery", str(two), "old"),
            audit.Entry("cli:ann", "tenant-remove", "tenant", "gone"),
        )
    return one, two


@pytest.mark.parametrize(
    ("wanted", "done"),
    [
        ({"tenant": "contoso"}, ["discard", "replay", "replay", "mailbox-park", "tenant-add"]),
        ({"tenant": "fabrikam"}, ["tenant-add"]),
        ({"tenant": "gone"}, ["tenant-remove"]),
        ({"actor": "BOB"}, ["replay", "replay", "mailbox-park"]),
        ({"action": "mailbox"}, ["mailbox-park"]),
        ({"action": "tenant_add"}, []),
        ({"until": LONG_AGO}, []),
    ],
    ids=str,
)
def test_the_audit_can_be_searched(engine, trail, wanted, done):
    """By whose it is, by whom, by what was done; a tenant that is gone still has its past."""
    with read(engine) as conn:
        found = audit.find(conn, audit.AuditFilter(**wanted), limit=None)

    assert [row.entry.action for row in found] == done


def test_a_tenant_that_never_was_is_no_empty_trail(engine, trail):
    """A misspelt name is said, with the nearest."""
    with read(engine) as conn, pytest.raises(NotFound, match="contoso"):
        audit.find(conn, audit.AuditFilter(tenant="contosso"), limit=None)


def test_what_was_done_to_many_deliveries_is_one_action(engine, trail):
    """A replay of thousands is one line in the list, and still on record for each of them."""
    one, two = trail
    with read(engine) as conn:
        actions = audit.actions(conn, audit.AuditFilter(tenant="contoso"), limit=10)
        cut = audit.actions(conn, audit.AuditFilter(), limit=3)
        of_one, of_two = audit.of_delivery(conn, one), audit.of_delivery(conn, two)

    assert [(action.first.entry.action, action.size) for action in actions] == [
        ("discard", 1), ("replay", 2), ("mailbox-park", 1), ("tenant-add", 1),
    ]  # fmt: skip
    assert [action.first.entry.action for action in cut] == ["tenant-remove", "discard", "replay"]
    assert [row.entry.action for row in of_one] == ["replay"]
    assert [row.entry.action for row in of_two] == ["replay", "discard"]
