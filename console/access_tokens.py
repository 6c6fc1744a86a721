"""Access tokens for a command: those that the workers share, else one that is refreshed here."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import redis.asyncio

from console.context import Context
from console.verbs_mailboxes import Account, entra
from models import grants
from models.database import read, write
from models.errors import CredentialRejected, TokenUnavailable
from models.redis_keys import RedisKeys
from models.secret_routes import RouteGuard
from models.vault import grant_context
from workers.credential_turns import record_now
from workers.entra import Tokens
from workers.lease import TokenLeases
from workers.recorder import Recorder

_RACES = 3


@dataclass(frozen=True, slots=True)
class Access:
    """A token, and where it came from."""

    token: str = field(repr=False)
    fresh: bool
    left_seconds: float


class AccessTokens:
    """
    Tokens of one mailbox as workers get them; without Redis refreshed directly, the grant compared.

    Attributes:
        fresh: The token given last came from Entra because it was asked for here.
    """

    def __init__(self, context: Context, who: Account, client: redis.asyncio.Redis | None) -> None:
        self._context = context
        self._who = who
        self._entra = entra(context, who.sender)
        self._own: tuple[str, float] | None = None
        self._recorder: Recorder | None = None
        self._leases: TokenLeases | None = None
        self.fresh = False
        if client is not None:
            self._recorder = Recorder(context.engine, asyncio.get_running_loop())
            self._recorder.start()
            self._leases = TokenLeases(
                redis=client,
                keys=RedisKeys(context.settings.redis_prefix),
                recorder=self._recorder,
                vault=context.vault,
                entra=lambda _: self._entra,
                settings=context.settings.lease,
                guard=RouteGuard(context.vault, context.hosts),
            )

    async def get(self, rejected: str | None = None) -> Access:
        """
        Give a token other than the one that was refused.

        Raises:
            As ``TokenLeases.get``.
        """
        if self._leases is None:
            return await self._get_own(rejected)
        lease = await self._leases.get(self._who.sender, rejected=rejected)
        self.fresh = lease.fresh or rejected is not None
        return Access(lease.token, lease.fresh, lease.expires_at - time.monotonic())

    async def close(self) -> None:
        """Let a refresh come to its end: a rotated token must be committed."""
        if self._leases is not None:
            await self._leases.close()
        if self._recorder is not None:
            await asyncio.to_thread(self._recorder.stop)

    async def _get_own(self, rejected: str | None) -> Access:
        """Give the token that was fetched here before, or fetch one: nobody shares any."""
        self.fresh = True
        if self._own is not None and self._own[0] != rejected:
            token, expires_at = self._own
            left_seconds = expires_at - time.monotonic()
            if left_seconds > self._context.settings.lease.minimum_left_seconds:
                return Access(token, True, left_seconds)
        tokens = await asyncio.to_thread(self._refresh)
        self._own = (tokens.access_token, time.monotonic() + tokens.expires_in_seconds)
        return Access(tokens.access_token, True, tokens.expires_in_seconds)

    def _refresh(self) -> Tokens:
        try:
            return self._refreshed()
        finally:
            record_now(self._context.engine, self._who.credential)

    def _refreshed(self) -> Tokens:
        context, who = self._context, self._who
        for _ in range(_RACES):
            with read(context.engine) as conn:
                grant = grants.load_grant(conn, who.sender.mailbox_id)
            if grant is None:
                raise CredentialRejected("consent_required", description="the consent is gone")
            if grant.kind == grants.APP_ONLY:
                return self._entra.client_credentials(who.sender, who.credential)
            cache = grants.open_cache(context.vault, grant) or ""
            tokens = self._entra.refresh(who.sender, who.credential, cache)
            sealed = context.vault.seal(tokens.cache.encode(), context=grant_context(grant.id))
            with write(context.engine) as conn:
                if grants.update_grant(
                    conn,
                    grant_id=grant.id,
                    expected_version=grant.version,
                    cache_encrypted=sealed,
                ):
                    return tokens
        raise TokenUnavailable("the grant kept changing under the refresh", retry_after_seconds=2)
