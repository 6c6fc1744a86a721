"""What everything stands on: settings, data directory, keys, SQL, Redis, workers. Only looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from redis.exceptions import RedisError
from sqlalchemy import Engine

from console.borrowed_slot import REDIS_SECONDS, impatient_client
from console.context import Context, effective_settings
from console.data_dir import DataDir
from console.doctor import ground_meaning as meaning
from console.doctor.checks import Chain, failed, ok
from console.output import counted
from models import redis_probe, schema, sql_probe
from models.database import create_engine_from, now, read
from models.errors import AlertpostError, ConfigurationError, NewerSchema
from models.operator_mailbox import operator_mailbox
from models.postgresql_url import in_clear
from models.proxies import Proxies
from models.redis_keys import RedisKeys
from models.redis_routes import exposure, runs_as_cluster
from models.redis_trouble import RedisTrouble, explained
from models.settings import Settings, masked_url
from models.sql_probe import Looked
from models.vault import Vault
from models.waker import Waker

HERE = "here"

_SQL = ("sql", "schema", "sql_clock")
_REDIS = ("redis", "redis_clock", "redis_memory", "workers")
_BUSY_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Ground:
    """
    What mailboxes can be looked at with.

    Attributes:
        context: None where SQL or the keys are not to be had.
    """

    chain: Chain
    context: Context | None


@asynccontextmanager
async def surveyed() -> AsyncIterator[Ground]:
    """
    Look at all of it; what was opened is closed at the end.

    Nothing is made or migrated on the way: no key, no directory, no table.
    """
    chain = Chain(HERE)
    settings = _settings(chain)
    if settings is None:
        chain.skip(("data_dir", "keys", *_SQL, *_REDIS, "warnings"), because="settings")
        yield Ground(chain, None)
        return
    settings, vault = _keys(chain, settings, placed=_data_dir(chain, settings))
    engine = _sql(chain, settings)
    try:
        await _redis(chain, settings)
        _warnings(chain, settings, engine)
        if vault is None or engine is None:
            yield Ground(chain, None)
            return
        waker = None
        if settings.redis_url:
            waker = Waker(settings.redis_url, RedisKeys(settings.redis_prefix))
        try:
            yield Ground(chain, Context(settings, engine, vault, waker))
        finally:
            if waker is not None:
                waker.close()
    finally:
        if engine is not None:
            engine.dispose()


def _settings(chain: Chain) -> Settings | None:
    try:
        settings = Settings.load()
    except ConfigurationError as error:
        chain.add(
            "settings",
            failed(
                str(error),
                "Nothing of alertpost starts with these settings.",
                "correct the variable in the environment or in .env",
            ),
        )
        return None
    sql = masked_url(settings.database_url) or "SQLite in the data directory"
    redis = masked_url(settings.redis_url) or "embedded"
    proxy = Proxies.of(settings.https_proxy).proxy
    by_way = "" if proxy is None else f"; sign-in through the proxy {proxy}"
    chain.add("settings", ok(f"SQL: {sql}; Redis: {redis}, prefix {settings.redis_prefix}{by_way}"))
    return settings


def _data_dir(chain: Chain, settings: Settings) -> bool:
    path = settings.data_dir.absolute()
    if settings.database_url and settings.redis_url and settings.secret_keys:
        return chain.add("data_dir", ok("not used: SQL, Redis and the keys are given"))
    if not path.exists():
        return chain.add(
            "data_dir",
            failed(
                f"{path} does not exist",
                "Nothing was set up in this place: another working directory, or another "
                "ALERTPOST_DATA_DIR, than the one that workers use?",
                "`alertpost up` makes it; else set ALERTPOST_DATA_DIR",
            ),
        )
    try:
        DataDir.prepare(path)
    except ConfigurationError as error:
        return chain.add(
            "data_dir",
            failed(str(error), "Key, database and Redis are kept there.", "as the text says"),
        )
    return chain.add("data_dir", ok(str(path)))


def _keys(chain: Chain, settings: Settings, *, placed: bool) -> tuple[Settings, Vault | None]:
    """Open the vault; settings come back with what the data directory knows."""
    key_file = settings.data_dir.absolute() / "secret.key"
    if not settings.secret_keys and not placed:
        chain.skip(["keys"], because="data_dir")
        return settings, None
    try:
        if not settings.secret_keys and not key_file.exists():
            # It would be made now; a doctor changes nothing.
            raise ConfigurationError(f"{key_file} is missing")
        if placed:
            settings = effective_settings()
        vault = Vault([key.get_secret_value() for key in settings.secret_keys])
    except AlertpostError as error:
        chain.add(
            "keys",
            failed(
                str(error),
                "Without its key nothing opens that is stored: secrets, consents, alerts.",
                "restore the key from its backup, or set ALERTPOST_SECRET_KEYS; on a new "
                "installation `alertpost up` makes one",
            ),
        )
        return settings, None
    chain.add("keys", ok(counted(len(settings.secret_keys), "key", "keys")))
    return settings, vault


def _sql(chain: Chain, settings: Settings) -> Engine | None:
    """Give an engine whose tables are current; None where there is none."""
    where = masked_url(settings.database_url) or settings.sqlalchemy_url.partition("///")[2]
    engine = None
    try:
        engine = create_engine_from(settings.sqlalchemy_url, busy_seconds=_BUSY_SECONDS)
        file = Path(engine.url.database or "")
        if engine.dialect.name == "sqlite" and not file.exists():
            # To look into a file that is not there would make it.
            chain.add("sql", meaning.sql_missing(str(file)))
            chain.skip(_SQL[1:], because="sql")
            engine.dispose()
            return None
        reading = _sql_clock(engine)
        try:
            current, newer = schema.is_current(engine), None
        except NewerSchema as error:
            current, newer = False, str(error)
    except AlertpostError as error:
        chain.add("sql", meaning.sql_away(where, str(error)))
        chain.skip(_SQL[1:], because="sql")
        if engine is not None:
            engine.dispose()
        return None
    # Where the tables are not ours there is nothing to be written to.
    looked = sql_probe.look_as_permitted(settings) if current else Looked()
    if looked.trouble is not None:
        chain.add("sql", meaning.sql_refuses(where, looked.trouble))
        chain.skip(_SQL[1:], because="sql")
        engine.dispose()
        return None
    chain.add("sql", meaning.sql_here(where, in_clear(settings.database_url), looked.caveat))
    chain.add("schema", meaning.schema(current=current, newer=newer))
    chain.add("sql_clock", meaning.clock("SQL", reading))
    if not current:
        engine.dispose()
        return None
    return engine


def _warnings(chain: Chain, settings: Settings, engine: Engine | None) -> None:
    if engine is None:
        chain.skip(["warnings"], because=chain.missing("sql", "schema") or "sql")
        return
    try:
        with read(engine) as conn:
            chain.add("warnings", meaning.warnings(operator_mailbox(conn, settings)))
    except AlertpostError as error:
        chain.add("warnings", meaning.warnings_unknown(str(error)))


def _sql_clock(engine: Engine) -> meaning.Reading:
    with read(engine) as conn:
        # The connection is there by now, so that only the question takes time.
        asked = datetime.now(UTC)
        shown = now(conn)
        heard = datetime.now(UTC)
    doubt = (heard - asked).total_seconds() / 2
    return meaning.Reading((shown - asked).total_seconds() - doubt, doubt + 0.001)


async def _redis(chain: Chain, settings: Settings) -> None:
    if not settings.redis_url:
        chain.add("redis", meaning.redis_unknown())
        chain.skip(_REDIS[1:], because="redis")
        return
    url = masked_url(settings.redis_url)
    trouble = await asyncio.to_thread(_redis_trouble, settings)
    if trouble is not None and not trouble.answers:
        chain.add("redis", meaning.redis_away(url, trouble))
        chain.skip(_REDIS[1:], because="redis")
        return
    if await asyncio.to_thread(runs_as_cluster, settings):
        chain.add("redis", meaning.redis_cluster(url))
        chain.skip(_REDIS[1:], because="redis")
        return
    client = impatient_client(settings.redis_url)
    try:
        info = await client.info()
        asked = time.time()
        seconds, microseconds = await client.time()
        heard = time.time()
        shown = seconds + microseconds / 1_000_000
        # Each worker stands there with the moment, by Redis' clock, until which it is heard of.
        alive = await client.zcount(
            RedisKeys(settings.redis_prefix).workers, f"({shown * 1000:.0f}", "+inf"
        )
    except RedisError as error:
        trouble = trouble or explained(error)
        judged = meaning.redis_refuses if trouble.answers else meaning.redis_away
        chain.add("redis", judged(url, trouble))
        chain.skip(_REDIS[1:], because="redis")
        return
    finally:
        await client.aclose()
    doubt = (heard - asked) / 2
    if trouble is None:
        chain.add("redis", meaning.redis_here(url, info, open_way=exposure(settings.redis_url)))
    else:
        chain.add("redis", meaning.redis_refuses(url, trouble))
    chain.add(
        "redis_clock", meaning.clock("Redis", meaning.Reading(shown - asked - doubt, doubt + 0.001))
    )
    chain.add("redis_memory", meaning.redis_memory(info))
    if trouble is None:
        chain.add("workers", meaning.workers(int(alive)))
    else:
        # Nobody could say that it lives.
        chain.skip(["workers"], because="redis")


def _redis_trouble(settings: Settings) -> RedisTrouble | None:
    client = redis_probe.client_of(settings.redis_url, seconds=REDIS_SECONDS)
    try:
        return redis_probe.look(client, RedisKeys(settings.redis_prefix)).trouble
    finally:
        client.close()
