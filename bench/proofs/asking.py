"""
One process that wants tokens: a worker's leases without its visits, told what to do line by line.

It says ``asking`` before Entra is asked and ``saved`` once the new grant is committed, so
that whoever kills it knows whether it died in between.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import sys
import time
from collections import Counter
from typing import Any
from uuid import UUID

import redis.asyncio
from pydantic import SecretStr
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from models import logs, senders
from models.database import create_engine_from, read
from models.errors import AlertpostError, CredentialRejected, StoreUnavailable, TokenUnavailable
from models.redis_keys import RedisKeys
from models.settings import LogSettings, Settings
from models.vault import Vault
from workers.entra import Entra
from workers.lease import TokenLeases
from workers.recorder import Recorder

REDIS_CONNECTIONS = 32
LONGEST_SECONDS = 120.0


class Watched(TokenLeases):
    """Leases that tell when they are between asking and having saved."""

    async def _ask_entra(self, *given: Any) -> Any:
        tell(at="asking")
        return await super()._ask_entra(*given)

    async def _save(self, *given: Any) -> Any:
        began = time.perf_counter()
        version = await super()._save(*given)
        tell(at="saved", save_ms=round((time.perf_counter() - began) * 1000, 2))
        return version


def tell(**words: Any) -> None:
    """Say something in one line."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


class Asker:
    """Asks for the tokens of one mailbox."""

    def __init__(self, given: dict[str, Any]) -> None:
        settings = Settings.load(
            database_url=given["database"],
            redis_url=given["redis"],
            data_dir=given["folder"],
            secret_keys=(SecretStr(given["key"]),),
            lease=given["lease"],
        )
        self._engine = create_engine_from(settings.sqlalchemy_url)
        self._mailbox_id = UUID(given["mailbox"])
        self._recorder = Recorder(self._engine, asyncio.get_running_loop())
        self._recorder.start()
        entra = Entra(
            ca_file=given["ca_file"], timeout_seconds=settings.lease.request_timeout_seconds
        )
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            settings.redis_url,
            max_connections=REDIS_CONNECTIONS,
            timeout=3,
            socket_timeout=3,
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._leases = Watched(
            redis=redis.asyncio.Redis.from_pool(pool),
            keys=RedisKeys(settings.redis_prefix),
            recorder=self._recorder,
            vault=Vault([given["key"]]),
            entra=lambda _: entra,
            settings=settings.lease,
        )

    def sender(self) -> senders.Sender:
        """Read the mailbox as a visit does."""
        with read(self._engine) as connection:
            sender = senders.sender(connection, self._mailbox_id)
        assert sender is not None
        return sender

    async def storm(self, callers: int) -> None:
        """Let many want a token at once, each until it has one."""
        sender = self.sender()
        tokens: set[str] = set()
        errors: Counter[str] = Counter()
        waits: list[float] = []

        async def want() -> None:
            began = time.monotonic()
            while time.monotonic() - began < LONGEST_SECONDS:
                try:
                    lease = await self._leases.get(sender)
                except TokenUnavailable as away:
                    errors["not now"] += 1
                    await asyncio.sleep(away.retry_after_seconds)
                    continue
                except CredentialRejected:
                    errors["refused"] += 1
                    return
                tokens.add(_digest(lease.token))
                waits.append(time.monotonic() - began)
                return

        await asyncio.gather(*(want() for _ in range(callers)))
        tell(done="storm", served=len(waits), tokens=sorted(tokens), errors=dict(errors),
             longest=max(waits, default=0.0))  # fmt: skip

    async def steady(self, seconds: float) -> None:
        """Want a token fifty times a second, as visits that send without a pause do."""
        sender = self.sender()
        await self._leases.get(sender)
        until = time.monotonic() + seconds
        tokens: set[str] = set()
        calls = waited = 0
        while time.monotonic() < until:
            # What a caller waits for is its suspension: a copy is handed out without one.
            coroutine = self._leases.get(sender)
            try:
                coroutine.send(None)
            except StopIteration as done:
                tokens.add(_digest(done.value.token))
            else:
                coroutine.close()
                waited += 1
                await self._leases.get(sender)
            calls += 1
            await asyncio.sleep(0.02)
        tell(done="steady", calls=calls, waited=waited, tokens=sorted(tokens))

    async def churn(self) -> None:
        """Use every token once and want another, until killed."""
        rejected: str | None = None
        parent = os.getppid()
        while os.getppid() == parent:
            try:
                lease = await self._leases.get(self.sender(), rejected=rejected)
            except (TokenUnavailable, StoreUnavailable):
                await asyncio.sleep(0.1)
                continue
            except CredentialRejected as refused:
                tell(at="refused", error=refused.error)
                await asyncio.sleep(0.5)
                continue
            except AlertpostError as error:
                tell(at="failed", error=str(error))
                await asyncio.sleep(0.5)
                continue
            rejected = lease.token
            await asyncio.sleep(random.uniform(0, 0.15))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()[:12]


async def main(given: dict[str, Any]) -> None:
    """Do what is told, line by line."""
    asker = Asker(given)
    loop = asyncio.get_running_loop()
    tell(done="ready")
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        await getattr(asker, order.pop("do"))(**order)


if __name__ == "__main__":
    logs.setup(LogSettings(level="error"), process="asking")
    asyncio.run(main(json.loads(sys.argv[1])))
