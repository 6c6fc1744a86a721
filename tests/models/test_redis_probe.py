"""Real servers that answer PING and do not do what work needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from models import redis_probe
from models.redis_keys import RedisKeys

KEYS = RedisKeys("mine")

BREAKS: dict[str, tuple[tuple[str, ...], ...]] = {
    "memory is full": (("CONFIG", "SET", "maxmemory", "1"),),
    "read-only replica": (("REPLICAOF", "127.0.0.1", "1"),),
    "lost its primary": (
        ("CONFIG", "SET", "replica-serve-stale-data", "no"),
        ("REPLICAOF", "127.0.0.1", "1"),
    ),
    "too few replicas": (("CONFIG", "SET", "min-replicas-to-write", "1"),),
    "ACL": (("ACL", "SETUSER", "default", "on", "nopass", "~*", "+@all", "-@write"),),
    "did not take what is written": (("CLIENT", "PAUSE", "600000", "WRITE"),),
}


@pytest.mark.parametrize("words", BREAKS)
def test_a_refusal_is_found_by_writing(own_redis: Any, words: str) -> None:
    """PING is answered; a write is not taken, and the sentence says why."""
    with redis_probe.client_of(own_redis.url, seconds=0.5) as client:
        assert redis_probe.look(client, KEYS).trouble is None
        for command in BREAKS[words]:
            client.execute_command(*command)

        trouble = redis_probe.look(client, KEYS).trouble

    assert trouble is not None
    assert trouble.answers
    assert words in trouble.text


@pytest.mark.parametrize(
    "rights",
    [
        ("~mine:*", "+@all", "-zadd"),
        ("~mine:*", "+@all", "-blmove"),
        ("~mine:*", "+@all", "-eval"),
        ("~other:*", "+@all"),
        ("~mine:*", "+@read", "+ping"),
    ],
)
def test_each_right_that_work_needs_is_tried(own_redis: Any, rights: tuple[str, ...]) -> None:
    """A user who lacks one command, or the keys, is told by the look and not by the first mail."""
    with redis.Redis.from_url(own_redis.url) as admin:
        admin.execute_command("ACL", "SETUSER", "worker", "on", ">pw", *rights)
        url = own_redis.url.replace("unix://", "unix://worker:pw@")

        with redis_probe.client_of(url) as client:
            trouble = redis_probe.look(client, KEYS).trouble

    assert trouble is not None
    assert trouble.answers
    assert "ACL" in trouble.text


def test_the_rights_that_are_advised_are_enough(own_redis: Any) -> None:
    """What the remedy names lets the look pass."""
    with redis.Redis.from_url(own_redis.url) as admin:
        admin.execute_command(
            "ACL", "SETUSER", "worker", "on", ">pw", "~mine:*", "+@all", "-@dangerous", "+info"
        )
        url = own_redis.url.replace("unix://", "unix://worker:pw@")

        with redis_probe.client_of(url) as client:
            state = redis_probe.look(client, KEYS)

    assert state == redis_probe.RedisState()


def test_a_look_leaves_nothing_behind(own_redis: Any) -> None:
    """Its keys stand under the prefix and are gone."""
    with redis_probe.client_of(own_redis.url) as client:
        redis_probe.look(client, KEYS)

        assert client.keys() == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "allkeys-random"])
def test_a_policy_that_drops_keys_is_a_risk(own_redis: Any, policy: str) -> None:
    """It works now, and is told all the same."""
    with redis_probe.client_of(own_redis.url) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", policy)

        state = redis_probe.look(client, KEYS)

    assert state.trouble is None
    assert state.risk is not None
    assert policy in state.risk.text


def test_a_wrong_password_is_a_refusal(redis_server_with: Callable[..., Any]) -> None:
    """Who is not let in has met a server."""
    server = redis_server_with(requirepass="right")

    with redis_probe.client_of(f"unix://:wrong@{server.socket}") as client:
        trouble = redis_probe.look(client, KEYS).trouble

    assert trouble is not None
    assert trouble.answers


def test_a_server_that_is_gone_is_away(own_redis: Any) -> None:
    """Nobody answers."""
    own_redis.kill()

    with redis_probe.client_of(own_redis.url) as client:
        state = redis_probe.look(client, KEYS)

    assert not state.answers
