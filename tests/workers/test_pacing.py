from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.redis_keys import RedisKeys
from tests.workers.pacing_parts import OneMemory, some_party
from workers.pacing import Pacer, PacingLimits, PacingUnavailable, Waiting

SMALL = PacingLimits(messages=5, window_ms=300, connections=3, critical_reserve=0, slot_ms=5_000)


@pytest.fixture
def mailbox():
    return some_party()


@pytest.fixture
def make_pacer(redis_async, redis_keys):
    memories = OneMemory()

    def make(**changes):
        values = {name: getattr(SMALL, name) for name in PacingLimits.__slots__} | changes
        return Pacer(redis_async, redis_keys, memories, PacingLimits(**values))

    return make


async def _come(pacer, mailbox, visit, *, critical=False):
    """Enter, seeding a mailbox that is not known with nothing."""
    entry = await pacer.enter(mailbox, visit, critical=critical)
    if not entry.known:
        await pacer.seed(mailbox, ages_ms=[], holders=[], era=entry.era)
        entry = await pacer.enter(mailbox, visit, critical=critical)
    return entry


async def _take(pacer, mailbox, visit, count, *, critical=False):
    """Submit up to ``count`` mails one after the other; return the last answer and how many."""
    taken = 0
    answer = await pacer.permit(mailbox, visit, critical=critical, stamp=False)
    while answer.granted and taken < count:
        taken += 1
        answer = await pacer.permit(mailbox, visit, critical=critical, stamp=True)
    return answer, taken


async def test_an_unknown_mailbox_gets_nothing_before_it_is_seeded(make_pacer, mailbox):
    """Redis that remembers nothing gives neither a slot nor a permit."""
    pacer = make_pacer()

    entry = await pacer.enter(mailbox, "a", critical=True)
    answer = await pacer.permit(mailbox, "a", critical=True, stamp=False)

    assert (entry.known, entry.slot, entry.permits, entry.critical_permits) == (False, False, 0, 0)
    assert (answer.granted, answer.lost) == (False, True)


async def test_the_whole_burst_goes_at_once_and_not_one_more(make_pacer, mailbox):
    """A window's permits are there at once; the next waits for the oldest to leave."""
    pacer = make_pacer(window_ms=60_000)
    entry = await _come(pacer, mailbox, "a")

    answer, taken = await _take(pacer, mailbox, "a", 100)

    assert entry.permits == 5
    assert taken == 5
    assert not answer.granted
    assert 59_000 < answer.wait_ms <= 60_001


async def test_a_permit_asked_for_after_the_wait_is_granted(make_pacer, mailbox):
    """wait_ms is neither too short nor a window too long."""
    pacer = make_pacer()
    await _come(pacer, mailbox, "a")
    answer, _ = await _take(pacer, mailbox, "a", 100)

    assert answer.wait_ms <= 301
    await asyncio.sleep(answer.wait_ms / 1000)

    assert (await pacer.permit(mailbox, "a", critical=False, stamp=False)).granted


async def test_a_stream_of_mails_keeps_to_the_limit_to_the_millisecond(make_pacer, mailbox):
    """A server that answers at once sees full windows, and never one mail too many."""
    pacer = make_pacer(window_ms=100, messages=3)
    await _come(pacer, mailbox, "a")
    accepted = []

    answer = await pacer.permit(mailbox, "a", critical=False, stamp=False)
    while len(accepted) < 13:
        if answer.granted:
            accepted.append(time.monotonic())
            answer = await pacer.permit(mailbox, "a", critical=False, stamp=True)
        else:
            await asyncio.sleep(answer.wait_ms / 1000)
            answer = await pacer.permit(mailbox, "a", critical=False, stamp=False)

    assert all(late - early >= 0.1 for early, late in zip(accepted, accepted[3:], strict=False))
    assert accepted[-1] - accepted[0] < 0.6


async def test_a_permit_that_is_asked_for_again_is_the_same_one(make_pacer, mailbox):
    """A visit holds one permit at most, so a repeated call costs nothing."""
    pacer = make_pacer()
    await _come(pacer, mailbox, "a")

    for _ in range(10):
        assert (await pacer.permit(mailbox, "a", critical=False, stamp=False)).granted

    assert (await _come(pacer, mailbox, "b")).permits == 4


async def test_slots_never_exceed_the_connections(make_pacer, mailbox):
    """Of many visits that come at once, normal ones leave a connection to a critical one."""
    pacer = make_pacer()
    await _come(pacer, mailbox, "first")

    normal = await asyncio.gather(
        *(pacer.enter(mailbox, f"n{i}", critical=False) for i in range(20))
    )
    critical = await asyncio.gather(
        *(pacer.enter(mailbox, f"c{i}", critical=True) for i in range(20))
    )

    assert sum(entry.slot for entry in normal) == 1
    assert sum(entry.slot for entry in critical) == 1


async def test_a_single_connection_serves_normal_visits_too(make_pacer, mailbox):
    """With one connection nothing can be left to criticals."""
    pacer = make_pacer(connections=1)

    assert (await _come(pacer, mailbox, "a")).slot
    assert not (await _come(pacer, mailbox, "b", critical=True)).slot


async def test_what_a_dead_visit_held_counts_from_the_end_of_its_slot(make_pacer, mailbox):
    """A crash with a permit in hand can never make room for one mail too many."""
    pacer = make_pacer(messages=1, slot_ms=150)
    await _come(pacer, mailbox, "dead")
    assert (await pacer.permit(mailbox, "dead", critical=False, stamp=False)).granted
    granted_at = time.monotonic()

    await asyncio.sleep(0.16)
    entry = await _come(pacer, mailbox, "b")
    assert entry.slot
    assert 0 < entry.wait_ms <= 300
    await asyncio.sleep(entry.wait_ms / 1000)

    # The slot of "b" ran out meanwhile as well.
    assert (await pacer.permit(mailbox, "b", critical=False, stamp=False)).lost
    await _come(pacer, mailbox, "c")
    assert (await pacer.permit(mailbox, "c", critical=False, stamp=False)).granted
    assert time.monotonic() - granted_at >= 0.44


async def test_a_renewed_slot_lasts(make_pacer, mailbox):
    """A visit that waits long for a reply keeps its slot as long as it says so."""
    pacer = make_pacer(slot_ms=120)
    await _come(pacer, mailbox, "a")

    for _ in range(4):
        await asyncio.sleep(0.05)
        assert await pacer.renew(mailbox, "a")

    await asyncio.sleep(0.13)
    assert not await pacer.renew(mailbox, "a")


async def test_coming_again_counts_the_mail_before(make_pacer, mailbox):
    """Stamped with the next entry, a mail has left the permits; so has one whose slot is lost."""
    pacer = make_pacer(critical_reserve=0, window_ms=60_000, connections=2)
    before = await _come(pacer, mailbox, "a")
    await pacer.permit(mailbox, "a", critical=False, stamp=False)

    after = await pacer.enter(mailbox, "a", critical=False, stamp=True)
    lost = await pacer.enter(mailbox, "a stranger", critical=False, stamp=True)

    assert after.permits == before.permits - 1
    assert lost.permits == after.permits - 1


async def test_criticals_have_a_reserve(make_pacer, mailbox):
    """Normal mails stop short of the limit; criticals may take all of it."""
    pacer = make_pacer(critical_reserve=2, window_ms=60_000)
    entry = await _come(pacer, mailbox, "a")
    assert (entry.permits, entry.critical_permits) == (3, 5)

    _, normal = await _take(pacer, mailbox, "a", 100)
    await _come(pacer, mailbox, "c", critical=True)
    _, critical = await _take(pacer, mailbox, "c", 100, critical=True)

    assert (normal, critical) == (3, 2)


async def test_the_wait_of_normal_mails_leaves_the_reserve_alone(make_pacer, mailbox):
    """After wait_ms a normal mail goes although criticals had used the reserve."""
    pacer = make_pacer(critical_reserve=2)
    await _come(pacer, mailbox, "c", critical=True)
    await _take(pacer, mailbox, "c", 2, critical=True)
    await pacer.leave(mailbox, "c", stamp=False)
    await asyncio.sleep(0.05)
    await _come(pacer, mailbox, "a")

    answer, taken = await _take(pacer, mailbox, "a", 100)
    assert taken == 1
    await asyncio.sleep(answer.wait_ms / 1000)

    assert (await pacer.permit(mailbox, "a", critical=False, stamp=False)).granted


@pytest.mark.parametrize("critical", [False, True], ids=["normal", "critical"])
async def test_who_found_no_slot_is_waked_once_by_who_leaves(make_pacer, mailbox, critical):
    """A mark is honoured by the visit that lets go of a slot, and only once."""
    pacer = make_pacer(connections=1)
    await _come(pacer, mailbox, "a")
    assert not (await _come(pacer, mailbox, "b", critical=critical)).slot

    unrelated = await pacer.leave(mailbox, "b", stamp=False)
    first = await pacer.leave(mailbox, "a", stamp=False)
    await _come(pacer, mailbox, "c")
    second = await pacer.leave(mailbox, "c", stamp=False)

    assert not unrelated
    assert first == Waiting().with_one(mailbox.mailbox_id, critical=critical)
    assert not second


async def test_the_watch_tells_who_waits_for_a_slot_and_until_when(make_pacer, mailbox):
    """A mailbox is named from when a visit found no slot until one was given back for it."""
    pacer, other = make_pacer(connections=1), some_party()
    await _come(pacer, mailbox, "a")
    await _come(pacer, other, "a")
    assert mailbox.account not in (await pacer.watch()).wanted

    assert not (await pacer.enter(mailbox, "b", critical=False)).slot

    assert (await pacer.watch()).wanted & {mailbox.account, other.account} == {mailbox.account}
    assert await pacer.leave(mailbox, "a", stamp=False)
    assert mailbox.account not in (await pacer.watch()).wanted


async def test_the_watch_forgets_who_waits_no_more(make_pacer, mailbox, redis_async, redis_keys):
    """A mailbox whose marks are gone is taken off the list by the next renewal."""
    pacer = make_pacer(connections=1)
    await _come(pacer, mailbox, "a")
    await pacer.enter(mailbox, "b", critical=False)
    await redis_async.hdel(redis_keys.slots(mailbox.account), f"l:{mailbox.mailbox_id}")

    assert not (await pacer.renew(mailbox, "a")).wanted

    assert mailbox.account not in (await pacer.watch()).wanted


async def test_the_watch_tells_a_loss_from_a_rest(own_redis, redis_keys):
    """The memory keeps its name whoever asks, and has another after each loss."""
    seen = []
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        one, two = Pacer(client, redis_keys, OneMemory()), Pacer(client, redis_keys, OneMemory())
        for _ in range(2):
            seen += [(await one.watch()).memory, (await two.watch()).memory]
            await client.flushall()
        seen.append((await two.watch()).memory)

    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert len(set(seen)) == 3


async def test_a_watch_lets_itself_be_cancelled(make_pacer):
    """At whatever moment, or who tends slots would not end with the worker."""
    pacer = make_pacer()

    async def tend():
        while True:
            await pacer.watch()

    for number in range(150):
        task = asyncio.create_task(tend())
        await asyncio.sleep(number % 50 / 25_000)
        task.cancel()
        assert await asyncio.wait([task], timeout=5) == ({task}, set())
        assert task.cancelled()


async def test_a_permit_that_was_not_used_wakes_who_wanted_it(make_pacer, mailbox):
    """Given back, a permit is free at once; stamped, it is not."""
    pacer = make_pacer(messages=1)
    await _come(pacer, mailbox, "a")
    await pacer.permit(mailbox, "a", critical=False, stamp=False)
    await _come(pacer, mailbox, "b")
    assert not (await pacer.permit(mailbox, "b", critical=False, stamp=False)).granted
    assert not await pacer.leave(mailbox, "b", stamp=False)

    assert await pacer.leave(mailbox, "a", stamp=False)

    assert (await _come(pacer, mailbox, "c")).permits == 1


async def test_a_pause_holds_for_everyone_and_is_never_shortened(make_pacer, mailbox):
    """While Exchange asks for patience nobody gets a permit, criticals included."""
    pacer = make_pacer()
    await _come(pacer, mailbox, "a")
    await pacer.permit(mailbox, "a", critical=False, stamp=False)
    await pacer.pause(mailbox, 0.25)
    await pacer.pause(mailbox, 0.01)

    answer = await pacer.permit(mailbox, "a", critical=True, stamp=True)
    entry = await _come(pacer, mailbox, "b", critical=True)

    assert not answer.granted
    assert 200 < answer.pause_ms <= 250
    assert (entry.permits, entry.critical_permits) == (0, 0)
    await asyncio.sleep(answer.wait_ms / 1000)
    assert (await pacer.permit(mailbox, "b", critical=True, stamp=False)).granted


async def test_coming_takes_away_the_wake_up_of_its_own_kind(
    make_pacer, mailbox, redis_async, redis_keys
):
    """The key goes before anything is claimed; that of the other queue stays with its message."""
    for critical in (False, True):
        await redis_async.set(redis_keys.wake(mailbox.mailbox_id, critical=critical), "1")

    await make_pacer().enter(mailbox, "a", critical=False)

    assert not await redis_async.exists(redis_keys.wake(mailbox.mailbox_id, critical=False))
    assert await redis_async.exists(redis_keys.wake(mailbox.mailbox_id, critical=True))


async def test_after_a_loss_the_seed_counts_what_sql_knows(
    make_pacer, mailbox, redis_async, redis_keys
):
    """Mails of the window and mails in hand count as if Redis had remembered them."""
    pacer = make_pacer(window_ms=60_000)
    await _come(pacer, mailbox, "a")
    await pacer.permit(mailbox, "a", critical=False, stamp=False)
    await redis_async.delete(redis_keys.slots(mailbox.account), redis_keys.permits(mailbox.account))

    assert (await pacer.permit(mailbox, "a", critical=False, stamp=True)).lost
    entry = await pacer.enter(mailbox, "b", critical=False)
    assert not entry.known
    await pacer.seed(mailbox, ages_ms=[10, 59_000], holders=[("a", 5_000)], era=entry.era)
    entry = await pacer.enter(mailbox, "b", critical=False)

    assert (entry.slot, entry.permits) == (True, 2)
    assert await pacer.stamp(mailbox, "a")
    answer, taken = await _take(pacer, mailbox, "b", 100)
    assert taken == 2
    assert answer.wait_ms <= 1_001


async def test_many_seeds_at_once_count_once(make_pacer, mailbox):
    """Visits that find the same gap do not double what they read."""
    pacer = make_pacer(window_ms=60_000)
    entry = await pacer.enter(mailbox, "a", critical=False)

    counted = await asyncio.gather(
        *(
            pacer.seed(mailbox, ages_ms=[100, 200], holders=[("x", 1_000)], era=entry.era)
            for _ in range(5)
        )
    )

    assert sum(counted) == 1
    assert (await pacer.enter(mailbox, "a", critical=False)).permits == 2


async def test_a_seed_read_before_another_loss_does_not_count(
    make_pacer, mailbox, redis_async, redis_keys
):
    """What was read in SQL before Redis was lost again may be too little."""
    pacer = make_pacer()
    before = await pacer.enter(mailbox, "a", critical=False)
    await redis_async.delete(redis_keys.slots(mailbox.account))
    await pacer.enter(mailbox, "b", critical=False)

    assert not await pacer.seed(mailbox, ages_ms=[], holders=[], era=before.era)
    assert not (await pacer.enter(mailbox, "a", critical=False)).known


async def test_a_server_that_was_started_again_is_not_trusted(
    make_pacer, mailbox, redis_async, redis_keys
):
    """An append-only file may lack the last second, so what it brings back is asked from SQL."""
    pacer = make_pacer()
    await _come(pacer, mailbox, "a")
    await redis_async.hset(redis_keys.slots(mailbox.account), "gen", "0")

    assert (await pacer.permit(mailbox, "a", critical=False, stamp=False)).lost
    assert not (await pacer.enter(mailbox, "a", critical=False)).known
    assert (await _come(pacer, mailbox, "a")).slot


async def test_a_late_reply_counts_although_the_slot_is_lost(make_pacer, mailbox):
    """A mail that was answered after its visit was given up counts at its true moment."""
    pacer = make_pacer(slot_ms=30, window_ms=60_000)
    await _come(pacer, mailbox, "slow")
    await asyncio.sleep(0.04)

    assert (await pacer.permit(mailbox, "slow", critical=False, stamp=True)).lost
    assert not await pacer.stamp(mailbox, "slow")

    assert (await _come(pacer, mailbox, "b")).permits == 3


async def test_idle_mailboxes_are_forgotten(make_pacer, mailbox, redis_async, redis_keys):
    """Every key has an end, so that a mailbox that never sends again costs nothing."""
    pacer = make_pacer()
    await _come(pacer, mailbox, "a")
    await _take(pacer, mailbox, "a", 1)
    await pacer.pause(mailbox, 1)

    for name in (redis_keys.slots, redis_keys.permits, redis_keys.pause):
        assert await redis_async.pttl(name(mailbox.account)) > 0


async def test_what_many_ask_at_once_is_one_call(own_redis, redis_keys):
    """Fifty visits that ask in one turn of the loop cost one or two round trips."""
    async with redis.asyncio.Redis.from_url(own_redis.url) as client:
        pacer = Pacer(client, redis_keys, OneMemory(), SMALL)
        mailboxes = [some_party() for _ in range(50)]
        for mailbox in mailboxes:
            await _come(pacer, mailbox, "a")
        await client.config_resetstat()

        answers = await asyncio.gather(
            *(pacer.permit(mailbox, "a", critical=False, stamp=False) for mailbox in mailboxes)
        )
        calls = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]

    assert all(answer.granted for answer in answers)
    assert calls <= 2


async def test_a_visit_that_is_cancelled_disturbs_nobody_in_its_batch(make_pacer, mailbox):
    """The others get their answers, and the permit it may have got goes when it leaves."""
    pacer = make_pacer()
    await _come(pacer, mailbox, "a")
    await _come(pacer, mailbox, "b")

    first = asyncio.ensure_future(pacer.permit(mailbox, "a", critical=False, stamp=False))
    second = asyncio.ensure_future(pacer.permit(mailbox, "b", critical=False, stamp=False))
    await asyncio.sleep(0)
    first.cancel()

    assert (await second).granted
    await pacer.leave(mailbox, "a", stamp=False)
    assert (await _come(pacer, mailbox, "c", critical=True)).critical_permits == 4


async def test_scripts_that_the_server_forgot_are_loaded_again(make_pacer, mailbox, redis_async):
    """A flushed script cache is not an error."""
    pacer = make_pacer()
    await _come(pacer, mailbox, "a")

    await redis_async.script_flush()

    assert (await pacer.permit(mailbox, "a", critical=False, stamp=False)).granted


async def test_redis_that_is_away_is_said_and_forgotten(own_redis, redis_keys, mailbox):
    """Every waiting visit hears of it; with the server back the same pacer goes on."""
    client = redis.asyncio.Redis.from_url(own_redis.url, retry=None, socket_timeout=0.3)
    pacer = Pacer(client, redis_keys, OneMemory(), SMALL)
    await _come(pacer, mailbox, "a")

    own_redis.freeze()
    calls = (pacer.permit(mailbox, "a", critical=False, stamp=False) for _ in range(3))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    own_redis.kill()
    with pytest.raises(PacingUnavailable):
        await pacer.seed(mailbox, ages_ms=[], holders=[])
    own_redis.start()

    assert {type(answer) for answer in answers} == {PacingUnavailable}
    assert not (await pacer.enter(mailbox, "a", critical=False)).known
    assert (await _come(pacer, mailbox, "a")).slot
    await client.aclose()


@pytest.mark.parametrize(
    "wrong",
    [{"critical_reserve": 5, "messages": 5}, {"window_ms": 0}, {"connections": 0}],
    ids=["all-reserved", "no-window", "no-connection"],
)
def test_limits_that_let_nothing_through_are_refused(wrong):
    """A mailbox that could never send is a mistake of who set us up."""
    with pytest.raises(ValueError, match=r"\w"):
        PacingLimits(**wrong)


class World:
    """What Exchange and SQL see while visits come, send, die and Redis forgets."""

    def __init__(self, url: str, limits: PacingLimits) -> None:
        self.client = redis.asyncio.Redis.from_url(url)
        self.keys = RedisKeys(prefix=f"law-{uuid4().hex[:12]}")
        self.pacer = Pacer(self.client, self.keys, OneMemory(), limits)
        self.mailbox = some_party()
        self.accepted: list[float] = []
        self.replies: list[float] = []
        self.in_hand: set[str] = set()
        self.open = 0
        self.most_open = 0
        self.lost = 0

    async def seed(self, era: int) -> None:
        now = time.monotonic()
        ages = [int((now - reply) * 1000) for reply in self.replies]
        holders = [(visit, 100) for visit in self.in_hand]
        await self.pacer.seed(self.mailbox, ages_ms=ages, holders=holders, era=era)

    async def come(self, name: str, *, critical: bool) -> None:
        entry = await self.pacer.enter(self.mailbox, name, critical=critical)
        while not entry.slot:
            if entry.known:
                await asyncio.sleep(0.005)
            else:
                await self.seed(entry.era)
            entry = await self.pacer.enter(self.mailbox, name, critical=critical)
        self.open += 1
        self.most_open = max(self.most_open, self.open)

    async def go(self, name: str, *, stamp: bool) -> None:
        self.open -= 1
        await self.pacer.leave(self.mailbox, name, stamp=stamp)

    async def allowed(self, name: str, *, critical: bool, stamp: bool) -> bool:
        """Get a permit as visits do: who gets none leaves and comes again after the wait."""
        ask = self.pacer.permit
        answer = await ask(self.mailbox, name, critical=critical, stamp=stamp)
        while not answer.granted and not answer.lost:
            await self.go(name, stamp=False)
            await asyncio.sleep(answer.wait_ms / 1000)
            await self.come(name, critical=critical)
            answer = await ask(self.mailbox, name, critical=critical, stamp=False)
        self.lost += answer.lost
        return answer.granted

    async def visit(self, name: str, script: list[tuple[int, int, bool]], *, critical: bool):
        await self.come(name, critical=critical)
        stamp = False
        for before_ms, after_ms, dies in script:
            if not await self.allowed(name, critical=critical, stamp=stamp):
                stamp = False
                break
            self.in_hand.add(name)
            await asyncio.sleep(before_ms / 1000)
            self.accepted.append(time.monotonic())
            if dies:
                # The connection goes with the process; the slot stays until it runs out.
                self.open -= 1
                return
            await asyncio.sleep(after_ms / 1000)
            self.replies.append(time.monotonic())
            self.in_hand.discard(name)
            stamp = True
        await self.go(name, stamp=stamp)


_delays = st.sampled_from([0, 0, 0, 1, 5, 25])
_mails = st.lists(
    st.tuples(_delays, _delays, st.sampled_from([False] * 7 + [True])), min_size=1, max_size=6
)
_visits = st.lists(st.tuples(_mails, st.booleans()), min_size=2, max_size=6)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(visits=_visits, loss_ms=st.none() | st.integers(10, 200))
def test_law_no_window_holds_more_than_the_limit(redis_url, visits, loss_ms):
    """
    Whatever the network adds, whoever dies and whenever Redis forgets: by the server's clock no
    window holds one mail too many, and no more connections are open than allowed.
    """
    limits = PacingLimits(messages=4, window_ms=200, connections=3, critical_reserve=1, slot_ms=120)

    async def run() -> World:
        world = World(redis_url, limits)

        async def forget() -> None:
            await asyncio.sleep(loss_ms / 1000)
            names = [
                world.keys.slots(world.mailbox.account),
                world.keys.permits(world.mailbox.account),
            ]
            await world.client.delete(*names)

        tasks = [
            world.visit(f"v{i}", script, critical=critical)
            for i, (script, critical) in enumerate(visits)
        ]
        if loss_ms is not None:
            tasks.append(forget())
        await asyncio.wait_for(asyncio.gather(*tasks), timeout=30)
        await world.client.aclose()
        return world

    world = asyncio.run(run())

    accepted = sorted(world.accepted)
    for early, late in zip(accepted, accepted[limits.messages :], strict=False):
        assert late - early >= limits.window_ms / 1000
    if not world.lost:
        assert world.most_open <= limits.connections
