"""
The byte level of one SMTP connection on the server's side: reads, replies, holds, STARTTLS.

It never awaits. What must wait holds the connection, and input that arrives meanwhile waits too.
All replies to what came in one read go out in one write.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

_BUFFER_BYTES = 256 * 1024
_WAITING_AT_MOST = 256 * 1024
_SHUTDOWN_SECONDS = 1.0

# Reads are handled in the call that fills the buffer, so one serves all connections of a process.
_VIEW = memoryview(bytearray(_BUFFER_BYTES))


class Wire(asyncio.BufferedProtocol):
    """
    A connection that turns bytes into lines and lists of replies into writes.

    Attributes:
        held: Whether it waits for a timer, or for ever, instead of reading on.
        closed: Whether it is cut or about to be.
        opened_at: Start of the connection, by the loop's clock.
        heard_at: Last read, by the loop's clock.
    """

    def __init__(self, *, line_bytes: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = cast("asyncio.Transport", None)
        self._line_bytes = line_bytes
        self._reader: Callable[[bytes, int], int] = self._read_line
        self._out: list[bytes] = []
        self._rest = b""
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._upgrading: asyncio.Task[None] | None = None
        self._upgrade_wanted: Callable[[], ssl.SSLContext | None] | None = None
        self._hang_up = False
        self.held = False
        self.closed = False
        self.heard_at = self.opened_at = self._loop.time()

    # What a session adds

    def take_line(self, line: bytes) -> None:
        """Take one line that ended with CRLF, which is cut off."""
        raise NotImplementedError

    def refuse_line(self, *, too_long: bool) -> None:
        """Take notice of a line that is too long, or that ended with a bare line feed."""
        raise NotImplementedError

    def secured(self, *, success: bool) -> None:
        """Take notice of the end of a TLS handshake."""
        raise NotImplementedError

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; a session greets after this."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of everything that the connection held."""
        del exc
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
        self._rest = b""
        self._reader = _deaf

    def pause_writing(self) -> None:
        """Read nothing more from a client that does not read its replies."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        if self._waiting_bytes <= _WAITING_AT_MOST and self._upgrade_wanted is None:
            self._transport.resume_reading()

    def abort(self) -> None:
        """Cut the line; what was not written yet is lost."""
        self._out.clear()
        self.closed = True
        self._reader = _deaf
        self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the shared buffer."""
        del sizehint
        return _VIEW

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        data = bytes(_VIEW[:nbytes])
        self.heard_at = self._loop.time()
        if self.held or self._upgrade_wanted is not None:
            self._waiting.append(data)
            self._waiting_bytes += nbytes
            if self._waiting_bytes > _WAITING_AT_MOST:
                self._transport.pause_reading()
            return
        self._feed(data)
        self.flush()

    def flush(self) -> None:
        """Write the replies so far, and do what was to be done after them."""
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
        if self.held or self.closed:
            return
        if self._hang_up:
            self.closed = True
            self._reader = _deaf
            self._transport.close()
        elif self._upgrade_wanted is not None and self._upgrading is None:
            self._upgrading = self._loop.create_task(self._start_tls(self._upgrade_wanted()))

    # Input

    def _feed(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        position, end = 0, len(data)
        while position < end and not self.held and not self._hang_up:
            reached = self._reader(data, position)
            if reached < 0:
                break
            position = reached
        if position < end and not self._hang_up and self._upgrade_wanted is None:
            self._rest = data[position:]

    def _read_line(self, data: bytes, position: int) -> int:
        stop = data.find(b"\n", position)
        if stop < 0:
            if len(data) - position <= self._line_bytes:
                return -1
            self.refuse_line(too_long=True)
            self._reader = self._skip_line
            return len(data)
        line = data[position:stop]
        if line[-1:] != b"\r":
            # A bare line feed ends no command: to a relay on the way it was not the end of one.
            self.refuse_line(too_long=False)
        elif len(line) > self._line_bytes:
            self.refuse_line(too_long=True)
        else:
            self.take_line(line[:-1])
        return stop + 1

    def _skip_line(self, data: bytes, position: int) -> int:
        stop = data.find(b"\n", position)
        if stop < 0:
            return len(data)
        self._reader = self._read_line
        return stop + 1

    # Waiting

    def hold(self, seconds: float | None, then: Callable[[], None]) -> None:
        """
        Read nothing on for a while.

        Args:
            seconds: How long; None is until the connection ends.
            then: What to do afterwards, before input is read again.
        """
        self.held = True
        if seconds is not None:
            self._timer = self._loop.call_later(seconds, self._release, then)

    def trickle(self, reply: bytes, interval_seconds: float) -> None:
        """Write byte by byte, holding the connection meanwhile."""
        self._transport.write(reply[:1])
        if len(reply) > 1:
            self.hold(interval_seconds, partial(self.trickle, reply[1:], interval_seconds))

    def _release(self, then: Callable[[], None]) -> None:
        self.held = False
        self._timer = None
        then()
        if self.closed:
            return
        if not self.held and self._upgrade_wanted is None:
            self._feed_waiting()
        self.flush()

    def _feed_waiting(self) -> None:
        waiting = b"".join(self._waiting)
        self._waiting.clear()
        if self._waiting_bytes > _WAITING_AT_MOST:
            self._transport.resume_reading()
        self._waiting_bytes = 0
        self._feed(waiting)

    # TLS

    def upgrade(self, context: Callable[[], ssl.SSLContext | None]) -> None:
        """
        Begin TLS once the replies so far are written; what came in clear text is forgotten.

        Args:
            context: Gives the context at that moment; None breaks the handshake.
        """
        self._upgrade_wanted = context
        # What was said in clear text after STARTTLS could be anyone's, and must not be taken for
        # the client's (RFC 3207 section 6).
        self._reader = _deaf
        self._rest = b""
        self._waiting.clear()
        self._waiting_bytes = 0
        # The handshake must not be read as commands while its task has not begun.
        self._transport.pause_reading()

    async def _start_tls(self, context: ssl.SSLContext | None) -> None:
        transport = None
        try:
            if context is not None and not self.closed:
                transport = await self._loop.start_tls(
                    self._transport,
                    self,
                    context,
                    server_side=True,
                    ssl_handshake_timeout=self.handshake_seconds,
                    ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
                )
        except OSError:
            # A refused certificate, no common version, silence, or a line cut in the handshake.
            transport = None
        if transport is None or self.closed:
            if not self.closed:
                self.secured(success=False)
            (transport or self._transport).abort()
            self.connection_lost(None)
            return
        self._transport = transport
        self._upgrade_wanted = None
        self._reader = self._read_line
        self.secured(success=True)
        self._feed_waiting()
        self.flush()

    handshake_seconds = 10.0
    """Time for the TLS handshake."""


def _deaf(data: bytes, position: int) -> int:
    """Hear nothing more, and keep nothing alive."""
    del position
    return len(data)
