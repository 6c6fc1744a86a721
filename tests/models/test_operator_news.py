"""What the operator does not know yet: each end at each level once, each loss by its cause."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, insert, select, update

from models import lane, told_warnings
from models.database import read, write
from models.errors import Conflict
from models.grants import GRANT
from models.ids import uuid7
from models.lookups import APP, BY_HAND, REMOVED
from models.operator_news import News, news, record
from tests.models.factories import (
    MAILBOX,
    World,
    delivery_rows,
    set_delivery,
    set_mailbox,
    world_rows,
)
from tests.models.passing_time import pass_time

EXPIRED = {"reason": "secret-expired", "scope": "app"}
CONSENT = {"reason": "consent-withdrawn", "scope": "mailbox"}


def look(engine: Engine, *, keep_warm_days: float = 7.0) -> News:
    with read(engine) as conn:
        return news(conn, keep_warm_days=keep_warm_days)


def tell(engine: Engine, **options: Any) -> News:
    """Look, and write down that all of it was mailed."""
    seen = look(engine, **options)
    if seen.to_record:
        with write(engine) as conn:
            record(conn, seen, delivery_id=uuid7())
    return seen


def levels(engine: Engine, **options: Any) -> list[str]:
    return [one.level.value for one in tell(engine, **options).ends]


def secret_ends(engine: Engine, world: World, **span: float) -> None:
    """Give the app a secret that ends after so long."""
    moment = datetime.now(UTC) + timedelta(**span)
    with write(engine) as conn:
        conn.execute(
            update(APP).where(APP.c.id == world.app_id).values(credential_expires_at=moment)
        )


def give_grant(engine: Engine, mailbox_id: UUID, *, idle_days: float) -> None:
    moment = datetime.now(UTC) - timedelta(days=idle_days)
    with write(engine) as conn:
        conn.execute(insert(GRANT).values(id=uuid7(), mailbox_id=mailbox_id, granted_at=moment))


def park(engine: Engine, mailbox_id: UUID, **cause: Any) -> None:
    words = {"meaning": "It is so.", "next_step": "Mend it.", "answer": "x"}
    with write(engine) as conn:
        lane.park(conn, mailbox_id=mailbox_id, probe_after_seconds=None, **words, **cause)


def resume(engine: Engine, *mailbox_ids: UUID) -> None:
    with write(engine) as conn:
        lane.resume(conn, mailbox_ids=mailbox_ids)


def addresses(engine: Engine, world: World) -> list[str]:
    with read(engine) as conn:
        rows = conn.execute(
            select(MAILBOX.c.address).where(MAILBOX.c.id.in_(world.mailbox_ids)).order_by("address")
        )
        return list(rows.scalars())


def told(engine: Engine) -> list[told_warnings.Told]:
    with read(engine) as conn:
        return told_warnings.told(conn)


# -- what ends ------------------------------------------------------------------------------------


def test_each_level_is_told_once(engine: Engine) -> None:
    """However often somebody looks between two of them."""
    world = world_rows(engine)
    secret_ends(engine, world, days=61)
    seen = [levels(engine)]
    for days in (1.5, 0.5, 29.5, 0.5, 15, 1, 6.5, 0.5, 5.5, 0.2, 0.4, 0.5, 30):
        pass_time(engine, days=days)
        seen.append(levels(engine))

    assert seen == [
        [], ["60d"], [], ["30d"], [], ["14d"], [], ["7d"], [], ["1d"], [], ["ended"], [], [],
    ]  # fmt: skip
    assert [(one.kind, one.detail) for one in told(engine)] == [
        ("client secret", level) for level in ("ended", "1d", "7d", "14d", "30d", "60d")
    ]


def test_of_levels_that_passed_unseen_only_the_nearest_is_told(engine: Engine) -> None:
    """Whoever was away for weeks is told how it is now."""
    world = world_rows(engine)
    secret_ends(engine, world, days=61)
    assert levels(engine) == []
    pass_time(engine, days=55)

    assert levels(engine) == ["7d"]
    assert levels(engine) == []
    pass_time(engine, days=5.5)
    assert levels(engine) == ["1d"]


def test_a_renewed_secret_starts_anew(engine: Engine) -> None:
    """Also where it ends within the same level as the old one."""
    world = world_rows(engine)
    secret_ends(engine, world, days=6)
    assert levels(engine) == ["7d"]

    secret_ends(engine, world, days=5)
    assert levels(engine) == ["7d"]
    secret_ends(engine, world, days=700)
    assert levels(engine) == []


def test_what_no_mailbox_needs_is_told_once_one_does(engine: Engine) -> None:
    """A secret without mailboxes holds nothing up; one of which nobody knows the end, either."""
    world = world_rows(engine)
    nobody = world_rows(engine)
    secret_ends(engine, world, days=3)
    set_mailbox(engine, world.mailbox_id, parked_at=datetime.now(UTC), park_reason=REMOVED)
    assert levels(engine) == []

    set_mailbox(engine, world.mailbox_id, parked_at=None, park_reason=None)

    [one] = tell(engine).ends
    assert one.mailboxes == tuple(addresses(engine, world))
    assert addresses(engine, nobody)[0] not in one.mailboxes


@pytest.mark.parametrize(
    ("idle_days", "keep_warm_days", "expected"),
    [
        (7.5, 7.0, []),
        (30.5, 7.0, ["60d"]),
        (35.0, 40.0, []),
        (41.5, 40.0, ["60d"]),
        (30.5, 0.0, ["60d"]),
        (91.0, 7.0, ["ended"]),
    ],
    ids=["in-use", "not-refreshed", "refreshed-rarely", "not-even-that", "switched-off", "ended"],
)
def test_a_grant_is_told_when_it_is_not_refreshed_as_it_should(
    engine: Engine, idle_days: float, keep_warm_days: float, expected: list[str]
) -> None:
    """What workers will refresh in time is no news, however long they are told to let it idle."""
    world = world_rows(engine)
    give_grant(engine, world.mailbox_id, idle_days=idle_days)

    assert levels(engine, keep_warm_days=keep_warm_days) == expected
    assert levels(engine, keep_warm_days=keep_warm_days) == []


def test_grants_that_get_old_one_by_one_are_gathered(engine: Engine) -> None:
    """A mail a day for each level, while there is time."""
    for idle_days in (30.1, 29.9, 29.6, 88.9, 88.8):
        give_grant(engine, world_rows(engine).mailbox_id, idle_days=idle_days)

    seen = [levels(engine)]
    for days in (0.2, 0.3, 0.55):
        pass_time(engine, days=days)
        seen.append(levels(engine))

    assert seen == [["7d", "7d", "60d"], ["1d", "1d"], [], ["60d", "60d"]]


def test_a_lost_mailbox_grant_gets_old_without_a_word(engine: Engine) -> None:
    """Nobody refreshes it, and that it is lost was told."""
    world = world_rows(engine)
    give_grant(engine, world.mailbox_id, idle_days=1)
    park(engine, world.mailbox_id, **CONSENT)
    pass_time(engine, minutes=2)
    assert len(tell(engine).lost) == 1
    pass_time(engine, days=40)

    assert look(engine).ends == ()


# -- what is lost ---------------------------------------------------------------------------------


def test_one_cause_is_told_once(engine: Engine) -> None:
    """A secret that takes all along is one thing, with all of their mailboxes."""
    world = world_rows(engine, mailboxes=3)
    sibling = world_rows(engine, mailboxes=2, app_id=world.app_id)
    stranger = world_rows(engine)
    delivery_rows(engine, world, 4)
    park(engine, world.mailbox_id, **EXPIRED)
    assert not look(engine).to_record, "within a minute it may be over"
    pass_time(engine, seconds=61)

    seen = tell(engine)

    [lost] = seen.lost
    expected = sorted(addresses(engine, world) + addresses(engine, sibling))
    assert sorted(one.address for one in lost.mailboxes) == expected
    assert addresses(engine, stranger)[0] not in expected
    assert lost.waiting == 4
    assert lost.first.cause.endswith(": secret-expired")
    assert not look(engine).to_record
    assert {one.delivery_id for one in told(engine)} == {told(engine)[0].delivery_id}


def test_what_a_person_did_is_not_told(engine: Engine) -> None:
    """Parked by hand, or removed."""
    for reason in (BY_HAND, REMOVED):
        park(engine, world_rows(engine).mailbox_id, reason=reason, scope="mailbox")
    pass_time(engine, minutes=5)

    assert not look(engine).to_record


def test_who_joins_a_known_cause_is_written_down_only(engine: Engine) -> None:
    """The operator knows already; the mail that told it is named."""
    world = world_rows(engine)
    park(engine, world.mailbox_id, **EXPIRED)
    pass_time(engine, minutes=2)
    tell(engine)
    late = world_rows(engine, app_id=world.app_id)
    park(engine, late.mailbox_id, **EXPIRED)
    pass_time(engine, minutes=2)

    seen = tell(engine)

    assert not seen.to_mail
    assert [one.address for one in seen.joined] == addresses(engine, late)
    assert len({one.delivery_id for one in told(engine)}) == 1
    assert len(told(engine)) == 2
    assert not look(engine).to_record


def test_mailboxes_lost_one_by_one_are_gathered(engine: Engine) -> None:
    """For the same reason at most one mail in ten minutes; another reason waits for nobody."""
    first, second, third = (world_rows(engine) for _ in range(3))
    park(engine, first.mailbox_id, **CONSENT)
    pass_time(engine, seconds=61)
    assert len(tell(engine).lost) == 1
    park(engine, second.mailbox_id, **CONSENT)
    park(engine, third.mailbox_id, reason="mailbox-full", scope="mailbox")
    pass_time(engine, seconds=61)

    assert [one.first.reason for one in tell(engine).lost] == ["mailbox-full"]
    pass_time(engine, minutes=9)
    [gathered] = tell(engine).lost
    assert [one.address for one in gathered.mailboxes] == addresses(engine, second)


def test_a_lasting_loss_is_repeated_ever_more_rarely(engine: Engine) -> None:
    """After a day, then after two, four and seven more, then each week."""
    world = world_rows(engine)
    park(engine, world.mailbox_id, **EXPIRED)
    pass_time(engine, minutes=2)
    tell(engine)
    told_on = []
    for day in range(1, 30):
        pass_time(engine, days=1, seconds=1)
        seen = tell(engine)
        assert not seen.lost
        if seen.repeated:
            told_on.append(day)

    assert told_on == [1, 3, 7, 14, 21, 28]
    assert told(engine)[0].tellings == 7


def test_repetitions_come_once_a_day_at_most(engine: Engine) -> None:
    """Two causes of different hours do not make two mails."""
    for _ in range(2):
        park(engine, world_rows(engine).mailbox_id, **EXPIRED)
        pass_time(engine, hours=5)
        assert len(tell(engine).lost) == 1
    pass_time(engine, hours=19, minutes=1)
    assert len(tell(engine).repeated) == 1
    pass_time(engine, hours=6)
    assert not look(engine).to_mail
    pass_time(engine, hours=18)

    assert len(tell(engine).repeated) == 1


# -- what is back ---------------------------------------------------------------------------------


def test_what_is_back_is_told_once(engine: Engine) -> None:
    """With for how long it was lost, and how many alerts waited; not those that came later."""
    world = world_rows(engine, mailboxes=2)
    gone, waits = delivery_rows(engine, world, 2)
    set_delivery(engine, gone, state="accepted", settled_at=datetime.now(UTC))
    pass_time(engine, minutes=1)
    park(engine, world.mailbox_id, **EXPIRED)
    pass_time(engine, hours=2)
    tell(engine)
    delivery_rows(engine, world, 2)
    resume(engine, *world.mailbox_ids)
    pass_time(engine, seconds=30)
    delivery_rows(engine, world, 3)
    assert not look(engine).to_record, "within a minute it may be lost again"
    pass_time(engine, seconds=31)

    seen = tell(engine)

    assert [one.address for one in seen.back] == addresses(engine, world)
    assert sum(one.waited for one in seen.back) == 3
    assert seen.back[0].parked_for == pytest.approx(timedelta(hours=2), abs=timedelta(seconds=20))
    assert not look(engine).to_record
    assert all(one.over_delivery_id for one in told(engine))
    assert waits != gone


def test_a_person_who_takes_over_ends_it_without_a_word(engine: Engine) -> None:
    """Parked by hand, removed, or gone altogether."""
    hand, removed, gone = (world_rows(engine) for _ in range(3))
    for world in (hand, removed, gone):
        park(engine, world.mailbox_id, **CONSENT)
    pass_time(engine, minutes=2)
    tell(engine)
    for world, reason in ((hand, BY_HAND), (removed, REMOVED)):
        park(engine, world.mailbox_id, reason=reason, scope="mailbox")
    with write(engine) as conn:
        conn.execute(MAILBOX.delete().where(MAILBOX.c.id == gone.mailbox_id))
    pass_time(engine, minutes=2)

    seen = tell(engine)

    assert len(seen.silent) == 3
    assert not seen.to_mail
    assert [one.over_delivery_id for one in told(engine)] == [None] * 3
    assert not look(engine).to_record


def test_another_cause_is_told_as_such(engine: Engine) -> None:
    """The first one is over, but nothing is back."""
    world = world_rows(engine)
    park(engine, world.mailbox_id, **EXPIRED)
    pass_time(engine, minutes=2)
    tell(engine)
    park(engine, world.mailbox_id, **CONSENT)
    pass_time(engine, minutes=2)

    seen = tell(engine)

    assert [one.first.reason for one in seen.lost] == ["consent-withdrawn"]
    assert seen.back == ()
    assert len(seen.silent) == 1


def test_lost_again_within_a_minute_is_not_back(engine: Engine) -> None:
    """Somebody hoped; it is told that it still does not send."""
    world = world_rows(engine)
    park(engine, world.mailbox_id, **EXPIRED)
    pass_time(engine, minutes=2)
    tell(engine)
    resume(engine, world.mailbox_id)
    park(engine, world.mailbox_id, **EXPIRED)
    pass_time(engine, minutes=2)

    seen = tell(engine)

    assert (len(seen.lost), seen.back) == (1, ())


# -- two at once ----------------------------------------------------------------------------------


def test_of_two_that_saw_the_same_one_tells_it(engine: Engine) -> None:
    """The other's transaction is undone as a whole."""
    worlds = [world_rows(engine, mailboxes=2) for _ in range(3)]
    park(engine, worlds[0].mailbox_id, **EXPIRED)
    park(engine, worlds[1].mailbox_id, **CONSENT)
    pass_time(engine, minutes=2)
    tell(engine)
    pass_time(engine, days=2)
    resume(engine, worlds[1].mailbox_id)
    secret_ends(engine, worlds[1], days=3)
    park(engine, worlds[2].mailbox_id, reason="mailbox-full", scope="mailbox")
    pass_time(engine, minutes=2)
    seen = look(engine)
    assert all((seen.ends, seen.lost, seen.repeated, seen.back))
    with write(engine) as conn:
        record(conn, seen, delivery_id=uuid7())
    before = told(engine)
    assert len(before) == 5

    alone = {"ends": (), "lost": (), "repeated": (), "back": ()}
    for kind in alone:
        only = replace(seen, **{name: () for name in alone if name != kind})
        with pytest.raises(Conflict), write(engine) as conn:
            record(conn, only, delivery_id=uuid7())

    assert told(engine) == before
