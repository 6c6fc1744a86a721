"""Serving the pages until somebody stops it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import structlog
import uvicorn

from console.consent_pages.app import build_app
from console.consent_pages.connections import HEAD_SECONDS, Crowd, protocol_of
from console.context import Context

log = structlog.get_logger()

_TICK_SECONDS = 1.0
_GRACE_SECONDS = 20
"""Longer than a request to the sign-in service may take: a code can be redeemed once only."""


def serve(context: Context, listener: socket.socket) -> None:
    """
    Serve until SIGINT or SIGTERM, then finish what is in hand.

    Args:
        context: Open resources.
        listener: Where, as ``listening.listen`` gave it.
    """
    asyncio.run(_Server(config_for(context)).run_until_stopped(listener))


def config_for(
    context: Context, *, crowd: Crowd | None = None, head_seconds: float = HEAD_SECONDS
) -> uvicorn.Config:
    """
    Say how the pages are served.

    Args:
        context: Open resources.
        crowd: Bounds the connections; None: the usual ones.
        head_seconds: How long a request's head may take.
    """
    return uvicorn.Config(
        build_app(context),
        http=protocol_of(crowd or Crowd(), head_seconds=head_seconds),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        # Nothing is decided by where a request seems to come from.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


class _Server(uvicorn.Server):
    """uvicorn that sleeps between requests, and ends with 0 when it is stopped."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ended = asyncio.Event()

    async def run_until_stopped(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        listener.setblocking(False)
        host, port = listener.getsockname()[:2]
        log.info("consents_start", host=host, port=port)
        await self.serve(sockets=[listener])
        log.info("consents_stop")

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._ended.set()

    async def main_loop(self) -> None:
        # uvicorn's own loop polls for the end ten times a second.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), timeout=_TICK_SECONDS)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to us."""
        yield
