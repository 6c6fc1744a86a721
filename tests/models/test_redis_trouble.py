"""What Redis refuses is told as a refusal, by any server's words for it; what is away as absence."""

from __future__ import annotations

import pytest
import redis

from models.redis_trouble import drops_keys, explained

REFUSALS = [
    pytest.param(redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "memory is full", id="oom"),
    pytest.param(redis.ResponseError("Error running script (call to f_1): @user_script:5: -OOM command not allowed when used memory > 'maxmemory'."), "memory is full", id="oom-in-a-script-of-redis-6"),
    pytest.param(redis.ReadOnlyError("You can't write against a read only replica."), "read-only replica", id="readonly"),
    pytest.param(redis.ResponseError("Error running script: @user_script:2: -READONLY You can't write against a read only replica."), "read-only replica", id="readonly-in-a-script"),
    pytest.param(redis.ResponseError("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk."), "cannot save to its disk", id="misconf"),
    pytest.param(redis.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), "cannot save to its disk", id="misconf-aof"),
    pytest.param(redis.exceptions.NoPermissionError("this user has no permissions to run the 'set' command"), "ACL", id="noperm"),
    pytest.param(redis.ResponseError("ACL failure in script: User reader has no permissions to run the 'set' command"), "ACL", id="noperm-in-a-script"),
    pytest.param(redis.BusyLoadingError("Redis is loading the dataset in memory"), "reading its data", id="loading"),
    pytest.param(redis.ResponseError("NOREPLICAS Not enough good replicas to write."), "too few replicas", id="noreplicas"),
    pytest.param(redis.ResponseError("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."), "lost its primary", id="masterdown"),
    pytest.param(redis.AuthenticationError("invalid username-password pair or user is disabled."), "password is wrong", id="wrongpass"),
    pytest.param(redis.AuthenticationError("Authentication required."), "password is wrong", id="noauth"),
    pytest.param(redis.ConnectionError("max number of clients reached"), "maxclients", id="maxclients"),
    pytest.param(redis.ResponseError("MOVED 3999 127.0.0.1:6381"), "Redis Cluster", id="moved"),
    pytest.param(redis.ResponseError("CROSSSLOT Keys in request don't hash to the same slot"), "Redis Cluster", id="crossslot"),
    pytest.param(redis.ResponseError("BUSY Redis is busy running a script."), "busy with a script", id="busy"),
    pytest.param(redis.ResponseError("unknown command 'BLMOVE', with args beginning with:"), "lacks a command", id="unknown-command"),
    pytest.param(redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), "holds something else", id="wrongtype"),
    pytest.param(redis.ResponseError("DB index is out of range"), "no database of that number", id="db-index"),
    pytest.param(redis.ResponseError("SOMENEW thing that nobody has seen"), "refuses what is asked", id="unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "words"), REFUSALS)
def test_a_refusal_is_not_told_as_absence(error: Exception, words: str) -> None:
    """It answers, says what it refuses in a sentence, quotes the server, and names a remedy."""
    trouble = explained(error)

    assert trouble.answers
    assert trouble.text.startswith("Redis refuses ")
    assert words in trouble.text
    assert str(error)[:60] in trouble.text
    assert trouble.next_step


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("Error 111 connecting to 127.0.0.1:1. Connection refused."),
        redis.TimeoutError("Timeout reading from socket"),
        redis.ConnectionError("Connection closed by server."),
        redis.InvalidResponse("Protocol Error: b'HTTP/1.1 400 Bad Request'"),
        OSError(101, "Network is unreachable"),
    ],
)
def test_what_does_not_answer_is_away(error: Exception) -> None:
    """A cut line, silence, another server: there is no Redis."""
    trouble = explained(error)

    assert not trouble.answers
    assert trouble.text.startswith("Redis does not answer: ")
    assert trouble.next_step


@pytest.mark.parametrize(
    ("policy", "limit", "drops"),
    [
        ("noeviction", 1000, False),
        ("allkeys-lru", 1000, True),
        ("volatile-ttl", 1000, True),
        ("allkeys-lru", 0, False),
        ("", 1000, False),
    ],
)
def test_which_policy_drops_keys(policy: str, limit: int, drops: bool) -> None:
    """Keys go only where a limit can be reached and the policy makes room."""
    assert drops_keys(policy, limit) is drops
