from __future__ import annotations

import asyncio
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import dramatiq
import pytest
import redis
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import AsyncIO, Middleware
from structlog.testing import capture_logs

from models import wakeup
from models.waker import Waker
from workers.broker import WokenBroker, make_broker


@pytest.fixture
def make(request, redis_url, redis_keys):
    """Brokers on the run's server, closed after the test."""

    def make(url=redis_url, **options):
        broker = make_broker(url, namespace=redis_keys.namespace, **options)
        request.addfinalizer(broker.close)
        return broker

    return make


@pytest.fixture
def hasty(own_redis, redis_keys):
    """A broker on a server of its own that waits 0.2 s for an answer."""
    client = redis.Redis.from_url(own_redis.url, socket_timeout=0.2, retry=None)
    broker = WokenBroker(client=client, namespace=redis_keys.namespace, middleware=[])
    # Dramatiq asks once for the size of Lua's stack.
    next(broker.consume(wakeup.QUEUE, timeout=10))
    yield broker
    broker.close()


@pytest.fixture
def waker(redis_url, redis_keys):
    waker = Waker(redis_url, redis_keys)
    yield waker
    waker.close()


def _send(broker, count=1):
    return [
        broker.enqueue(wakeup.message(uuid4(), critical=False)).message_id for _ in range(count)
    ]


def _until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def _blocked(client):
    names = [entry["cmd"] for entry in client.client_list()]
    return names.count("blmove")


def test_the_middleware_is_chosen(make):
    """No retries, age or time limits: a wake-up is a hint, and the sweep wakes again."""

    class Mine(Middleware):
        pass

    broker = make(middleware=[Mine()])

    first, second = broker.middleware
    assert isinstance(first, AsyncIO)
    assert isinstance(second, Mine)


def test_an_idle_worker_starts_within_moments(make, waker, redis_client):
    """A wake-up does not wait for a poll, on either queue, and the actor runs on the loop."""
    broker = make()
    started: dict[str, float] = {}
    arrived = threading.Semaphore(0)

    async def drain(mailbox_id: str) -> None:
        await asyncio.sleep(0)
        started[mailbox_id] = time.monotonic()
        arrived.release()

    for actor, queue in (
        (wakeup.ACTOR, wakeup.QUEUE),
        (wakeup.CRITICAL_ACTOR, wakeup.CRITICAL_QUEUE),
    ):
        dramatiq.actor(drain, actor_name=actor, queue_name=queue, broker=broker)
    worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=300)
    worker.start()
    waits = []
    try:
        for critical in (False, True) * 3:
            _until(lambda: _blocked(redis_client) >= 2)
            mailbox = uuid4()
            sent = time.monotonic()
            waker.wake([(mailbox, critical)])
            assert arrived.acquire(timeout=5)
            waits.append(started[str(mailbox)] - sent)
        _until(lambda: not redis_client.exists(f"{broker.namespace}:{wakeup.QUEUE}.msgs"))
    finally:
        stopping = time.monotonic()
        worker.stop()

    assert statistics.median(waits) < 0.05
    assert time.monotonic() - stopping < 3


def test_all_that_wait_are_waked(make, redis_client):
    """Messages that come together go to consumers of all processes at once."""
    brokers = [make() for _ in range(3)]
    consumers = [broker.consume(wakeup.QUEUE, prefetch=1, timeout=5_000) for broker in brokers]

    with ThreadPoolExecutor(3) as pool:
        # Who is waked and finds that others were faster returns None and is asked again.
        fetched = [
            pool.submit(lambda consumer=consumer: next(filter(None, consumer)))
            for consumer in consumers
        ]
        _until(lambda: _blocked(redis_client) >= 3)
        started = time.monotonic()
        sent = _send(make(), count=3)
        received = [future.result().message_id for future in fetched]

    assert time.monotonic() - started < 2
    assert sorted(received) == sorted(sent)


def test_waiting_takes_nothing_and_keeps_the_order(make):
    """The blocking look is a no-op: first come, first served, each once."""
    broker = make()
    sent = _send(broker, count=5)
    consumer = broker.consume(wakeup.QUEUE, prefetch=1, timeout=50)

    received = []
    for _ in sent:
        assert consumer._woken()
        message = next(consumer)
        received.append(message.message_id)
        consumer.ack(message)

    assert received == sent
    assert not consumer._woken()
    assert broker.do_qsize(wakeup.QUEUE) == 0


def test_a_full_consumer_shows_that_it_lives(make, redis_client):
    """While visits last and nothing can be fetched, others must not take us for dead."""
    broker = make()
    _send(broker, count=2)
    consumer = broker.consume(wakeup.QUEUE, prefetch=1, timeout=20)
    assert next(consumer) is not None
    redis_client.delete(f"{broker.namespace}:__heartbeats__")

    assert next(consumer) is None

    assert redis_client.zscore(f"{broker.namespace}:__heartbeats__", broker.broker_id)
    assert redis_client.llen(f"{broker.namespace}:{wakeup.QUEUE}") == 1


def test_a_full_consumer_goes_on_as_soon_as_there_is_room(make):
    """An acknowledgement ends the wait; nobody sleeps out a back-off."""
    broker = make()
    sent = _send(broker, count=2)
    consumer = broker.consume(wakeup.QUEUE, prefetch=1, timeout=5_000)
    first = next(consumer)
    assert first is not None

    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        waiting = pool.submit(lambda: next(consumer) or next(consumer))
        consumer.ack(first)
        second = waiting.result()

    assert second.message_id == sent[1]
    assert time.monotonic() - started < 2


def test_a_failed_wake_up_leaves_nothing_behind(make, redis_client):
    """There is no dead letter in Redis: the rows are in SQL."""
    broker = make()
    _send(broker)
    consumer = broker.consume(wakeup.QUEUE, timeout=50)

    consumer.nack(next(consumer))

    left = [key.decode() for key in redis_client.scan_iter(f"{broker.namespace}:*")]
    assert left == [f"{broker.namespace}:__heartbeats__"]


def test_what_was_fetched_and_not_started_goes_back(make):
    """A graceful stop leaves its hints to others at once."""
    broker = make()
    (sent,) = _send(broker)
    consumer = broker.consume(wakeup.QUEUE, timeout=50)

    consumer.requeue([next(consumer)])

    assert next(make().consume(wakeup.QUEUE, timeout=50)).message_id == sent


def test_a_message_without_a_body_is_passed_over(make, redis_client):
    """An id whose message was lost does not stop the queue."""
    broker = make()
    redis_client.rpush(f"{broker.namespace}:{wakeup.QUEUE}", "lost")
    (sent,) = _send(broker)

    assert next(broker.consume(wakeup.QUEUE, prefetch=5, timeout=50)).message_id == sent


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_lost_connection_is_said_as_dramatiq_expects(hasty, own_redis, fault):
    """A time-out counts as a lost connection too, so that the consumer connects again."""
    consumer = hasty.consume(wakeup.QUEUE, timeout=50)
    getattr(own_redis, fault)()

    with pytest.raises(ConnectionClosed):
        next(consumer)
    with pytest.raises(ConnectionClosed):
        consumer.requeue([dramatiq.MessageProxy(wakeup.message(uuid4(), critical=False))])


def test_an_acknowledgement_that_nobody_heard_is_made_up_for(hasty, own_redis):
    """The worker thread is not held until Redis is back; the next fetch acknowledges."""
    (_,) = _send(hasty)
    consumer = hasty.consume(wakeup.QUEUE, timeout=50)
    message = next(consumer)

    hasty.client.connection_pool.disconnect()
    elsewhere = own_redis.socket.rename(own_redis.socket.with_suffix(".away"))
    consumer.ack(message)
    elsewhere.rename(own_redis.socket)
    assert hasty.do_qsize(wakeup.QUEUE) > 0
    again = hasty.consume(wakeup.QUEUE, timeout=50)

    assert next(again) is None
    assert hasty.do_qsize(wakeup.QUEUE) == 0


def test_delayed_messages_are_looked_for_seldom_but_found(make, redis_client):
    """Nothing of ours is sent with a delay; the queue that Dramatiq adds costs nearly nothing."""
    broker = make()
    consumer = broker.consume(f"{wakeup.QUEUE}.DQ", prefetch=10, timeout=10)
    redis_client.delete(f"{broker.namespace}:__heartbeats__")
    broker.enqueue(wakeup.message(uuid4(), critical=False), delay=1_000)
    redis_client.delete(f"{broker.namespace}:__heartbeats__")

    assert next(consumer) is None
    assert not redis_client.exists(f"{broker.namespace}:__heartbeats__")
    consumer._fetch_at = 0.0
    assert next(consumer) is not None


REFUSALS = [
    ("CONFIG", "SET", "maxmemory", "1"),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("ACL", "SETUSER", "default", "on", "nopass", "~*", "+@all", "-@write"),
]


@pytest.mark.parametrize("refuse", REFUSALS)
def test_a_refusal_is_told_once_and_without_a_trace(hasty, own_redis, refuse):
    """Dramatiq tries again as after a lost connection; its trace every second helps nobody."""
    consumer = hasty.consume(wakeup.QUEUE, timeout=50)
    with redis.Redis.from_url(own_redis.url) as client, capture_logs() as logs:
        client.execute_command(*refuse)
        for _ in range(3):
            with pytest.raises(ConnectionClosed):
                next(consumer)
        own_redis.kill()
        own_redis.start()
        next(consumer)

    assert [log["event"] for log in logs] == ["wakeups_unheard", "wakeups_heard"]
    assert logs[0]["reason"].startswith("Redis refuses")


@pytest.mark.parametrize("refuse", REFUSALS[1:])
def test_an_acknowledgement_that_is_refused_is_made_up_for(hasty, own_redis, refuse):
    """A worker thread is neither held nor told of a fault of Dramatiq's."""
    _send(hasty)
    consumer = hasty.consume(wakeup.QUEUE, timeout=50)
    message = next(consumer)
    with redis.Redis.from_url(own_redis.url) as client:
        client.execute_command(*refuse)

    consumer.ack(message)

    assert list(hasty.owed[wakeup.QUEUE]) == [message.options["redis_message_id"]]
