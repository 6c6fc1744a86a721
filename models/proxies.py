"""
Which proxy leads to the sign-in service: that of our setting, else that of the environment.

Pure but for the environment that is handed in. Names in lower case win, as for curl. Who is on this
machine is never asked for by way of a proxy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from models.urls import split_url

SETTING: Final = "ALERTPOST_HTTPS_PROXY"
DIRECT: Final = "none"
"""The value of the setting that says: none, whatever the environment says."""

_VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_EXCEPT: Final = ("no_proxy", "NO_PROXY")
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """
    A proxy that takes CONNECT.

    Attributes:
        url: With user and password, where there are any; for the request alone.
        source: The variable that named it.
        trouble: Why it cannot be used; empty where it can.
    """

    url: str
    source: str
    trouble: str = ""

    def __str__(self) -> str:
        return f"{masked(self.url)} (from {self.source})"

    def __repr__(self) -> str:
        return f"Proxy({masked(self.url)!r}, {self.source!r})"

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80)


@dataclass(frozen=True, slots=True)
class Proxies:
    """
    Proxies as they were given.

    Attributes:
        proxy: The one; None: servers are asked directly.
        besides: What is asked directly all the same: hosts, domains, networks, ``*``.
    """

    proxy: Proxy | None = None
    besides: tuple[str, ...] = ()

    @classmethod
    def of(cls, setting: str = "", environment: Mapping[str, str] = os.environ) -> Proxies:
        """
        Read them.

        Args:
            setting: ``ALERTPOST_HTTPS_PROXY``; empty: as the environment says.
            environment: Where HTTPS_PROXY, ALL_PROXY and NO_PROXY are looked up.
        """
        besides = _first(environment, _EXCEPT)[1]
        name, given = (SETTING, setting) if setting else _first(environment, _VARIABLES)
        if not given or given.lower() == DIRECT:
            return cls()
        try:
            proxy = Proxy(checked(given), name)
        except ValueError as error:
            proxy = Proxy(given, name, str(error))
        return cls(proxy, tuple(part for part in re.split(r"[,\s]+", besides) if part))

    def for_host(self, host: str, port: int) -> Proxy | None:
        """Name the proxy that leads to a host; None: it is asked directly."""
        if self.proxy is None or _is_here(host):
            return None
        bare = host.lower().strip("[]").rstrip(".")
        return None if any(_covers(one, bare, port) for one in self.besides) else self.proxy

    def for_url(self, url: str) -> Proxy | None:
        """Name the proxy that leads to an address; None: it is asked directly."""
        parts = urlsplit(url)
        return self.for_host(parts.hostname or "", parts.port or _PORTS["https"])


def checked(value: str) -> str:
    """
    Give a proxy's address in full.

    Raises:
        ValueError: It is none; the text does not repeat it, since it may hold a password.
    """
    text = value.strip()
    if not text or text.lower() == DIRECT:
        return text.lower()
    if "://" not in text:
        text = f"http://{text}"
    parts = split_url(text)
    if parts.scheme.startswith("socks"):
        raise ValueError("is a SOCKS proxy, which is not supported; write http://host:port")
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"must be http://[user:PASSWORD@]host:port, or {DIRECT}")
    return text


def masked(url: str) -> str:
    """Replace user and password: either may be the secret."""
    return re.sub(r"^([a-z0-9+.-]*://|)[^/]*@", r"\1***@", url, flags=re.IGNORECASE)


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    return next(
        ((name, value) for name in names if (value := environment.get(name, "").strip())),
        ("", ""),
    )


def _is_here(host: str) -> bool:
    name = host.lower().strip("[]").rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _covers(entry: str, host: str, port: int) -> bool:
    """Tell whether an entry of NO_PROXY stands for a host, as curl and Go read it."""
    if entry == "*":
        return True
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    name, colon, wanted = entry.lower().rpartition(":")
    if colon and wanted.isdigit() and ":" not in name.strip("[]"):
        if int(wanted) != port:
            return False
    else:
        name = entry.lower()
    name = name.strip("[]").removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))
