from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from models import directory
from models.database import read, write
from models.errors import ConfigurationError, Conflict, NotFound
from tests.models.directory_parts import add_contoso, connect
from tests.models.factories import World, delivery_rows, row_of, set_delivery, set_mailbox

ALERTS = "alerts@contoso.example"
BACKUP = "backup@contoso.example"


def add(conn, address=ALERTS, **options):
    return directory.add_mailbox(conn, tenant_slug="contoso", address=address, **options)


def test_the_first_mailbox_takes_what_names_none(engine):
    """A tenant's first mailbox becomes its default one, until another is chosen."""
    with write(engine) as conn:
        add_contoso(conn)
        first = add(conn, "Alerts@Contoso.Example", display_name="Contoso alerts")
        second = add(conn, BACKUP)

        assert (first.address, first.is_default, second.is_default) == (ALERTS, True, False)
        assert directory.route(conn, tenant_slug="contoso") == first.id
        directory.set_default(conn, BACKUP)
        assert directory.route(conn, tenant_slug="contoso") == second.id
        assert [box.is_default for box in directory.list_mailboxes(conn)] == [False, True]


def test_an_address_is_taken_once(engine):
    """A mailbox belongs to one tenant, and the refusal says to which."""
    with write(engine) as conn:
        add_contoso(conn)
        add(conn)
        add_contoso(conn, slug="fabrikam")
        with pytest.raises(Conflict, match="at tenant 'contoso'"):
            directory.add_mailbox(conn, tenant_slug="fabrikam", address=ALERTS.upper())


def test_a_personal_account_is_refused(engine):
    """What cannot send is refused before anybody consents."""
    with write(engine) as conn:
        add_contoso(conn)
        with pytest.raises(ConfigurationError, match="personal accounts"):
            add(conn, "someone@outlook.com")


def test_names_can_be_edited_and_cleared(engine):
    """What is not named in an edit stays; None clears."""
    with write(engine) as conn:
        add_contoso(conn)
        add(conn, display_name="Alerts", auth_user="svc@contoso.example")
        box = directory.edit_mailbox(conn, ALERTS, display_name=None)

        assert (box.display_name, box.auth_user) == (None, "svc@contoso.example")
        assert directory.edit_mailbox(conn, ALERTS, auth_user="").auth_user is None
        assert directory.edit_mailbox(conn, ALERTS) == directory.mailbox(conn, ALERTS)


@pytest.mark.parametrize(
    ("values", "standing"),
    [
        ({"parked_at": None}, "ready"),
        ({"connected_at": None, "parked_at": datetime(2027, 1, 1, tzinfo=UTC)}, "not connected"),
        ({"parked_at": datetime(2027, 1, 1, tzinfo=UTC)}, "parked"),
        ({"paused_until": datetime.now(UTC) + timedelta(hours=1)}, "paused"),
        ({"paused_until": datetime.now(UTC) - timedelta(hours=1)}, "ready"),
    ],
    ids=["ready", "not connected", "parked", "paused", "pause over"],
)
def test_a_list_says_how_a_mailbox_stands(engine, values, standing):
    """Of several things that hold a mailbox up, the one that a person removes first is shown."""
    with write(engine) as conn:
        add_contoso(conn)
        box = add(conn)
        connect(conn, ALERTS)
    set_mailbox(engine, box.id, **values)

    with read(engine) as conn:
        [listed] = directory.list_mailboxes(conn, tenant_slug="contoso")
    assert listed.standing == standing
    assert (listed.grant_kind, listed.account) == ("delegated", ALERTS)


def test_a_list_counts_what_waits_and_what_died(engine):
    """Waiting and dead deliveries are counted per mailbox, settled ones are not."""
    with write(engine) as conn:
        tenant = add_contoso(conn)
        box, other = add(conn), add(conn, BACKUP)
    world = World(tenant.app, tenant.id, box.id, ())
    _, sent, dead, done = delivery_rows(engine, world, 4)
    set_delivery(engine, sent, state="sending")
    set_delivery(engine, dead, state="dead")
    set_delivery(engine, done, state="accepted")

    with read(engine) as conn:
        counts = {b.id: (b.waiting, b.dead) for b in directory.list_mailboxes(conn)}
        assert counts == {box.id: (2, 1), other.id: (0, 0)}
        assert directory.tenant(conn, "contoso").waiting == 2


def test_a_removed_default_has_an_heir(engine):
    """As long as a tenant has mailboxes, one of them is the default."""
    with write(engine) as conn:
        add_contoso(conn)
        add(conn)
        heir = add(conn, BACKUP)
        assert directory.remove_mailbox(conn, ALERTS).deleted

        assert directory.route(conn, tenant_slug="contoso") == heir.id
        with pytest.raises(NotFound, match="there is no mailbox"):
            directory.mailbox(conn, ALERTS)
        directory.remove_mailbox(conn, BACKUP)
        with pytest.raises(NotFound, match="no mailbox yet"):
            directory.route(conn, tenant_slug="contoso")


def test_a_removed_mailbox_comes_back_with_its_record(engine):
    """Deliveries keep a removed mailbox's row, which a new one of the same address takes over."""
    with write(engine) as conn:
        tenant = add_contoso(conn)
        box = add(conn)
        connect(conn, ALERTS)
    [waits] = delivery_rows(engine, World(tenant.app, tenant.id, box.id, ()))
    with write(engine) as conn:
        with pytest.raises(Conflict, match="1 deliveries still wait"):
            directory.remove_mailbox(conn, ALERTS)
        removal = directory.remove_mailbox(conn, ALERTS, force=True)

        assert (removal.deleted, removal.cancelled, removal.grants) == (False, 1, 1)
        with pytest.raises(NotFound, match="brings it back"):
            directory.mailbox(conn, ALERTS)
        with pytest.raises(Conflict, match="was removed"):
            directory.connect_mailbox(
                conn, None, mailbox_id=box.id, kind=directory.APP_ONLY, cache=None
            )
        again = add(conn)
        assert (again.id, again.is_default, again.standing) == (box.id, True, "not connected")
    assert row_of(engine, waits).state == "cancelled"


def test_unknown_mailboxes_and_tenants_are_named(engine):
    """Whoever misspells an address reads the right one."""
    with write(engine) as conn:
        add_contoso(conn)
        add(conn)
        with pytest.raises(NotFound, match=f"nearest is '{ALERTS}'"):
            directory.mailbox(conn, "alert@contoso.example")
        with pytest.raises(NotFound, match="nearest is 'contoso'"):
            directory.list_mailboxes(conn, tenant_slug="contosos")
