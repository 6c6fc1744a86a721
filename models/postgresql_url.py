"""
How PostgreSQL's address is read: as libpq reads it, several hosts included.

    postgresql://user:password@a:5432,b:5432/name?target_session_attrs=read-write
    postgresql://user:password@/name?host=a:5432&host=b:5432
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

DRIVER = "postgresql+psycopg"

POOLER = "pooler"
"""Our own word in the query; libpq never sees it."""

PREPARE_THRESHOLD = "prepare_threshold"
"""psycopg's word for after how many uses a statement is prepared; libpq does not know it either."""

_ENCODE = "a user or password with special characters must be percent-encoded"
_UNREADABLE = f"is not a URL; {_ENCODE}"
_UNREADABLE_HOST = f"names a host or port that cannot be read; {_ENCODE}"

_ENCRYPTED = frozenset({"require", "verify-ca", "verify-full"})
_CHOSEN_IN_CLEAR = "disable"

_AUTHORITY = re.compile(
    r"(?P<scheme>[^:/]+)://(?:(?P<user>[^/?#\[\]\s]*)@)?(?P<hosts>[^/?#\s]*)(?P<rest>.*)"
)
_HOST = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>\d*))?")


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where PostgreSQL is, and what the URL says besides.

    Attributes:
        url: For the driver: each host and port as libpq takes several.
        pooler: What stands between, if the URL says so: ``transaction`` or ``none``.
        prepare_threshold: The text of that option; None where it was not given.
    """

    url: URL
    pooler: str | None = None
    prepare_threshold: str | None = None


def read_url(url: str) -> Place:
    """
    Read a ``postgresql://`` URL.

    Raises:
        ValueError: It cannot be read. The text repeats nothing of it.
    """
    # Settings are read by commands that need no database, and it takes long to load.
    from sqlalchemy.engine import make_url  # noqa: PLC0415
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    found = _AUTHORITY.fullmatch(url)
    if found is None:
        raise ValueError(_UNREADABLE)
    user = f"{found['user']}@" if found["user"] else ""
    try:
        parsed = make_url(f"{found['scheme']}://{user}{found['rest']}")
    except (ArgumentError, ValueError):
        raise ValueError(_UNREADABLE) from None
    hosts, ports = _hosts(found["hosts"], parsed)
    query = {
        name: value
        for name, value in parsed.query.items()
        if name not in {"host", "port", POOLER, PREPARE_THRESHOLD}
    }
    if len(hosts) > 1 or (hosts and not _is_plain(hosts[0])):
        query |= {"host": ",".join(hosts)}
        if any(ports):
            query |= {"port": ",".join(ports)}
        parsed = parsed.set(drivername=DRIVER, query=query)
    else:
        host = hosts[0] if hosts else None
        port = int(ports[0]) if ports and ports[0] else None
        parsed = parsed.set(drivername=DRIVER, host=host, port=port, query=query)
    return Place(parsed, _last(found["rest"], POOLER), _last(found["rest"], PREPARE_THRESHOLD))


def in_clear(url: str) -> list[str]:
    """
    Name the hosts beyond this machine to which the line may be unencrypted and nobody said so.

    libpq's default, ``prefer``, takes an unencrypted line without a word where the server, or
    somebody on the way, offers no other. ``sslmode=disable`` is a choice, and is left alone.

    Args:
        url: Any database URL; only PostgreSQL's can have such hosts.
    """
    if not url.startswith("postgres"):
        return []
    parsed = read_url(url).url
    mode = parsed.query.get("sslmode") or os.environ.get("PGSSLMODE", "")
    if mode in _ENCRYPTED or mode == _CHOSEN_IN_CLEAR or "service" in parsed.query:
        return []
    named = parsed.host or parsed.query.get("host") or os.environ.get("PGHOST", "")
    hosts = named if isinstance(named, tuple) else tuple(str(named).split(","))
    return [host for host in hosts if not _is_here(host)]


def _hosts(authority: str, parsed: URL) -> tuple[list[str], list[str]]:
    """Give hosts and their ports, from before the path or else from the query."""
    given = parsed.query.get("host")
    if given:
        names = [one for part in _many(given) for one in part.split(",")]
    else:
        names = [unquote(one) for one in authority.split(",")] if authority else []
    hosts, ports = [], []
    for name in names:
        # A socket's directory has no port of its own and may hold a colon.
        found = None if name.startswith(("/", "@")) else _HOST.fullmatch(name)
        if found is None:
            if not name.startswith(("/", "@")) and not _is_address(name):
                raise ValueError(_UNREADABLE_HOST)
            hosts.append(name)
            ports.append("")
        else:
            hosts.append(found["v6"] or found["name"])
            ports.append(found["port"] or "")
    listed = parsed.query.get("port")
    if listed:
        ports = [one for part in _many(listed) for one in part.split(",")]
        if len(ports) == 1:
            ports *= max(1, len(hosts))
        if not all(port.isdigit() or not port for port in ports) or len(ports) != len(hosts):
            raise ValueError("names ports that do not go with its hosts")
    return hosts, ports


def _many(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (value,)


def _last(rest: str, name: str) -> str | None:
    found = re.findall(rf"[?&]{name}=([^&#]*)", rest)
    return unquote(found[-1]) if found else None


def _is_plain(host: str) -> bool:
    """Say whether it can stand before the path of a URL."""
    return not host.startswith(("/", "@"))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_here(host: str) -> bool:
    if not host or host.startswith(("/", "@")) or host.lower() == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host.partition("%")[0]).is_loopback
