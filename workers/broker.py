"""
Dramatiq's Redis broker with consumers that are woken instead of polling.

Dramatiq's own consumer sleeps longer and longer while its queue is empty, so a wake-up waits up to
a second. This one blocks on Redis until the queue holds something, which is faster and cheaper.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
import structlog
from dramatiq import Message, MessageProxy
from dramatiq.asyncio import EventLoopThread, set_event_loop_thread
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.common import dq_name, q_name
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import AsyncIO, Middleware
from redis.backoff import NoBackoff
from redis.retry import Retry

from models import wakeup
from models.redis_trouble import explained

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from workers.room import Room

log = structlog.get_logger()

# Far longer than a consumer blocks (Dramatiq's worker timeout, 1 s), or the socket would give up
# first; short enough to notice a server that accepts connections and says nothing.
_SOCKET_TIMEOUT_SECONDS = 5.0
_CONNECT_TIMEOUT_SECONDS = 2.0

# Of a million commands, how many also return what dead workers had fetched. Only hints are at
# stake, so this is about tidiness; Dramatiq's own 1,000 leaves them for many minutes.
_MAINTENANCE_CHANCE = 10_000

_DELAYED_FETCH_SECONDS = 15.0

_NEVER_SECONDS = 3600.0
_MOST_THREADS = 10_000


def make_broker(
    redis_url: str,
    *,
    namespace: str,
    middleware: Iterable[Middleware] = (),
    room: Room | None = None,
) -> WokenBroker:
    """
    Build the workers' broker.

    The middleware is chosen here because Dramatiq's defaults do not fit hints: no ``Retries`` (the
    sweep wakes again), no ``AgeLimit``, no ``TimeLimit`` (a visit ends itself, and an interrupt
    would cut a mail in hand). ``AsyncIO`` runs the process' one loop.

    Args:
        redis_url: Where Redis 6.2 or newer, or Valkey, listens.
        namespace: Stands before Dramatiq's keys, ``RedisKeys.namespace``.
        middleware: What to add after ``AsyncIO``.
        room: How many more visits this process takes on; what it cannot is left to others.
    """
    client = redis.Redis.from_url(
        redis_url,
        socket_timeout=_SOCKET_TIMEOUT_SECONDS,
        socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        # Once at once, for a pooled connection that a restarted server has closed.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        # One for each thread at most; redis-py's own bound of 100 fails the 101st.
        max_connections=_MOST_THREADS,
    )
    return WokenBroker(
        client=client,
        namespace=namespace,
        maintenance_chance=_MAINTENANCE_CHANCE,
        middleware=[_PatientAsyncIO(), *middleware],
        room=room,
    )


class _PatientAsyncIO(AsyncIO):
    """
    Dramatiq's event loop for async actors, without its polling.

    Dramatiq lets each thread that waits for an async actor look ten times a second whether it is
    to be interrupted; nothing of ours interrupts, and with hundreds of visits that is felt.
    """

    def before_worker_boot(self, broker: Any, worker: Any) -> None:  # noqa: ARG002 - Dramatiq's
        thread = EventLoopThread(self.logger, interrupt_check_ival=_NEVER_SECONDS)
        thread.start(timeout=5.0)
        set_event_loop_thread(thread)


class WokenBroker(RedisBroker):
    """A ``RedisBroker`` whose consumers wait on Redis."""

    def __init__(self, *, room: Room | None = None, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.room = room
        # Acknowledgements that Redis was not there to hear, by queue.
        self.owed: defaultdict[str, deque[str]] = defaultdict(deque)
        self._deaf: set[str] = set()
        self._deaf_lock = threading.Lock()

    def consume(
        self, queue_name: str, prefetch: int = 1, timeout: int = 5000
    ) -> WokenConsumer | DelayedConsumer:
        """Make the consumer of a queue; see ``RedisBroker.consume``."""
        delayed = queue_name == dq_name(q_name(queue_name))
        return (DelayedConsumer if delayed else WokenConsumer)(self, queue_name, prefetch, timeout)

    def close(self) -> None:
        """Close all connections to Redis."""
        self.client.close()

    def unheard(self, queue_name: str, error: redis.RedisError) -> None:
        """Log that wake-ups cannot be fetched: once, for all queues and however often it fails."""
        with self._deaf_lock:
            first = not self._deaf
            self._deaf.add(queue_name)
        if first:
            trouble = explained(error)
            log.warning("wakeups_unheard", reason=trouble.text, next_step=trouble.next_step)

    def heard(self, queue_name: str) -> None:
        """Log that they can be fetched again, once that is so for all queues."""
        if queue_name not in self._deaf:
            return
        with self._deaf_lock:
            self._deaf.discard(queue_name)
            last = not self._deaf
        if last:
            log.info("wakeups_heard")


@contextmanager
def _loss(broker: WokenBroker, queue_name: str) -> Iterator[None]:
    """
    Tell Dramatiq of a lost connection, time-outs and refusals included, so that it tries again.

    Of any other error it would log the trace, for each queue every three seconds.
    """
    try:
        yield
    except redis.RedisError as error:
        broker.unheard(queue_name, error)
        raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]


class _HintConsumer(_RedisConsumer):
    """What both consumers share: fetching, acknowledging late, honest connection losses."""

    broker: WokenBroker

    def __init__(self, broker: WokenBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        super().__init__(broker, queue_name, prefetch, timeout)  # type: ignore[no-untyped-call]
        # Never 0, with which Redis would block for ever.
        self._timeout_seconds = max(timeout, 10) / 1000
        self._room = threading.Event()

    def __next__(self) -> MessageProxy | None:
        with _loss(self.broker, self.queue_name):
            while True:
                if not self.message_cache:
                    self.message_cache = self._fetch_or_wait()
                if not self.message_cache:
                    return None
                data = self.message_cache.pop(0)
                if data is not None:
                    message: Message[Any] = Message.decode(data)
                    self.queued_message_ids.add(message.message_id)
                    return MessageProxy(message)

    def _fetch_or_wait(self) -> list[bytes | None]:
        raise NotImplementedError

    def _fetch(self, count: int) -> list[bytes | None]:
        """Fetch up to ``count``; with 0 this is only the heartbeat that every command is."""
        owed = self.broker.owed[self.queue_name]
        while owed:
            self.broker.do_ack(self.queue_name, owed[0])
            owed.popleft()
        fetched: list[bytes | None] = self.broker.do_fetch(self.queue_name, count)
        return fetched

    def ack(self, message: MessageProxy) -> None:
        """
        Acknowledge a wake-up, now or when Redis is back.

        Dramatiq would hold the worker thread, and a graceful stop, until Redis is back.
        """
        try:
            self.broker.do_ack(self.queue_name, message.options["redis_message_id"])
        except redis.RedisError:
            self.broker.owed[self.queue_name].append(message.options["redis_message_id"])
        finally:
            self.queued_message_ids.discard(message.message_id)
            self._room.set()

    def nack(self, message: MessageProxy) -> None:
        """Drop a wake-up whose actor failed; there is nothing in a hint worth keeping."""
        self.ack(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Hand back what was fetched and not started."""
        with _loss(self.broker, self.queue_name):
            super().requeue(messages)  # type: ignore[no-untyped-call]


class WokenConsumer(_HintConsumer):
    """Blocks on Redis while its queue is empty, and takes no more than there is room for."""

    def __init__(self, broker: WokenBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        super().__init__(broker, queue_name, prefetch, timeout)
        if broker.room is not None:
            broker.room.listen(self._room)

    def _fetch_or_wait(self) -> list[bytes | None]:
        # Cleared before counting, so that room made in between is not overlooked.
        self._room.clear()
        room = self.prefetch
        if self.broker.room is not None:
            critical = self.queue_name == wakeup.CRITICAL_QUEUE
            room = min(room, self.broker.room.free(critical=critical))
        room -= self.outstanding_message_count
        if room <= 0:
            if not self._room.wait(self._timeout_seconds):
                # Long visits: without a sign of life others would take us for dead.
                self._fetch(0)
            return []
        fetched = self._fetch(room) or (self._fetch(room) if self._woken() else [])
        self.broker.heard(self.queue_name)
        return fetched

    def _woken(self) -> bool:
        """
        Wait until the queue holds something, for at most Dramatiq's worker timeout.

        Moving the first element of a list to the front of the same list changes nothing, is
        atomic, and blocks while the list is empty. All that wait are woken; one of them gets it.
        """
        queue = f"{self.broker.namespace}:{self.queue_name}"
        command = ("BLMOVE", queue, queue, "LEFT", "LEFT", self._timeout_seconds)
        return self.broker.client.execute_command(*command) is not None


class DelayedConsumer(_HintConsumer):
    """Looks seldom: alarms have a clock of their own, nothing is sent with a delay."""

    def __init__(self, broker: WokenBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        super().__init__(broker, queue_name, prefetch, timeout)
        self._fetch_at = time.monotonic() + _DELAYED_FETCH_SECONDS

    def _fetch_or_wait(self) -> list[bytes | None]:
        time.sleep(self._timeout_seconds)
        if time.monotonic() < self._fetch_at:
            return []
        self._fetch_at = time.monotonic() + _DELAYED_FETCH_SECONDS
        room = self.prefetch - self.outstanding_message_count
        fetched = self._fetch(max(0, room))
        self.broker.heard(self.queue_name)
        return fetched
