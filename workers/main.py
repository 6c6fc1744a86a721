"""
One worker process: ``python -m workers.main``, started by ``alertpost worker`` or a container.

SIGTERM and SIGINT stop it: mails in hand are finished, claims go back, then it exits.
"""

from __future__ import annotations

import asyncio.sslproto
import gc
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import dramatiq
import structlog
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.middleware import Middleware, MiddlewareError
from sqlalchemy import Engine

from models import logs, schema
from models.database import LOOKUPS, create_engine_from
from models.errors import AlertpostError, ConfigurationError, StoreUnavailable
from models.postgresql_url import in_clear
from models.redis_keys import RedisKeys
from models.redis_routes import exposure, refuse_cluster
from models.settings import Settings
from workers import actors
from workers.broker import make_broker
from workers.room import Room
from workers.services import Services
from workers.stop_wish import StopWish
from workers.visits import Visits

log = structlog.get_logger()

COLLECT_AFTER = (10_000, 10, 10)
"""
When the garbage collector looks, by objects made and not freed; Python 3.11 begins with 700.

What a mail needs is freed as soon as it is done: of what the collector walked, next to nothing was
garbage.
"""

SWITCH_SECONDS = 0.0005
"""
How soon the recorder's thread gets the interpreter back from the busy event loop.

With Python's 5 ms each of the few waits in a commit costs up to 5 ms, and every mail waits for its
commit; see docs/decisions.
"""

LOOK_AGAIN_SECONDS = 1.0
"""Between looks for a database that is away when the worker starts, and for a stop."""

TLS_BUFFER_BYTES = 16 * 1024
"""A TLS record; see ``_keep_buffers_small``."""

STOP_SECONDS = 7.0
"""How long a stop waits for mails in hand; visits that take longer are cut short."""

CUT_SHORT_SECONDS = 5.0
"""What is left after that: for visits to give back what they hold, and for SQL to take it."""

LONGEST_STOP_SECONDS = 13.0
"""All of a stop, also where Redis, SQL and Entra are away at once; orchestrators wait longer."""

HANDS = 4
"""Threads that take wake-ups and begin visits; the visits are on the loop."""

HANDS_MILLISECONDS = 2_000
"""How long a stop waits for those threads; one may be waiting for a lost Redis."""


class _NotBuilt(MiddlewareError):  # noqa: N818 - reads as what it is
    """The services could not be built; of all errors Dramatiq lets only its own through."""


class _Lifetime(Middleware):
    """Builds the services on the worker's loop once it runs, and closes them before it stops."""

    def __init__(self, settings: Settings, engine: Engine, room: Room) -> None:
        self._settings = settings
        self._engine = engine
        self._room = room
        self.services: Services | None = None
        self._stop_by = 0.0

    def visits(self) -> Visits:
        """Give the visits of the running services."""
        assert self.services is not None
        return self.services.visits

    def before_worker_boot(self, broker: Any, worker: Any) -> None:  # noqa: ARG002
        try:
            _on_loop(self._build())
        except AlertpostError as error:
            raise _NotBuilt(str(error)) from error

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:  # noqa: ARG002
        self._stop_by = time.monotonic() + LONGEST_STOP_SECONDS
        if self.services is not None:
            self.services.visits.stop()

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:  # noqa: ARG002
        if self.services is not None:
            _on_loop(self._end(self.services))

    async def _end(self, services: Services) -> None:
        left = self._stop_by - time.monotonic() - CUT_SHORT_SECONDS
        await services.visits.finish(patience_seconds=max(0.0, min(STOP_SECONDS, left)))
        await services.close(by=self._stop_by)

    async def _build(self) -> None:
        self.services = Services(self._settings, self._engine, room=self._room)
        self.services.start()


def _allow_sockets() -> None:
    """Raise the soft limit of open files, often 1,024, to the hard one: each visit has a socket."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _keep_buffers_small() -> None:
    """
    Read replies, which have some hundred octets, into less than the 256 KB that asyncio gives each.

    The buffer belongs to a TLS connection as long as it is open; a thousand of them are 256 MB.
    """
    asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES


def _on_loop(coroutine: Any) -> None:
    thread = get_event_loop_thread()
    assert thread is not None
    thread.run_coroutine(coroutine)


def run(settings: Settings) -> int:
    """
    Work until told to stop.

    Returns:
        The exit code.

    Raises:
        ConfigurationError: A setting is missing, or the database's schema is not current.
    """
    if not settings.redis_url:
        raise ConfigurationError(
            "a worker on its own needs ALERTPOST_REDIS_URL; `alertpost up` brings a Redis along"
        )
    refuse_cluster(settings)
    sys.setswitchinterval(SWITCH_SECONDS)
    _allow_sockets()
    _keep_buffers_small()
    stop = StopWish()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.tell)
    engine = create_engine_from(settings.sqlalchemy_url, postgresql_settings=LOOKUPS)
    if not _found(engine, stop):
        return 0
    room = Room(settings.worker.concurrency)
    lifetime = _Lifetime(settings, engine, room)
    keys = RedisKeys(settings.redis_prefix)
    broker = make_broker(
        settings.redis_url, namespace=keys.namespace, middleware=[lifetime], room=room
    )
    actors.declare(broker, lifetime.visits)
    worker = dramatiq.Worker(broker, worker_threads=HANDS)
    log.info("settings", **settings.masked())
    if hosts := in_clear(settings.database_url):
        log.warning("database_in_clear", hosts=hosts, advice="add sslmode=verify-full to the URL")
    open_way = exposure(settings.redis_url)
    if open_way is not None:
        log.warning("redis_exposed", reason=open_way.text, next_step=open_way.next_step)
    try:
        worker.start()
    except _NotBuilt as error:
        # Ends the event loop's thread, which would keep the process alive.
        broker.emit_after("worker_shutdown", worker)
        raise ConfigurationError(str(error)) from error
    # What start-up made lives as long as the process: the collector need not walk it again and
    # again while mails come and go.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    log.info("worker_start", concurrency=settings.worker.concurrency)
    # With a limit each time: a signal that the system hands to another thread, as it may to a
    # process that was frozen, is seen only when this one wakes.
    while not stop.wait(LOOK_AGAIN_SECONDS):
        continue
    worker.stop(timeout=HANDS_MILLISECONDS)
    broker.close()
    engine.dispose()
    log.info("worker_stop")
    return 0


def _found(engine: Engine, stop: StopWish) -> bool:
    """
    Wait for the database: a worker that was restarted during an outage comes back by itself.

    Returns:
        False where it was told to stop meanwhile.

    Raises:
        ConfigurationError: The schema is not that of this version.
    """
    told = ""
    while not stop.is_told:
        try:
            if schema.is_current(engine):
                return True
        except StoreUnavailable as away:
            if str(away) != told:
                told = str(away)
                log.warning("store_unavailable", reason=told)
            stop.wait(LOOK_AGAIN_SECONDS)
        else:
            raise ConfigurationError(
                "the database's schema is not that of this version: run `alertpost db upgrade`"
            )
    return False


def main() -> int:
    """Run as a program; expected errors are told in a line and give exit code 2."""
    try:
        settings = Settings.load()
        logs.setup(settings.log, process="worker")
        return run(settings)
    except AlertpostError as error:
        print(f"alertpost worker: {error}", file=sys.stderr)  # noqa: T201 - before logs exist
        return 2


if __name__ == "__main__":
    exit_code = main()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Python would wait for every thread, and with it for a sign-in service that stays silent.
    os._exit(exit_code)
