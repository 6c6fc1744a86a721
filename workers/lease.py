"""
Token leases: one access token of a mailbox, shared by all workers, refreshed by one.

The order of looking: this process' own copy; Redis (sealed); a refresh under a lock, where Redis is
read again first. The new grant is committed to SQL before its token is published, and only over the
version that was read: a holder that slept past its lock loses instead of overwriting.

The lock only spares requests as long as old refresh tokens stay good, as Entra's do. Providers that
revoke a grant whose token is presented twice need more care: the lock is renewed just before Entra
is asked, a rotated token is kept until SQL takes it, and after Redis lost its memory, locks
included, whoever may be refreshing is given the time to finish.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from models import app_registrations, grants
from models.errors import (
    AlertpostError,
    ConfigurationError,
    CredentialRejected,
    NotFound,
    StoreUnavailable,
    TokenUnavailable,
    VaultError,
)
from models.outages import in_short
from models.redis_keys import RedisKeys
from models.redis_trouble import explained
from models.secret_routes import RouteGuard
from models.senders import Sender
from models.settings import LeaseSettings
from models.vault import Vault, grant_context
from workers.credential_turns import CredentialTurns, record
from workers.entra import Entra, Tokens
from workers.entra_http import PostedTooLate
from workers.lease_board import Failure, LeaseBoard, Notice, Published
from workers.recorder import Recorder

log = structlog.get_logger()

REFRESH_THREADS = 32
"""MSAL calls at once in a process; the event loop never waits for one."""

REJECTED_MEMORY_SECONDS = 5.0
"""How long a refusal answers everybody: visits in flight see it, then the mailbox is parked."""

AHEAD_PAUSE_SECONDS = 60.0
"""Between tries to refresh ahead after a refusal; the present token is still good."""

RACES = 3
"""How often a holder that lost against a newer grant reads again before it gives up."""

LOCK_PATIENCE_SECONDS = 5.0
"""Waited for a lock beyond its own time."""

POLL_SECONDS = 0.05
SAVE_PAUSE_SECONDS = 0.2
LARGEST_SHARE_LEFT = 0.25
"""Of a token's life that ``minimum_left_seconds`` may take: a short-lived one is of use as well."""

PRUNE_FROM = 256
"""Copies from which on expired ones are looked for, each time their number has doubled."""


@dataclass(frozen=True, slots=True)
class Lease:
    """
    The right to use an access token until a moment. Moments are those of ``time.monotonic``.

    Attributes:
        token: The access token.
        expires_at: When the server refuses it.
        good_until: Until when something may be started with it.
        refresh_at: From when on somebody should refresh, while this token is still good.
        grant_id: The grant it came from.
        grant_version: The grant's version after it was made.
        fresh: It came from Entra in this very call.
        tenant_id: As ``Published.tenant_id``.
    """

    token: str = field(repr=False)
    expires_at: float
    good_until: float
    refresh_at: float
    grant_id: UUID
    grant_version: int
    fresh: bool = False
    tenant_id: str = ""

    def serves(self, sender: Sender, *, other_than: str | None, now: float) -> bool:
        """
        Say whether a sender may use it.

        Not where its grant was replaced since. A sender that was read before the grant was rotated
        or replaced may: keys of grants sort by their time.
        """
        needed = (sender.grant_id or UUID(int=0), sender.grant_version)
        return (
            self.token != other_than
            and self.tenant_id in {"", str(sender.tenant_id)}
            and (self.grant_id, self.grant_version) >= needed
            and now < self.good_until
        )


@dataclass(slots=True)
class _Flight:
    """
    A refresh under way in this process.

    Attributes:
        cause: What it is about; its failure tells nothing about another grant or credential.
        ahead: Nobody waits for it; its failure hurts nobody.
    """

    task: asyncio.Task[Lease]
    cause: str
    ahead: bool


class _LockLost(Exception):  # noqa: N818 - reads as what it is
    """Somebody else may hold the lock by now; nothing was presented to Entra."""


class TokenLeases:
    """Leases for all mailboxes, as one worker process sees them."""

    def __init__(
        self,
        *,
        redis: Redis,
        keys: RedisKeys,
        recorder: Recorder,
        vault: Vault,
        entra: Callable[[str | None], Entra],
        settings: LeaseSettings,
        guard: RouteGuard | None = None,
    ) -> None:
        self._guard = guard
        self._redis = redis
        self._keys = keys
        self._board = LeaseBoard(redis, keys, vault)
        self._recorder = recorder
        self._vault = vault
        self._entra = entra
        self._settings = settings
        self._copies: dict[UUID, Lease] = {}
        self._prune_at = PRUNE_FROM
        self._flights: dict[UUID, _Flight] = {}
        self._unsaved: dict[UUID, grants.StoredGrant] = {}
        self._era = ""
        self._careful_until = 0.0
        self._closed = False
        self._threads = ThreadPoolExecutor(REFRESH_THREADS, thread_name_prefix="entra")

    async def get(self, sender: Sender, *, rejected: str | None = None) -> Lease:
        """
        Give a token that is good for at least the settings' ``minimum_left_seconds``.

        Args:
            sender: Whose token.
            rejected: A token that the server refused: another one is needed, however long this
                one was meant to last.

        Raises:
            CredentialRejected: A person has to act.
            TokenUnavailable: Not now.
            ConfigurationError: The CA file, a key or the scope is wrong, or the tenant's addresses
                are not those that were given.
            StoreUnavailable: SQL is away.
        """
        if self._guard is not None:
            # Before a token is shown to anybody, wherever it comes from.
            self._guard.check(sender)
        now = time.monotonic()
        copy = self._copies.get(sender.mailbox_id)
        if copy is not None and copy.serves(sender, other_than=rejected, now=now):
            if now >= copy.refresh_at and sender.mailbox_id not in self._flights:
                self._refresh_ahead(sender, copy)
            return copy
        patience = now + 2 * self._settings.lock_seconds + LOCK_PATIENCE_SECONDS
        while True:
            flight = self._flights.get(sender.mailbox_id)
            joined = flight is not None
            flight = flight or self._start(sender, other_than=rejected)
            # Cancelling one who waits must not cancel what others wait for.
            await asyncio.wait({flight.task}, timeout=patience - time.monotonic())
            if not flight.task.done() or flight.task.cancelled():
                raise TokenUnavailable(
                    "a refresh takes too long, or this worker is stopping", retry_after_seconds=5
                )
            try:
                lease = flight.task.result()
            except AlertpostError:
                if joined and (flight.ahead or flight.cause != _cause(sender)):
                    continue
                raise
            if not joined or lease.serves(sender, other_than=rejected, now=time.monotonic()):
                return lease

    async def close(self, *, patience_seconds: float | None = None) -> None:
        """
        Let refreshes under way come to their end: a rotated token must be committed.

        Args:
            patience_seconds: How long they may still take; None: as long as a request may.
        """
        self._closed = True
        if patience_seconds is None:
            patience_seconds = self._settings.request_timeout_seconds
        tasks = [flight.task for flight in self._flights.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- one refresh at a time in this process -----------------------------------------------

    def _start(self, sender: Sender, *, other_than: str | None, ahead: bool = False) -> _Flight:
        if self._closed:
            raise TokenUnavailable("this worker is stopping", retry_after_seconds=5)
        task = asyncio.create_task(self._obtain(sender, other_than), name="lease")
        flight = _Flight(task, _cause(sender), ahead)
        self._flights[sender.mailbox_id] = flight

        def land(task: asyncio.Task[Lease]) -> None:
            del self._flights[sender.mailbox_id]
            if not task.cancelled():
                # Whoever waited may be gone; asyncio complains of exceptions that nobody took.
                task.exception()

        task.add_done_callback(land)
        return flight

    def _refresh_ahead(self, sender: Sender, copy: Lease) -> None:
        """Refresh while callers keep the present token; what goes wrong is tried again later."""
        if self._closed:
            return

        def land(task: asyncio.Task[Lease]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is None:
                return
            wait = getattr(error, "retry_after_seconds", AHEAD_PAUSE_SECONDS)
            if self._copies.get(sender.mailbox_id) is copy:
                self._copies[sender.mailbox_id] = replace(
                    copy, refresh_at=time.monotonic() + max(wait, POLL_SECONDS)
                )
            log.warning(
                "token_refresh_ahead_failed",
                mailbox_id=str(sender.mailbox_id),
                reason=str(error)[:300],
            )

        self._start(sender, other_than=copy.token, ahead=True).task.add_done_callback(land)

    def _keep(self, sender: Sender, lease: Lease) -> Lease:
        self._copies[sender.mailbox_id] = replace(lease, fresh=False)
        if len(self._copies) >= self._prune_at:
            # Mailboxes that were removed or fell silent must not be kept for ever.
            now = time.monotonic()
            self._copies = {
                key: kept for key, kept in self._copies.items() if now < kept.expires_at
            }
            self._prune_at = max(PRUNE_FROM, 2 * len(self._copies))
        return lease

    # -- one refresh at a time over all workers ----------------------------------------------

    async def _obtain(self, sender: Sender, other_than: str | None) -> Lease:
        try:
            for _ in range(RACES):
                shared = await self._look(sender, other_than)
                if shared is not None:
                    return shared
                try:
                    return await self._obtain_alone(sender, other_than)
                except _LockLost:
                    log.warning("refresh_lock_lost", mailbox_id=str(sender.mailbox_id))
        except RedisError as error:
            trouble = explained(error)
            how = "refuses" if trouble.answers else "is away"
            raise TokenUnavailable(
                f"Redis {how}, so no token can be shared: {trouble.text}", retry_after_seconds=2
            ) from error
        raise TokenUnavailable("the lock on this refresh kept being lost", retry_after_seconds=2)

    async def _obtain_alone(self, sender: Sender, other_than: str | None) -> Lease:
        lock = Lock(
            self._redis,
            self._keys.refresh_lock(sender.mailbox_id),
            timeout=self._settings.lock_seconds,
            blocking_timeout=self._settings.lock_seconds + LOCK_PATIENCE_SECONDS,
            sleep=POLL_SECONDS,
        )
        if not await lock.acquire():
            raise TokenUnavailable(
                "another worker is refreshing this token for too long", retry_after_seconds=5
            )
        try:
            shared = await self._look(sender, other_than)
            while shared is None and time.monotonic() < self._careful_until:
                await asyncio.sleep(POLL_SECONDS)
                shared = await self._look(sender, other_than)
            if shared is None:
                shared = await self._refresh(sender, lock)
            return shared
        finally:
            try:
                await lock.release()
            except (LockError, RedisError) as error:
                # It ends by itself, or Redis has forgotten it.
                log.info(
                    "refresh_lock_gone", mailbox_id=str(sender.mailbox_id), reason=str(error)[:200]
                )

    async def _look(self, sender: Sender, other_than: str | None) -> Lease | None:
        """
        Take what another worker published.

        Raises:
            CredentialRejected: A refresh just failed so; asking again is not worth it yet.
            TokenUnavailable: Likewise.
        """
        notice = await self._board.read(sender.mailbox_id)
        self._note_era(notice)
        if notice.published is not None:
            lease = self._dated(notice.published, left_seconds=notice.left_seconds)
            if lease.serves(sender, other_than=other_than, now=time.monotonic()):
                return self._keep(sender, lease)
        if notice.failure is not None and notice.failure.cause == _cause(sender):
            raise notice.failure.as_error(left_seconds=notice.failure_left_seconds)
        return None

    def _note_era(self, notice: Notice) -> None:
        if self._era not in {"", notice.era}:
            log.warning("lease_board_lost")
            self._careful_until = time.monotonic() + self._settings.request_timeout_seconds
        self._era = notice.era

    def _dated(self, published: Published, *, left_seconds: float) -> Lease:
        """
        Date a token on this process' clock.

        Each process draws its own moment to refresh ahead, so that they do not all come at once.
        """
        settings = self._settings
        lifetime = published.lifetime_seconds
        share = settings.refresh_at_share
        share += settings.jitter_share * (random.random() - 0.5)  # noqa: S311 - spreads load
        expires_at = time.monotonic() + left_seconds
        return Lease(
            token=published.token,
            expires_at=expires_at,
            good_until=expires_at
            - min(settings.minimum_left_seconds, lifetime * LARGEST_SHARE_LEFT),
            refresh_at=expires_at - lifetime * max(0.0, 1 - share),
            grant_id=UUID(published.grant_id),
            tenant_id=published.tenant_id,
            grant_version=published.grant_version,
        )

    # -- the refresh itself: Entra, then SQL, then Redis -------------------------------------

    async def _refresh(self, sender: Sender, lock: Lock) -> Lease:
        refused: CredentialRejected | None = None
        used: tuple[UUID, int] | None = None
        for _ in range(RACES):
            grant, turns = await self._load(sender)
            if grant is None or (refused is not None and used == (grant.id, grant.version)):
                # The same grant is what Entra refused: it was no lost race.
                refusal = refused or CredentialRejected(
                    "consent_required", description="the mailbox was never connected"
                )
                await self._remember(sender, refusal, REJECTED_MEMORY_SECONDS)
                raise refusal
            used = (grant.id, grant.version)
            refused = None
            asked = time.monotonic()
            try:
                await lock.reacquire()
            except LockError as error:
                # Whoever has it by now may have published a token.
                raise _LockLost from error
            # The lock must last until the answer is here.
            until = asked + self._settings.lock_seconds - self._settings.request_timeout_seconds
            try:
                tokens = await self._ask_entra(sender, grant, turns, until)
            except PostedTooLate as late:
                # Whoever tries again begins with the credential that was not refused.
                await record(self._recorder, turns)
                raise _LockLost from late
            except CredentialRejected as error:
                refused = error
                await record(self._recorder, turns)
                continue
            except TokenUnavailable as unavailable:
                await self._remember(sender, unavailable, unavailable.retry_after_seconds)
                raise
            version = await self._save(grant, tokens)
            if version is not None:
                await record(self._recorder, turns)
                left_seconds = tokens.expires_in_seconds - (time.monotonic() - asked)
                return await self._share(sender, grant, version, tokens, left_seconds)
        raise TokenUnavailable("the grant kept changing under the refresh", retry_after_seconds=2)

    async def _load(self, sender: Sender) -> tuple[grants.StoredGrant | None, CredentialTurns]:
        def load(connection: Connection) -> tuple[grants.StoredGrant | None, CredentialTurns]:
            return (
                grants.load_grant(connection, sender.mailbox_id),
                CredentialTurns(app_registrations.open_app(connection, self._vault, sender.app_id)),
            )

        try:
            return await self._recorder.run(load)
        except (NotFound, VaultError) as error:
            raise ConfigurationError(str(error)) from error

    async def _ask_entra(
        self,
        sender: Sender,
        grant: grants.StoredGrant,
        turns: CredentialTurns,
        post_until: float,
    ) -> Tokens:
        entra = self._entra(sender.ca_file)
        run = asyncio.get_running_loop().run_in_executor
        if grant.kind != grants.DELEGATED:
            return await run(self._threads, entra.client_credentials, sender, turns)
        unsaved = self._unsaved.get(grant.id)
        if unsaved is not None and unsaved.version == grant.version:
            grant = unsaved
        try:
            cache = grants.open_cache(self._vault, grant) or ""
        except VaultError as error:
            raise ConfigurationError(str(error)) from error
        return await run(self._threads, entra.refresh, sender, turns, cache, post_until)

    async def _save(self, grant: grants.StoredGrant, tokens: Tokens) -> int | None:
        """
        Commit a rotated grant; give its version, or None where somebody wrote before us.

        Raises:
            StoreUnavailable: SQL stays away, or refuses it; the next refresh of this process begins
                with what is kept here.
        """
        if grant.kind != grants.DELEGATED:
            return grant.version
        sealed = self._vault.seal(tokens.cache.encode(), context=grant_context(grant.id))
        self._unsaved[grant.id] = replace(grant, cache_encrypted=sealed)

        def update(connection: Connection) -> bool:
            return grants.update_grant(
                connection,
                grant_id=grant.id,
                expected_version=grant.version,
                cache_encrypted=sealed,
            )

        until = time.monotonic() + self._settings.lock_seconds / 2
        while True:
            try:
                won = await self._recorder.run(update)
            except (StoreUnavailable, SQLAlchemyError) as error:
                # Whatever SQL answers: the provider may have taken the old grant back.
                if self._closed or time.monotonic() > until:
                    raise StoreUnavailable(in_short(error)) from error
                await asyncio.sleep(SAVE_PAUSE_SECONDS)
            else:
                del self._unsaved[grant.id]
                return grant.version + 1 if won else None

    async def _share(
        self,
        sender: Sender,
        grant: grants.StoredGrant,
        version: int,
        tokens: Tokens,
        left_seconds: float,
    ) -> Lease:
        published = Published(
            token=tokens.access_token,
            lifetime_seconds=tokens.expires_in_seconds,
            grant_id=str(grant.id),
            grant_version=version,
            tenant_id=str(sender.tenant_id),
        )
        try:
            await self._board.publish(sender.mailbox_id, published, seconds=left_seconds)
        except RedisError as error:
            # The token is good all the same; others will have to fetch one of their own.
            log.warning(
                "token_not_shared", mailbox_id=str(sender.mailbox_id), reason=str(error)[:200]
            )
        log.info(
            "token_refresh",
            mailbox_id=str(sender.mailbox_id),
            grant_version=version,
            lifetime_s=round(tokens.expires_in_seconds),
        )
        lease = self._dated(published, left_seconds=left_seconds)
        return self._keep(sender, replace(lease, fresh=True))

    async def _remember(
        self, sender: Sender, error: CredentialRejected | TokenUnavailable, seconds: float
    ) -> None:
        try:
            await self._board.remember(
                sender.mailbox_id, Failure.of(error, cause=_cause(sender)), seconds=seconds
            )
        except RedisError as away:
            log.warning(
                "refresh_failure_not_shared",
                mailbox_id=str(sender.mailbox_id),
                reason=str(away)[:200],
            )


def _cause(sender: Sender) -> str:
    """
    Name what a failure is about: a new grant or a new credential makes it void.

    So does a resume: whoever resumed a mailbox says that the cause is gone, and Entra is to be
    asked whether it is.
    """
    credential = f"{sender.grant_id}/{sender.grant_version}/{sender.app_id}/{sender.app_version}"
    return f"{credential}/{sender.resume_count}"
