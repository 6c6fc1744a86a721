"""Token leases over several workers: real MSAL, Redis, TLS and SQL, on both databases."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import redis.asyncio
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy import event, update
from structlog.testing import capture_logs

from models import app_registrations, grants, senders
from models.database import read, write
from models.errors import (
    ConfigurationError,
    CredentialRejected,
    StoreUnavailable,
    TokenUnavailable,
)
from models.ids import uuid7
from models.redis_keys import RedisKeys
from models.senders import Sender
from models.settings import LeaseSettings
from models.tables import METADATA
from models.vault import Vault, token_context
from sandbox.directory import Directory
from sandbox.entra_faults import EntraFault, EntraFaultKind
from tests.fixtures.redis_server import RedisServer
from tests.fixtures.whole import Whole
from workers import lease as lease_module
from workers.entra import Entra
from workers.lease import Lease, TokenLeases
from workers.recorder import Recorder

ALERTS = "alerts@contoso.example"
GRANT = METADATA.tables["grant"]


@dataclass
class Worker:
    """One worker's leases, with a recorder and a connection to Redis of its own."""

    leases: TokenLeases
    redis: redis.asyncio.Redis
    recorder: Recorder


@dataclass
class Field:
    """Several workers before one sandbox."""

    whole: Whole
    keys: RedisKeys
    redis_url: str
    workers: list[Worker]
    mailbox_id: UUID

    @property
    def world(self) -> Any:
        return self.whole.sandbox.world

    @property
    def directory(self) -> Directory:
        directory: Directory | None = self.world.directory_named("contoso")
        assert directory is not None
        return directory

    @property
    def leases(self) -> list[TokenLeases]:
        return [worker.leases for worker in self.workers]

    @property
    def redis(self) -> redis.asyncio.Redis:
        return self.workers[0].redis

    @property
    def asked(self) -> int:
        """How often Entra was asked for a refresh, whatever it answered."""
        counted = self.world.ledger.by_grant_type
        return sum(number for (kind, _), number in counted.items() if kind == "refresh_token")

    def fault(self, kind: str, **changes: Any) -> str:
        fault = EntraFault(EntraFaultKind(kind), grant_type="refresh_token", **changes)
        return str(self.world.entra_faults.add(fault))

    def sender(self) -> Sender:
        with read(self.whole.engine) as connection:
            sender = senders.sender(connection, self.mailbox_id)
        assert sender is not None
        return sender

    def grant(self) -> grants.StoredGrant:
        with read(self.whole.engine) as connection:
            grant = grants.load_grant(connection, self.mailbox_id)
        assert grant is not None
        return grant

    def refresh_token(self) -> str:
        cache = json.loads(grants.open_cache(self.whole.vault, self.grant()) or "")
        (entry,) = cache["RefreshToken"].values()
        return str(entry["secret"])

    async def storm(self, number: int, **options: Any) -> list[Lease | BaseException]:
        """Let many callers at all workers want a token at once."""
        sender = self.sender()
        return await asyncio.gather(
            *(
                self.leases[turn % len(self.leases)].get(sender, **options)
                for turn in range(number)
            ),
            return_exceptions=True,
        )

    async def forget(self) -> None:
        """Lose what Redis knows, as far as it is ours."""
        keys = await self.redis.keys(f"{self.keys.prefix}:*")
        if keys:
            await self.redis.delete(*keys)

    async def waiting(self, key: str) -> None:
        """Wait until a key is there."""
        async with asyncio.timeout(10):
            while not await self.redis.exists(key):  # noqa: ASYNC110 - another process' doing
                await asyncio.sleep(0.005)


@asynccontextmanager
async def worker(whole: Whole, url: str, keys: RedisKeys, **options: Any) -> AsyncIterator[Worker]:
    client = redis.asyncio.Redis.from_url(
        url,
        socket_timeout=0.5,
        socket_connect_timeout=0.5,
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    )
    recorder = Recorder(whole.engine, asyncio.get_running_loop())
    recorder.start()
    values = LeaseSettings(**options)
    entra = Entra(
        ca_file=str(whole.sandbox.ca_file), timeout_seconds=values.request_timeout_seconds
    )
    leases = TokenLeases(
        redis=client,
        keys=keys,
        recorder=recorder,
        vault=whole.vault,
        entra=lambda _: entra,
        settings=values,
    )
    try:
        yield Worker(leases, client, recorder)
    finally:
        await leases.close()
        await asyncio.to_thread(recorder.stop)
        await client.aclose()


@pytest.fixture
def lease_settings() -> dict[str, Any]:
    """Give what a test sets otherwise."""
    return {}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep logs out of the output."""
    with capture_logs():
        yield


@pytest.fixture(autouse=True)
async def nothing_unheard() -> AsyncIterator[None]:
    """Fail where asyncio reports an exception that nobody took, or a task that was lost."""
    heard: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: heard.append(context))
    yield
    await asyncio.sleep(0)
    gc.collect()
    assert heard == []


@pytest.fixture
async def field(
    whole: Whole, redis_url: str, redis_keys: RedisKeys, lease_settings: dict[str, Any]
) -> AsyncIterator[Field]:
    """Give four workers and the connected mailbox of contoso."""
    async with (
        worker(whole, redis_url, redis_keys, **lease_settings) as one,
        worker(whole, redis_url, redis_keys, **lease_settings) as two,
        worker(whole, redis_url, redis_keys, **lease_settings) as three,
        worker(whole, redis_url, redis_keys, **lease_settings) as four,
    ):
        mailbox_id = whole.mailbox_id("contoso")
        yield Field(whole, redis_keys, redis_url, [one, two, three, four], mailbox_id)


def with_settings(**options: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lease_settings", [options], ids=[""])


def tokens_of(results: list[Lease | BaseException]) -> set[str]:
    return {result.token for result in results if isinstance(result, Lease)}


# -- one refresh for all ------------------------------------------------------------------------


async def test_two_hundred_callers_cost_one_request(field: Field) -> None:
    """Over four workers, everybody gets the one new token."""
    results = await field.storm(200)

    assert field.asked == 1
    (token,) = tokens_of(results)
    assert all(isinstance(result, Lease) for result in results)
    assert field.world.check_token(token, ALERTS).ok


async def test_an_expired_lease_is_renewed_once(field: Field) -> None:
    """All copies and the shared token run out, and one request makes the next for all."""
    field.directory.access_token_seconds = (1, 1)
    await field.storm(4)
    field.directory.access_token_seconds = (3600, 3600)
    field.world.ledger.clear()
    await asyncio.sleep(0.8)

    results = await field.storm(200)

    assert field.asked == 1
    assert len(tokens_of(results)) == 1


async def test_a_slow_endpoint_is_asked_once(field: Field) -> None:
    """Two seconds without an answer make nobody else ask."""
    field.fault("slow", seconds=2)

    results = await field.storm(200)

    assert field.asked == 1
    assert len(tokens_of(results)) == 1


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("unavailable", {"retry_after_seconds": 1}),
        ("throttled", {"retry_after_seconds": 1}),
        ("cut", {}),
        ("not_json", {}),
        ("aadsts", {"code": 50173}),
    ],
    ids=["503", "429", "cut", "html", "revoked"],
)
async def test_a_failure_answers_everybody_for_a_while(
    field: Field, kind: str, changes: dict[str, Any]
) -> None:
    """A thousand waiters do not each ask, and neither do those who come a moment later."""
    field.fault(kind, remaining=2, **changes)

    first = await field.storm(1000)
    again = await field.storm(100)

    assert field.asked == 1
    expected = CredentialRejected if kind == "aadsts" else TokenUnavailable
    assert {type(error) for error in first + again} == {expected}
    assert {str(error) for error in again} == {str(error) for error in first}


async def test_after_two_outages_the_third_request_serves(field: Field) -> None:
    """As soon as the wait is over, one request is made, and no more than one each time."""
    field.fault("unavailable", remaining=2, retry_after_seconds=1)
    results: list[Any] = []

    async with asyncio.timeout(15):
        while not tokens_of(results):
            results = await field.storm(200)
            waits = [e.retry_after_seconds for e in results if isinstance(e, TokenUnavailable)]
            await asyncio.sleep(min(waits, default=0))

    assert field.asked == 3
    assert len(tokens_of(results)) == 1


async def test_a_remembered_refusal_is_the_whole_refusal(field: Field) -> None:
    """Another worker learns error, codes, text and status, as if it had asked by itself."""
    field.fault("aadsts", code=53003)
    errors = []
    for leases in field.leases[:2]:
        with pytest.raises(CredentialRejected) as refused:
            await leases.get(field.sender())
        errors.append(refused.value)

    first, second = ((e.error, e.codes, e.description, e.suberror, e.http_status) for e in errors)
    assert first == second
    assert field.asked == 1


# -- ahead of the end ---------------------------------------------------------------------------


@with_settings(refresh_at_share=0.01, jitter_share=0.0)
async def test_callers_keep_the_present_token_while_one_refreshes_ahead(field: Field) -> None:
    """Nobody waits: a slow endpoint is asked once while all go on with what they have."""
    field.directory.access_token_seconds = (10, 10)
    (first,) = tokens_of(await field.storm(4))
    await asyncio.sleep(0.15)
    field.world.ledger.clear()
    field.fault("slow", seconds=0.7, remaining=1)
    field.directory.access_token_seconds = (3600, 3600)

    began = time.monotonic()
    during = await field.storm(200)
    took = time.monotonic() - began
    assert tokens_of(during) == {first}
    assert took < 0.6

    async with asyncio.timeout(10):
        while first in tokens_of(await field.storm(40)):  # noqa: ASYNC110 - callers, not waiters
            await asyncio.sleep(0.02)
    after = tokens_of(await field.storm(40))
    assert len(after) == 1
    assert field.asked == 1


@with_settings(refresh_at_share=0.01, jitter_share=0.0)
@pytest.mark.parametrize("kind", ["unavailable", "aadsts"])
async def test_a_refresh_ahead_that_fails_hurts_nobody(field: Field, kind: str) -> None:
    """The present token serves on, and the endpoint is not asked again by every caller."""
    field.directory.access_token_seconds = (20, 20)
    (first,) = tokens_of(await field.storm(4))
    await asyncio.sleep(0.25)
    field.world.ledger.clear()
    field.fault(kind, **({"code": 50173} if kind == "aadsts" else {}))

    with capture_logs() as logs:
        assert tokens_of(await field.storm(40)) == {first}
        await field.whole.until(lambda: not any(leases._flights for leases in field.leases))
        for _ in range(5):
            assert tokens_of(await field.storm(40)) == {first}
            await asyncio.sleep(0)

    assert field.asked == 1
    failed = [line for line in logs if line["event"] == "token_refresh_ahead_failed"]
    assert len(failed) == 4


# -- the right token ----------------------------------------------------------------------------


async def test_only_who_fetched_a_token_calls_it_fresh(field: Field) -> None:
    """Later on the same token may have been revoked, so it must not pass for fresh again."""
    sender = field.sender()

    first = await field.leases[0].get(sender)
    again = await field.leases[0].get(field.sender())
    other = await field.leases[1].get(field.sender())

    assert (first.fresh, again.fresh, other.fresh) == (True, False, False)
    assert first.token == again.token == other.token


async def test_a_rejected_token_is_not_given_again(field: Field) -> None:
    """Many visits whose token was refused get one other token, at one request."""
    (old,) = tokens_of(await field.storm(8))

    results = await field.storm(100, rejected=old)
    late = await field.storm(20, rejected=old)

    assert field.asked == 2
    (new,) = tokens_of(results)
    assert tokens_of(late) == {new}
    assert new != old


async def test_who_joins_a_refresh_does_not_get_the_token_that_was_refused_him(
    field: Field,
) -> None:
    """Somebody else looks for any token and finds the shared one; that is no answer to all."""
    lease = await field.leases[0].get(field.sender())
    other = field.leases[1]

    results = await asyncio.gather(
        other.get(field.sender()), other.get(field.sender(), rejected=lease.token)
    )

    assert results[0].token == lease.token
    assert results[1].token != lease.token


async def test_a_new_consent_makes_old_tokens_and_failures_void(field: Field) -> None:
    """After a new consent no copy, shared token or remembered refusal of the old one serves."""
    (old,) = tokens_of(await field.storm(8))
    field.world.revoke_grants(ALERTS, recall_access_tokens=True)
    refused = await field.storm(8, rejected=old)
    assert {type(error) for error in refused} == {CredentialRejected}

    await asyncio.to_thread(field.whole.connect, field.mailbox_id)
    (new,) = tokens_of(await field.storm(100))

    assert field.world.check_token(new, ALERTS).ok
    assert not field.world.check_token(old, ALERTS).ok


async def test_a_consent_after_a_withdrawal_counts_anew(field: Field) -> None:
    """Versions begin again with a grant, so they alone do not tell an old token from a new one."""
    for _ in range(3):
        (old,) = tokens_of(await field.storm(4))
        await field.storm(4, rejected=old)
    with write(field.whole.engine) as connection:
        grants.withdraw(connection, [field.mailbox_id])
    field.world.revoke_grants(ALERTS, recall_access_tokens=True)
    await asyncio.to_thread(field.whole.connect, field.mailbox_id)
    assert field.sender().grant_version == 1

    (new,) = tokens_of(await field.storm(20))

    assert field.world.check_token(new, ALERTS).ok


async def test_a_new_secret_makes_a_refusal_void(field: Field) -> None:
    """Nobody waits until a refusal of the old secret is forgotten."""
    app = next(iter(field.world.apps.values()))
    app.client_secrets.clear()
    refused = await field.storm(20)
    assert {type(error) for error in refused} == {CredentialRejected}
    secret = app.add_secret(ends_at=field.world.clock() + 86400)
    with write(field.whole.engine) as connection:
        app_registrations.renew_credential(
            connection,
            field.whole.vault,
            name="contoso",
            credential=app_registrations.Credential.secret(secret.value),
        )

    results = await field.storm(20)

    assert len(tokens_of(results)) == 1


async def test_who_knows_the_new_secret_does_not_get_the_refusal_of_the_old(
    field: Field,
) -> None:
    """Who joins a refresh that began under the old secret tries by himself when it is refused."""
    app = next(iter(field.world.apps.values()))
    field.fault("slow", seconds=0.5, remaining=1)
    app.client_secrets.clear()
    leases = field.leases[0]
    before = asyncio.create_task(leases.get(field.sender()))
    await field.waiting(field.keys.refresh_lock(field.mailbox_id))
    await field.whole.until(lambda: not field.world.entra_faults.as_json())
    secret = app.add_secret(ends_at=field.world.clock() + 86400)
    with write(field.whole.engine) as connection:
        app_registrations.renew_credential(
            connection,
            field.whole.vault,
            name="contoso",
            credential=app_registrations.Credential.secret(secret.value),
        )

    lease = await leases.get(field.sender())

    assert field.world.check_token(lease.token, ALERTS).ok
    with pytest.raises(CredentialRejected):
        await before


# -- grants are never lost ----------------------------------------------------------------------


async def test_the_grant_is_committed_before_its_token_is_shared(field: Field) -> None:
    """At the moment when the token appears in Redis, SQL holds the rotated refresh token."""
    key = field.keys.token(field.mailbox_id)
    before, sender = field.refresh_token(), field.sender()
    seen: list[bool] = []

    async def shared() -> bool:
        return bool(await field.redis.exists(key))

    def committed(connection: Any) -> None:
        seen.append(asyncio.run_coroutine_threadsafe(shared(), loop).result(5))

    loop = asyncio.get_running_loop()
    event.listen(field.whole.engine, "commit", committed)
    try:
        await field.leases[0].get(sender)
    finally:
        event.remove(field.whole.engine, "commit", committed)

    assert seen
    assert not any(seen)
    assert await field.redis.exists(key)
    assert field.refresh_token() != before


async def test_who_lost_against_a_newer_grant_uses_that_one(field: Field) -> None:
    """A consent given during a refresh stays; the late holder refreshes under it."""
    field.fault("slow", seconds=0.6, remaining=1)
    late = asyncio.create_task(field.leases[0].get(field.sender()))
    await field.waiting(field.keys.refresh_lock(field.mailbox_id))
    await asyncio.to_thread(field.whole.connect, field.mailbox_id)
    newer = field.grant()

    lease = await late

    assert lease.grant_id == newer.id
    assert field.grant().id == newer.id
    assert field.grant().version == newer.version + 1


@with_settings(lock_seconds=1.0, request_timeout_seconds=0.9)
async def test_a_holder_that_slept_past_its_lock_overwrites_nothing(field: Field) -> None:
    """Another worker took over meanwhile; the sleeper takes that one's token."""
    sleeper, other = field.workers[0], field.workers[1]
    update_grant = asyncio.Event()

    class Asleep:
        """Delays what Entra has answered until the other worker is done."""

        def refresh(self, *given: Any) -> Any:
            tokens = entra.refresh(*given)
            asyncio.run_coroutine_threadsafe(update_grant.wait(), loop).result(10)
            return tokens

    loop = asyncio.get_running_loop()
    entra = Entra(ca_file=str(field.whole.sandbox.ca_file), timeout_seconds=5)
    sleeper.leases._entra = lambda _: Asleep()  # type: ignore[assignment,return-value]
    late = asyncio.create_task(sleeper.leases.get(field.sender()))
    await field.waiting(field.keys.refresh_lock(field.mailbox_id))
    lease = await other.leases.get(field.sender())
    version, kept = field.grant().version, field.refresh_token()
    update_grant.set()

    assert (await late).token == lease.token
    assert field.grant().version == version
    assert field.refresh_token() == kept


@with_settings(lock_seconds=1.5, request_timeout_seconds=0.7)
async def test_a_holder_that_slept_before_it_asked_presents_nothing(field: Field) -> None:
    """Its lock is another's by then, and its refresh token may have been used: it looks again."""
    field.directory.strict_rotation = True
    sleeper, other = field.workers[0], field.workers[1]
    awake = asyncio.Event()

    class Asleep:
        """Stands still between taking the lock and asking."""

        def refresh(self, *given: Any) -> Any:
            asyncio.run_coroutine_threadsafe(awake.wait(), loop).result(10)
            return entra.refresh(*given)

    loop = asyncio.get_running_loop()
    entra = Entra(ca_file=str(field.whole.sandbox.ca_file), timeout_seconds=5)
    sleeper.leases._entra = lambda _: Asleep()  # type: ignore[assignment,return-value]
    late = asyncio.create_task(sleeper.leases.get(field.sender()))
    await field.waiting(field.keys.refresh_lock(field.mailbox_id))
    lease = await other.leases.get(field.sender())
    awake.set()

    assert (await late).token == lease.token
    assert field.asked == 1
    assert field.world.ledger.aadsts_answers == 0


async def test_a_grant_that_another_rotated_is_not_called_rejected(field: Field) -> None:
    """Entra refuses the old refresh token; who presented it reads again and finds the new one."""
    field.directory.strict_rotation = True
    stale = field.grant()
    spare = field.world.give_grant(ALERTS, next(iter(field.world.apps.values())).client_id)
    cache = json.loads(grants.open_cache(field.whole.vault, stale) or "")
    (entry,) = cache["RefreshToken"].values()
    entry["secret"] = spare
    sealed = field.whole.vault.seal(json.dumps(cache).encode(), context=f"grant:{stale.id}")
    field.fault("aadsts", code=50173, remaining=1)

    class Between:
        """Writes, as another worker would, between the reading of the grant and the request."""

        def __init__(self) -> None:
            self.done = False

        def refresh(self, *given: Any) -> Any:
            if not self.done:
                self.done = True
                with write(field.whole.engine) as other:
                    assert grants.update_grant(
                        other,
                        grant_id=stale.id,
                        expected_version=stale.version,
                        cache_encrypted=sealed,
                    )
            return entra.refresh(*given)

    between = Between()
    entra = Entra(ca_file=str(field.whole.sandbox.ca_file), timeout_seconds=5)
    field.workers[0].leases._entra = lambda _: between  # type: ignore[assignment,return-value]

    lease = await field.leases[0].get(field.sender())

    assert field.world.check_token(lease.token, ALERTS).ok
    assert lease.grant_version == stale.version + 2


@with_settings(lock_seconds=1.0, request_timeout_seconds=0.7)
async def test_a_strict_provider_never_sees_a_token_twice(field: Field) -> None:
    """Sixty refreshes over four workers, while Redis forgets everything now and then."""
    field.directory.strict_rotation = True
    chance = random.Random(7)
    seen: set[str] = set()
    done = asyncio.Event()

    async def forgetful() -> None:
        for _ in range(5):
            await asyncio.sleep(chance.uniform(0.05, 0.3))
            await field.forget()

    async def work(leases: TokenLeases) -> None:
        rejected: str | None = None
        while len(seen) < 60:
            try:
                lease = await leases.get(field.sender(), rejected=rejected)
            except TokenUnavailable as away:
                await asyncio.sleep(min(away.retry_after_seconds, 0.2))
                continue
            seen.add(lease.token)
            rejected = lease.token
        done.set()

    await asyncio.gather(forgetful(), *(work(leases) for leases in field.leases))

    assert field.world.ledger.aadsts_answers == 0
    assert field.world.grants.grant_of(field.refresh_token()).revoked is False


async def test_a_rotated_token_waits_for_sql(field: Field) -> None:
    """SQL falls away between Entra's answer and the commit; what Entra gave is not lost."""
    field.directory.strict_rotation = True
    refuse = True

    def away(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if refuse and statement.startswith(("UPDATE grant", 'UPDATE "grant"')):
            raise StoreUnavailable("SQL is away")

    event.listen(field.whole.engine, "before_cursor_execute", away)
    try:
        late = asyncio.create_task(field.leases[0].get(field.sender()))
        await field.whole.until(lambda: field.asked > 0)
        await asyncio.sleep(0.3)
        assert not late.done()
        refuse = False
        lease = await late
    finally:
        event.remove(field.whole.engine, "before_cursor_execute", away)

    assert field.asked == 1
    assert field.grant().version == lease.grant_version
    assert (await field.leases[1].get(field.sender(), rejected=lease.token)).token != lease.token


@with_settings(lock_seconds=1.0, request_timeout_seconds=0.9)
async def test_a_rotated_token_outlasts_a_long_outage_of_sql(field: Field) -> None:
    """Callers are told, the process keeps the token, and the next refresh begins with it."""
    field.directory.strict_rotation = True
    refuse = True

    def away(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if refuse and statement.startswith(("UPDATE grant", 'UPDATE "grant"')):
            raise StoreUnavailable("SQL is away")

    event.listen(field.whole.engine, "before_cursor_execute", away)
    try:
        with pytest.raises(StoreUnavailable):
            await field.leases[0].get(field.sender())
        refuse = False
        lease = await field.leases[0].get(field.sender())
    finally:
        event.remove(field.whole.engine, "before_cursor_execute", away)

    assert field.world.check_token(lease.token, ALERTS).ok
    assert field.world.ledger.aadsts_answers == 0
    assert field.leases[0]._unsaved == {}


_DYING = """
import asyncio, json, sys
from pydantic import SecretStr
from uuid import UUID
from models import senders
from models.database import create_engine_from, read
from models.settings import Settings
from workers.services import Services

async def main(given):
    settings = Settings.load(
        database_url=given["database"], redis_url=given["redis"], redis_prefix=given["prefix"],
        data_dir=given["folder"], secret_keys=(SecretStr(given["key"]),), lease=given["lease"],
    )
    engine = create_engine_from(given["database"])
    services = Services(settings, engine)
    services.recorder.start()
    with read(engine) as connection:
        sender = senders.sender(connection, UUID(given["mailbox"]))
    lease = await services.leases.get(sender)
    print(lease.token, flush=True)

asyncio.run(main(json.loads(sys.argv[1])))
"""


@with_settings(lock_seconds=1.5, request_timeout_seconds=1.4)
async def test_a_worker_that_is_killed_while_it_refreshes_leaves_nothing_behind(
    field: Field, tmp_path: Path
) -> None:
    """When the dead one's lock has run out, another worker refreshes, as Entra keeps old tokens."""
    field.fault("slow", seconds=1.3, remaining=1)
    given = {
        "database": field.whole.engine.url.render_as_string(hide_password=False),
        "redis": field.redis_url,
        "prefix": field.keys.prefix,
        "folder": str(tmp_path),
        "key": field.whole.settings.secret_keys[0].get_secret_value(),
        "mailbox": str(field.mailbox_id),
        "lease": {"lock_seconds": 1.5, "request_timeout_seconds": 1.4},
    }
    dying = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DYING, json.dumps(given), stdout=asyncio.subprocess.PIPE
    )
    await field.whole.until(lambda: field.asked > 0)
    dying.send_signal(signal.SIGKILL)
    out, _ = await dying.communicate()
    began = time.monotonic()

    lease = await field.leases[0].get(field.sender())

    assert out == b""
    assert time.monotonic() - began < 4
    assert field.asked == 2
    assert field.world.check_token(lease.token, ALERTS).ok


# -- what is away or broken ---------------------------------------------------------------------


async def test_redis_away_is_told_quickly_and_mends_itself(
    whole: Whole, own_redis: RedisServer, redis_keys: RedisKeys
) -> None:
    """No caller hangs; a token in hand serves on; afterwards everything works as before."""
    async with (
        worker(whole, own_redis.url, redis_keys) as one,
        worker(whole, own_redis.url, redis_keys) as two,
    ):
        field = Field(whole, redis_keys, own_redis.url, [one, two], whole.mailbox_id("contoso"))
        held = await one.leases.get(field.sender())
        own_redis.kill()
        began = time.monotonic()

        assert (await one.leases.get(field.sender())).token == held.token
        with pytest.raises(TokenUnavailable, match="Redis is away"):
            await two.leases.get(field.sender())
        assert time.monotonic() - began < 1

        own_redis.start()
        assert (await two.leases.get(field.sender())).token


async def test_a_redis_that_does_not_answer_is_told_in_time(
    whole: Whole, own_redis: RedisServer, redis_keys: RedisKeys
) -> None:
    """A frozen server costs its time-out, not more."""
    async with worker(whole, own_redis.url, redis_keys) as one:
        field = Field(whole, redis_keys, own_redis.url, [one], whole.mailbox_id("contoso"))
        own_redis.freeze()
        try:
            began = time.monotonic()
            with pytest.raises(TokenUnavailable, match="Redis is away"):
                await one.leases.get(field.sender())
            assert time.monotonic() - began < 3
        finally:
            own_redis.thaw()

        assert (await one.leases.get(field.sender())).token


async def test_redis_lost_during_a_refresh_costs_no_token(
    whole: Whole, own_redis: RedisServer, redis_keys: RedisKeys
) -> None:
    """What Entra gave is committed and used, though it cannot be shared."""
    async with worker(whole, own_redis.url, redis_keys) as one:
        field = Field(whole, redis_keys, own_redis.url, [one], whole.mailbox_id("contoso"))
        field.fault("slow", seconds=0.4, remaining=1)
        before = field.grant().version
        late = asyncio.create_task(one.leases.get(field.sender()))
        await field.whole.until(lambda: field.asked > 0)
        own_redis.kill()

        lease = await late

        assert field.grant().version == before + 1 == lease.grant_version
        assert (await one.leases.get(field.sender())).token == lease.token
        own_redis.start()


async def test_what_cannot_be_read_in_redis_is_as_good_as_not_there(field: Field) -> None:
    """A value under a key that was taken away, or in another form, costs one refresh."""
    key = field.keys.token(field.mailbox_id)
    context = token_context(field.mailbox_id)
    foreign = Vault([Vault.new_key()]).seal(b"{}", context=context)
    for value in (foreign, field.whole.vault.seal(b'{"token": 1}', context=context), b"rubbish"):
        await field.redis.set(key, value, px=60_000)
        await field.redis.set(field.keys.refresh_failure(field.mailbox_id), b"rubbish", px=60_000)
        before = field.asked

        lease = await field.leases[0].get(field.sender(), rejected="what was")
        field.leases[0]._copies.clear()

        assert field.world.check_token(lease.token, ALERTS).ok
        assert field.asked == before + 1


async def test_a_grant_that_no_key_opens_is_a_mistake_of_the_settings(field: Field) -> None:
    """The operator is told which key is missing; nobody is asked to consent again."""
    grant = field.grant()
    foreign = Vault([Vault.new_key()]).seal(b"{}", context=f"grant:{grant.id}")
    with write(field.whole.engine) as connection:
        connection.execute(
            update(GRANT).where(GRANT.c.id == grant.id).values(cache_encrypted=foreign)
        )

    with pytest.raises(ConfigurationError, match="ALERTPOST_SECRET_KEYS"):
        await field.leases[0].get(field.sender())


async def test_a_mailbox_without_consent_is_refused(field: Field) -> None:
    """A consent that was withdrawn since the sender was read is told as such."""
    sender = field.sender()
    with write(field.whole.engine) as connection:
        grants.withdraw(connection, [field.mailbox_id])

    with pytest.raises(CredentialRejected, match="never connected") as refused:
        await field.leases[0].get(sender)

    assert refused.value.error == "consent_required"
    assert field.asked == 0


@with_settings(lock_seconds=1.0, request_timeout_seconds=0.9)
async def test_a_lock_that_is_never_let_go_is_not_waited_for_without_end(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody keeps renewing it; callers are told to come back."""
    monkeypatch.setattr(lease_module, "LOCK_PATIENCE_SECONDS", 0.2)
    await field.redis.set(field.keys.refresh_lock(field.mailbox_id), "somebody", px=60_000)

    with pytest.raises(TokenUnavailable, match="too long"):
        await field.leases[0].get(field.sender())


# -- visits that end ----------------------------------------------------------------------------


async def test_a_caller_that_is_cancelled_takes_nobody_along(field: Field) -> None:
    """The refresh that it began goes on for the others."""
    field.fault("slow", seconds=0.4, remaining=1)
    leases = field.leases[0]
    first = asyncio.create_task(leases.get(field.sender()))
    await field.waiting(field.keys.refresh_lock(field.mailbox_id))
    others = [asyncio.create_task(leases.get(field.sender())) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    others[0].cancel()

    results = await asyncio.gather(first, *others, return_exceptions=True)

    assert [type(result) for result in results[:2]] == [asyncio.CancelledError] * 2
    assert len(tokens_of(results[2:])) == 1
    assert field.asked == 1


async def test_a_failure_that_nobody_waits_for_any_more_is_not_reported(field: Field) -> None:
    """All callers are gone when the refresh fails; asyncio must not complain."""
    field.fault("aadsts", code=50173, remaining=1)
    caller = asyncio.create_task(field.leases[0].get(field.sender()))
    await field.waiting(field.keys.refresh_lock(field.mailbox_id))
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)

    await field.waiting(field.keys.refresh_failure(field.mailbox_id))
    await field.whole.until(lambda: not field.leases[0]._flights)


async def test_a_worker_that_stops_commits_what_it_was_given(field: Field) -> None:
    """A refresh under way comes to its end before the recorder does, and no other begins."""
    field.fault("slow", seconds=0.4, remaining=1)
    before = field.grant().version
    leases = field.leases[0]
    caller = asyncio.create_task(leases.get(field.sender()))
    await field.waiting(field.keys.refresh_lock(field.mailbox_id))

    await leases.close()

    assert (await caller).grant_version == before + 1 == field.grant().version
    with pytest.raises(TokenUnavailable, match="stopping"):
        await leases.get(replace(field.sender(), mailbox_id=uuid7()))


@with_settings(lock_seconds=1.0, request_timeout_seconds=0.3)
async def test_a_worker_that_stops_does_not_wait_for_ever(field: Field) -> None:
    """What hangs is given up, and who waits for it is told."""
    await field.redis.set(field.keys.refresh_lock(field.mailbox_id), "somebody", px=60_000)
    caller = asyncio.create_task(field.leases[0].get(field.sender()))
    await asyncio.sleep(0.1)
    began = time.monotonic()

    await field.leases[0].close()

    assert time.monotonic() - began < 2
    with pytest.raises(TokenUnavailable):
        await caller


# -- secrets and memory -------------------------------------------------------------------------


async def test_no_secret_is_in_redis_nor_in_the_log(field: Field) -> None:
    """Neither token is in any key, and no log line holds one, refusals included."""
    secrets = {field.refresh_token()}
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        (token,) = tokens_of(await field.storm(8))
        secrets |= {token, field.refresh_token()}
        field.fault("aadsts", code=50173, remaining=1)
        await field.storm(8, rejected=token)
    secrets.add(next(iter(field.world.apps.values())).client_secrets[0].value)

    keys = await field.redis.keys(f"{field.keys.prefix}:*")
    assert len(keys) >= 2
    dumped = b"".join([await field.redis.dump(key) or b"" for key in keys])
    logged = repr(logs)
    for secret in secrets:
        assert secret.encode() not in dumped
        assert secret[-40:] not in logged
        # A signed token's middle part, in case it was wrapped.
        assert secret.split(".")[1 % len(secret.split("."))].encode()[:60] not in dumped
    assert "token_refresh" in logged


async def test_copies_of_mailboxes_that_fell_silent_are_let_go(field: Field) -> None:
    """What has expired is not kept, however many mailboxes there were."""
    leases = field.leases[0]
    now = time.monotonic()
    sender = field.sender()
    for number in range(10_000):
        lease = Lease(
            token="t",
            expires_at=now - 1 if number % 10 else now + 3600,
            good_until=now,
            refresh_at=now,
            grant_id=uuid7(),
            grant_version=1,
        )
        leases._keep(replace(sender, mailbox_id=uuid7()), lease)

    assert 1000 <= len(leases._copies) < 2500


async def test_a_short_lived_token_is_of_use_as_well(field: Field) -> None:
    """A provider whose tokens live less than the settings demand is not asked for every mail."""
    field.directory.access_token_seconds = (60, 60)

    for _ in range(20):
        await field.storm(8)

    assert field.asked == 1


# -- laws ---------------------------------------------------------------------------------------

WORKERS = st.integers(0, 3)


@with_settings(lock_seconds=1.0, request_timeout_seconds=0.25, refresh_at_share=0.99)
async def test_whatever_happens_the_lease_keeps_its_laws(  # noqa: C901 - a machine in its setting
    field: Field,
) -> None:
    """Restarts, outages, revocations, consents and losses of Redis in any order."""
    loop = asyncio.get_running_loop()
    field.directory.strict_rotation = True

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    class Life(RuleBasedStateMachine):
        """Everything that happens to a mailbox's token; MSAL and the servers are real."""

        def __init__(self) -> None:
            super().__init__()
            run(self.begin())

        async def begin(self) -> None:
            field.world.entra_faults.clear()
            await asyncio.to_thread(field.whole.connect, field.mailbox_id)
            await field.forget()
            field.world.ledger.clear()
            self.revoked = self.away = False
            self.last: str | None = None
            self.version = field.grant().version

        async def ask(self, leases: list[TokenLeases], rejected: str | None) -> None:
            sender, before = field.sender(), field.asked
            results = await asyncio.gather(
                *(one.get(sender, rejected=rejected) for one in leases), return_exceptions=True
            )
            assert field.asked - before <= 1
            assert len(tokens_of(results)) <= 1
            for result in results:
                if isinstance(result, Lease):
                    assert result.token != rejected
                    assert result.grant_id == field.grant().id
                    assert result.expires_at > time.monotonic()
                    self.last = result.token
                    if not self.revoked:
                        assert field.world.check_token(result.token, ALERTS).ok
                else:
                    assert (self.revoked and isinstance(result, CredentialRejected)) or (
                        isinstance(result, TokenUnavailable)
                    )
            if not (self.revoked or self.away):
                failed = [result for result in results if isinstance(result, Exception)]
                # What is remembered of an outage ends by itself, within its Retry-After.
                assert not failed or await field.redis.exists(
                    field.keys.refresh_failure(field.mailbox_id)
                )

        @rule(turn=WORKERS)
        def one_asks(self, turn: int) -> None:
            run(self.ask([field.leases[turn]], None))

        @rule()
        def all_ask(self) -> None:
            run(self.ask(field.leases * 5, None))

        @rule(turn=WORKERS)
        def one_was_refused(self, turn: int) -> None:
            run(self.ask([field.leases[turn]] * 3, self.last))

        @rule(turn=WORKERS)
        def one_starts_anew(self, turn: int) -> None:
            field.leases[turn]._copies.clear()

        @rule()
        def redis_forgets(self) -> None:
            run(field.forget())

        @rule()
        def the_wait_is_over(self) -> None:
            run(field.redis.delete(field.keys.refresh_failure(field.mailbox_id)))

        @precondition(lambda self: not self.away)
        @rule()
        def entra_goes_away(self) -> None:
            self.away = True
            field.fault("unavailable")

        @precondition(lambda self: self.away)
        @rule()
        def entra_comes_back(self) -> None:
            self.away = False
            field.world.entra_faults.clear()

        @precondition(lambda self: not self.revoked)
        @rule()
        def the_grant_is_revoked(self) -> None:
            self.revoked = True
            field.world.revoke_grants(ALERTS, recall_access_tokens=True)

        @rule()
        def somebody_consents(self) -> None:
            field.whole.connect(field.mailbox_id)
            self.revoked = False

        @invariant()
        def the_grant_only_moves_on(self) -> None:
            version = field.grant().version
            assert version >= self.version
            self.version = version

        @invariant()
        def the_grant_is_not_lost(self) -> None:
            grant = field.world.grants.grant_of(field.refresh_token())
            assert grant is not None
            assert grant.revoked <= self.revoked

    await asyncio.to_thread(
        run_state_machine_as_test,
        Life,
        settings=settings(
            max_examples=10,
            stateful_step_count=14,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
