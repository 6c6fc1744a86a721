"""Which submission was begun: exact while Redis remembers, never less careful than before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
import redis.asyncio
from sqlalchemy import Engine, select, update

from models import lane
from models.composing_deaths import COMPOSING, EARLY, STOPS_UNSENT
from models.database import now, read, write
from models.ids import uuid7
from models.lane_recover import Abandoned, judge
from models.moves import DELIVERY
from models.redis_keys import RedisKeys
from models.redis_memory import RedisMemory, see_memory
from sandbox.faults import Fault, Stall
from tests.fixtures.whole import Whole
from tests.models.factories import ATTEMPT, World, delivery_rows, row_of, world_rows
from tests.workers.visit_parts import IMPATIENT, flush, send_many, visit
from workers.begun import Begun
from workers.pacing import PacingUnavailable


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    # Its own sweeps are not to come between.
    return IMPATIENT | {"sweep": {"interval_seconds": 600.0}}


class Memory:
    """The memory of Redis as pacing would know it."""

    def __init__(self, client: redis.Redis, keys: RedisKeys, engine: Engine) -> None:
        self._client, self._keys, self._engine = client, keys, engine
        self.now: RedisMemory | None = None

    def agree(self) -> None:
        """See which one Redis has, and let SQL know."""
        self._client.set(self._keys.era, "era", nx=True)
        run = self._client.info("server")["run_id"]
        era = self._client.get(self._keys.era)
        assert isinstance(era, bytes)
        with write(self._engine) as conn:
            self.now = see_memory(conn, f"{run}/{era.decode()}")
        self._client.set(self._keys.generation, self.now.generation)

    def __call__(self) -> RedisMemory | None:
        return self.now


@pytest.fixture
def memory(redis_client: redis.Redis, redis_keys: RedisKeys, engine: Engine) -> Memory:
    memory = Memory(redis_client, redis_keys, engine)
    memory.agree()
    return memory


@pytest.fixture
def begun(redis_async: redis.asyncio.Redis, redis_keys: RedisKeys, memory: Memory) -> Begun:
    return Begun(redis_async, redis_keys, worker="w", memory=memory)


def _hold(engine: Engine, count: int, visit_id: str = "w/1") -> tuple[World, list[Any]]:
    world = world_rows(engine)
    ids = delivery_rows(engine, world, count)
    with write(engine) as conn:
        lane.claim(
            conn, mailbox_id=world.mailbox_id, claimed_by=visit_id, limit=count, lease_seconds=20
        )
    return world, ids


def _expire_claims(engine: Engine) -> None:
    with write(engine) as conn:
        conn.execute(update(DELIVERY).values(claimed_until=now(conn)))


async def _said(begun: Begun) -> None:
    """Wait until what nobody waits for has been said."""
    assert begun._flight is not None
    await begun._flight


async def _sweep(engine: Engine, begun: Begun) -> None:
    _expire_claims(engine)
    await asyncio.sleep(0.01)
    with read(engine) as conn:
        visits = lane.abandoned_visits(conn)
    marks = await begun.ask(visits)
    with write(engine) as conn:
        lane.sweep(conn, begun=marks.known, composing=marks.composing, only=visits)


def _doubts(engine: Engine, ids: list[Any]) -> list[tuple[bool, int]]:
    rows = [row_of(engine, key) for key in ids]
    assert {row.state for row in rows} == {"queued"}
    return [(row.uncertain, row.claims) for row in rows]


IN_DOUBT, UNTOUCHED = (True, 1), (False, 0)


async def test_only_what_was_begun_is_in_doubt(engine: Engine, begun: Begun) -> None:
    """Nothing begun: nothing in doubt. The first one begun: that one. An earlier one: nothing."""
    world, ids = _hold(engine, 3)
    begun.none_yet("w/1")
    await _said(begun)
    await _sweep(engine, begun)
    assert _doubts(engine, ids) == [UNTOUCHED] * 3

    with write(engine) as conn:
        lane.claim(conn, mailbox_id=world.mailbox_id, claimed_by="w/2", limit=3, lease_seconds=20)
    begun.none_yet("w/2")
    await begun.mark("w/2", ids[0])
    await _sweep(engine, begun)
    assert _doubts(engine, ids) == [IN_DOUBT, UNTOUCHED, UNTOUCHED]

    with write(engine) as conn:
        lane.claim(conn, mailbox_id=world.mailbox_id, claimed_by="w/3", limit=3, lease_seconds=20)
    _, others = _hold(engine, 1, "w/4")
    await begun.mark("w/3", others[0])
    begun.none_yet("w/4")
    await _said(begun)
    await _sweep(engine, begun)
    assert _doubts(engine, ids) == [IN_DOUBT, UNTOUCHED, UNTOUCHED]


@pytest.mark.parametrize(
    "loss", ["never said", "forgotten", "flushed", "another era", "a newer generation", "no memory"]
)
async def test_where_nobody_knows_the_first_is_in_doubt(  # noqa: PLR0917 - fixtures, given by name
    engine: Engine,
    begun: Begun,
    memory: Memory,
    redis_client: redis.Redis,
    redis_keys: RedisKeys,
    loss: str,
) -> None:
    """Whatever Redis may have lost, a mail that may be out is marked."""
    _, ids = _hold(engine, 2)
    if loss != "never said":
        begun.none_yet("w/1")
        # The last that is remembered is one that was settled long ago.
        await begun.mark("w/1", row_of(engine, ids[0]).mailbox_id)
    if loss == "forgotten":
        begun.forget("w/1")
        await _said(begun)
    if loss == "flushed":
        flush(redis_client, redis_keys)
    if loss == "another era":
        redis_client.set(redis_keys.era, "another")
    if loss == "a newer generation":
        # As after a failover there and back, which somebody saw.
        with write(engine) as conn:
            see_memory(conn, "another server/era")
        memory.agree()
    if loss == "no memory":
        with write(engine) as conn:
            conn.exec_driver_sql("DELETE FROM redis_memory")

    await _sweep(engine, begun)

    assert _doubts(engine, ids) == [IN_DOUBT, UNTOUCHED]


async def test_who_is_being_composed_at_five_deaths_is_dead(
    engine: Engine,
    begun: Begun,
    memory: Memory,
    redis_async: redis.asyncio.Redis,
    redis_keys: RedisKeys,
) -> None:
    """First it is watched, then alone, then set aside; the others of its visits are untouched."""
    world, ids = _hold(engine, 3)
    poison, *innocent = ids
    begun.none_yet("w/1")
    await _said(begun)
    await _sweep(engine, begun)
    assert row_of(engine, poison).reason == EARLY

    for death in range(1, 6):
        visit_id = f"w/composing-{death}"
        with write(engine) as conn:
            claims = lane.claim(
                conn, mailbox_id=world.mailbox_id, claimed_by=visit_id, limit=3, lease_seconds=20
            )
        assert [claim.is_watched for claim in claims] == [True, False, False]
        # Each in a process of its own, of which nothing is left.
        dying = Begun(redis_async, redis_keys, worker="w", memory=memory)
        dying.none_yet(visit_id)
        if death == 4:
            # Composed, and a worker died of something else: that is no death of this kind.
            await dying.composes(visit_id, poison)
            await dying.composed(visit_id)
            await _sweep(engine, begun)
            with write(engine) as conn:
                lane.claim(
                    conn,
                    mailbox_id=world.mailbox_id,
                    claimed_by="w/other",
                    limit=3,
                    lease_seconds=20,
                )
            dying.none_yet(visit_id := "w/other")
        await dying.composes(visit_id, poison)
        await _sweep(engine, begun)
        expected = STOPS_UNSENT if death == 5 else COMPOSING
        assert row_of(engine, poison).reason == expected

    row = row_of(engine, poison)
    assert (row.state, row.claims, row.uncertain) == ("dead", 0, False)
    assert _doubts(engine, innocent) == [UNTOUCHED] * 2
    with read(engine) as conn:
        rules = conn.execute(
            select(ATTEMPT.c.rule, ATTEMPT.c.took_permit).order_by(ATTEMPT.c.number)
        ).all()
    assert rules == [(COMPOSING, False)] * 4 + [(STOPS_UNSENT, False)]


async def test_nothing_is_begun_that_redis_was_not_told(
    engine: Engine, begun: Begun, memory: Memory, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Where Redis has another memory than gave the permit, or none is known, no mail begins."""
    _, [key] = _hold(engine, 1)
    await begun.mark("w/1", key)
    redis_client.set(redis_keys.era, "another")
    with pytest.raises(PacingUnavailable):
        await begun.mark("w/1", key)
    memory.agree()
    await begun.mark("w/1", key)
    memory.now = None
    with pytest.raises(PacingUnavailable):
        await begun.mark("w/1", key)


async def test_many_visits_speak_at_once(begun: Begun, engine: Engine) -> None:
    """What hundreds say together is told in order, each visit's last word last."""
    _, ids = _hold(engine, 2)
    words = []
    for number in range(700):
        begun.none_yet(f"w/{number}")
        words += [begun.mark(f"w/{number}", ids[0]), begun.mark(f"w/{number}", ids[1])]
    await asyncio.gather(*words)

    marks = await begun.ask([f"w/{number}" for number in range(700)])
    with read(engine) as conn:
        assert set(marks.known(conn).values()) == {ids[1]}


def test_what_is_held_before_it_is_in_doubt_as_well() -> None:
    """Were the outcome of the mail before not committed after all, both are marked."""
    claims = [Abandoned(uuid7(), uuid7(), "w/1", 0, False) for _ in range(3)]

    found = judge(claims, claim_limit=3, begun={"w/1": claims[1].id})

    assert [finding.in_hand for finding in found] == [True, True, False]


async def test_a_visit_says_what_it_begins_and_forgets_it(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """In the middle of a mail that one stands in Redis; after the visit nothing does."""
    sent = send_many(whole, 2)
    whole.sandbox.exchange.inject(Fault("stall", "body", Stall(), times=1))
    visiting = asyncio.create_task(visit(whole, sent[0].mailbox_id))
    key = redis_keys.begun(whole.services.worker)

    def said() -> list[bytes]:
        return [text.split()[1] for text in redis_client.hvals(key)]

    await whole.until(lambda: said() == [sent[0].delivery_id.hex.encode()])
    # Before the server has the body nothing of it is in doubt.
    await whole.until(lambda: whole.sandbox.exchange.faults.struck["stall"] == 1)
    visiting.cancel()
    await asyncio.gather(visiting, return_exceptions=True)
    # Cut short in the middle of it: the sweep is to know.
    assert said() == [sent[0].delivery_id.hex.encode()]

    await visit(whole, sent[1].mailbox_id)
    await whole.until(lambda: len(said()) == 1)
