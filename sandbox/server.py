"""Entra, Exchange and the control API in one process on one loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from sandbox.authority import throwaway_authority
from sandbox.control import control_routes
from sandbox.defaults import DEFAULT_TENANTS
from sandbox.entra import entra_routes
from sandbox.exchange import ExchangeOptions, ExchangeServer
from sandbox.keeper import FILE, StateKeeper, open_world
from sandbox.tokens import TokenSigner
from sandbox.web import TRANSPORT, BodyTooLarge
from sandbox.worldfile import build_world, contoso_and_friends, load_world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from sandbox.world import World

_GRACE_SECONDS = 1.0
_TICK_SECONDS = 1.0
_BACKLOG = 2048


class PortTaken(OSError):  # noqa: N818 - reads as what it is
    """
    Something else listens where the sandbox should, or nobody may listen there.

    Attributes:
        part: What cannot listen, ``Entra`` or ``SMTP``.
    """

    def __init__(self, part: str, host: str, port: int, reason: str) -> None:
        super().__init__(f"{part} cannot listen on {host}:{port}: {reason}")
        self.part = part


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """
    How a sandbox is run.

    Attributes:
        directory: Where certificates, the signing key and the state are kept; made if missing.
        entra_port: HTTPS port; 0 takes any that is free.
        smtp_port: SMTP port; 0 takes any that is free.
        host: Address to listen on.
        name: Host name or address by which others reach it; goes into URLs and the certificate.
        world_file: JSON as ``worldfile.WorldSpec`` reads it; None makes ``tenants``.
        tenants: Slugs of the tenants where no file is given.
        ready_file: Where to write, as JSON, what was started; None writes nothing.
        forget: Start afresh instead of as it was at the last stop.
    """

    directory: Path
    entra_port: int = 0
    smtp_port: int = 0
    host: str = "127.0.0.1"
    name: str = "127.0.0.1"
    world_file: Path | None = None
    tenants: tuple[str, ...] = DEFAULT_TENANTS
    ready_file: Path | None = None
    forget: bool = False


class SandboxServer:
    """
    A world and the two servers that show it.

    Attributes:
        world: Everything that can be looked at and changed.
    """

    def __init__(
        self,
        world: World | None = None,
        *,
        directory: Path,
        entra_port: int = 0,
        smtp_port: int = 0,
        host: str = "127.0.0.1",
        name: str = "127.0.0.1",
        exchange_options: ExchangeOptions | None = None,
        keeper: StateKeeper | None = None,
    ) -> None:
        """
        Make a sandbox that does not listen yet.

        Args:
            world: None makes the default tenants, with a signing key kept in the directory.
            directory: Where certificates are kept.
            entra_port: HTTPS port; 0 takes any that is free.
            smtp_port: SMTP port; 0 takes any that is free.
            host: Address to listen on.
            name: Host name or address by which others reach it.
            exchange_options: How SMTP behaves where real servers differ.
            keeper: Keeps what requests change; None keeps nothing.
        """
        self._authority = throwaway_authority(directory, names=(name,))
        self._tls = self._authority.server_context()
        self.world = world or build_world(
            contoso_and_friends(DEFAULT_TENANTS),
            signer=TokenSigner.kept_in(directory / "signing.key"),
        )
        self._host = host
        self._name = name
        self._entra_port = entra_port
        self._keeper = keeper
        self._web: _Web | None = None
        self._serving: asyncio.Task[None] | None = None
        self.exchange = ExchangeServer(
            self.world.mailboxes,
            check_token=self.world.check_token,
            tls=self._tls,
            host=host,
            port=smtp_port,
            faults=self.world.exchange_faults,
            wrong_tls=throwaway_authority(directory / "wrong").server_context(),
            options=exchange_options,
        )
        self._smtp_port = smtp_port

    @property
    def ca_file(self) -> Path:
        """The certificate that clients must trust."""
        return self._authority.ca_file

    @property
    def entra_url(self) -> str:
        """Scheme, host and port of Entra; an authority is this, a slash and a tenant."""
        name = f"[{self._name}]" if ":" in self._name else self._name
        return f"https://{name}:{self._entra_port}"

    @property
    def control_url(self) -> str:
        """Where the control API begins."""
        return f"{self.entra_url}/_sandbox"

    @property
    def smtp_host(self) -> str:
        """Host name or address of SMTP submission."""
        return self._name

    @property
    def smtp_port(self) -> int:
        """Port of SMTP submission."""
        return self.exchange.port

    async def start(self) -> None:
        """
        Listen on both ports.

        Raises:
            PortTaken: One of them cannot be had; nothing listens then.
        """
        listener = self._listen()
        try:
            await self.exchange.start()
        except OSError as error:
            listener.close()
            raise PortTaken("SMTP", self._host, self._smtp_port, _reason(error)) from error
        self._entra_port = listener.getsockname()[1]
        app = _timed(build_app(self.world), self.world)
        config = uvicorn.Config(
            self._keeper.around(app) if self._keeper else app,
            http=_CuttableProtocol,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=_BACKLOG,
            ssl_context_factory=lambda _config, _default: self._tls,
        )
        self._web = _Web(config)
        self._serving = asyncio.create_task(self._web.serve(sockets=[listener]))
        await self._web.ready.wait()

    async def stop(self) -> None:
        """Stop listening on both ports and cut what is open."""
        await self.exchange.close()
        web, serving = self._web, self._serving
        self._web = self._serving = None
        if web is None or serving is None:
            return
        web.end()
        await serving

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            listener = socket.create_server(
                (self._host, self._entra_port), family=family, backlog=_BACKLOG
            )
        except OSError as error:
            raise PortTaken("Entra", self._host, self._entra_port, _reason(error)) from error
        # Inherited by what it accepts; the loop does this only for sockets that name TCP as their
        # protocol, which this one does not. Else each answer waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setblocking(False)
        return listener

    def summary(self) -> dict[str, Any]:
        """Give where everything is and who lives there, secrets included, as an object for JSON."""
        return {
            "pid": os.getpid(),
            "entra_url": self.entra_url,
            "control_url": self.control_url,
            "smtp_host": self.smtp_host,
            "smtp_port": self.smtp_port,
            "ca_file": str(self.ca_file.resolve()),
            "tenants": [
                {
                    "slug": directory.slug,
                    "tenant_id": directory.tenant_id,
                    "domains": list(directory.domains),
                    "authority": f"{self.entra_url}/{directory.tenant_id}",
                    "accounts": [
                        {"address": user.address, "password": user.password, "admin": user.admin}
                        for user in directory.users.values()
                    ],
                }
                for directory in self.world.directories.values()
            ],
            "apps": [
                {
                    "client_id": app.client_id,
                    "name": app.name,
                    "home_tenant_id": app.home_tenant_id,
                    "multi_tenant": app.multi_tenant,
                    "secrets": [secret.value for secret in app.client_secrets],
                }
                for app in self.world.apps.values()
            ],
        }


def build_app(world: World) -> Starlette:
    """Put Entra and the control API of a world into one application."""

    async def too_large(_request: Request, _error: Exception) -> JSONResponse:
        return JSONResponse({"error": "the body is too large"}, status_code=413)

    return Starlette(
        routes=[*control_routes(world), *entra_routes(world)],
        exception_handlers={BodyTooLarge: too_large},
    )


def _timed(app: ASGIApp, world: World) -> ASGIApp:
    """Date every answer by the world's clock, so that one that differs from the caller's shows."""

    async def timed(scope: Scope, receive: Receive, send: Send) -> None:
        async def dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = formatdate(world.clock(), usegmt=True).encode("ascii")
                message["headers"] = [*message.get("headers", ()), (b"date", date)]
            await send(message)

        await app(scope, receive, dated)

    return timed


class _CuttableProtocol(H11Protocol):
    """HTTP that hands its transport to the application, for the faults that cut the line."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app = partial(_with_transport, self.app, transport)


async def _with_transport(
    app: ASGIApp, transport: asyncio.Transport, scope: Scope, receive: Receive, send: Send
) -> None:
    scope.setdefault("extensions", {})[TRANSPORT] = transport
    await app(scope, receive, send)


class _Web(uvicorn.Server):
    """uvicorn that says when it listens and leaves signals to its owner."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._ended = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        # uvicorn's own loop polls for the end all the time.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), timeout=_TICK_SECONDS)

    def end(self) -> None:
        """Stop at once."""
        self.should_exit = True
        self._ended.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for each in sockets or []:
            each.close()
        # Clients keep connections open for their next refresh; TLS would wait for their goodbye.
        while connections := list(self.server_state.connections):
            for connection in connections:
                connection.transport.abort()
            await asyncio.sleep(0)
        if tasks := list(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=_GRACE_SECONDS)
        for server in self.servers:
            await server.wait_closed()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(options: SandboxOptions, *, out: TextIO | None = None) -> int:
    """
    Run a sandbox until Ctrl-C or SIGTERM.

    Args:
        options: How.
        out: Where to print what was started; None for standard output.

    Returns:
        Exit code: 0 after a clean stop, 2 if it could not be started and standard error says why.
    """
    try:
        return asyncio.run(_run(options, out or sys.stdout))
    except (PortTaken, OSError, ValueError) as error:
        sys.stderr.write(f"sandbox: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        return 0


async def _run(options: SandboxOptions, out: TextIO) -> int:
    spec = (
        load_world(options.world_file)
        if options.world_file
        else contoso_and_friends(options.tenants)
    )
    world, keeper = open_world(
        spec,
        options.directory / FILE,
        signer=TokenSigner.kept_in(options.directory / "signing.key"),
        say=lambda text: sys.stderr.write(f"sandbox: {text}\n"),
        forget=options.forget,
    )
    server = SandboxServer(
        world,
        directory=options.directory,
        entra_port=options.entra_port,
        smtp_port=options.smtp_port,
        host=options.host,
        name=options.name,
        keeper=keeper,
    )
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Where a loop cannot watch signals, Ctrl-C ends asyncio.run by itself.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, ended.set)
    await server.start()
    try:
        await keeper.save()
        summary = server.summary()
        if options.ready_file:
            _write_whole(options.ready_file, json.dumps(summary, indent=2))
        out.write("\n".join(_described(summary)) + "\n")
        out.flush()
        await ended.wait()
    finally:
        await server.stop()
        # Mail fills mailboxes without being a request; here that is kept too.
        await keeper.save()
        if options.ready_file:
            options.ready_file.unlink(missing_ok=True)
    return 0


def _described(summary: dict[str, Any]) -> Iterator[str]:
    yield "Microsoft 365 in a box. Nothing here is real, secrets may be shown."
    yield f"  Authority  {summary['entra_url']}/<tenant id>"
    yield f"  SMTP       {summary['smtp_host']}:{summary['smtp_port']} (STARTTLS, XOAUTH2)"
    yield f"  CA file    {summary['ca_file']}"
    yield f"  Control    {summary['control_url']}/"
    yield from _listed("App", summary["apps"], _app_line)
    yield from _listed("Tenant", summary["tenants"], _tenant_line)
    yield "Ctrl-C ends it."


_SHOWN = 10


def _listed(
    title: str, items: Sequence[dict[str, Any]], line: Callable[[dict[str, Any]], str]
) -> Iterator[str]:
    for item in items[:_SHOWN]:
        yield f"  {title:<10} {line(item)}"
    if len(items) > _SHOWN:
        yield f"  {'':<10} and {len(items) - _SHOWN} more, see the control API"


def _app_line(app: dict[str, Any]) -> str:
    secrets = ", ".join(app["secrets"]) or "none"
    return f"{app['client_id']}  {app['name']}  secret {secrets}"


def _tenant_line(tenant: dict[str, Any]) -> str:
    accounts = ", ".join(f"{a['address']} / {a['password']}" for a in tenant["accounts"][:2])
    return f"{tenant['tenant_id']}  {tenant['slug']}  {accounts}"


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that whoever waits for it never reads half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
