"""Looking at many lanes at once: each gets what it would have got alone."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Engine, event, insert

from models import lane, senders
from models.clock import utc_after
from models.database import read, write
from models.grants import DELEGATED
from models.ids import uuid7
from models.lane_claim import SUSPECT_CLAIMS
from models.quota import RECIPIENTS, DayLimits
from models.quota_claim import AGAIN_SECONDS
from models.tables import METADATA
from tests.models import factories
from tests.models.factories import (
    FAR_AHEAD,
    LONG_AGO,
    World,
    delivery_rows,
    row_of,
    set_delivery,
    set_mailbox,
)

COUNT = METADATA.tables["recipient_count"]
LIMITS = DayLimits()


def world_rows(engine: Engine) -> World:
    """Make a tenant whose mailbox has been given consent."""
    world = factories.world_rows(engine)
    grant = {
        "id": uuid7(),
        "mailbox_id": world.mailbox_id,
        "kind": DELEGATED,
        "granted_at": LONG_AGO,
    }
    with write(engine) as conn:
        conn.execute(insert(METADATA.tables["grant"]).values(grant))
    return world


def look(engine: Engine, *looks: lane.Look, limits: DayLimits = LIMITS) -> list[lane.Found]:
    with write(engine) as conn:
        return lane.look(conn, looks, limits=limits, lease_seconds=20.0)


def at(mailbox_id: UUID, visit: str = "v1", limit: int = 10, **known: Any) -> lane.Look:
    return lane.Look(lane.Wish(mailbox_id, visit, limit), **known)


def granted(found: lane.Found) -> list[UUID]:
    return [claimed.id for claimed in found.granted.claims]


def test_each_gets_its_own(engine: Engine) -> None:
    """Everybody gets the head of its own lane, under its own name, however many come."""
    worlds = [world_rows(engine) for _ in range(5)]
    ids = [delivery_rows(engine, world, 3) for world in worlds]

    found = look(
        engine, *(at(world.mailbox_id, f"v{n}", limit=2) for n, world in enumerate(worlds))
    )

    assert [granted(one) for one in found] == [keys[:2] for keys in ids]
    assert [row_of(engine, keys[0]).claimed_by for keys in ids] == [f"v{n}" for n in range(5)]
    assert [one.sender and one.sender.mailbox_id for one in found] == [
        world.mailbox_id for world in worlds
    ]


def test_limits_and_kinds_do_not_mix(engine: Engine) -> None:
    """One may take two, one only criticals, one that is parked or unknown nothing."""
    two, critical, parked = (world_rows(engine) for _ in range(3))
    for world in (two, critical, parked):
        delivery_rows(engine, world, 3)
    urgent = delivery_rows(engine, critical, severity=0)
    set_mailbox(engine, parked.mailbox_id, parked_at=LONG_AGO)

    found = look(
        engine,
        at(two.mailbox_id, limit=2),
        lane.Look(lane.Wish(critical.mailbox_id, "v2", 10, only_critical=True)),
        at(parked.mailbox_id, "v3"),
        at(UUID(int=1), "v4"),
    )

    assert [len(one.granted.claims) for one in found] == [2, 1, 0, 0]
    assert granted(found[1]) == urgent
    assert found[2].sender is not None
    assert found[2].sender.parked_at is not None
    assert found[3].sender is None


def test_two_visits_of_a_mailbox_share_its_lane(engine: Engine) -> None:
    """What the first takes the second does not get."""
    world = world_rows(engine)
    ids = delivery_rows(engine, world, 4)

    first, second = look(
        engine, at(world.mailbox_id, "v1", limit=3), at(world.mailbox_id, "v2", limit=3)
    )

    assert granted(first) == ids[:3]
    assert granted(second) == ids[3:]


def test_only_one_suspect_of_many_lanes(engine: Engine) -> None:
    """Of suspects in different lanes one is given; the others are queued as they were."""
    worlds = [world_rows(engine) for _ in range(3)]
    suspects = []
    for world in worlds:
        [key] = delivery_rows(engine, world)
        set_delivery(engine, key, claims=SUSPECT_CLAIMS)
        suspects.append(key)

    found = look(engine, *(at(world.mailbox_id, f"v{n}") for n, world in enumerate(worlds)))

    assert sum(len(one.granted.claims) for one in found) == 1
    states = [row_of(engine, key).state for key in suspects]
    assert sorted(states) == ["queued", "queued", "sending"]
    assert [row_of(engine, key).claims for key in suspects] == [SUSPECT_CLAIMS] * 3


def _count(engine: Engine, account: str, recipients: int) -> None:
    with write(engine) as conn:
        conn.execute(
            insert(COUNT).values(
                subject=account, ends_at=utc_after(60.0), writer=0, recipients=recipients
            )
        )


def _sender(engine: Engine, world: World) -> senders.Sender:
    with read(engine) as conn:
        found = senders.sender(conn, world.mailbox_id)
    assert found is not None
    return found


def test_the_days_limit_holds_for_all(engine: Engine) -> None:
    """Beside one with room, one whose day is used up gets nothing and pauses."""
    roomy, full = world_rows(engine), world_rows(engine)
    for world in (roomy, full):
        delivery_rows(engine, world, 2)
    _count(engine, _sender(engine, full).auth_user, LIMITS.recipients)

    with_room, without = look(engine, at(roomy.mailbox_id, "v1"), at(full.mailbox_id, "v2"))

    assert len(with_room.granted.claims) == 2
    assert without.granted.claims == []
    assert without.granted.paused
    assert _sender(engine, full).pause_reason == RECIPIENTS


def test_what_is_in_hand_counts(engine: Engine) -> None:
    """Recipients of mails that are being sent are no longer free, whoever sends them."""
    world = world_rows(engine)
    delivery_rows(engine, world, 4)
    limits = DayLimits(recipients=1_001, critical_reserve=0)
    _count(engine, _sender(engine, world).auth_user, 999)

    [first] = look(engine, at(world.mailbox_id, "v1", limit=1), limits=limits)
    [second] = look(engine, at(world.mailbox_id, "v2", limit=4), limits=limits)

    in_hand = sum(len(one.recipients) for one in first.granted.claims)
    assert in_hand > 0
    assert in_hand + sum(len(one.recipients) for one in second.granted.claims) <= 2


def test_an_account_that_is_busy_is_looked_at_again(engine: Engine) -> None:
    """While another transaction claims for an account, this one takes nothing and says when."""
    if engine.dialect.name != "postgresql":
        return  # SQLite has one writer at a time.
    world = world_rows(engine)
    delivery_rows(engine, world)
    with write(engine) as conn:
        lane.look(conn, [at(world.mailbox_id, "v1", limit=1)], limits=LIMITS, lease_seconds=20.0)
        [found] = look(engine, at(world.mailbox_id, "v2"))

    assert found.granted.claims == []
    assert found.granted.wait_seconds == AGAIN_SECONDS


def test_a_sender_that_is_known_is_read_again_when_nothing_comes(engine: Engine) -> None:
    """A visit that knows its sender learns of a park by getting nothing."""
    world = world_rows(engine)
    delivery_rows(engine, world, 2)
    known = _sender(engine, world)

    [served] = look(engine, at(world.mailbox_id, limit=1, sender=known))
    set_mailbox(engine, world.mailbox_id, parked_at=LONG_AGO, park_reason="licence")
    [parked] = look(engine, at(world.mailbox_id, limit=1, sender=known))

    assert len(served.granted.claims) == 1
    assert not served.read
    assert parked.granted.claims == []
    assert parked.read
    assert parked.sender is not None
    assert parked.sender.park_reason == "licence"


def test_the_time_is_told_where_it_matters(engine: Engine) -> None:
    """Deadlines count by the database's clock; without one nobody asks for it."""
    timed, untimed = world_rows(engine), world_rows(engine)
    delivery_rows(engine, timed, expires_at=FAR_AHEAD)
    delivery_rows(engine, untimed)

    [with_deadline] = look(engine, at(timed.mailbox_id))
    [without] = look(engine, at(untimed.mailbox_id))

    assert with_deadline.now is not None
    assert without.now is None


def test_many_looks_cost_a_few_statements(engine: Engine) -> None:
    """A statement costs as much as what it does for one visit: fifty share them."""
    worlds = [world_rows(engine) for _ in range(50)]
    for world in worlds:
        delivery_rows(engine, world)
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(str(args[2])))

    found = look(engine, *(at(world.mailbox_id, f"v{n}") for n, world in enumerate(worlds)))

    assert sum(len(one.granted.claims) for one in found) == 50
    assert len(statements) <= 8
