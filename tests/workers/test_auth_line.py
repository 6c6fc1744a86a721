"""How a token of any length is told to servers that read lines of different lengths."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from models.errors import SubmissionFailed
from models.settings import SmtpSettings
from sandbox.authority import CertificateAuthority, throwaway_authority
from workers.smtp_session import MAX_COMMAND_LINE, open_session

USER = "alerts@contoso.example"
Judge = Callable[[bytes], bytes]
"""Answers an AUTH line, without its line end."""


def dovecot(line: bytes) -> bytes:
    """Dovecot 2.3's submission proxy."""
    if len(line) > 1022:
        return b"500 5.5.2 Line too long"
    return b"" if b" " in line[5:] else b"334 "


def postfix(line: bytes) -> bytes:
    """Postfix 3.7: what is beyond 2,048 octets is cut off, so the token is no base64 any more."""
    if len(line) > 2046:
        return b"535 5.7.8 Error: authentication failed: Invalid base64 data in initial response"
    return b"" if b" " in line[5:] else b"334 "


def generous(line: bytes) -> bytes:
    return b"" if b" " in line[5:] else b"334"


def one_line_only(line: bytes) -> bytes:
    return b"" if b" " in line[5:] else b"501 5.5.4 Syntax: AUTH mechanism initial-response"


@asynccontextmanager
async def server(
    files: CertificateAuthority, judge: Judge, lines: list[bytes]
) -> AsyncIterator[int]:
    """Serve one dialogue up to AUTH; ``judge`` gives nothing where it took the token."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(b"220 here\r\n")
            payload = b""
            while line := (await reader.readline()).rstrip(b"\r\n"):
                if line.startswith(b"EHLO"):
                    writer.write(b"250-here\r\n250-STARTTLS\r\n250 AUTH XOAUTH2\r\n")
                elif line == b"STARTTLS":
                    writer.write(b"220 go\r\n")
                    await writer.drain()
                    await writer.start_tls(files.server_context())
                elif line.startswith(b"AUTH"):
                    lines.append(line)
                    answer = judge(line)
                    payload = b"" if answer else line.rpartition(b" ")[2]
                    writer.write(answer + b"\r\n" if answer else _verdict(payload))
                elif line == b"QUIT":
                    break
                else:
                    lines.append(line)
                    writer.write(_verdict(line))
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    try:
        yield int(listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        await listener.wait_closed()


def _verdict(payload: bytes) -> bytes:
    user, token, *_ = base64.b64decode(payload).split(b"\x01")
    good = user == f"user={USER}".encode() and token.startswith(b"auth=Bearer t")
    return b"235 2.7.0 ok\r\n" if good else b"535 5.7.3 no\r\n"


async def dialogue(directory: Path, judge: Judge, token: str) -> list[bytes]:
    files = throwaway_authority(directory)
    lines: list[bytes] = []
    async with server(files, judge, lines) as port:
        session = await open_session(
            host="localhost",
            port=port,
            tls=files.client_context(),
            user=USER,
            token=token,
            settings=SmtpSettings(ehlo_name="client.example"),
        )
        session.close()
    return lines


@pytest.mark.parametrize("judge", [dovecot, postfix, generous, one_line_only])
@pytest.mark.parametrize("length", [20, 290, 600, 1500, 4000])
async def test_a_token_of_any_length_is_taken(
    sandbox_directory: Path, judge: Judge, length: int
) -> None:
    """No server sees a token cut off, and none has to refuse one first that it cannot read."""
    lines = await dialogue(sandbox_directory, judge, "t" * length)

    assert len(lines) <= 2
    if judge is not one_line_only:
        assert all(len(line) + 2 <= MAX_COMMAND_LINE for line in lines if line[:4] == b"AUTH")


async def test_a_short_token_costs_no_second_round_trip(sandbox_directory: Path) -> None:
    """An opaque token goes into the AUTH line itself."""
    (line,) = await dialogue(sandbox_directory, postfix, "t" * 43)

    assert line.startswith(b"AUTH XOAUTH2 ")


async def test_a_server_that_takes_neither_form_is_believed(sandbox_directory: Path) -> None:
    """What it says to the form in one line is what is reported."""
    with pytest.raises(SubmissionFailed, match=r"5\.5\.1") as failed:
        await dialogue(sandbox_directory, lambda _line: b"503 5.5.1 not now", "t" * 900)

    assert failed.value.reply_code == 503
