"""Recipients a day as numbers: buckets, room, waits, and the limit of a tenant."""

from __future__ import annotations

import math
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select, update

from models import lane, quota_counts
from models.database import now, read, write
from models.lifecycle import ACCEPT
from models.quota import (
    Bucket,
    DayLimits,
    Spent,
    Usage,
    charge,
    external_limit,
    tenant_subject,
)
from models.tables import METADATA
from tests.models.factories import LONG_AGO, delivery_rows, world_rows

COUNT = METADATA.tables["recipient_count"]
MAILBOX = METADATA.tables["mailbox"]


@pytest.mark.parametrize(
    ("licences", "trial", "limit"),
    [
        pytest.param(None, False, None, id="not set"),
        pytest.param(1, False, 10_000, id="one seat"),
        pytest.param(100, False, 22_059, id="a hundred"),
        pytest.param(1_000, False, 72_446, id="a thousand"),
        pytest.param(10_000, False, 324_978, id="ten thousand"),
        pytest.param(None, True, 5_000, id="trial"),
        pytest.param(50, True, 5_000, id="trial wins"),
    ],
)
def test_external_limit(licences: int | None, trial: bool, limit: int | None) -> None:
    """The formula gives what Microsoft's examples say, rounded down."""
    assert external_limit(licences=licences, trial=trial) == limit


def test_charge() -> None:
    """Each recipient counts for the account, those of other domains for the tenant as well."""
    tenant = world_id()
    to = ["a@contoso.com", "b@CONTOSO.com", "c@sub.contoso.com", "d@fabrikam.com"]

    spent = charge(
        to, account="me@contoso.com", tenant_id=tenant, accepted_domains={"contoso.com"},
        bucket_seconds=900,
    )  # fmt: skip

    assert spent.counts == {"me@contoso.com": 4, tenant_subject(tenant): 2}


@given(
    sends=st.lists(
        st.tuples(st.floats(0.001, 3.0), st.integers(1, 30), st.floats(0, 0.4)), max_size=150
    ),
    limit=st.integers(30, 90),
    window=st.sampled_from([1.0, 10.0, 86_400.0]),
)
def test_never_above_never_far_below(
    sends: list[tuple[float, int, float]], limit: int, window: float
) -> None:
    """
    In any window of the server's, no more than the limit is reached, however sends fall.

    And nothing is held up by what is older than a window, a bucket and the time that it was in
    hand.
    """
    limits = DayLimits(recipients=limit, critical_reserve=0, window_seconds=window)
    size = limits.bucket_seconds
    clock = 0.0
    counted: list[tuple[float, int]] = []
    taken: list[tuple[float, float, int]] = []
    for gap, recipients, in_hand in sends:
        clock += gap * window / 10
        live = [(end, n) for end, n in counted if end > clock - window]
        usage = Usage([Bucket(end + window - clock, n) for end, n in sorted(live)], 0)
        if usage.total + recipients > limit:
            wait = usage.seconds_until(recipients, limit=limit, retry_seconds=-1)
            assert 0 <= wait <= window + size
            recent = sum(n for _, settled, n in taken if settled > clock - window - size)
            assert recent + recipients > limit
            clock += wait + size / 1000
        accepted = clock
        clock += in_hand * window / 10
        counted.append(((math.floor(clock / size) + 1) * size, recipients))
        taken.append((accepted, clock, recipients))

    for accepted, _, _ in taken:
        within = sum(n for at, _, n in taken if accepted - window < at <= accepted)
        assert within <= limit


def test_buckets_add_up(engine: Engine) -> None:
    """Many mails of one group are one row; it ends later than now, by a bucket at most."""
    seconds = DayLimits().bucket_seconds
    with write(engine) as conn:
        quota_counts.spend(conn, [Spent({"a@b.com": n, "c@d.com": 1}, seconds) for n in (1, 2, 3)])
        quota_counts.spend(conn, [Spent({"a@b.com": 4}, seconds), None])
    with read(engine) as conn:
        moment = now(conn)
        rows = conn.execute(select(COUNT).order_by(COUNT.c.subject, COUNT.c.ends_at)).all()
        usage = quota_counts.account_usage(conn, "a@b.com", window_seconds=86_400)

    assert usage.total == 10
    # Two where the quarter of an hour ended between the transactions.
    assert 2 <= len(rows) <= 4
    assert all(-1 < (row.ends_at - moment).total_seconds() <= seconds for row in rows)
    assert all(row.ends_at.timestamp() % seconds == 0 for row in rows)


def test_old_counts_go(engine: Engine) -> None:
    """What has left the window does not count, and the sweep deletes it in the end."""
    with write(engine) as conn:
        quota_counts.spend(conn, [Spent({"a@b.com": 7}, 900.0)])
        conn.execute(update(COUNT).values(ends_at=LONG_AGO))
        used = quota_counts.account_usage(conn, "a@b.com", window_seconds=86_400).total
        lane.sweep(conn)
        left = conn.scalar(select(func.count()).select_from(COUNT))

    assert (used, left) == (0, 0)


def test_in_hand_counts(engine: Engine) -> None:
    """What is claimed counts until it is settled, in all lanes of the account."""
    world = world_rows(engine, mailboxes=2)
    delivery_rows(engine, world, 2, recipients=["x@y.com", "z@y.com"])
    delivery_rows(engine, world, 1, recipients=["x@y.com"], mailbox_id=world.mailbox_ids[1])
    with write(engine) as conn:
        conn.execute(update(MAILBOX).values(auth_user="shared@y.com"))
        claims = lane.claim(
            conn, mailbox_id=world.mailbox_id, claimed_by="v1", limit=5, lease_seconds=20
        )
        lane.claim(
            conn, mailbox_id=world.mailbox_ids[1], claimed_by="v2", limit=5, lease_seconds=20
        )
        before = quota_counts.account_usage(conn, "shared@y.com", window_seconds=86_400)
        lane.settle(conn, [accepted(claims[0], Spent({"shared@y.com": 2}, 900.0))])
        after = quota_counts.account_usage(conn, "shared@y.com", window_seconds=86_400)

    assert (before.in_hand, before.total) == (5, 5)
    assert (after.in_hand, after.total) == (3, 5)


def test_accounts_that_are_asked_for_together_are_counted_apart(engine: Engine) -> None:
    """What one has in hand does not count against another; together they have what each has."""
    worlds = [world_rows(engine) for _ in range(3)]
    for world, many in zip(worlds, (1, 2, 0), strict=True):
        delivery_rows(engine, world, many, recipients=["x@y.com"] * 3)
    with write(engine) as conn:
        accounts = [
            str(conn.scalar(select(MAILBOX.c.address).where(MAILBOX.c.id == world.mailbox_id)))
            for world in worlds
        ]
        for world in worlds:
            lane.claim(conn, mailbox_id=world.mailbox_id, claimed_by="v", limit=5, lease_seconds=20)
        quota_counts.spend(conn, [Spent({accounts[1]: 10}, 900.0)])
        together = quota_counts.account_totals(conn, accounts, window_seconds=86_400)
        each = [
            quota_counts.account_usage(conn, account, window_seconds=86_400).total
            for account in accounts
        ]

    assert together == dict(zip(accounts, each, strict=True))
    assert each == [3, 16, 0]


def test_a_dead_visit_counts_as_sent(engine: Engine) -> None:
    """The mail in hand when a worker died may be out, so its recipients stay counted."""
    world = world_rows(engine, trial=True, accepted_domains=["in.com"])
    delivery_rows(engine, world, 2, recipients=["x@in.com", "z@out.com"])
    with write(engine) as conn:
        address = conn.scalar(select(MAILBOX.c.address))
        lane.claim(conn, mailbox_id=world.mailbox_id, claimed_by="v1", limit=5, lease_seconds=-1)
        lane.sweep(conn)
        counts = dict(conn.execute(select(COUNT.c.subject, COUNT.c.recipients)).all())

    assert counts == {address: 2, tenant_subject(world.tenant_id): 1}


def test_one_claim_at_a_time(engine: Engine) -> None:
    """Of two claims of one account at once the second gets nothing and looks again soon."""
    if engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    with write(engine) as first, write(engine) as second:
        one = quota_counts.alone(first, ["a@b.com"])
        other = quota_counts.alone(second, ["a@b.com"])
        third = quota_counts.alone(second, ["c@d.com"])

    assert (one, other, third) == (True, False, True)


def world_id() -> UUID:
    """Make any tenant's key."""
    return uuid4()


def accepted(claimed: lane.Claimed, spent: Spent) -> lane.Outcome:
    """Shape a 250."""
    return lane.Outcome(
        delivery_id=claimed.id,
        mailbox_id=claimed.mailbox_id,
        claimed_by="v1",
        transition=ACCEPT,
        spent=spent,
    )
