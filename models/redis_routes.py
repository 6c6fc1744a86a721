"""
How Redis is reached: whether others on the way can read along, and whether it is one server.

Keys of one mailbox are written together, which a Redis Cluster, whose keys are spread over several
servers, refuses. That is found out at the start, not by the first mail.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from models.errors import ConfigurationError
from models.redis_keys import RedisKeys

if TYPE_CHECKING:
    from models.settings import Settings

CLUSTER: Final = (
    "Redis at ALERTPOST_REDIS_URL is a Redis Cluster, which alertpost does not use: name a server "
    "without cluster mode"
)

_ANSWER_SECONDS = 2.0
_UNVERIFIED = frozenset({"none", "optional", "cert_none", "cert_optional"})
_NO = frozenset({"0", "f", "false", "n", "no"})
_OF_A_CLUSTER = (
    redis.exceptions.AskError,  # MOVED is one, too
    redis.exceptions.ClusterCrossSlotError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
)


@dataclass(frozen=True, slots=True)
class Exposure:
    """
    What others on the way to Redis, or beside it, can do.

    Attributes:
        text: What is open, a sentence without its full stop.
        next_step: What to do about it.
    """

    text: str
    next_step: str


def exposure(url: str) -> Exposure | None:
    """
    Judge the way to a Redis that is not on this machine.

    Args:
        url: As in the settings; empty: the embedded server.

    Returns:
        None where TLS is verified and a password is given, on loopback, and for unix sockets.
    """
    parsed = urlsplit(url)
    host = parsed.hostname or "localhost"
    if parsed.scheme not in {"redis", "rediss"} or _is_here(host):
        return None
    query = parse_qs(parsed.query)
    how: list[str] = []
    steps: list[str] = []
    if parsed.scheme == "redis":
        how.append("without TLS")
        steps.append("TLS at the server, with rediss:// in ALERTPOST_REDIS_URL")
    elif (
        _last(query, "ssl_cert_reqs").lower() in _UNVERIFIED
        or _last(query, "ssl_check_hostname").lower() in _NO
    ):
        how.append("over TLS whose certificate is not verified")
        steps.append("ALERTPOST_REDIS_URL without ssl_cert_reqs and ssl_check_hostname")
    if not (parsed.password or _last(query, "password")):
        how.append("without a password")
        steps.append("a password at the server, given in ALERTPOST_REDIS_URL")
    if not how:
        return None
    return Exposure(
        f"Redis at {host} is reached {' and '.join(how)}: others on the network can read and "
        "change what workers keep there",
        f"use {' and '.join(steps)}",
    )


def is_cluster(client: redis.Redis, keys: RedisKeys) -> bool:
    """
    Say whether a server is one of a Redis Cluster, by what it says and by what it does.

    Args:
        client: With time-outs.
        keys: Under whose prefix nothing is written, only looked for.

    Raises:
        redis.RedisError: It is away, or refuses to say for another reason.
    """
    try:
        if str(client.info("cluster").get("cluster_enabled", "0")) == "1":
            return True
    except redis.ResponseError as error:
        # A service or an ACL may keep INFO to itself; a user who is not let in hears of it below.
        if _speaks_of_a_cluster(error):
            return True
    try:
        # These stand in different slots. Some services hide the cluster, and refuse this.
        client.exists(*(f"{keys.prefix}:cluster:{number}" for number in range(4)))
    except redis.ResponseError as error:
        if _speaks_of_a_cluster(error):
            return True
        raise
    return False


def runs_as_cluster(settings: Settings) -> bool:
    """
    Ask the server of the settings once, shortly.

    Returns:
        False also where it is away or does not let us in: that is for others to say.
    """
    client = redis.Redis.from_url(
        settings.redis_url,
        socket_timeout=_ANSWER_SECONDS,
        socket_connect_timeout=_ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        return is_cluster(client, RedisKeys(settings.redis_prefix))
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()


def refuse_cluster(settings: Settings) -> None:
    """
    Let nothing start that could not work.

    Raises:
        ConfigurationError: Redis is a Redis Cluster.
    """
    if runs_as_cluster(settings):
        raise ConfigurationError(CLUSTER)


def _speaks_of_a_cluster(error: redis.ResponseError) -> bool:
    if isinstance(error, redis.exceptions.MasterDownError):
        return False
    return isinstance(error, _OF_A_CLUSTER) or "same slot" in str(error)


def _is_here(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _last(query: dict[str, list[str]], name: str) -> str:
    return query.get(name, [""])[-1]
