"""What an error of Redis means to people: it is away, or it answers and refuses. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import redis

from models.redaction import redact_text


@dataclass(frozen=True, slots=True)
class RedisTrouble:
    """
    Why Redis is of no use now.

    Attributes:
        answers: It answers, and refuses what work needs of it.
        text: What is wrong, a sentence without its full stop that names Redis.
        next_step: What to do about it.
    """

    answers: bool
    text: str
    next_step: str


@dataclass(frozen=True, slots=True)
class _Refusal:
    words: re.Pattern[str]
    kinds: tuple[type[redis.RedisError], ...]
    says: str
    next_step: str


def _refusal(words: str, says: str, next_step: str, *kinds: type[redis.RedisError]) -> _Refusal:
    return _Refusal(re.compile(words, re.IGNORECASE), kinds, says, next_step)


# In this order: a script's error carries the words of what it called. The client cuts the code off
# some errors (OOM, READONLY, NOPERM, LOADING) and keeps it as their type; a script's error of an
# older server has it in the middle.
# Source: src/server.c and src/acl.c of Redis and Valkey; redis-py, _parsers/base.py.
_REFUSALS: Final = (
    _refusal(
        r"\bOOM\b|used memory > 'maxmemory'",
        "refuses what is written: its memory is full",
        "give it more memory (maxmemory), or free what else is kept there",
        redis.exceptions.OutOfMemoryError,
    ),
    _refusal(
        r"\bMASTERDOWN\b|link with (MASTER|PRIMARY) is down",
        "refuses what is asked: it is a replica that has lost its primary",
        "let ALERTPOST_REDIS_URL name the primary, or promote this one with `REPLICAOF NO ONE`",
    ),
    _refusal(
        r"\bREADONLY\b|read only replica|read only slave",
        "refuses what is written: it is a read-only replica",
        "let ALERTPOST_REDIS_URL name the primary, or promote this one with `REPLICAOF NO ONE`",
        redis.ReadOnlyError,
    ),
    _refusal(
        r"\bMISCONF\b",
        "refuses what is written: it cannot save to its disk",
        "make room on the disk of Redis, or mend what its log says",
    ),
    _refusal(
        r"\bNOREPLICAS\b",
        "refuses what is written: too few replicas follow it (min-replicas-to-write)",
        "start its replicas again, or lower min-replicas-to-write",
    ),
    _refusal(
        r"\bNOPERM\b|no permissions|ACL failure",
        "refuses what is asked: its ACL does not let our user do what work needs",
        "let that user do what docs/operating.md lists for it (ACL SETUSER)",
        redis.exceptions.NoPermissionError,
    ),
    _refusal(
        r"\bLOADING\b|loading the dataset",
        "refuses what is asked: it is still reading its data into memory",
        "wait until it has read all; nothing else is to be done",
        redis.BusyLoadingError,
    ),
    _refusal(
        r"\bNOAUTH\b|\bWRONGPASS\b|invalid username-password|invalid password"
        r"|AUTH .*without any password|Authentication required",
        "refuses to let us in: the user or the password is wrong",
        "correct the user and the password in ALERTPOST_REDIS_URL",
        redis.AuthenticationError,
    ),
    _refusal(
        r"\bDENIED\b|protected mode",
        "refuses to let us in: it is in protected mode",
        "set a password there, and give it in ALERTPOST_REDIS_URL",
    ),
    _refusal(
        r"max number of clients",
        "refuses the connection: it has as many clients as it takes (maxclients)",
        "raise its maxclients, or close what else connects to it",
        redis.exceptions.MaxConnectionsError,
    ),
    _refusal(
        r"\bCLUSTERDOWN\b|\bMOVED\b|\bASK \d|\bCROSSSLOT\b|\bTRYAGAIN\b|keys in request don't hash"
        r"|in the same slot|cluster support|cluster mode",
        "refuses what is asked: it is a Redis Cluster, which alertpost does not use",
        "let ALERTPOST_REDIS_URL name a server without cluster mode",
        redis.exceptions.ClusterError,
    ),
    _refusal(
        r"DB index is out of range|invalid DB index",
        "refuses what is asked: it has no database of that number",
        "correct the number at the end of ALERTPOST_REDIS_URL",
    ),
    _refusal(
        r"\bBUSY\b|is busy running a script",
        "refuses what is asked: it is busy with a script",
        "end that script with `SCRIPT KILL`, or wait for it",
    ),
    _refusal(
        r"unknown command|unknown subcommand|not allowed from script",
        "refuses what is asked: it lacks a command that work needs",
        "use Redis 6.2 or newer, or Valkey, with no command renamed or switched off",
    ),
    _refusal(
        r"\bWRONGTYPE\b|wrong kind of value",
        "refuses what is asked: a key of alertpost's holds something else",
        "give alertpost a server, a database number or an ALERTPOST_REDIS_PREFIX of its own",
    ),
)  # fmt: skip

_ANY = ("refuses what is asked", "see the log of Redis")

_FOREIGN: Final = re.compile(r"Protocol error|reply type byte", re.IGNORECASE)

_DROPS: Final = re.compile(r"(allkeys|volatile)-\w+")
"""Names of ``maxmemory-policy`` under which a full server throws keys away."""


def explained(error: BaseException) -> RedisTrouble:
    """
    Tell what an error means.

    Args:
        error: Of redis-py; of a fault below it, such as a cut connection, too.
    """
    told = _told(error)
    for one in _REFUSALS:
        if isinstance(error, one.kinds) or one.words.search(told):
            return RedisTrouble(True, f"Redis {one.says} ({told})", one.next_step)
    if isinstance(error, redis.InvalidResponse) or _FOREIGN.search(told):
        return RedisTrouble(
            False,
            f"Redis does not answer: something else does at ALERTPOST_REDIS_URL ({told})",
            "correct host and port in ALERTPOST_REDIS_URL; rediss:// is for a server with TLS",
        )
    if isinstance(error, redis.ResponseError):
        says, next_step = _ANY
        return RedisTrouble(True, f"Redis {says} ({told})", next_step)
    return RedisTrouble(
        False,
        f"Redis does not answer: {told}",
        "start Redis, which `alertpost up` does for the embedded one, or correct "
        "ALERTPOST_REDIS_URL",
    )


def silent_on_writes(seconds: float) -> RedisTrouble:
    """Say that it answers what is read, and keeps what is written waiting."""
    return RedisTrouble(
        True,
        f"Redis answers, but did not take what is written within {seconds:g} s",
        "see whether its writes are paused (`CLIENT UNPAUSE` ends that) or it is overloaded",
    )


def drops_keys(policy: str, limit: int) -> bool:
    """
    Tell whether a server may throw keys away that nobody deleted.

    Args:
        policy: Its ``maxmemory-policy``.
        limit: Its ``maxmemory``; 0: none, so that it is never full by its own account.
    """
    return limit > 0 and _DROPS.fullmatch(policy) is not None


def dropping(policy: str) -> RedisTrouble:
    """Say that what limits rest on may vanish."""
    return RedisTrouble(
        True,
        f"Redis may drop what it is told to keep: its maxmemory-policy is {policy}, and permits "
        "that are lost let more mails go than Exchange allows",
        "set `maxmemory-policy noeviction` there, as in deploy/valkey.conf",
    )


def _told(error: BaseException) -> str:
    return redact_text(" ".join(str(error).split()))[:300] or type(error).__name__
