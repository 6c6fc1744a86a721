"""The composition root of a worker process: everything a visit uses, built once and passed down."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from uuid import UUID, uuid4

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy import Engine

from models import lane
from models.errors import AlertpostError
from models.host_name import shown_name
from models.presence import Presence
from models.proxies import Proxies
from models.redis_keys import RedisKeys
from models.secret_routes import AllowedHosts, RouteGuard
from models.settings import Settings
from models.vault import Vault
from models.waker import Waker
from workers.accounts import Accounts
from workers.begun import Begun
from workers.budget import Budget
from workers.clock_watch import RedisClock
from workers.connections import Connections
from workers.contents import Contents
from workers.entra import Entra
from workers.heartbeat import Heartbeat
from workers.host_hold import HeldHosts
from workers.keep_warm import KeepWarm
from workers.lease import TokenLeases
from workers.memories import SqlMemories
from workers.operator_warnings import OperatorWarnings
from workers.pacing import Pacer, PacingLimits, Party, Waiting
from workers.recorder import Recorder
from workers.room import Room
from workers.slot import Slot, Teacher
from workers.sweeper import Sweeper
from workers.timer import Timer
from workers.tls_contexts import TlsContexts
from workers.visits import Visits

log = structlog.get_logger()

REDIS_CONNECTIONS = 32
"""Permits of all visits travel on one; the rest are for leases, at the start of many visits."""

REDIS_TIMEOUT_SECONDS = 3.0
"""A visit that hears nothing of its permits for longer than its slot lives has lost them."""

STOP_SECONDS = 3.0
"""How long a stop waits for SQL to take the last outcomes."""

COMPARE_SECONDS = 1.0
"""How often it is asked in SQL whether Redis was another server meanwhile."""

LONGEST_CLOSE_SECONDS = 20.0
LEAST_SECONDS = 0.5
"""What each part of a stop gets, also where those before it took all the time there was."""


class Services:
    """
    All parts of one worker process, bound to its event loop.

    ``start`` and ``close`` run on the loop; in between, ``visits.run`` does the work.
    """

    def __init__(self, settings: Settings, engine: Engine, *, room: Room | None = None) -> None:
        self.settings = settings
        self.worker = f"{shown_name()[:30]}-{os.getpid()}-{uuid4().hex[:6]}"
        self.sends_from = settings.worker.sends_from or shown_name()
        loop = asyncio.get_running_loop()
        # An ordinary pool refuses the connection beyond its last one; this one lets callers wait.
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            settings.redis_url,
            max_connections=REDIS_CONNECTIONS,
            timeout=REDIS_TIMEOUT_SECONDS,
            socket_timeout=REDIS_TIMEOUT_SECONDS,
            socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
            # Once at once, for a pooled connection that a restarted server has closed.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._redis = redis.asyncio.Redis.from_pool(pool)
        keys = self._keys = RedisKeys(settings.redis_prefix)
        pacing = settings.pacing
        self.vault = Vault([key.get_secret_value() for key in settings.secret_keys])
        self.tls = TlsContexts(settings.ca_file)
        # Parsing the public roots takes tens of ms: now, not in the middle of many dialogues.
        self.tls.get(None)
        self.engine = engine
        self.recorder = Recorder(engine, loop)
        self.contents = Contents(engine, loop)
        self.budget = Budget(settings.worker.content_bytes)
        day_limits = pacing.day_limits
        self.bucket_seconds = day_limits.bucket_seconds
        self.look = partial(
            lane.look,
            limits=day_limits,
            lease_seconds=settings.visit.claim_seconds,
            sends_from=self.sends_from,
        )
        clock = RedisClock(self._redis, keys)
        self.timer = Timer(self._redis, keys, clock=clock)
        self.pacer = Pacer(
            self._redis,
            keys,
            SqlMemories(engine),
            PacingLimits.of(pacing),
            clock=clock,
        )
        self.begun = Begun(self._redis, keys, worker=self.worker, memory=lambda: self.pacer.memory)
        self.accounts = Accounts(self.recorder, self.pacer, window_seconds=pacing.window_seconds)
        self._teacher = Teacher(settings, self._recent)
        self._proxies = Proxies.of(settings.https_proxy)
        self._entra: dict[str, Entra] = {}
        self._hosts = AllowedHosts(settings.allowed_hosts)
        guard = self._guard = RouteGuard(self.vault, self._hosts)
        self.leases = TokenLeases(
            redis=self._redis,
            keys=keys,
            recorder=self.recorder,
            vault=self.vault,
            entra=self.entra,
            settings=settings.lease,
            guard=guard,
        )
        self._waker = Waker(settings.redis_url, keys)
        self.connections = Connections(
            pacer=self.pacer,
            settings=settings.visit,
            slot_seconds=pacing.slot_seconds,
            wake=self.wake_waiting,
        )
        self.room = room or Room(settings.worker.concurrency)
        self.held_hosts = HeldHosts()
        self.visits = Visits(self)
        self._sweeper = Sweeper(
            redis=self._redis,
            keys=keys,
            recorder=self.recorder,
            wake=self._wake_due,
            settings=settings.sweep,
            claim_seconds=settings.visit.claim_seconds,
            worker=self.worker,
            bucket_seconds=self.bucket_seconds,
            begun=self.begun,
            redis_clock=clock,
        )
        self.keep_warm = KeepWarm(
            redis=self._redis,
            keys=keys,
            recorder=self.recorder,
            leases=self.leases,
            halt=self.halt,
            idle_days=settings.lease.keep_warm_days,
            worker=self.worker,
        )
        self.warnings = OperatorWarnings(
            redis=self._redis,
            keys=keys,
            recorder=self.recorder,
            engine=engine,
            vault=self.vault,
            settings=settings,
            wake=self.wake,
            worker=self.worker,
        )
        presence = Presence.of_this_process(self.worker, concurrency=settings.worker.concurrency)
        self._heartbeat = Heartbeat(
            self._redis, keys, presence, unrecorded=self.recorder.unrecorded
        )
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the recorder and what runs beside the visits."""
        self.recorder.start()
        self.contents.start()
        self._tasks = [
            asyncio.create_task(self.timer.run(self._stop, wake=self._wake_lanes), name="timer"),
            asyncio.create_task(self._sweeper.run(self._stop), name="sweep"),
            asyncio.create_task(self.keep_warm.run(self._stop), name="keep-warm"),
            asyncio.create_task(self.warnings.run(self._stop), name="warnings"),
            asyncio.create_task(self._heartbeat.run(self._stop), name="heartbeat"),
            asyncio.create_task(self.connections.tend(), name="connections"),
            asyncio.create_task(self.visits.keep_alive(), name="keep-alive"),
            asyncio.create_task(self._compare_memories(), name="memory"),
            asyncio.create_task(self.contents.tend(self._stop), name="contents"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._report)

    def now(self) -> datetime:
        """Tell the time for what is shown or compared loosely; deciding clocks are elsewhere."""
        return datetime.now(UTC)

    def entra(self, ca_file: str | None) -> Entra:
        """Give the Entra client for a tenant's CA file."""
        path = self.tls.ca_file(ca_file)
        client = self._entra.get(path)
        if client is None:
            client = self._entra[path] = Entra(
                ca_file=path,
                timeout_seconds=self.settings.lease.request_timeout_seconds,
                hosts=self._hosts,
                guard=self._guard,
                proxies=self._proxies,
            )
        return client

    async def wake(self, mailbox_id: UUID, *, critical: bool) -> None:
        """Wake a lane; while Redis is away the sweep will."""
        await self.wake_many([(mailbox_id, critical)])

    async def wake_waiting(self, waiting: Waiting) -> None:
        """Wake the lanes of those who found nothing while somebody else was there."""
        await self.wake_many(waiting.lanes)

    async def halt(self, mailbox_ids: Sequence[UUID]) -> None:
        """Refuse permits for what visits of these mailboxes have claimed until now."""
        await self.pacer.halt(await self.accounts.parties(mailbox_ids))

    def slot(self, party: Party, visit_id: str, *, critical: bool, held: bool) -> Slot:
        """Give what a visit enters, sends and leaves by; see ``Slot``."""
        return Slot(
            self.pacer,
            self._teacher,
            party,
            visit_id,
            critical=critical,
            slot_seconds=self.settings.pacing.slot_seconds,
            held=held,
        )

    async def pass_on(self, mailbox_id: UUID, *, critical: bool) -> None:
        """Hand a wake-up that was received and not followed to whoever comes next."""
        # While its key is set, no other is sent for the lane.
        with suppress(redis.RedisError):
            await self._redis.delete(self._keys.wake(mailbox_id, critical=critical))
        await self.wake(mailbox_id, critical=critical)

    async def put_off(self, mailbox_id: UUID, *, seconds: float) -> None:
        """Answer the wake-ups of a lane that must not be looked at now: later, all in one."""
        # While their keys are set, none would be sent when the time has come.
        with suppress(redis.RedisError):
            await self._redis.delete(
                *(self._keys.wake(mailbox_id, critical=critical) for critical in (False, True))
            )
        await self.timer.set(mailbox_id, math.ceil(seconds * 1000))

    async def wake_many(self, mailboxes: Sequence[tuple[UUID, bool]]) -> None:
        """Wake several lanes, each with whether something critical waits there."""
        if mailboxes:
            await asyncio.to_thread(self._waker.wake, mailboxes)

    async def close(self, *, by: float | None = None) -> None:
        """
        Stop what runs, in reverse order of its making; visits still open are cut short.

        Args:
            by: On ``time.monotonic``, when it must be over: a database or Redis that is away must
                not hold up a stop.
        """
        self._stop.set()
        await self.visits.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if by is None:
            by = time.monotonic() + LONGEST_CLOSE_SECONDS
        patience = max(LEAST_SECONDS, by - time.monotonic() - LEAST_SECONDS)
        await asyncio.gather(
            asyncio.wait_for(self._heartbeat.end(), patience),
            asyncio.wait_for(self.connections.close(), patience),
            self.leases.close(patience_seconds=patience),
            return_exceptions=True,
        )
        self.contents.stop()
        patience = max(LEAST_SECONDS, by - time.monotonic())
        await asyncio.to_thread(self.recorder.stop, timeout_seconds=min(STOP_SECONDS, patience))
        await self._redis.aclose()
        self._waker.close()

    async def _wake_due(self, mailboxes: Sequence[tuple[UUID, bool]]) -> None:
        # Where a visit gets on, another one would mostly find that it came in vain.
        looked_after = self.visits.looked_after()
        await self.wake_many(
            [(one, critical) for one, critical in mailboxes if critical or one not in looked_after]
        )

    async def _wake_lanes(self, mailbox_ids: list[UUID]) -> None:
        await self.wake_many([(mailbox_id, False) for mailbox_id in mailbox_ids])

    async def _recent(
        self, account: str, window_seconds: float, used_seconds: float
    ) -> lane.Recent:
        return await self.recorder.run(
            partial(
                lane.recent_submissions,
                account=account,
                window_seconds=window_seconds,
                used_seconds=used_seconds,
            )
        )

    async def _compare_memories(self) -> None:
        """See now and then whether other workers have seen another memory of Redis."""
        while True:
            await asyncio.sleep(COMPARE_SECONDS)
            with suppress(AlertpostError):
                await self.pacer.look_again()

    def _report(self, task: asyncio.Task[None]) -> None:
        if self._stop.is_set():
            return
        error = None if task.cancelled() else task.exception()
        log.error("task_died", task=task.get_name(), exc_info=error)
        # A worker without its timer or sweep would look alive and do half its work.
        os._exit(70)
