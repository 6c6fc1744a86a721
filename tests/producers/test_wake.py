from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
import redis
from dramatiq import Message
from structlog.testing import capture_logs

from models import wakeup
from models.waker import Waker


class Clock:
    """Monotonic seconds that move when told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def waker(redis_url, redis_keys):
    waker = Waker(redis_url, redis_keys)
    yield waker
    waker.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def own_waker(own_redis, redis_keys, clock):
    waker = Waker(own_redis.url, redis_keys, clock=clock)
    yield waker
    waker.close()


def _waiting(client, keys, queue):
    """The messages of a queue in their order."""
    bodies = client.hgetall(keys.queue_messages(queue))
    return [Message.decode(bodies[name]) for name in client.lrange(keys.queue(queue), 0, -1)]


def test_a_lane_has_one_wake_up_on_its_way(waker, redis_client, redis_keys):
    """Ten thousand alerts of a storm send one message."""
    mailbox = uuid4()

    assert [waker.wake([(mailbox, False), (mailbox, False)]) for _ in range(3)] == [1, 0, 0]

    (message,) = _waiting(redis_client, redis_keys, wakeup.QUEUE)
    assert (message.actor_name, message.args) == (wakeup.ACTOR, (str(mailbox),))
    left_ms = redis_client.pttl(redis_keys.wake(mailbox, critical=False))
    assert 0 < left_ms <= wakeup.PENDING_MS


def test_a_critical_overtakes_on_its_own_queue(waker, redis_client, redis_keys):
    """A wake-up that waits in the long queue does not hold back a critical one."""
    mailbox = uuid4()
    waker.wake([(mailbox, False)])

    assert waker.wake([(mailbox, True)]) == 1

    (message,) = _waiting(redis_client, redis_keys, wakeup.CRITICAL_QUEUE)
    assert (message.actor_name, message.args) == (wakeup.CRITICAL_ACTOR, (str(mailbox),))


def test_a_lane_whose_mark_is_gone_is_waked_again(waker, redis_client, redis_keys):
    """The visit takes the mark away, so a row that is committed afterwards wakes the next."""
    mailbox = uuid4()
    waker.wake([(mailbox, False)])

    redis_client.delete(redis_keys.wake(mailbox, critical=False))

    assert waker.wake([(mailbox, False)]) == 1


def test_thousands_of_lanes_are_waked_in_their_order(waker, redis_client, redis_keys):
    """More lanes than one call holds arrive all, first come first."""
    mailboxes = [uuid4() for _ in range(1_001)]

    assert waker.wake((mailbox, False) for mailbox in mailboxes) == 1_001

    waiting = _waiting(redis_client, redis_keys, wakeup.QUEUE)
    assert [message.args[0] for message in waiting] == [str(mailbox) for mailbox in mailboxes]


def test_threads_that_wake_the_same_lane_send_one_message(waker):
    """A Waker may be shared."""
    mailbox = uuid4()
    together = threading.Barrier(8)

    def wake(_):
        together.wait()
        return waker.wake([(mailbox, False)])

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(wake, range(8))) == 1


def test_a_script_that_the_server_forgot_is_loaded_again(own_waker, own_redis):
    """A restart in between is not an error."""
    own_waker.wake([(uuid4(), False)])
    own_redis.kill()
    own_redis.start()

    assert own_waker.wake([(uuid4(), False)]) == 1


def test_while_redis_is_away_calls_return_at_once(own_waker, own_redis, clock):
    """Nothing is raised, it is said once, and the lane is waked when Redis is back."""
    mailbox = uuid4()
    own_redis.kill()

    with capture_logs() as logs:
        for _ in range(5):
            assert own_waker.wake([(mailbox, False)]) == 0
            clock.now += 10
        own_redis.start()
        assert own_waker.wake([(mailbox, False)]) == 1

    assert [log["event"] for log in logs] == ["wakeups_stopped", "wakeups_resumed"]


def test_a_server_that_says_nothing_costs_one_short_wait(own_waker, own_redis, clock):
    """Only one call in a while waits for the socket; all others return without looking."""
    assert own_waker.wake([(uuid4(), False)]) == 1
    own_redis.freeze()

    started = time.monotonic()
    assert own_waker.wake([(uuid4(), False)]) == 0
    waited = time.monotonic() - started
    for _ in range(100):
        assert own_waker.wake([(uuid4(), False)]) == 0
    others = time.monotonic() - started - waited
    own_redis.thaw()
    clock.now += 0.4
    too_early = own_waker.wake([(uuid4(), False)])
    clock.now += 0.2
    in_time = own_waker.wake([(uuid4(), False)])

    assert waited < 1.0
    assert others < 0.1
    assert (too_early, in_time) == (0, 1)


def test_a_message_is_never_without_its_mark(own_waker, own_redis, redis_keys):
    """Mark and message are one step, also when a server refuses to write in between."""
    mailbox = uuid4()
    with redis.Redis.from_url(own_redis.url) as client:
        client.set(redis_keys.queue(wakeup.QUEUE), "not a list")

        assert own_waker.wake([(mailbox, False)]) == 0

        # Redis does not roll back: the mark stays, and ends by itself so that the sweep can wake.
        assert 0 < client.pttl(redis_keys.wake(mailbox, critical=False)) <= wakeup.PENDING_MS
