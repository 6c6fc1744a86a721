"""How Redis is reached, and that a cluster is told from a single server."""

from __future__ import annotations

import pytest
import redis

from models.errors import ConfigurationError
from models.redis_keys import RedisKeys
from models.redis_routes import CLUSTER, exposure, is_cluster, refuse_cluster
from models.settings import Settings


@pytest.mark.parametrize(
    "url",
    [
        "",
        "unix:///run/redis.sock",
        "redis://127.0.0.1:6379/0",
        "redis://127.3.2.1/0",
        "redis://[::1]:6379",
        "redis://localhost",
        "redis:///0",
        "rediss://:word@redis.example:6380/0",
        "rediss://user:word@10.0.0.5",
        "rediss://redis.example?password=word",
        "rediss://:word@redis.example?ssl_cert_reqs=required",
    ],
)
def test_closed_ways(url: str) -> None:
    """What stays on the machine, or is encrypted, verified and guarded, is no news."""
    assert exposure(url) is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://redis.example:6379/0", ["redis.example", "without TLS and without a password"]),
        ("redis://:word@10.0.0.5", ["10.0.0.5", "without TLS:"]),
        ("redis://:@10.0.0.5", ["without a password"]),
        ("redis://redis/0", ["Redis at redis is"]),
        ("redis://[fd00::5]:6379", ["fd00::5"]),
        ("rediss://redis.example", ["reached without a password"]),
        ("rediss://:word@redis.example?ssl_cert_reqs=none", ["not verified"]),
        ("rediss://:word@redis.example?ssl_check_hostname=false", ["not verified"]),
        ("redis://localhost.example.com", ["without TLS"]),
    ],
)
def test_open_ways(url: str, words: list[str]) -> None:
    """What others on the network can read is said, and never the password."""
    found = exposure(url)

    assert found is not None
    assert not [word for word in words if word not in found.text]
    assert "word@" not in found.text + found.next_step
    assert "ALERTPOST_REDIS_URL" in found.next_step


def test_a_cluster_is_refused(redis_server_with) -> None:
    """A server in cluster mode stops the start with one sentence."""
    server = redis_server_with(**{"cluster-enabled": "yes"})
    settings = Settings(redis_url=server.url)

    with pytest.raises(ConfigurationError) as refused:
        refuse_cluster(settings)

    assert str(refused.value) == CLUSTER
    assert "\n" not in CLUSTER


def test_a_cluster_that_keeps_info_to_itself_is_known_by_what_it_refuses(
    redis_server_with,
) -> None:
    """Managed services hide INFO; keys of different slots in one command give them away."""
    server = redis_server_with(**{"cluster-enabled": "yes"})
    with redis.Redis.from_url(server.url) as client:
        client.acl_setuser(
            "shy", enabled=True, nopass=True, keys="*", categories=["+@all"], commands=["-info"]
        )
        client.execute_command("AUTH", "shy", "")
        with pytest.raises(redis.ResponseError):
            client.info()
        client.execute_command("AUTH", "shy", "")

        assert is_cluster(client, RedisKeys("alertpost"))


def test_a_single_server_and_one_that_is_away_are_not_refused(own_redis) -> None:
    """Nobody is called a cluster who is none, or who does not answer."""
    settings = Settings(redis_url=own_redis.url)
    refuse_cluster(settings)
    own_redis.kill()
    refuse_cluster(settings)
