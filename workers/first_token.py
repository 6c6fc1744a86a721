"""The token that a consent brings along: shared at once, so that no worker asks for another."""

from __future__ import annotations

import asyncio

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from models.grants import StoredGrant
from models.redis_keys import RedisKeys
from models.vault import Vault
from workers.entra import Tokens
from workers.lease_board import LeaseBoard, Published

log = structlog.get_logger()

TIMEOUT_SECONDS = 2.0


def share(
    redis_url: str, keys: RedisKeys, vault: Vault, *, grant: StoredGrant, tokens: Tokens
) -> None:
    """
    Publish a consent's access token to the workers; call it after the grant was committed.

    While Redis is away nothing is published and the first worker refreshes.

    Args:
        redis_url: Where Redis is.
        keys: Names of the keys.
        vault: Seals the token.
        grant: As it was stored.
        tokens: What the consent gave.
    """
    asyncio.run(_publish(redis_url, keys, vault, grant=grant, tokens=tokens))


async def _publish(
    redis_url: str, keys: RedisKeys, vault: Vault, *, grant: StoredGrant, tokens: Tokens
) -> None:
    client = Redis.from_url(
        redis_url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
    )
    published = Published(
        token=tokens.access_token,
        lifetime_seconds=tokens.expires_in_seconds,
        grant_id=str(grant.id),
        grant_version=grant.version,
    )
    try:
        await LeaseBoard(client, keys, vault).publish(
            grant.mailbox_id, published, seconds=tokens.expires_in_seconds
        )
    except RedisError as error:
        log.debug("first_token_not_shared", reason=str(error)[:200])
    finally:
        await client.aclose()
