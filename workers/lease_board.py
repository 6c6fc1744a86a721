"""
What workers tell each other about a mailbox's token through Redis: all of it may be lost.

    token     the access token, sealed, for as long as it lasts
    failure   that a refresh failed, and why, for as long as asking again is not worth it
    era       tells that Redis forgot everything, locks included
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from uuid import UUID, uuid4

import structlog
from redis.asyncio import Redis

from models.errors import CredentialRejected, TokenUnavailable, VaultError
from models.redis_keys import RedisKeys
from models.vault import Vault, token_context

log = structlog.get_logger()

LEAST_SECONDS = 0.1
"""A failure whose memory is just ending is answered with at least this wait."""


@dataclass(frozen=True, slots=True)
class Published:
    """
    An access token on the board.

    Attributes:
        lifetime_seconds: Of the whole token, from its making.
        grant_id: The grant it came from, and ``grant_version`` after it was made.
        tenant_id: Whose mailbox it was: a token does not move to another tenant with a row. Empty
            where whoever published it did not know.
    """

    token: str = field(repr=False)
    lifetime_seconds: float
    grant_id: str
    grant_version: int
    tenant_id: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """
    A refresh that failed.

    Attributes:
        cause: What grant and credential it was about; for others it says nothing.
        error: OAuth ``error``; None where Entra was not asked.
        text: What Entra or we said.
        reason: Why it was only not possible then; empty where it was a refusal.
        asked_to_wait: See ``TokenUnavailable``.
    """

    cause: str
    text: str
    error: str | None = None
    codes: tuple[int, ...] = ()
    suberror: str = ""
    http_status: int | None = None
    reason: str = ""
    asked_to_wait: bool = False

    @classmethod
    def of(cls, error: CredentialRejected | TokenUnavailable, *, cause: str) -> Failure:
        """Write an error down."""
        reason, asked_to_wait = "", False
        said: CredentialRejected | None
        if isinstance(error, TokenUnavailable):
            reason, asked_to_wait, said = str(error), error.asked_to_wait, error.refusal
        else:
            said = error
        if said is None:
            return cls(cause, "", reason=reason, asked_to_wait=asked_to_wait)
        return cls(
            cause,
            said.description,
            said.error,
            said.codes,
            said.suberror,
            said.http_status,
            reason,
            asked_to_wait,
        )

    def as_error(self, *, left_seconds: float) -> CredentialRejected | TokenUnavailable:
        """Give back the error that was written down."""
        said = None
        if self.error is not None:
            said = CredentialRejected(
                self.error,
                codes=self.codes,
                description=self.text,
                suberror=self.suberror,
                http_status=self.http_status,
            )
        if said is not None and not self.reason:
            return said
        return TokenUnavailable(
            self.reason or self.text,
            retry_after_seconds=left_seconds,
            asked_to_wait=self.asked_to_wait,
            refusal=said,
        )


@dataclass(frozen=True, slots=True)
class Notice:
    """What the board says about a mailbox at one moment; nothing where Redis knows nothing."""

    published: Published | None
    left_seconds: float
    failure: Failure | None
    failure_left_seconds: float
    era: str


class LeaseBoard:
    """The board of all mailboxes. Raises ``RedisError`` where Redis is away."""

    def __init__(self, redis: Redis, keys: RedisKeys, vault: Vault) -> None:
        self._redis = redis
        self._keys = keys
        self._vault = vault

    async def read(self, mailbox_id: UUID) -> Notice:
        """Read everything about a mailbox in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(self._keys.era, uuid4().hex, nx=True)
        pipeline.get(self._keys.era)
        for key in (self._keys.token(mailbox_id), self._keys.refresh_failure(mailbox_id)):
            pipeline.get(key)
            pipeline.pttl(key)
        _, era, sealed, left_ms, failure, failure_left_ms = await pipeline.execute()
        return Notice(
            published=self._opened(mailbox_id, sealed) if sealed and left_ms > 0 else None,
            left_seconds=left_ms / 1000,
            failure=_failure(failure) if failure and failure_left_ms > 0 else None,
            failure_left_seconds=max(failure_left_ms / 1000, LEAST_SECONDS),
            era=era.decode() if era else "",
        )

    async def publish(self, mailbox_id: UUID, token: Published, *, seconds: float) -> None:
        """Share a token for the time that is left to it."""
        sealed = self._vault.seal(
            json.dumps(asdict(token)).encode(), context=token_context(mailbox_id)
        )
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.set(self._keys.token(mailbox_id), sealed, px=max(1, int(seconds * 1000)))
        pipeline.delete(self._keys.refresh_failure(mailbox_id))
        await pipeline.execute()

    async def remember(self, mailbox_id: UUID, failure: Failure, *, seconds: float) -> None:
        """Let a failure answer everybody for a while."""
        await self._redis.set(
            self._keys.refresh_failure(mailbox_id),
            json.dumps(asdict(failure)),
            px=max(1, int(seconds * 1000)),
        )

    def _opened(self, mailbox_id: UUID, sealed: bytes) -> Published | None:
        # What cannot be read, after a change of keys or of the form, is as good as not there.
        try:
            value = json.loads(self._vault.open(sealed, context=token_context(mailbox_id)))
            return Published(**value)
        except (VaultError, ValueError, TypeError) as error:
            log.warning(
                "shared_token_unreadable", mailbox_id=str(mailbox_id), reason=str(error)[:200]
            )
            return None


def _failure(raw: bytes) -> Failure | None:
    try:
        value = json.loads(raw)
        return Failure(**value | {"codes": tuple(value["codes"])})
    except (ValueError, TypeError, KeyError):
        return None
