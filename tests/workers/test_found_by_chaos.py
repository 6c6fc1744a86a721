"""What `make chaos` found, reduced to the smallest case."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from sqlalchemy import URL, event, make_url, text

from models import lane, senders
from models.database import create_engine_from, read, write
from models.lifecycle import ACCEPT
from models.redis_keys import RedisKeys
from models.stages import Stage
from sandbox.entra_faults import EntraFault, EntraFaultKind
from sandbox.faults import Fault, Slow, Stall
from tests.fixtures.whole import Whole
from tests.workers.pacing_parts import OneMemory, party_of, some_party
from tests.workers.visit_parts import another_worker, drain, send, send_many, visit
from workers.main import _found
from workers.pacing import Pacer, PacingLimits
from workers.stop_wish import StopWish
from workers.visit import VisitEnd

STOOD_STILL_SECONDS = 1.3

ALERTS = "alerts@contoso.example"


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return {
        "pacing": {"slot_seconds": 1.0},
        "visit": {"claim_seconds": 1.0},
        "sweep": {"interval_seconds": 60.0},
    }


@pytest.fixture
def road(postgresql_url: str, tmp_path: Path) -> tuple[URL, Path, Path]:
    """A PostgreSQL whose socket can be reached only once a link to its directory is laid."""
    url = make_url(postgresql_url)
    place = url.query.get("host")
    if not isinstance(place, str) or not place.startswith("/"):
        pytest.skip("the server is not reached through a socket")
    link = tmp_path / "road"
    return url.update_query_dict({"host": str(link)}), link, Path(place)


def test_a_worker_that_starts_while_sql_is_away_waits(road: tuple[URL, Path, Path]) -> None:
    """A worker that is restarted during an outage goes on once SQL is back."""
    url, link, place = road
    engine = create_engine_from(url.render_as_string(hide_password=False))
    stop = StopWish()
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(_found, engine, stop)
        with pytest.raises(TimeoutError):
            found.result(0.3)
        link.symlink_to(place)

        assert found.result(10)

    engine.dispose()


def test_a_worker_that_waits_for_sql_can_be_stopped(road: tuple[URL, Path, Path]) -> None:
    """A stop ends the wait for SQL."""
    url, _, _ = road
    engine = create_engine_from(url.render_as_string(hide_password=False))
    stop = StopWish()
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(_found, engine, stop)
        stop.tell()

        assert not found.result(10)


async def test_a_worker_that_stood_still_sends_nothing_that_is_others_by_now(whole: Whole) -> None:
    """What was in hand during a standstill longer than its claim goes out once, by its new owner."""
    sent = send_many(whole, 3)
    mailbox_id = sent[0].mailbox_id
    whole.sandbox.exchange.inject(Fault("slow", "data", Slow(0.3), times=1))
    visiting = asyncio.create_task(visit(whole, mailbox_id))
    await whole.until(lambda: whole.count("sending") == 3)
    await asyncio.sleep(0.1)

    # The process stands still; another one's sweep takes its claims back meanwhile.
    time.sleep(STOOD_STILL_SECONDS)  # noqa: ASYNC251 - that is the point
    with write(whole.engine) as connection:
        swept = lane.sweep(connection)
    await visiting

    assert swept.recovered == 3
    assert whole.outbox() == []
    await drain(whole, mailbox_id)
    assert len(whole.outbox()) == 3
    assert sorted(whole.row(one.delivery_id).uncertain for one in sent) == [False, False, True]


async def test_sql_remembers_the_permit_of_a_mail_whose_worker_died(whole: Whole) -> None:
    """After a crash and the loss of Redis, the mail in doubt still counts against the limit."""
    (receipt,) = send_many(whole, 1)
    with write(whole.engine) as connection:
        lane.claim(
            connection,
            mailbox_id=receipt.mailbox_id,
            claimed_by="worker-that-dies/1",
            limit=1,
            lease_seconds=0.01,
        )
    await asyncio.sleep(0.05)
    with write(whole.engine) as connection:
        assert lane.sweep(connection).recovered == 1

    with read(whole.engine) as connection:
        recent = lane.recent_submissions(connection, account=ALERTS, window_seconds=60.0)

    assert len(recent.ages_ms) == 1
    (attempt,) = whole.attempts(receipt.delivery_id)
    assert (attempt.rule, attempt.uncertain, attempt.counted) == ("worker-died", True, False)


async def test_kept_connections_count_after_redis_forgot_their_slots(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """With three connections kept by others, a fourth worker opens none when Redis forgets."""
    async with another_worker(whole) as second, another_worker(whole) as third:
        for services in (whole.services, second, third):
            mailbox_id = send(whole, severity="critical").mailbox_id
            await services.visits.run(mailbox_id, critical=True)
        assert whole.exchange().connections == 3
        async with another_worker(whole) as fourth:
            receipt = send(whole, severity="critical")
            redis_client.delete(redis_keys.slots(ALERTS), redis_keys.permits(ALERTS))

            async def accepted() -> None:
                while whole.row(receipt.delivery_id).state != "accepted":
                    await fourth.visits.run(mailbox_id, critical=True)
                    await asyncio.sleep(0.05)

            await asyncio.wait_for(accepted(), 10)

    assert whole.exchange().max_connections == 3
    assert not whole.exchange().violations


async def test_visits_that_only_claimed_get_no_permits_beyond_the_limit(
    redis_async: redis.asyncio.Redis, redis_keys: RedisKeys
) -> None:
    """Of several that may hold a permit after Redis forgot, only as many send as may."""
    pacer = Pacer(redis_async, redis_keys, OneMemory(), PacingLimits(messages=30))
    mailbox_id = some_party()
    era = (await pacer.enter(mailbox_id, "one", critical=True)).era
    holders = [("one", 10_000), ("two", 10_000)]
    await pacer.seed(mailbox_id, ages_ms=[100] * 29, holders=holders, era=era)

    asked = [
        (await pacer.permit(mailbox_id, visit_id, critical=True, stamp=False)).granted
        for visit_id, _ in holders
    ]

    assert asked == [False, True]


async def test_a_consent_outlives_the_refusal_of_the_one_before(whole: Whole) -> None:
    """Old tokens are refused, the own and the shared one, while consent is given anew: no park."""
    mailbox_id = send(whole).mailbox_id
    await visit(whole, mailbox_id)
    await whole.services.connections.close()
    with read(whole.engine) as connection:
        sender = senders.sender(connection, mailbox_id)
    assert sender is not None
    own = (await whole.services.leases.get(sender)).token
    whole.sandbox.exchange.inject(Fault("stall", "auth", Stall(3.0), times=1))
    receipt = send(whole)

    visiting = asyncio.create_task(visit(whole, mailbox_id))
    await whole.until(lambda: whole.sandbox.exchange.faults.struck["stall"] > 0)
    async with another_worker(whole) as other:
        assert (await other.leases.get(sender, rejected=own)).token != own
    whole.sandbox.world.revoke_grants("alerts@contoso.example", recall_access_tokens=True)
    await asyncio.to_thread(whole.connect, mailbox_id)
    await visiting

    assert whole.mailbox(mailbox_id).parked_at is None
    await drain(whole, mailbox_id)
    assert whole.row(receipt.delivery_id).state == "accepted"


async def test_slots_do_not_wait_for_a_database_that_is_away(whole: Whole) -> None:
    """While SQL is locked the slot of an open connection is kept; once lost, it is hung up."""
    whole.sandbox.exchange.inject(Fault("slow", "body", Slow(0.5), times=1))
    receipt = send(whole)
    ours = party_of(whole, receipt.mailbox_id)
    visiting = asyncio.create_task(visit(whole, receipt.mailbox_id))
    await whole.until(lambda: whole.sandbox.exchange.faults.struck["slow"] > 0)
    other = create_engine_from(whole.engine.url.render_as_string(hide_password=False))
    with write(other) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE delivery IN ACCESS EXCLUSIVE MODE"))
        await asyncio.sleep(2.5)
        entered = await whole.services.pacer.enter(ours, "new", critical=False)
        third = await whole.services.pacer.enter(ours, "third", critical=False)
        assert (entered.slot, third.slot) == (True, False)
        assert whole.exchange().connections == 1

        await whole.services.pacer.leave(
            ours, next(iter(whole.services.visits._open))._visit_id, stamp=True
        )
        await whole.until(lambda: whole.exchange().connections == 0, seconds=20)

    await visiting
    other.dispose()
    assert whole.row(receipt.delivery_id).state == "accepted"


async def test_a_visit_that_lost_its_slot_while_it_waited_for_a_token_opens_nothing(
    whole: Whole,
) -> None:
    """Others have its slot by the time the token comes: the fourth connection is not opened."""
    mailbox_id = send(whole).mailbox_id
    slow = EntraFault(EntraFaultKind.SLOW, remaining=1, seconds=0.8)
    whole.sandbox.world.entra_faults.add(slow)
    visiting = asyncio.create_task(visit(whole, mailbox_id))
    await whole.until(lambda: whole.count("sending") == 1)
    (waiting,) = whole.services.visits._open
    ours = party_of(whole, mailbox_id)
    await whole.services.pacer.leave(ours, waiting._visit_id, stamp=False)
    for other, critical in (("one", False), ("two", False), ("three", True)):
        entered = await whole.services.pacer.enter(ours, other, critical=critical)
        assert entered.slot

    end = await visiting

    assert end is VisitEnd.AWAY
    assert whole.exchange().max_connections == 0


async def test_a_mail_that_is_settled_while_redis_is_taught_again_counts(whole: Whole) -> None:
    """Settled by another process between the two statements that SQL is asked by: it is seen."""
    (receipt,) = send_many(whole, 1)
    with write(whole.engine) as connection:
        lane.claim(
            connection,
            mailbox_id=receipt.mailbox_id,
            claimed_by="another-process/1",
            limit=1,
            lease_seconds=20.0,
        )
    outcome = lane.Outcome(
        delivery_id=receipt.delivery_id,
        mailbox_id=receipt.mailbox_id,
        claimed_by="another-process/1",
        transition=ACCEPT,
        attempt=lane.AttemptRecord(stage=Stage.BODY, rule="accepted", took_permit=True),
    )
    statements = []

    def settle_after_the_first(*_: Any) -> None:
        statements.append(1)
        if len(statements) == 1:
            with write(other) as meanwhile:
                lane.settle(meanwhile, [outcome])

    other = create_engine_from(whole.engine.url.render_as_string(hide_password=False))
    with read(whole.engine) as connection:
        event.listen(connection, "after_cursor_execute", settle_after_the_first)
        recent = lane.recent_submissions(connection, account=ALERTS, window_seconds=60.0)
    other.dispose()

    # One more where the second of them has seen it, which a snapshot of SQLite's does not.
    assert len(statements) in {3, 4}
    assert len(recent.ages_ms) + len(recent.in_hand) >= 1


async def test_claims_that_a_clock_set_back_made_long_hold_no_slots_for_as_long(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Redis is taught of dead visits whose claims last an hour too long; others send soon."""
    receipts = send_many(whole, 4)
    mailbox_id = receipts[0].mailbox_id
    for number in range(3):
        with write(whole.engine) as connection:
            lane.claim(
                connection,
                mailbox_id=mailbox_id,
                claimed_by=f"dead/{number}",
                limit=1,
                lease_seconds=3600.0,
            )
    redis_client.delete(redis_keys.slots(ALERTS), redis_keys.permits(ALERTS))

    async def accepted() -> None:
        while whole.row(receipts[3].delivery_id).state != "accepted":
            await visit(whole, mailbox_id)
            await asyncio.sleep(0.05)

    await asyncio.wait_for(accepted(), 10)
