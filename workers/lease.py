"""
Token leases: one access token of a mailbox, shared by all workers, refreshed by one.

The order of looking: this process' own copy; Redis (sealed); a refresh under a lock, where Redis is
read again first. The new grant is committed to SQL before its token is published, and only over the
version that was read: a holder that slept past its lock loses instead of overwriting.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.asyncio.lock import Lock
from redis.exceptions import LockError, RedisError

from models import app_registrations, grants
from models.errors import CredentialRejected, TokenUnavailable
from models.redis_keys import RedisKeys
from models.senders import Sender
from models.settings import LeaseSettings
from models.vault import Vault, grant_context, token_context
from workers.entra import Entra, Tokens
from workers.recorder import Recorder

log = structlog.get_logger()

REFRESH_THREADS = 16
"""MSAL calls at once in a process; the event loop never waits for one."""

REJECTED_MEMORY_SECONDS = 5.0
"""How long a refusal answers everybody: visits in flight see it, then the mailbox is parked."""

RACES = 3
"""How often a holder that lost against a newer grant reads again before it gives up."""


@dataclass(frozen=True, slots=True)
class Lease:
    """
    The right to use an access token until a moment.

    Attributes:
        token: The access token.
        expires_at: On ``time.monotonic``.
        refresh_at: From when on somebody should refresh, while this token is still good.
        grant_version: The grant it came from.
        fresh: It came from Entra in this very call.
    """

    token: str = field(repr=False)
    expires_at: float
    refresh_at: float
    grant_version: int
    fresh: bool = False


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
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._recorder = recorder
        self._vault = vault
        self._entra = entra
        self._settings = settings
        self._copies: dict[UUID, Lease] = {}
        self._refreshing: dict[UUID, asyncio.Task[Lease]] = {}
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
        """
        now = time.monotonic()
        copy = self._copies.get(sender.mailbox_id)
        if copy is not None and self._serves(copy, sender, rejected, now):
            if now >= copy.refresh_at:
                self._refresh_ahead(sender)
            return copy
        return await asyncio.shield(self._start(sender, rejected))

    async def close(self) -> None:
        """Let refreshes under way come to their end: a rotated token must be committed."""
        if self._refreshing:
            await asyncio.wait(
                self._refreshing.values(), timeout=self._settings.request_timeout_seconds
            )
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _serves(self, lease: Lease, sender: Sender, rejected: str | None, now: float) -> bool:
        return (
            lease.token != rejected
            and lease.grant_version == sender.grant_version
            and lease.expires_at - now >= self._settings.minimum_left_seconds
        ) or (
            # The sender was read before another worker rotated the grant: a newer lease serves.
            lease.token != rejected
            and lease.grant_version > (sender.grant_version or 0)
            and lease.expires_at - now >= self._settings.minimum_left_seconds
        )

    def _refresh_ahead(self, sender: Sender) -> None:
        """Refresh while callers keep the present token; what goes wrong now is tried again."""
        if sender.mailbox_id not in self._refreshing:
            self._start(sender, None, ahead=True).add_done_callback(_log_refresh_ahead)

    def _start(
        self, sender: Sender, rejected: str | None, *, ahead: bool = False
    ) -> asyncio.Task[Lease]:
        """One refresh at a time for a mailbox in this process; whoever comes later joins."""
        task = self._refreshing.get(sender.mailbox_id)
        if task is None:
            task = asyncio.create_task(self._obtain(sender, rejected, ahead=ahead))
            self._refreshing[sender.mailbox_id] = task
            task.add_done_callback(lambda _: self._refreshing.pop(sender.mailbox_id, None))
        return task

    async def _obtain(self, sender: Sender, rejected: str | None, *, ahead: bool) -> Lease:
        try:
            shared = await self._shared(sender, rejected, ahead=ahead)
            if shared is not None:
                return self._keep(sender, shared)
            lock = Lock(
                self._redis,
                self._keys.refresh_lock(sender.mailbox_id),
                timeout=self._settings.lock_seconds,
                blocking_timeout=self._settings.lock_seconds + 5,
                sleep=0.05,
            )
            if not await lock.acquire():
                raise TokenUnavailable(
                    "another worker is refreshing this token for too long", retry_after_seconds=5
                )
            try:
                shared = await self._shared(sender, rejected, ahead=ahead)
                if shared is not None:
                    return self._keep(sender, shared)
                await self._raise_remembered(sender)
                return self._keep(sender, await self._refresh(sender))
            finally:
                try:
                    await lock.release()
                except (LockError, RedisError):
                    log.warning("refresh_lock_lost", mailbox_id=str(sender.mailbox_id))
        except RedisError as error:
            raise TokenUnavailable(
                f"Redis is away, so no token can be shared: {error}", retry_after_seconds=2
            ) from error

    def _keep(self, sender: Sender, lease: Lease) -> Lease:
        self._copies[sender.mailbox_id] = lease
        return lease

    async def _shared(self, sender: Sender, rejected: str | None, *, ahead: bool) -> Lease | None:
        """Read what another worker published; refresh-ahead wants one that is not yet due."""
        key = self._keys.token(sender.mailbox_id)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.get(key)
        pipeline.pttl(key)
        sealed, left_ms = await pipeline.execute()
        if sealed is None or left_ms <= 0:
            return None
        value = json.loads(self._vault.open(sealed, context=token_context(sender.mailbox_id)))
        lease = self._lease(
            value["token"],
            lifetime=float(value["lifetime"]),
            left=left_ms / 1000,
            version=int(value["version"]),
        )
        now = time.monotonic()
        if not self._serves(lease, sender, rejected, now) or (ahead and now >= lease.refresh_at):
            return None
        return lease

    def _lease(
        self, token: str, *, lifetime: float, left: float, version: int, fresh: bool = False
    ) -> Lease:
        """
        Date a token on this process' clock.

        Each process draws its own moment to refresh ahead, so that they do not all come at once.
        """
        share = self._settings.refresh_at_share
        share += self._settings.jitter_share * (random.random() - 0.5)  # noqa: S311 - spreads load
        now = time.monotonic()
        return Lease(
            token=token,
            expires_at=now + left,
            refresh_at=now + left - lifetime * (1 - share),
            grant_version=version,
            fresh=fresh,
        )

    async def _refresh(self, sender: Sender) -> Lease:
        """Refresh under the lock: Entra, then SQL, then Redis."""
        last: CredentialRejected | None = None
        used_version: int | None = None
        for _ in range(RACES):
            grant = await self._recorder.run(
                lambda connection: grants.load_grant(connection, sender.mailbox_id)
            )
            if grant is None or (last is not None and grant.version == used_version):
                # The same grant is what Entra refused: it was no lost race.
                refusal = last or CredentialRejected(
                    "consent_required", description="the mailbox was never connected"
                )
                await self._remember_refusal(sender, refusal)
                raise refusal
            used_version = grant.version
            try:
                tokens = await self._ask_entra(sender, grant)
            except CredentialRejected as refused:
                last = refused
                continue
            except TokenUnavailable as unavailable:
                await self._remember_unavailable(sender, unavailable)
                raise
            version = grant.version
            if grant.kind == grants.DELEGATED:
                sealed = self._vault.seal(tokens.cache.encode(), context=grant_context(grant.id))
                won = await self._recorder.run(
                    lambda connection, sealed=sealed, grant=grant: grants.update_grant(  # type: ignore[misc]
                        connection,
                        grant_id=grant.id,
                        expected_version=grant.version,
                        cache_encrypted=sealed,
                    )
                )
                if not won:
                    last = None
                    continue
                version += 1
            await self._publish(sender, tokens, version)
            log.info(
                "token_refresh",
                mailbox_id=str(sender.mailbox_id),
                grant_version=version,
                lifetime_s=round(tokens.expires_in_seconds),
            )
            return self._lease(
                tokens.access_token,
                lifetime=tokens.expires_in_seconds,
                left=tokens.expires_in_seconds,
                version=version,
                fresh=True,
            )
        raise TokenUnavailable("the grant kept changing under the refresh", retry_after_seconds=2)

    async def _ask_entra(self, sender: Sender, grant: grants.StoredGrant) -> Tokens:
        app = await self._recorder.run(
            lambda connection: app_registrations.open_app(connection, self._vault, sender.app_id)
        )
        credential = app.credential
        entra = self._entra(sender.ca_file)
        loop = asyncio.get_running_loop()
        if grant.kind == grants.DELEGATED:
            cache = grants.open_cache(self._vault, grant) or ""
            return await loop.run_in_executor(
                self._threads, entra.refresh, sender, credential, cache
            )
        return await loop.run_in_executor(
            self._threads, entra.client_credentials, sender, credential
        )

    async def _publish(self, sender: Sender, tokens: Tokens, version: int) -> None:
        value = {
            "token": tokens.access_token,
            "lifetime": tokens.expires_in_seconds,
            "version": version,
        }
        sealed = self._vault.seal(
            json.dumps(value).encode(), context=token_context(sender.mailbox_id)
        )
        await self._redis.set(
            self._keys.token(sender.mailbox_id),
            sealed,
            px=max(1, int(tokens.expires_in_seconds * 1000)),
        )

    async def _raise_remembered(self, sender: Sender) -> None:
        """Answer from memory while a failed refresh is not worth repeating."""
        raw = await self._redis.get(self._keys.refresh_failure(sender.mailbox_id))
        if raw is None:
            return
        memory = json.loads(raw)
        if memory["for"] != _cause_version(sender):
            return
        left = await self._redis.pttl(self._keys.refresh_failure(sender.mailbox_id))
        if memory["kind"] == "unavailable":
            raise TokenUnavailable(memory["text"], retry_after_seconds=max(left, 100) / 1000)
        raise CredentialRejected(
            memory["error"],
            codes=tuple(memory["codes"]),
            description=memory["text"],
            suberror=memory["suberror"],
            http_status=memory["http_status"],
        )

    async def _remember_refusal(self, sender: Sender, refused: CredentialRejected) -> None:
        await self._remember(
            sender,
            {
                "kind": "rejected",
                "error": refused.error,
                "codes": list(refused.codes),
                "text": refused.description,
                "suberror": refused.suberror,
                "http_status": refused.http_status,
            },
            REJECTED_MEMORY_SECONDS,
        )

    async def _remember_unavailable(self, sender: Sender, unavailable: TokenUnavailable) -> None:
        await self._remember(
            sender,
            {"kind": "unavailable", "text": str(unavailable)},
            unavailable.retry_after_seconds,
        )

    async def _remember(self, sender: Sender, memory: dict[str, object], seconds: float) -> None:
        memory["for"] = _cause_version(sender)
        await self._redis.set(
            self._keys.refresh_failure(sender.mailbox_id),
            json.dumps(memory),
            px=max(1, int(seconds * 1000)),
        )


def _cause_version(sender: Sender) -> str:
    """Name what a failure was about: a new grant or secret makes it void."""
    return f"{sender.grant_version}/{sender.app_version}"


def _log_refresh_ahead(task: asyncio.Task[Lease]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        log.warning("token_refresh_ahead_failed", reason=str(error)[:300])
