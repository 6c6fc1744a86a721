from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from models import audit, dead_letters
from models.database import read, write
from models.dead_letters import DeadFilter, ReasonGroup
from models.errors import Conflict, NotFound
from models.ids import uuid7
from models.severity import Severity
from tests.models.factories import (
    FAR_AHEAD,
    LONG_AGO,
    delivery_rows,
    row_of,
    set_delivery,
    set_mailbox,
    world_rows,
)

TUESDAY = datetime(2027, 3, 2, 12, tzinfo=UTC)
DEAD = {
    "state": "dead",
    "settled_at": TUESDAY,
    "reason": "recipient-unknown",
    "reply_code": 550,
    "enhanced_code": "5.1.1",
    "reply_text": "5.1.1 unknown",
    "attempts": 3,
    "claims": 1,
    "first_attempt_at": LONG_AGO,
    "refused": {"ops@example.com": "550 5.1.1 unknown"},
}


def dead_rows(engine, world, count=1, *, severity=2, **changes):
    keys = delivery_rows(engine, world, count, severity=severity)
    for key in keys:
        set_delivery(engine, key, **{**DEAD, **changes})
    return keys


def test_a_replayed_delivery_begins_anew_in_its_lane(engine):
    """All its tries lie before it again, under the same Message-ID, at its place in the lane."""
    world = world_rows(engine)
    [key] = dead_rows(engine, world, uncertain=True, expires_at=FAR_AHEAD)
    before = row_of(engine, key)
    with write(engine) as conn:
        result = dead_letters.replay(conn, DeadFilter(), actor="cli:ann", reason="fixed")
    after = row_of(engine, key)

    assert result == dead_letters.Replay(1, 0, 0, ((world.mailbox_id, False),))
    assert (after.state, after.attempts, after.claims, after.replayed) == ("queued", 0, 0, 1)
    assert (after.first_attempt_at, after.settled_at, after.claimed_by) == (None, None, None)
    assert (after.reason, after.reply_code, after.enhanced_code, after.reply_text) == (None,) * 4
    assert after.refused == {}
    assert after.due_at > before.due_at
    # What makes a second copy visible and recognisable stays.
    assert after.uncertain
    assert (after.message_id, after.expires_at) == (before.message_id, FAR_AHEAD)
    assert after.payload_encrypted == before.payload_encrypted


def test_a_replay_past_the_expiry_clears_it_and_says_so(engine):
    """A replayed delivery does not expire at the next sweep."""
    world = world_rows(engine)
    late, timely, endless = (
        *dead_rows(engine, world, expires_at=LONG_AGO),
        *dead_rows(engine, world, expires_at=FAR_AHEAD),
        *dead_rows(engine, world),
    )
    with write(engine) as conn:
        result = dead_letters.replay(conn, DeadFilter(), actor="cli:ann")

    assert (result.replayed, result.expiry_cleared) == (3, 1)
    assert "1 of them had expired: the deadline is gone" in str(result)
    assert [row_of(engine, k).expires_at for k in (late, timely, endless)] == [
        None,
        FAR_AHEAD,
        None,
    ]


def test_the_mailboxes_to_wake_say_whether_it_is_urgent(engine):
    """Every mailbox that has work again is named once, critical if anything of it is."""
    world, other = world_rows(engine), world_rows(engine)
    dead_rows(engine, world, 2)
    dead_rows(engine, world, severity=0)
    dead_rows(engine, other)
    with write(engine) as conn:
        result = dead_letters.replay(conn, DeadFilter(), actor="cli:ann")

    assert dict(result.wake) == {world.mailbox_id: True, other.mailbox_id: False}
    assert len(result.wake) == 2


def test_who_replayed_what_and_why_is_on_record(engine):
    """Each replayed or discarded delivery has an entry with the actor and the reason."""
    world = world_rows(engine)
    one, two = dead_rows(engine, world, 2)
    with write(engine) as conn:
        dead_letters.replay(conn, DeadFilter(ids=(one,)), actor="cli:ann", reason="fixed")
        dead_letters.discard(conn, DeadFilter(ids=(two,)), actor="web:bob", reason="stale")
    with read(engine) as conn:
        entries = [entry.entry for entry in audit.entries(conn)]

    assert entries == [
        audit.Entry("web:bob", "discard", "delivery", str(two), "stale"),
        audit.Entry("cli:ann", "replay", "delivery", str(one), "fixed", {"forced": False}),
    ]


@pytest.mark.parametrize("state", ["accepted", "expired", "cancelled"])
def test_what_is_settled_is_sent_again_only_by_force(engine, state):
    """Nobody gets a mail twice because an id was mistyped."""
    world = world_rows(engine)
    [dead] = dead_rows(engine, world)
    [settled] = dead_rows(engine, world, state=state, expires_at=LONG_AGO)
    with pytest.raises(Conflict, match="only --force"), write(engine) as conn:
        dead_letters.replay(conn, DeadFilter(ids=(dead, settled)), actor="cli:ann")
    assert row_of(engine, dead).state == "dead"
    with write(engine) as conn:
        result = dead_letters.replay(conn, DeadFilter(), actor="cli:ann", force_ids=[settled])

    assert (result.replayed, result.forced, result.expiry_cleared) == (1, 1, 1)
    assert "forced" in str(result)
    assert row_of(engine, settled).state == "queued"
    # Force concerns what was named; an empty filter beside it does not mean everything.
    assert row_of(engine, dead).state == "dead"


def test_force_and_filter_go_together(engine):
    """Forced ids come on top of what the filter finds, and a dead one needs no force."""
    world = world_rows(engine)
    by_filter, by_id = dead_rows(engine, world, 2)
    set_delivery(engine, by_filter, reply_code=554)
    [accepted] = dead_rows(engine, world, state="accepted")
    with write(engine) as conn:
        result = dead_letters.replay(
            conn, DeadFilter(reply_code=554), actor="cli:ann", force_ids=[by_id, accepted]
        )

    assert (result.replayed, result.forced) == (3, 1)
    assert str(result) == "3 deliveries are queued again (1 forced)"


@pytest.mark.parametrize(
    ("state", "part"),
    [("queued", "in its lane already"), ("sending", "at this moment"), ("folded", "digest")],
)
def test_what_is_on_its_way_cannot_be_replayed(engine, state, part):
    """Not even force puts a delivery into its lane twice."""
    world = world_rows(engine)
    [key] = dead_rows(engine, world, state=state)
    for force in ([], [key]):
        with pytest.raises(Conflict, match=part), write(engine) as conn:
            dead_letters.replay(conn, DeadFilter(ids=(key,)), actor="a", force_ids=force)
    with pytest.raises(Conflict, match=part), write(engine) as conn:
        dead_letters.discard(conn, DeadFilter(ids=(key,)), actor="a")

    assert row_of(engine, key).state == state


@pytest.mark.parametrize("state", ["accepted", "expired", "cancelled", "queued"])
def test_a_refused_discard_does_not_speak_of_sending_again(engine, state):
    """Only dead letters are discarded; force belongs to replays."""
    world = world_rows(engine)
    [key] = dead_rows(engine, world, state=state)

    with (
        pytest.raises(Conflict, match="only dead letters can be discarded") as caught,
        write(engine) as conn,
    ):
        dead_letters.discard(conn, DeadFilter(ids=(key,)), actor="a")

    assert "--force" not in str(caught.value)


def test_unknown_ids_and_names_are_said(engine):
    """A replay that would do less than was asked does nothing."""
    world = world_rows(engine)
    [key] = dead_rows(engine, world)
    for wanted in (
        DeadFilter(ids=(key, uuid7())),
        DeadFilter(tenant="nobody"),
        DeadFilter(mailbox="nobody@example.com"),
    ):
        with pytest.raises(NotFound, match="there is no"), write(engine) as conn:
            dead_letters.replay(conn, wanted, actor="cli:ann")

    assert row_of(engine, key).state == "dead"


def test_a_removed_mailbox_takes_no_replay(engine):
    """Nothing is put into a lane that nobody will ever empty."""
    world = world_rows(engine)
    [key] = dead_rows(engine, world)
    set_mailbox(engine, world.mailbox_id, park_reason="removed")
    with pytest.raises(Conflict, match="was removed"), write(engine) as conn:
        dead_letters.replay(conn, DeadFilter(), actor="cli:ann")

    assert row_of(engine, key).state == "dead"


def test_discarded_letters_are_cancelled_with_their_cause(engine):
    """Giving up is final, and the record still says what it died of."""
    world = world_rows(engine)
    one, two = dead_rows(engine, world, 2)
    set_delivery(engine, two, reason="too-large")
    with write(engine) as conn:
        assert dead_letters.discard(conn, DeadFilter(reason="too-large"), actor="a") == 1
        assert dead_letters.count(conn) == 1
    row = row_of(engine, two)

    assert (row.state, row.reason) == ("cancelled", "too-large")
    assert row.settled_at > TUESDAY - timedelta(days=3650)
    assert row_of(engine, one).state == "dead"


@pytest.fixture
def crowd(engine):
    """Five dead letters, each of which differs from the first in one respect; and a live one."""
    world, other = world_rows(engine, slug="contoso"), world_rows(engine, slug="fabrikam")
    keys = {
        "plain": dead_rows(engine, world)[0],
        "reason": dead_rows(engine, world, reason="too-large", reply_code=552)[0],
        "code": dead_rows(engine, world, enhanced_code="5.1.10")[0],
        "late": dead_rows(engine, world, settled_at=TUESDAY + timedelta(days=1))[0],
        "urgent": dead_rows(engine, world, severity=0)[0],
        "other": dead_rows(engine, other)[0],
    }
    delivery_rows(engine, world)
    return keys


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, {"plain", "reason", "code", "late", "urgent", "other"}),
        ({"tenant": "fabrikam"}, {"other"}),
        ({"reason": "too-large"}, {"reason"}),
        ({"reply_code": 552}, {"reason"}),
        ({"enhanced_code": "5.1.10"}, {"code"}),
        ({"since": TUESDAY + timedelta(hours=1)}, {"late"}),
        ({"severity": Severity.CRITICAL}, {"urgent"}),
        (
            {"tenant": "contoso", "reply_code": 550, "enhanced_code": "5.1.1"},
            {"plain", "late", "urgent"},
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_filter_means_the_same_to_list_count_and_discard(engine, crowd, fields, names):
    """What a list shows and a dry run counts is what is done."""
    wanted = DeadFilter(**fields)
    with write(engine) as conn:
        listed = {letter.id for letter in dead_letters.list_dead(conn, wanted)}
        assert listed == {crowd[name] for name in names}
        assert dead_letters.count(conn, wanted) == len(names)
        assert sum(g.count for g in dead_letters.group_by_reason(conn, wanted)) == len(names)
        assert dead_letters.discard(conn, wanted, actor="cli:ann") == len(names)
        assert dead_letters.count(conn) == 6 - len(names)


def test_a_mailbox_can_be_named(engine, crowd):
    """Dead letters of one mailbox are found by its address, in any case of letters."""
    with read(engine) as conn:
        [letter] = dead_letters.list_dead(conn, DeadFilter(tenant="fabrikam"))
        found = dead_letters.list_dead(conn, DeadFilter(mailbox=letter.mailbox.upper()))

    assert [entry.id for entry in found] == [crowd["other"]]


def test_the_latest_comes_first(engine, crowd):
    """A short list shows what just went wrong."""
    with read(engine) as conn:
        [letter] = dead_letters.list_dead(conn, limit=1)

    assert letter.id == crowd["late"]
    assert (letter.severity, letter.died_at) == (Severity.NORMAL, TUESDAY + timedelta(days=1))


def test_groups_tell_causes_by_their_number(engine, crowd):
    """The most frequent cause comes first, with its times and an example."""
    with read(engine) as conn:
        first, *others = dead_letters.group_by_reason(conn)

    assert first == ReasonGroup(
        reason="recipient-unknown",
        reply_code=550,
        enhanced_code="5.1.1",
        tenants={"contoso": 3, "fabrikam": 1},
        count=4,
        uncertain=0,
        oldest=TUESDAY,
        newest=TUESDAY + timedelta(days=1),
        example="5.1.1 unknown",
    )
    assert [group.count for group in others] == [1, 1]
