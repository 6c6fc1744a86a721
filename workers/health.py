"""
Says whether a worker could work here: ``python -m workers.health``, for a container's health check.

It is a process of its own that looks at what a worker needs, with the worker's own settings: SQL
and Redis take what is written, the schema is that of this version. Whether the worker itself lives
is known by its process.
"""

from __future__ import annotations

import sys

from redis.exceptions import RedisError

from models import redis_probe, schema, sql_probe
from models.database import create_engine_from
from models.errors import AlertpostError, ConfigurationError, StoreUnavailable
from models.presence import living
from models.redaction import redact_text
from models.redis_keys import RedisKeys
from models.settings import Settings
from models.unrecorded import unrecorded
from models.vault import Vault

ANSWER_SECONDS = 3.0
"""How long Redis may take; a worker itself gives up on it after as long."""


def check(settings: Settings) -> str:
    """
    Look at SQL, its schema, the keys and Redis.

    Args:
        settings: As the worker has them.

    Returns:
        One line that says what is well.

    Raises:
        AlertpostError: What is not well, in one line.
    """
    if not settings.redis_url:
        raise ConfigurationError("no ALERTPOST_REDIS_URL is set")
    Vault([key.get_secret_value() for key in settings.secret_keys])
    _ask_sql(settings)
    risk = _ask_redis(settings)
    return f"healthy: SQL and Redis take what is written, the schema is current{risk}"


def _ask_sql(settings: Settings) -> None:
    engine = create_engine_from(settings.sqlalchemy_url, busy_seconds=ANSWER_SECONDS)
    try:
        if not schema.is_current(engine):
            raise ConfigurationError(
                "the database's schema is not that of this version: run `alertpost db upgrade`"
            )
    finally:
        engine.dispose()
    trouble = sql_probe.look(settings)
    if trouble is not None:
        raise StoreUnavailable(f"{trouble.text}; {trouble.next_step}")


def _ask_redis(settings: Settings) -> str:
    """
    Write and delete; tell what is not as it should be although that works.

    Outcomes that workers cannot record are among it: a restart would help none of them.
    """
    keys = RedisKeys(settings.redis_prefix)
    # Without the client's own retries: whoever runs health checks repeats them.
    client = redis_probe.client_of(settings.redis_url, seconds=ANSWER_SECONDS)
    try:
        state = redis_probe.look(client, keys)
        if state.trouble is not None:
            raise StoreUnavailable(f"{state.trouble.text}; {state.trouble.next_step}")
        workers = {worker.name for worker in living(client, keys)}
        waiting = sum(one.outcomes for one in unrecorded(client, keys, workers=workers))
    except RedisError as error:
        raise StoreUnavailable(f"Redis: {error}") from error
    finally:
        client.close()
    told = f"; but {state.risk.text}; {state.risk.next_step}" if state.risk is not None else ""
    return f"{told}; but {waiting} outcomes of mails cannot be recorded" if waiting else told


def main() -> int:
    """Print one line; exit code 0 where all is well, else 1."""
    try:
        line, code = check(Settings.load()), 0
    except AlertpostError as error:
        line, code = f"unhealthy: {redact_text(' '.join(str(error).split()))}", 1
    # Whatever the container's encoding is, a path in it must not end this with a trace.
    shown = line.encode("ascii", "backslashreplace").decode("ascii")
    print(shown, file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
