"""A client that speaks SMTP line by line, and a server with a moving clock, for the tests."""

from __future__ import annotations

import asyncio
import atexit
import base64
import shutil
import tempfile
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbox.authority import CertificateAuthority, throwaway_authority
from sandbox.exchange import ExchangeOptions, ExchangeServer
from sandbox.faults import FaultPlan
from sandbox.mailboxes import Limits, MailboxStore
from sandbox.tokens import TokenVerdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ADDRESS = "alerts@tenant.example"
RECIPIENT = "operator@customer.example"


def authority(name: str = "right") -> CertificateAuthority:
    """Give one authority for all tests of a run."""
    return _authority(name)


@cache
def _authority(name: str) -> CertificateAuthority:
    directory = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, directory)
    return throwaway_authority(directory / name)


class Clock:
    """A clock that moves when told to."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def check_token(raw_token: str, user: str) -> TokenVerdict:
    """Take the token ``good`` and those that name their tenant, ``good:<tenant>``."""
    kind, _, tenant_id = raw_token.partition(":")
    ok = kind == "good"
    return TokenVerdict(ok=ok, reason="" if ok else "expired", tenant_id=tenant_id, actor=user)


def xoauth2(user: str = ADDRESS, token: str = "good") -> bytes:
    """Encode an XOAUTH2 response."""
    return base64.b64encode(f"user={user}\x01auth=Bearer {token}\x01\x01".encode())


def mail(body: bytes = b"Disk almost full.\r\n", **headers: str) -> bytes:
    """Write a mail; underscores in header names stand for dashes."""
    fields = {"From": f"Alerts <{ADDRESS}>", "Subject": "disk", "Message_ID": "<1@a.example>"}
    fields |= headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return lines.encode() + b"\r\n" + body


def stuffed(content: bytes) -> bytes:
    """Prepare content for DATA (RFC 5321 section 4.5.2), final dot included."""
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    content = content.replace(b"\r\n.", b"\r\n..")
    return (b"." + content if content.startswith(b".") else content) + b".\r\n"


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something holds; the test's own time limit ends it otherwise."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no signal
        await asyncio.sleep(0)


class Client:
    """One connection; every reply is returned whole, lines joined by a newline."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, raw: bytes) -> None:
        """Write without waiting."""
        self.writer.write(raw)

    async def reply(self) -> str:
        """Read one reply; an empty string is the end of the connection."""
        lines = []
        while True:
            try:
                line = await asyncio.wait_for(self.reader.readline(), 10)
            except ConnectionError:
                line = b""
            if not line:
                return "\n".join(lines)
            assert line.endswith(b"\r\n")
            lines.append(line[:-2].decode())
            if line[3:4] == b" ":
                return "\n".join(lines)

    async def say(self, line: str | bytes) -> str:
        """Send one command and give its reply."""
        self.send((line.encode() if isinstance(line, str) else line) + b"\r\n")
        return await self.reply()

    async def start_tls(self, name: str = "right") -> None:
        """EHLO, STARTTLS, EHLO."""
        assert (await self.reply()).startswith("220 ")
        assert (await self.say("EHLO client.example")).startswith("250")
        assert (await self.say("STARTTLS")).startswith("220 ")
        await self.writer.start_tls(authority(name).client_context(), server_hostname="localhost")
        assert (await self.say("EHLO client.example")).startswith("250")

    async def auth(self, user: str = ADDRESS, token: str = "good") -> str:
        """Sign in on one line."""
        return await self.say(b"AUTH XOAUTH2 " + xoauth2(user, token))

    async def envelope(self, *recipients: str, sender: str = ADDRESS) -> None:
        """MAIL and RCPT, both expected to succeed."""
        assert await self.say(f"MAIL FROM:<{sender}>") == "250 2.1.0 Sender OK"
        for recipient in recipients or (RECIPIENT,):
            assert await self.say(f"RCPT TO:<{recipient}>") == "250 2.1.5 Recipient OK"

    async def submit(self, content: bytes | None = None, *, sender: str = ADDRESS) -> str:
        """Submit one mail and give the reply to its final dot."""
        await self.envelope(sender=sender)
        assert (await self.say("DATA")).startswith("354 ")
        self.send(stuffed(mail() if content is None else content))
        return await self.reply()

    def close(self) -> None:
        """Cut the line."""
        self.writer.transport.abort()


class World:
    """A server, its store and clock, and the clients that a test opened."""

    def __init__(self, store: MailboxStore, server: ExchangeServer, clock: Clock) -> None:
        self.store = store
        self.server = server
        self.clock = clock
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        """Open a connection and say nothing."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.server.port))
        self.clients.append(client)
        return client

    async def secure(self) -> Client:
        """Open a connection up to the second EHLO."""
        client = await self.connect()
        await client.start_tls()
        return client

    async def signed_in(self, user: str = ADDRESS) -> Client:
        """Open a connection that may send."""
        client = await self.secure()
        assert await client.auth(user) == "235 2.7.0 Authentication successful"
        return client


@asynccontextmanager
async def running(
    *,
    limits: Limits | None = None,
    options: ExchangeOptions | None = None,
    store: dict[str, Any] | None = None,
    **mailbox: Any,
) -> AsyncIterator[World]:
    """Run a server with one mailbox."""
    clock = Clock()
    mailboxes = MailboxStore(
        clock=clock, limits=limits or Limits(), keep_bodies=True, **store or {}
    )
    mailboxes.add(ADDRESS, **mailbox)
    server = ExchangeServer(
        mailboxes,
        check_token=check_token,
        tls=authority().server_context(),
        wrong_tls=authority("wrong").server_context(),
        options=options,
        faults=FaultPlan(seed=1),
    )
    await server.start()
    world = World(mailboxes, server, clock)
    try:
        yield world
    finally:
        for client in world.clients:
            client.close()
        await server.close()
