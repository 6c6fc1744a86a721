from __future__ import annotations

import threading
import time
from itertools import islice
from typing import TYPE_CHECKING

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from models import wakeup
from models.redis_trouble import explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from uuid import UUID

    from models.redis_keys import RedisKeys
    from models.redis_trouble import RedisTrouble

_log = structlog.get_logger()

# A producer has committed already; it must not wait long for a mere hint.
_SOCKET_TIMEOUT_SECONDS = 0.4
_CONNECT_TIMEOUT_SECONDS = 0.4

_FIRST_REST_SECONDS = 0.5
_LONGEST_REST_SECONDS = 4.0

_MOST_THREADS = 10_000

_CHUNK = 200
"""Wake-ups in one call, so that the script never holds Redis for long."""

# The mark and the message in one step: a producer that dies leaves both or neither. The message
# goes where Dramatiq's Redis broker puts it (its dispatch script, "enqueue"); a test with a real
# worker guards that.
_WAKE = """
local sent = 0
for i = 1, #KEYS, 3 do
    local argument = 1 + (i - 1) / 3 * 2
    if redis.call('SET', KEYS[i], '1', 'NX', 'PX', ARGV[1]) then
        redis.call('HSET', KEYS[i + 2], ARGV[argument + 1], ARGV[argument + 2])
        redis.call('RPUSH', KEYS[i + 1], ARGV[argument + 1])
        sent = sent + 1
    end
end
return sent
"""


class Waker:
    """
    Wakes lanes: at most one wake-up a lane is on its way. Safe to share between threads.

    While Redis is away, calls return at once and a single one looks now and then whether it is
    back. Nothing is lost: the sweep wakes every lane that has due rows.

    Args:
        redis_url: Where Redis listens.
        keys: Names of the keys.
        clock: Monotonic seconds.
    """

    def __init__(
        self, redis_url: str, keys: RedisKeys, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = redis.Redis.from_url(
            redis_url,
            socket_timeout=_SOCKET_TIMEOUT_SECONDS,
            socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            # Once at once, for a pooled connection that a restarted server has closed.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            # One for each thread at most; redis-py's own bound of 100 fails the 101st.
            max_connections=_MOST_THREADS,
        )
        self._script = self._client.register_script(_WAKE)
        self._keys = keys
        self._breaker = _Breaker(clock)

    def wake(self, mailboxes: Iterable[tuple[UUID, bool]]) -> int:
        """
        Wake the lanes of these mailboxes; call it after the commit.

        Args:
            mailboxes: Mailbox ids, each with whether something critical waits there.

        Returns:
            How many wake-ups were sent: lanes with one on its way are left out, and all are
            while Redis is away.
        """
        # One of each, in the order given.
        lanes = iter(dict.fromkeys(mailboxes))
        sent = 0
        while chunk := list(islice(lanes, _CHUNK)):
            if not self._breaker.may_try():
                break
            try:
                sent += self._send(chunk)
            except redis.RedisError as error:
                self._breaker.failed(error)
                break
            self._breaker.worked()
        return sent

    @property
    def away(self) -> bool:
        """Whether Redis took no wake-up when it was asked last; ``trouble`` says why."""
        return self._breaker.is_open

    @property
    def trouble(self) -> RedisTrouble | None:
        """Why Redis took no wake-up when it was asked last; None where it did."""
        return self._breaker.trouble

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _send(self, lanes: Iterable[tuple[UUID, bool]]) -> int:
        names: list[str] = []
        arguments: list[str | bytes | int] = [wakeup.PENDING_MS]
        for mailbox_id, critical in lanes:
            names += self._names(mailbox_id, critical=critical)
            message = wakeup.message(mailbox_id, critical=critical)
            arguments += (message.options["redis_message_id"], message.encode())
        return int(self._script(keys=names, args=arguments))

    def _names(self, mailbox_id: UUID, *, critical: bool) -> Iterator[str]:
        queue = wakeup.queue_of(critical=critical)
        yield self._keys.wake(mailbox_id, critical=critical)
        yield self._keys.queue(queue)
        yield self._keys.queue_messages(queue)


class _Breaker:
    """Keeps all callers but one from waiting for a server that is away."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rest_seconds = 0.0
        self._try_at = 0.0
        self.trouble: RedisTrouble | None = None

    @property
    def is_open(self) -> bool:
        return bool(self._rest_seconds)

    def may_try(self) -> bool:
        with self._lock:
            if not self._rest_seconds:
                return True
            if self._clock() < self._try_at:
                return False
            # This caller looks; the others go on returning at once.
            self._try_at = self._clock() + self._rest_seconds
            return True

    def failed(self, error: redis.RedisError) -> None:
        trouble = explained(error)
        with self._lock:
            first = not self._rest_seconds
            self.trouble = trouble
            doubled = max(_FIRST_REST_SECONDS, 2 * self._rest_seconds)
            self._rest_seconds = min(_LONGEST_REST_SECONDS, doubled)
            self._try_at = self._clock() + self._rest_seconds
        if first:
            _log.warning("wakeups_stopped", reason=trouble.text, next_step="the sweep wakes lanes")

    def worked(self) -> None:
        with self._lock:
            again = bool(self._rest_seconds)
            self._rest_seconds = 0.0
            self.trouble = None
        if again:
            _log.info("wakeups_resumed")
