"""
What a command works with: settings, database, vault, and the producer.

Embedded by default: where no database, Redis or key is set, they are those of the data directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import SecretStr
from sqlalchemy import Engine

from console.data_dir import DataDir
from console.embedded_redis import known_url
from models import schema
from models.database import create_engine_from
from models.errors import ConfigurationError
from models.redis_keys import RedisKeys
from models.secret_routes import AllowedHosts
from models.settings import Settings
from models.vault import Vault
from models.waker import Waker
from producers.enqueue import Producer


@dataclass(frozen=True, slots=True)
class Context:
    """
    Open resources of one command.

    Attributes:
        settings: With the data directory's key and Redis filled in.
        engine: The database; its schema is current.
        vault: Seals and opens what is encrypted at rest.
        waker: None where no Redis is known: then the sweep finds new work.
    """

    settings: Settings
    engine: Engine
    vault: Vault
    waker: Waker | None

    @property
    def hosts(self) -> AllowedHosts:
        """Where secrets and tokens may go."""
        return AllowedHosts(self.settings.allowed_hosts)

    @property
    def producer(self) -> Producer:
        """The Python door to the same database."""
        return Producer(self.engine, self.vault, self.waker)


def effective_settings() -> Settings:
    """
    Read the settings and fill in what the data directory knows.

    Raises:
        ConfigurationError: A setting is wrong, or the data directory cannot be used.
    """
    settings = Settings.load()
    given: dict[str, object] = {}
    if not settings.secret_keys:
        keys = DataDir.prepare(settings.data_dir).secret_keys()
        given["secret_keys"] = tuple(SecretStr(key) for key in keys)
    if not settings.redis_url:
        url = known_url(DataDir.prepare(settings.data_dir).redis)
        if url is not None:
            given["redis_url"] = url
    return settings.model_copy(update=given) if given else settings


@contextmanager
def opened() -> Iterator[Context]:
    """
    Open what a command needs, and close it afterwards.

    A SQLite file of our own is made or migrated on the way; any other database is left to
    ``alertpost db upgrade``.

    Raises:
        ConfigurationError: A setting is wrong, or the schema is not current.
    """
    settings = effective_settings()
    engine = create_engine_from(settings.sqlalchemy_url)
    try:
        if not schema.is_current(engine):
            if settings.database_url:
                raise ConfigurationError(
                    "the database's schema is not that of this version: run `alertpost db upgrade`"
                )
            schema.upgrade(engine)
        waker = None
        if settings.redis_url:
            waker = Waker(settings.redis_url, RedisKeys(settings.redis_prefix))
        vault = Vault([key.get_secret_value() for key in settings.secret_keys])
        try:
            yield Context(settings, engine, vault, waker)
        finally:
            if waker is not None:
                waker.close()
    finally:
        engine.dispose()
