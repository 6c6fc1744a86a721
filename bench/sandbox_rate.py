"""
How many mails a second the sandbox's submission server takes.

The server runs in this process' child, the client here, over real TLS on loopback; limits are open.
Each connection keeps one mail in flight. Unpipelined it waits for each reply, as aiosmtplib does;
pipelined it sends MAIL, RCPT and DATA in one go, together with the content of the mail before
(RFC 2920); with BDAT a whole mail needs one round trip (RFC 3030).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import multiprocessing
import os
import ssl
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sandbox.authority import throwaway_authority
from sandbox.exchange import ExchangeServer
from sandbox.mailboxes import Limits, MailboxStore
from sandbox.tokens import TokenVerdict

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_BUFFER = memoryview(bytearray(65536))


class Result(NamedTuple):
    """What the server counted."""

    taken: int
    cpu_seconds: float


def address(number: int) -> str:
    """Name the mailbox of a connection."""
    return f"alerts{number}@tenant.example"


def serve(pipe: Connection, directory: str, connections: int) -> None:
    """Run the server until told to stop."""

    async def main() -> None:
        authority = throwaway_authority(Path(directory))
        store = MailboxStore(limits=Limits.open(), keep_records=1000)
        for number in range(connections):
            store.add(address(number))
        server = ExchangeServer(
            store,
            check_token=lambda _token, user: TokenVerdict(ok=True, actor=user),
            tls=authority.server_context(),
        )
        await server.start()
        pipe.send(server.port)
        loop = asyncio.get_running_loop()
        for _ in range(2):
            await loop.run_in_executor(None, pipe.recv)
            pipe.send(Result(store.taken, time.process_time()))
        await server.close()

    asyncio.run(main())


class Client(asyncio.BufferedProtocol):
    """Submits mail after mail on one connection."""

    def __init__(self, number: int, size: int, mode: str, counter: list[int]) -> None:
        self.number = number
        self.mode = mode
        self.counter = counter
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self.expected = 0
        self.sent = 0
        self.filler = b"x" * 70 + b"\r\n"
        self.filler *= size // len(self.filler) + 1
        self.envelope = [
            f"MAIL FROM:<{address(number)}> size={size} BODY=8BITMIME\r\n".encode(),
            b"RCPT TO:<operator@customer.example>\r\n",
            b"DATA\r\n",
        ]
        self.step = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sign in; replies are counted, not read."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give a buffer shared by all."""
        del sizehint
        return _BUFFER

    def content(self) -> bytes:
        """Write a mail of about two kilobytes."""
        self.sent += 1
        name = address(self.number)
        return (
            f"From: Alerts <{name}>\r\nTo: operator@customer.example\r\n"
            f"Subject: disk almost full\r\n"
            f"Message-ID: <{self.number}.{self.sent}@tenant.example>\r\n"
            f"X-Alertpost-Id: {self.number}.{self.sent}\r\n\r\n"
        ).encode() + self.filler

    def begin(self) -> None:
        """Send the first mail."""
        self.step = 0
        self.advance()

    def advance(self) -> None:
        """Send what comes next, and say how many replies it will get."""
        assert self.transport is not None
        if self.mode == "unpipelined":
            last = self.step == len(self.envelope)
            self.transport.write(self.content() + b".\r\n" if last else self.envelope[self.step])
            self.step = 0 if last else self.step + 1
            self.expected = 1
        elif self.mode == "pipelined":
            body = self.content() + b".\r\n" if self.step else b""
            self.transport.write(body + b"".join(self.envelope))
            self.expected = 4 if self.step else 3
            self.step = 1
        else:
            body = self.content()
            self.transport.write(
                b"".join(self.envelope[:2]) + b"BDAT %d LAST\r\n" % len(body) + body
            )
            self.expected = 3

    def buffer_updated(self, nbytes: int) -> None:
        """Count replies; when all are there, send the next."""
        data = bytes(_BUFFER[:nbytes])
        self.expected -= data.count(b"\n")
        self.counter[0] += data.count(b"250 2.0.0 OK")
        if b"\r\n4" in data or b"\r\n5" in data or data[:1] in b"45":
            raise RuntimeError(data.decode())
        if self.expected <= 0:
            self.advance()


async def sign_in(number: int, port: int, tls: ssl.SSLContext, client: Client) -> None:
    """Connect, STARTTLS, AUTH, then hand the connection to the client's protocol."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.readline()
    writer.write(b"EHLO bench.example\r\n")
    while not (await reader.readline()).startswith(b"250 "):
        pass
    writer.write(b"STARTTLS\r\n")
    await reader.readline()
    await writer.start_tls(tls, server_hostname="localhost")
    payload = base64.b64encode(f"user={address(number)}\x01auth=Bearer t\x01\x01".encode())
    writer.write(b"EHLO bench.example\r\n")
    while not (await reader.readline()).startswith(b"250 "):
        pass
    writer.write(b"AUTH XOAUTH2 " + payload + b"\r\n")
    assert (await reader.readline()).startswith(b"235")
    transport = writer.transport
    transport.set_protocol(client)
    client.connection_made(transport)


async def run(arguments: argparse.Namespace, mode: str, port: int, pipe: Connection) -> str:
    """Measure one mode."""
    tls = throwaway_authority(Path(arguments.directory)).client_context()
    counter = [0]
    clients = [
        Client(number, arguments.size, mode, counter) for number in range(arguments.connections)
    ]
    for number, client in enumerate(clients):
        await sign_in(number, port, tls, client)
    for client in clients:
        client.begin()
    await asyncio.sleep(arguments.warm_up)
    before = ask(pipe)
    began, mine = time.perf_counter(), time.process_time()
    await asyncio.sleep(arguments.seconds)
    after = ask(pipe)
    elapsed = time.perf_counter() - began
    mails = after.taken - before.taken
    cpu = after.cpu_seconds - before.cpu_seconds
    own = time.process_time() - mine
    for client in clients:
        assert client.transport is not None
        client.transport.abort()
    await asyncio.sleep(0.1)
    return (
        f"{mode:12} {arguments.connections:4} connections  {mails / elapsed:9,.0f} mails/s"
        f"   {mails / cpu:9,.0f} mails per CPU second of the server"
        f"   (server {cpu / elapsed:4.0%}, client {own / elapsed:4.0%} CPU)"
    )


def ask(pipe: Connection) -> Result:
    """Ask the server for its counts."""
    pipe.send(None)
    result: Result = pipe.recv()
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=2000, help="bytes of content")
    parser.add_argument("--modes", nargs="+", default=["unpipelined", "pipelined", "bdat"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as arguments.directory:
        throwaway_authority(Path(arguments.directory))
        for mode in arguments.modes:
            pipe, theirs = multiprocessing.Pipe()
            child = multiprocessing.get_context("spawn").Process(
                target=serve, args=(theirs, arguments.directory, arguments.connections)
            )
            child.start()
            print(asyncio.run(run(arguments, mode, pipe.recv(), pipe)), flush=True)
            child.join()
    print(f"{os.cpu_count()} CPUs, both processes share them with whatever else runs")


if __name__ == "__main__":
    main()
