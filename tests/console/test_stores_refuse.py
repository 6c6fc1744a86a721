"""Stores that answer what is read and refuse what is written, in each place that says how it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import redis
from sqlalchemy import text
from sqlalchemy.engine import make_url

from models import directory, sql_probe
from models.database import create_engine_from, write
from models.errors import StoreUnavailable
from models.settings import Settings
from tests.console.cli_world import CliWorld
from tests.models.directory_parts import add_contoso, connect
from workers import health

BREAKS: dict[str, tuple[str, ...]] = {
    "memory is full": ("CONFIG", "SET", "maxmemory", "1"),
    "read-only replica": ("REPLICAOF", "127.0.0.1", "1"),
    "too few replicas": ("CONFIG", "SET", "min-replicas-to-write", "1"),
    "ACL": ("ACL", "SETUSER", "default", "on", "nopass", "~*", "+@all", "-@write"),
}


@pytest.fixture
def refusing(
    bare: CliWorld, own_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], CliWorld]:
    """Gives the command line with a Redis that answers PING and refuses writes."""
    monkeypatch.setenv("ALERTPOST_REDIS_URL", own_redis.url)

    def broken(words: str) -> CliWorld:
        with redis.Redis.from_url(own_redis.url) as client:
            client.execute_command(*BREAKS[words])
            assert client.ping()
        return bare

    return broken


@pytest.fixture
def sending(bare: CliWorld) -> CliWorld:
    """A tenant whose mailbox can send."""
    with write(bare.engine) as conn:
        add_contoso(conn, slug="contoso", notify={"default": ["noc@contoso.example"]})
        directory.add_mailbox(conn, tenant_slug="contoso", address="alerts@contoso.example")
        connect(conn, "alerts@contoso.example")
    return bare


@pytest.mark.parametrize("words", BREAKS)
def test_status_tells_what_redis_refuses(refusing: Callable[[str], CliWorld], words: str) -> None:
    """Somebody is needed, also at rest, and nobody is said to be away or dead who is refused."""
    cli = refusing(words)

    said, found = cli.run("status"), cli.run("status", "--json")

    assert (said.code, found.code) == (7, 7)
    assert "Redis refuses" in said.out
    assert words in said.out
    assert "does not answer" not in said.out
    assert "no worker lives" not in said.out
    assert found.json["redis"] == {
        "answers": True, "writes": False, "reason": found.json["redis"]["reason"],
    }  # fmt: skip
    assert words in found.json["redis"]["reason"]
    assert found.json["workers"] is None
    assert [one["matter"] for one in found.json["needs_a_person"]] == ["redis"]


@pytest.mark.parametrize("words", BREAKS)
def test_doctor_tells_what_redis_refuses(refusing: Callable[[str], CliWorld], words: str) -> None:
    """The check of Redis fails, with what is refused and what mends it."""
    said = refusing(words).run("doctor", "--json")

    found = {check["check"]: check for check in said.json}
    assert said.code == 1
    assert found["redis"]["result"] == "failed"
    assert words in found["redis"]["seen"]
    assert found["redis"]["mend"]
    assert (found["workers"]["result"], found["workers"]["because"]) == ("skipped", "redis")


@pytest.mark.parametrize("words", BREAKS)
def test_health_tells_what_redis_refuses(refusing: Callable[[str], CliWorld], words: str) -> None:
    """A container whose worker can do nothing is not healthy."""
    refusing(words)

    with pytest.raises(StoreUnavailable, match=words):
        health.check(Settings.load())


@pytest.mark.parametrize("words", BREAKS)
def test_send_tells_what_redis_refuses(
    sending: CliWorld, own_redis: Any, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """Accepted is accepted; that nobody sends it now is told with the true reason."""
    monkeypatch.setenv("ALERTPOST_REDIS_URL", own_redis.url)
    with redis.Redis.from_url(own_redis.url) as client:
        client.execute_command(*BREAKS[words])

    said = sending.run(
        "send", "--tenant", "contoso", "--to", "ops@x.example", "--subject", "a", "--text", "b",
        "--wait", "0",
    )  # fmt: skip

    assert said.code == 5
    assert "Redis refuses" in said.err
    assert words in said.err
    assert "nothing is sent now" in said.err
    assert "no Redis answers" not in said.err


def test_a_policy_that_drops_keys_is_told(
    bare: CliWorld, own_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works, so a container stays healthy; but the limits do not hold, so a person is needed."""
    monkeypatch.setenv("ALERTPOST_REDIS_URL", own_redis.url)
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")

    said = bare.run("status")

    assert said.code == 7
    assert "allkeys-lru" in said.out
    line = health.check(Settings.load())
    assert line.startswith("healthy")
    assert "allkeys-lru" in line


# -- SQL -------------------------------------------------------------------------------------------


@contextmanager
def _locked(url: str) -> Iterator[None]:
    path = make_url(url).database or ""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def _read_only(url: str) -> Iterator[None]:
    """Let a PostgreSQL database take nothing, as a standby does."""
    name = make_url(url).database
    engine = create_engine_from(url)
    try:
        with engine.connect() as conn:
            conn.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
            conn.commit()
        yield
        with write(engine) as conn:
            conn.execute(text("SET TRANSACTION READ WRITE"))
            conn.execute(text(f'ALTER DATABASE "{name}" RESET default_transaction_read_only'))
    finally:
        engine.dispose()


REFUSED = {"sqlite": (_locked, "locked"), "postgresql": (_read_only, "read-only")}


def test_sql_that_takes_nothing_is_told_everywhere(
    bare: CliWorld, database_kind: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it can be read, so each place has to write to find out."""
    monkeypatch.setattr(sql_probe, "BUSY_SECONDS", 0.3)
    refuse, words = REFUSED[database_kind]
    assert bare.run("status").code == 0

    bare.engine.dispose()
    with refuse(database_url):
        status, found = bare.run("status"), bare.run("status", "--json")
        doctor = bare.run("doctor", "--json")
        with pytest.raises(StoreUnavailable, match=words):
            health.check(Settings.load())

    assert (status.code, doctor.code) == (7, 1)
    assert "SQL takes nothing that is written" in status.out
    assert words in status.out
    assert found.json["sql"]["writes"] is False
    assert words in found.json["sql"]["reason"]
    checks = {check["check"]: check for check in doctor.json}
    assert checks["sql"]["result"] == "failed"
    assert words in checks["sql"]["seen"]
    assert bare.run("status").code == 0


def test_a_look_changes_nothing(bare: CliWorld) -> None:
    """What is written to find out leaves everything as it was."""
    settings = Settings.load()

    assert sql_probe.look(settings) is None
    assert sql_probe.look(settings) is None
    assert bare.run("db", "check").code == 0
