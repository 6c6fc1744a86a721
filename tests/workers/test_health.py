from __future__ import annotations

import pytest
from pydantic import SecretStr

from models.errors import ConfigurationError, StoreUnavailable
from models.settings import Settings
from models.vault import Vault
from workers import health


def settings(**changes: object) -> Settings:
    given: dict[str, object] = {"secret_keys": (SecretStr(Vault.new_key()),)}
    return Settings.load(**(given | changes))


def test_all_is_well(database_url: str, redis_url: str) -> None:
    """With a current schema and Redis there, the answer is one line."""
    line = health.check(settings(database_url=database_url, redis_url=redis_url))

    assert line.startswith("healthy")
    assert "\n" not in line


def test_schema_is_missing(empty_url: str, redis_url: str) -> None:
    """A database without tables is not healthy, and the line says what to run."""
    with pytest.raises(ConfigurationError, match="alertpost db upgrade"):
        health.check(settings(database_url=empty_url, redis_url=redis_url))


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "unix:///nowhere/redis.sock"])
def test_redis_is_away(sqlite_url: str, url: str) -> None:
    """Without Redis a worker cannot work."""
    with pytest.raises(StoreUnavailable, match="Redis"):
        health.check(settings(database_url=sqlite_url, redis_url=url))


def test_redis_is_not_set(sqlite_url: str) -> None:
    """A worker on its own needs an address of Redis."""
    with pytest.raises(ConfigurationError, match="ALERTPOST_REDIS_URL"):
        health.check(settings(database_url=sqlite_url))


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> pytest.MonkeyPatch:
    monkeypatch.setenv("ALERTPOST_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("ALERTPOST_SECRET_KEYS", Vault.new_key())
    return monkeypatch


def test_exit_code_well(
    environment: pytest.MonkeyPatch, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All well is code 0 and a line on standard output."""
    environment.setenv("ALERTPOST_REDIS_URL", redis_url)

    assert health.main() == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_exit_code_sick(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anything else is code 1 and a line on standard error that tells no password."""
    environment.setenv("ALERTPOST_REDIS_URL", "redis://alertpost:hushhush@127.0.0.1:1/0")

    assert health.main() == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("unhealthy: Redis")
    assert said.err.count("\n") == 1
    assert "hushhush" not in said.err
