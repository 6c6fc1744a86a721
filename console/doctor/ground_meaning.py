"""What is seen of settings, SQL, Redis and workers, and what it means. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from console.doctor.checks import Finding, failed, ok, warning
from console.output import counted
from models import sql_probe
from models.operator_mailbox import NOT_SET, OperatorMailbox
from models.presence import ALIVE_SECONDS
from models.redis_routes import Exposure
from models.redis_trouble import RedisTrouble
from models.sql_probe import SqlTrouble

CLOCK_WARNING_SECONDS = 30.0
"""Times are taken from one clock each, so hosts may differ; so much makes logs hard to read."""

OLDEST_REDIS = (6, 2)
"""BLMOVE, with which workers wait (docs/operating.md, "Embedded Valkey")."""

_START = "`alertpost up`, or `alertpost worker` beside a Redis of your own"


@dataclass(frozen=True, slots=True)
class Reading:
    """A clock that was read: by how many seconds it is ahead of ours, and how exact that is."""

    ahead_seconds: float
    doubt_seconds: float


def sql_away(where: str, reason: str) -> Finding:
    """SQL does not answer."""
    return failed(
        f"{where}: {reason}",
        "Producers refuse alerts and workers send nothing while SQL is away.",
        sql_probe.next_step(reason) or "start the database, or correct ALERTPOST_DATABASE_URL",
    )


def sql_refuses(where: str, trouble: SqlTrouble) -> Finding:
    """SQL answers, and takes nothing that is written."""
    return failed(
        f"{where}: {trouble.text}",
        "Producers refuse alerts and workers send nothing: what cannot be recorded is not sent.",
        trouble.next_step,
    )


def sql_missing(where: str) -> Finding:
    """The SQLite file is not there."""
    return failed(
        f"{where} does not exist",
        "Nothing was set up here yet, or ALERTPOST_DATA_DIR or ALERTPOST_DATABASE_URL names "
        "another place than the one that workers use.",
        "`alertpost db upgrade` makes it; `alertpost up` does so too",
    )


def sql_here(where: str, in_clear: Sequence[str], caveat: str | None = None) -> Finding:
    """SQL answers; judge the way to it."""
    found = f"{where} answers and {caveat or 'takes what is written'}"
    if not in_clear:
        return ok(found)
    return warning(
        f"{found}, but the line to {', '.join(in_clear)} may be unencrypted",
        "Without sslmode the driver takes an unencrypted line without a word where no other is "
        "offered, and whoever is on the way may read all that goes over it.",
        "add `?sslmode=verify-full&sslrootcert=/path/to/ca.pem` to ALERTPOST_DATABASE_URL, or "
        "`?sslmode=disable` where the network is your own",
    )


def schema(*, current: bool, newer: str | None = None) -> Finding:
    """Judge the tables."""
    if current:
        return ok("those of this version")
    if newer is not None:
        return failed(
            newer,
            "This program does not know these tables, so it neither reads nor writes them.",
            "install the version that made them, or a later one",
        )
    return failed(
        "missing, or those of another version",
        "Workers stop and producers refuse until the tables are those of this version.",
        "`alertpost db upgrade`",
    )


def clock(whose: str, reading: Reading) -> Finding:
    """Judge a clock by which claims or permits are dated."""
    seen = _offset(reading)
    if abs(reading.ahead_seconds) - reading.doubt_seconds < CLOCK_WARNING_SECONDS:
        return ok(seen)
    return warning(
        seen,
        f"Claims and permits go by that clock alone, so mails go out; but one of the two, that of "
        f"{whose} or this machine's, is wrong, and tokens and logs suffer.",
        "synchronise both with NTP (chronyd, systemd-timesyncd)",
    )


def redis_unknown() -> Finding:
    """No Redis was ever started or named."""
    return failed(
        "no ALERTPOST_REDIS_URL, and the embedded server was never started here",
        "Without Redis no worker sends; alerts are accepted and wait.",
        _START,
    )


def redis_away(url: str, trouble: RedisTrouble) -> Finding:
    """Redis does not answer."""
    return failed(
        f"{url}: {trouble.text}",
        "While Redis is away workers send nothing; alerts are accepted and wait.",
        trouble.next_step,
    )


def redis_refuses(url: str, trouble: RedisTrouble) -> Finding:
    """Redis answers, and does not do what work needs."""
    return failed(
        f"{url}: {trouble.text}",
        "While Redis refuses workers send nothing; alerts are accepted and wait.",
        trouble.next_step,
    )


def redis_cluster(url: str) -> Finding:
    """Keys of one mailbox, which are written together, may be on several servers."""
    return failed(
        f"{url}: a Redis Cluster",
        "Workers do not start: what belongs to one mailbox must be on one server.",
        "let ALERTPOST_REDIS_URL name a server without cluster mode",
    )


def redis_here(url: str, info: Mapping[str, Any], *, open_way: Exposure | None = None) -> Finding:
    """Judge which server answers, and how it is reached."""
    version = str(info.get("redis_version", "?"))
    seen = f"{url}, speaks like Redis {version}"
    if info.get("valkey_version"):
        seen = f"{url}, Valkey {info['valkey_version']}"
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if len(numbers) == len(OLDEST_REDIS) and numbers < OLDEST_REDIS:
        return failed(
            seen,
            "Workers wait with BLMOVE, which this server does not know.",
            "use Redis 6.2 or newer, or Valkey",
        )
    if open_way is not None:
        return warning(seen, f"{open_way.text}.", open_way.next_step)
    return ok(seen)


def redis_memory(info: Mapping[str, Any]) -> Finding:
    """Judge whether Redis keeps what it is told."""
    policy = str(info.get("maxmemory_policy") or "unknown")
    limit = int(info.get("maxmemory") or 0)
    append_only = bool(info.get("aof_enabled"))
    size = f"{limit:,} bytes" if limit else "no limit"
    seen = f"{size}, {policy}, append-only file {'on' if append_only else 'off'}"
    meaning, mend = [], []
    if policy != "noeviction":
        meaning.append(
            "A full server throws keys away: permits that are lost this way let more mails go "
            "than Exchange allows."
        )
        mend.append("maxmemory-policy noeviction")
    if not append_only:
        meaning.append(
            "A restart forgets everything: tokens are fetched anew and limits taught from SQL."
        )
        mend.append("appendonly yes")
    if not meaning:
        return ok(seen)
    return warning(
        seen, " ".join(meaning), f"set `{'` and `'.join(mend)}`, as in deploy/valkey.conf"
    )


def workers(heard: int) -> Finding:
    """Judge whether anybody is there to send."""
    if heard:
        return ok(f"{counted(heard, 'process', 'processes')} heard of within {ALIVE_SECONDS:g} s")
    return failed(
        f"none heard of within {ALIVE_SECONDS:g} s",
        "Nobody sends: alerts are accepted and wait.",
        _START,
    )


def warnings(operator: OperatorMailbox | None) -> Finding:
    """Judge whether the operator can be warned by mail."""
    if operator is None:
        return ok(NOT_SET)
    mend = f"`{operator.command}`"
    if operator.trouble is not None:
        return warning(
            operator.sentence(),
            "Alerts still go out, but nobody is warned before something ends, nor of what "
            "was lost.",
            f"{mend}, or correct ALERTPOST_OPERATOR_MAILBOX",
        )
    if operator.waits is not None:
        return warning(
            operator.sentence(),
            "Warnings wait in its lane until it is fixed; meanwhile the exit codes of `alertpost "
            "status` and `alertpost expiries` show it.",
            mend,
        )
    return ok(operator.sentence())


def warnings_unknown(reason: str) -> Finding:
    """The mailbox could not be looked up."""
    return warning(reason, "Whether warnings can be mailed is not known.", "as the text says")


def _offset(reading: Reading) -> str:
    side = "ahead of" if reading.ahead_seconds > 0 else "behind"
    if abs(reading.ahead_seconds) <= reading.doubt_seconds or abs(reading.ahead_seconds) < 1:
        return "agrees with this machine's"
    return f"{abs(reading.ahead_seconds):.1f} s {side} this machine's"
