"""
What a command works with: settings, database, vault, and the producer.

Embedded by default: where no database, Redis or key is set, they are those of the data directory.
Only what a command uses is loaded: a listing needs neither the vault nor the way to Redis.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import SecretStr
from sqlalchemy import Engine

from console import command_logs
from console.data_dir import DataDir, known_url
from console.installation import check_installed, key_is_elsewhere, no_key
from models import schema
from models.database import create_engine_from
from models.errors import ConfigurationError
from models.redis_keys import RedisKeys
from models.secret_routes import AllowedHosts
from models.settings import Settings

if TYPE_CHECKING:
    from models.vault import Vault
    from models.waker import Waker
    from producers.enqueue import Producer


@dataclass(frozen=True)
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
        from producers.enqueue import Producer  # noqa: PLC0415 - see above

        return Producer(self.engine, self.vault, self.waker)


class _Opened(Context):
    """Makes the vault and the waker when they are asked for."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        # The class is frozen, as its base is.
        self.__dict__.update(settings=settings, engine=engine)

    @cached_property
    def vault(self) -> Vault:
        from models.vault import Vault  # noqa: PLC0415 - see above

        if not self.settings.secret_keys:
            raise no_key(self.settings)
        return Vault([key.get_secret_value() for key in self.settings.secret_keys])

    @cached_property
    def waker(self) -> Waker | None:
        if not self.settings.redis_url:
            return None
        from models.waker import Waker  # noqa: PLC0415 - see above

        # The waker logs; the loggers may have come with it.
        command_logs.set_up_again()
        return Waker(self.settings.redis_url, RedisKeys(self.settings.redis_prefix))

    def close(self) -> None:
        """Close what was opened."""
        waker = self.__dict__.get("waker")
        if waker is not None:
            waker.close()
        self.engine.dispose()


def effective_settings(*, making: bool = False) -> Settings:
    """
    Read the settings and fill in what the data directory knows.

    Args:
        making: Make the data directory and its key where they are missing. Else that is an error;
            only beside a database that was given the key may be missing, as a listing opens
            nothing that is sealed.

    Raises:
        ConfigurationError: A setting is wrong, the data directory cannot be used, or there is no
            installation in it.
    """
    settings = Settings.load()
    if not making:
        check_installed(settings)
    given: dict[str, object] = {}
    if not settings.secret_keys and (making or not key_is_elsewhere(settings)):
        keys = DataDir.prepare(settings.data_dir).secret_keys()
        given["secret_keys"] = tuple(SecretStr(key) for key in keys)
    if not settings.redis_url:
        url = _known_redis(settings)
        if url is not None:
            given["redis_url"] = url
    return settings.model_copy(update=given) if given else settings


def _known_redis(settings: Settings) -> str | None:
    if not os.path.lexists(settings.data_dir):
        # Nothing of ours is kept here: database and keys are given.
        return None
    return known_url(DataDir.prepare(settings.data_dir).redis)


@contextmanager
def opened(*, making: bool = False) -> Iterator[Context]:
    """
    Open what a command needs, and close it afterwards.

    A SQLite file of our own is migrated on the way; any other database is left to
    ``alertpost db upgrade``.

    Args:
        making: Make an installation where there is none; only what says so in its help does.

    Raises:
        ConfigurationError: A setting is wrong, there is no installation, or the schema is not
            current.
    """
    settings = effective_settings(making=making)
    context = _Opened(settings, create_engine_from(settings.sqlalchemy_url))
    # The way to PostgreSQL logs.
    command_logs.set_up_again()
    try:
        if not schema.is_current(context.engine):
            if settings.database_url:
                raise ConfigurationError(
                    "the database's schema is not that of this version: run `alertpost db upgrade`"
                )
            schema.upgrade(context.engine)
        yield context
    finally:
        context.close()
