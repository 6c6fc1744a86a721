"""Exchange Online's SMTP submission host in a box."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sandbox.exchange_session import CheckToken, ExchangeOptions, Front, Session, Verdict
from sandbox.faults import Fault, FaultPlan

if TYPE_CHECKING:
    import ssl

    from sandbox.mailboxes import MailboxStore

__all__ = ["CheckToken", "ExchangeOptions", "ExchangeServer", "Verdict"]

_BACKLOG = 4096
_SWEEP_SECONDS = 1.0


class ExchangeServer:
    """
    Listens, and closes what is silent for too long.

    Attributes:
        store: The mailboxes it serves.
        faults: What goes wrong; may be changed at any time.
    """

    def __init__(
        self,
        store: MailboxStore,
        *,
        check_token: CheckToken,
        tls: ssl.SSLContext,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: FaultPlan | None = None,
        wrong_tls: ssl.SSLContext | None = None,
        options: ExchangeOptions | None = None,
    ) -> None:
        """
        Make a server that does not listen yet.

        Args:
            store: The mailboxes it serves.
            check_token: Judges bearer tokens.
            tls: Context for STARTTLS.
            host: Address to listen on.
            port: 0 takes any that is free.
            faults: What goes wrong; None for an empty plan.
            wrong_tls: Context for the fault ``wrong_certificate``.
            options: How it behaves where real servers differ.
        """
        self.store = store
        self.faults = faults or FaultPlan()
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._front = Front(
            store=store,
            check_token=check_token,
            tls=tls,
            faults=self.faults,
            options=options or ExchangeOptions(),
            wrong_tls=wrong_tls,
        )

    @property
    def port(self) -> int:
        """
        The port it listens on.

        Raises:
            RuntimeError: It does not listen.
        """
        if self._server is None:
            raise RuntimeError("the server was not started")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Session(self._front), self._host, self._port, backlog=_BACKLOG
        )
        self._sweep()

    async def close(self) -> None:
        """Stop listening and cut what is open."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        while self._front.sessions:
            for session in list(self._front.sessions):
                session.abort()
            await asyncio.sleep(0)
        await server.wait_closed()

    def inject(self, fault: Fault) -> None:
        """Put a fault in force."""
        self.faults.add(fault)

    def snapshot(self) -> dict[str, Any]:
        """Give the state of connections and faults, as data for JSON."""
        return {
            "open": len(self._front.sessions),
            "accepted": self._front.accepted,
            "handshakes_failed": self._front.handshakes_failed,
            "idled_out": self._front.idled_out,
            "faults": self.faults.as_json(),
            "struck": dict(self.faults.struck),
        }

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        options = self._front.options
        now = loop.time()
        for session in list(self._front.sessions):
            if session.held:
                continue
            too_old = (
                options.session_seconds is not None
                and now - session.opened_at >= options.session_seconds
            )
            if too_old or now - session.heard_at >= options.idle_seconds:
                session.time_out()
        interval = min(_SWEEP_SECONDS, options.idle_seconds / 4, options.session_seconds or 4.0)
        self._sweep_timer = loop.call_later(interval, self._sweep)
