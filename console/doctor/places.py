"""
Hosts on the way, looked at once each: many tenants share the hosts of their cloud.

Every look gives a value; what went wrong is part of it.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from uuid import UUID

from models.credential_standing import Standing
from models.errors import ConfigurationError, SubmissionFailed
from models.proxies import Proxy
from models.settings import SmtpSettings
from workers.smtp_session import Offered, Step, certificate_names, greet
from workers.tls_contexts import TlsContexts

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """
    A host and port, and whom we trust there.

    Attributes:
        ca_file: The tenant's own; None: that of the settings.
    """

    host: str
    port: int
    ca_file: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Seen:
    """
    What a look brought.

    Attributes:
        text: What was seen; empty where it failed.
        error: What went wrong; empty where nothing did.
        kind: Of what went wrong: ``dns``, ``refused``, ``timeout``, ``network``, ``certificate``,
            ``tls``, ``ca-file`` or ``proxy``.
    """

    text: str = ""
    error: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Greeting:
    """
    How a submission server received us.

    Attributes:
        steps: What was said, in order.
        offered: None where it did not come so far.
        failure: What ended it; None where nothing did.
    """

    steps: tuple[Step, ...]
    offered: Offered | None = None
    failure: SubmissionFailed | None = None


@dataclass(slots=True)
class Places:
    """
    Looks at places, at each one once.

    Attributes:
        tls: Whom we trust, by CA file.
        settings: Time-outs and our EHLO name.
        at_once: So many looks at the same time.
        judged: What Entra said of the credentials of apps, which tenants share too.
    """

    tls: TlsContexts
    settings: SmtpSettings
    at_once: asyncio.Semaphore
    judged: dict[UUID, list[Standing]] = field(default_factory=dict)
    _turns: dict[UUID, asyncio.Lock] = field(default_factory=dict)
    _looks: dict[tuple[str, Place], asyncio.Task[Any]] = field(default_factory=dict)

    def turn_of(self, app_id: UUID) -> asyncio.Lock:
        """Let one tenant of an app after the other ask about it."""
        return self._turns.setdefault(app_id, asyncio.Lock())

    async def names(self, place: Place) -> Seen:
        """Resolve the host's name."""
        return await self._once("names", place, self._names)

    async def connection(self, place: Place) -> Seen:
        """Open a TCP connection, and close it."""
        return await self._once("connection", place, self._connection)

    async def handshake(self, place: Place) -> Seen:
        """Open a TLS connection, with the certificate verified."""
        return await self._once("handshake", place, self._handshake)

    async def tunnelled(self, place: Place, proxy: Proxy) -> Seen:
        """Open a TLS connection through a proxy, with the certificate verified."""
        return await self._once(f"by {proxy.url}", place, partial(self._tunnelled, proxy))

    async def greeting(self, place: Place) -> Greeting:
        """Let a submission server greet us, up to the second EHLO; nobody signs in."""
        return await self._once("greeting", place, self._greeting)

    async def _once(self, kind: str, place: Place, look: Callable[[Place], Awaitable[T]]) -> T:
        async def bounded() -> T:
            async with self.at_once:
                return await look(place)

        task = self._looks.get((kind, place))
        if task is None:
            task = self._looks[kind, place] = asyncio.create_task(bounded())
        found: T = await task
        return found

    async def _names(self, place: Place) -> Seen:
        try:
            async with asyncio.timeout(self.settings.connect_timeout_seconds):
                found = await asyncio.get_running_loop().getaddrinfo(
                    place.host, place.port, type=socket.SOCK_STREAM
                )
        except (OSError, TimeoutError, UnicodeError) as error:
            return _gone_wrong(error, "dns")
        return Seen(", ".join(dict.fromkeys(str(address[0]) for *_, address in found)))

    async def _connection(self, place: Place) -> Seen:
        try:
            async with asyncio.timeout(self.settings.connect_timeout_seconds):
                _, writer = await asyncio.open_connection(place.host, place.port)
        except (OSError, TimeoutError) as error:
            return _gone_wrong(error, "network")
        peer = writer.get_extra_info("peername")
        await _closed(writer)
        return Seen(f"{place} answers from {peer[0]}")

    async def _handshake(self, place: Place) -> Seen:
        try:
            context = self.tls.get(place.ca_file)
            async with asyncio.timeout(self.settings.connect_timeout_seconds):
                _, writer = await asyncio.open_connection(
                    place.host, place.port, ssl=context, server_hostname=place.host
                )
        except ConfigurationError as error:
            return Seen(error=str(error), kind="ca-file")
        except (OSError, TimeoutError) as error:
            return _gone_wrong(error, "tls")
        return await _secured(writer)

    async def _tunnelled(self, proxy: Proxy, place: Place) -> Seen:
        try:
            context = self.tls.get(place.ca_file)
            async with asyncio.timeout(self.settings.connect_timeout_seconds):
                reader, writer = await asyncio.open_connection(*proxy.place)
                writer.write(_connect_request(proxy, place))
                head = await reader.readuntil(b"\r\n\r\n")
                status = head.split(b"\r\n", 1)[0].decode("latin-1")
                if not re.match(r"HTTP/1\.[01] 2\d\d\b", status):
                    await _closed(writer)
                    return Seen(error=status[:200], kind="proxy")
                await writer.start_tls(context, server_hostname=place.host)
        except ConfigurationError as error:
            return Seen(error=str(error), kind="ca-file")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return Seen(error="it ends the connection without an answer", kind="proxy")
        except (OSError, TimeoutError) as error:
            return _gone_wrong(error, "tls")
        return await _secured(writer)

    async def _greeting(self, place: Place) -> Greeting:
        steps: list[Step] = []
        try:
            offered = await greet(
                host=place.host,
                port=place.port,
                tls=self.tls.get(place.ca_file),
                settings=self.settings,
                trace=steps.append,
            )
        except ConfigurationError as error:
            failure = SubmissionFailed(
                stage="starttls", reply_text=str(error), failure="certificate"
            )
            return Greeting(tuple(steps), failure=failure)
        except SubmissionFailed as failure:
            return Greeting(tuple(steps), failure=failure)
        return Greeting(tuple(steps), offered)


async def _secured(writer: asyncio.StreamWriter) -> Seen:
    certificate = writer.get_extra_info("peercert") or {}
    version = writer.get_extra_info("ssl_object").version()
    await _closed(writer)
    names = ", ".join(certificate_names(certificate.get("subjectAltName", ()))[:4])
    ends = certificate.get("notAfter", "?")
    return Seen(f"{version}, certificate for {names}, until {ends}")


def _connect_request(proxy: Proxy, place: Place) -> bytes:
    parts = urlsplit(proxy.url)
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        signed = " ".join(("Basic", b64encode(pair.encode()).decode()))
        lines.append(": ".join(("Proxy-Authorization", signed)))  # noqa: FLY002 - as one literal redaction would cut it
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1.0):
            await writer.wait_closed()
    writer.transport.abort()


def _gone_wrong(error: BaseException, otherwise: str) -> Seen:
    kinds = (
        (ssl.SSLCertVerificationError, "certificate"),
        (socket.gaierror, "dns"),
        (ConnectionRefusedError, "refused"),
        (TimeoutError, "timeout"),
    )
    kind = next((name for known, name in kinds if isinstance(error, known)), otherwise)
    text = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
    return Seen(error=text or type(error).__name__, kind=kind)
