"""
Commands and replies over an authenticated SMTP connection, several in flight where allowed.

aiosmtplib opens, secures and authenticates a connection (``smtp_session``); from then on this
protocol owns its transport, because aiosmtplib waits for the reply to each command before it sends
the next, and on a line to Microsoft round trips are what a mail costs. Sending MAIL, RCPT and DATA
together (RFC 2920) makes two round trips of four.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple, cast

from workers.wrong_protocol import not_smtp

MAX_REPLY_BYTES = 64 * 1024
"""More than this without a line end is no SMTP server; the connection is dropped."""

MAX_REPLY_LINES = 1000
"""The same for a reply of many lines; EHLO, the longest, has some dozen."""

PIECE_BYTES = 256 * 1024
"""Larger mails are encrypted and written by pieces, so that the loop serves others in between."""

_REPLY_LINE = re.compile(rb"[0-9]{3}(?:[ \t-]|\r?$)")
"""A code of three digits, then a blank, a hyphen where more lines follow, or the line's end."""

CLOSING_CODE = 421
"""After this the server hangs up, whatever it answered (RFC 5321 section 3.8)."""

REFUSALS = range(400, 600)


class Reply(NamedTuple):
    """One reply (RFC 5321 section 4.2), its lines joined by a newline."""

    code: int
    text: str


class ConversationLost(ConnectionError):  # noqa: N818 - reads as what it is
    """
    The connection ended, or stayed silent, before all replies had come.

    Attributes:
        replies: What had been answered until then; tells how far the server got.
        failure: ``disconnected``, ``timeout``, or ``garbage`` where what came is no SMTP reply.
    """

    def __init__(self, detail: str, *, replies: list[Reply], failure: str) -> None:
        super().__init__(detail)
        self.replies = replies
        self.failure = failure


class Conversation(asyncio.Protocol):
    """
    Sends groups of commands and collects one reply for each; one group at a time.

    Replies are paired with commands by order alone. So anything that the server says between two
    groups is kept as ``farewell`` and makes the connection unusable, instead of being taken for
    the answer to the next command. So does a 421, which may answer any command.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._buffer = bytearray()
        self._lines: list[str] = []
        self._code: bytes | None = None
        self._replies: list[Reply] = []
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._lost: str | None = None
        self._loop = asyncio.get_running_loop()
        self._deadline = 0.0
        self._patience_seconds = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._gone = asyncio.Event()
        self.farewell: Reply | None = None
        transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        """Whether another group may be sent."""
        return self._lost is None and self.farewell is None and not self._transport.is_closing()

    async def exchange(
        self, data: bytes | AsyncGenerator[bytes, None], *, replies: int, timeout_seconds: float
    ) -> list[Reply]:
        """
        Write ``data`` and wait for that many replies.

        Args:
            data: Complete command lines, or a mail with its final dot, as a whole or by pieces.
                What it raises ends the connection and is raised here.
            replies: How many replies the commands in ``data`` will earn, at least 1.
            timeout_seconds: For all of them together, sending included.

        Raises:
            ConversationLost: The connection ended or the time was up; carries what came.
        """
        if not self.usable:
            detail = self._lost or (f"{self.farewell.code} {self.farewell.text}"
                                    if self.farewell else "connection closed")  # fmt: skip
            raise ConversationLost(detail, replies=[], failure="disconnected")
        self._replies = []
        self._wanted = replies
        waiter = self._waiter = self._loop.create_future()
        self._wait_at_most(timeout_seconds)
        try:
            whole = True
            if not isinstance(data, bytes):
                whole = await self._write_by_pieces(data, waiter)
            elif len(data) <= PIECE_BYTES:
                self._transport.write(data)
            else:
                whole = await self._write_by_pieces(_pieces(data), waiter)
            await waiter
        except BaseException:
            # Late replies would be paired with the wrong commands: this line is done for.
            self._transport.abort()
            raise
        finally:
            self._waiter = None
        if not whole and self._replies[-1].code not in REFUSALS:
            # Nobody takes a mail that has not ended.
            raise ConversationLost(
                "answered in the middle of the mail", replies=[], failure="garbage"
            )
        return self._replies

    def _wait_at_most(self, seconds: float) -> None:
        """
        Set the moment at which the group that waits has waited too long.

        A timer for each group would be made and cancelled twice a mail. Here one timer looks when
        the earliest moment has come whether it still is the one, and goes on sleeping if not.
        """
        self._patience_seconds = seconds
        self._deadline = self._loop.time() + seconds
        if self._watch is not None and self._watch.when() > self._deadline:
            self._watch.cancel()
            self._watch = None
        if self._watch is None:
            self._watch = self._loop.call_at(self._deadline, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._watch = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._watch = self._loop.call_at(self._deadline, self._look_at_clock)
            return
        detail = f"no reply within {self._patience_seconds:g} seconds"
        self._fail(detail, failure="timeout")
        self._transport.abort()

    async def _write_by_pieces(
        self, pieces: AsyncGenerator[bytes, None], answer: asyncio.Future[None]
    ) -> bool:
        """Write all pieces; False where an answer came before the last one."""
        async with aclosing(pieces):
            async for piece in pieces:
                if answer.done():
                    # Refused before all of it was sent: what follows would be read as commands.
                    self._lost = self._lost or "answered in the middle of the mail"
                    self._transport.abort()
                    return False
                self._transport.write(piece)
                await asyncio.sleep(0)
                await self._room.wait()
        return True

    def close(self) -> None:
        """Say QUIT without waiting for the answer, and hang up (RFC 5321 section 4.1.1.10)."""
        if self.usable:
            self._transport.write(b"QUIT\r\n")
        self._transport.close()

    def abort(self) -> None:
        """Drop the line without another word."""
        self._transport.abort()

    async def leave(self, *, patience_seconds: float) -> None:
        """Hang up as ``close`` does, and see to it that the line is closed before the loop ends."""
        self.close()
        try:
            await asyncio.wait_for(self._gone.wait(), patience_seconds)
        except TimeoutError:
            # TLS is closed by both sides, and this server has not answered.
            self.abort()
            await self._gone.wait()

    def pause_writing(self) -> None:
        """Wait with the next piece: the server reads more slowly than we write."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Go on writing."""
        self._room.set()

    def data_received(self, data: bytes) -> None:
        """Cut what came into lines and lines into replies."""
        self._buffer += data
        if b"\n" in data:
            *lines, self._buffer = self._buffer.split(b"\n")
            for line in lines:
                self._line_received(bytes(line))
        if len(self._buffer) > MAX_REPLY_BYTES:
            self._give_up("a reply without end")

    def _line_received(self, line: bytes) -> None:
        if self._lost is not None:
            return
        code = line[:3]
        if not _REPLY_LINE.match(line) or self._code not in {None, code}:
            # Of lines that disagree nobody knows which one is the answer (RFC 5321 section 4.2.1).
            self._give_up(not_smtp(line.decode("utf-8", "replace")))
            return
        self._lines.append(line[4:].strip().decode("utf-8", "replace"))
        if line[3:4] == b"-":
            self._code = code
            if len(self._lines) > MAX_REPLY_LINES:
                self._give_up("a reply without end")
            return
        reply = Reply(int(code), "\n".join(self._lines))
        self._lines, self._code = [], None
        unasked = self._waiter is None or self._waiter.done()
        if unasked or reply.code == CLOSING_CODE:
            self.farewell = reply
        if self._waiter is None or unasked:
            return
        self._replies.append(reply)
        if len(self._replies) == self._wanted:
            self._waiter.set_result(None)

    def eof_received(self) -> bool:
        """Hang up when the server does."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the group that waits, with what had been answered."""
        self._fail(f"connection lost: {exc}" if exc else "connection closed by the server")
        self._room.set()
        self._gone.set()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _give_up(self, detail: str) -> None:
        """Stop reading what cannot be understood: later replies could not be told apart."""
        self._fail(detail, failure="garbage")
        self._transport.abort()

    def _fail(self, detail: str, *, failure: str = "disconnected") -> None:
        self._lost = self._lost or detail
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(
                ConversationLost(detail, replies=self._replies, failure=failure)
            )


async def _pieces(data: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]


def take_over(transport: asyncio.BaseTransport) -> Conversation:
    """Take a connection from whoever opened it."""
    return Conversation(cast("asyncio.Transport", transport))
