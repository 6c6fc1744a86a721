"""
A line between two parts of the installation, which can be slow, silent or cut.

What is sent into a silent line is not lost: as with TCP, it arrives once the line is back, unless
the sender has reset the connection meanwhile. A connection that is closed during a silence is seen
to be closed at its end, by the other side.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

LOOPBACK = "127.0.0.1"
_RESET = struct.pack("ii", 1, 0)


class Line:
    """
    A TCP proxy on a loop of its own. A context manager.

    Args:
        target: Where the server is: host and port, or the path of its socket.
        seed: Draws the delays.
    """

    def __init__(self, target: tuple[str, int] | Path, *, seed: str) -> None:
        self._target = target
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)
        self._open: set[asyncio.StreamWriter] = set()
        self._clear = asyncio.Event()
        self._clear.set()
        self._most_delay = 0.0
        self._refusing = False
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def silence(self) -> None:
        """Let nothing through, and tell nobody."""
        self._loop.call_soon_threadsafe(self._clear.clear)

    def reset(self) -> None:
        """Reset all connections, and refuse new ones."""
        self._loop.call_soon_threadsafe(self._reset)

    def delay(self, most_seconds: float) -> None:
        """Hold every piece back for up to so long, each way; their order stays."""
        self._most_delay = most_seconds

    def heal(self) -> None:
        """Let everything through again."""

        def heal() -> None:
            self._refusing = False
            self._clear.set()

        self._loop.call_soon_threadsafe(heal)

    async def _listen(self) -> int:
        host = LOOPBACK if isinstance(self._target, Path) else self._target[0]
        self._server = await asyncio.start_server(self._serve, host, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _end(self) -> None:
        self._server.close()
        self._reset()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _reset(self) -> None:
        self._refusing = True
        for writer in self._open:
            _abort(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _abort(writer)
            return
        self._open.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            await self._clear.wait()
            if isinstance(self._target, Path):
                back, there = await asyncio.open_unix_connection(self._target)
            else:
                back, there = await asyncio.open_connection(*self._target)
            self._open.add(there)
            ways = [
                asyncio.create_task(self._carry(reader, there)),
                asyncio.create_task(self._carry(back, writer)),
            ]
            try:
                await asyncio.gather(*ways)
            finally:
                for way in ways:
                    way.cancel()
        except OSError:
            for one in (writer, there):
                if one is not None:
                    _abort(one)
        except asyncio.CancelledError:
            # The proxy ends; whoever started this task, the library, would complain.
            pass
        finally:
            for one in (writer, there):
                if one is not None:
                    self._open.discard(one)
                    one.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one way; a reset overtakes what is still under way, as with TCP."""
        pieces: asyncio.Queue[bytes] = asyncio.Queue()
        sending = asyncio.create_task(self._send(pieces, writer))
        try:
            while True:
                data = await reader.read(65536)
                pieces.put_nowait(data)
                if not data:
                    break
            await sending
        finally:
            sending.cancel()

    async def _send(self, pieces: asyncio.Queue[bytes], writer: asyncio.StreamWriter) -> None:
        while True:
            data = await pieces.get()
            if self._most_delay:
                await asyncio.sleep(self._chance.uniform(0, self._most_delay))
            await self._clear.wait()
            if not data:
                with suppress(OSError):
                    writer.write_eof() if writer.can_write_eof() else writer.close()
                return
            writer.write(data)
            await writer.drain()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a reset."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
