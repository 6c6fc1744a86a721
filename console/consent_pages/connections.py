"""
Connections to the pages: whoever says nothing makes way.

The pages are on the public internet, often without a proxy that would keep slow and silent
clients away. A connection counts as idle until a request's head is there; idle ones end after a
while, and the longest idle one ends at once where there are too many.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

HEAD_SECONDS = 10.0
"""For a request's head, from the connection or from the answer before."""

MOST = 1000
"""Connections at once."""

MOST_OF_AN_ADDRESS = 50
"""Of one address; a proxy on this machine may have as many as there may be."""


class Crowd:
    """The connections of one server, the longest idle one first."""

    def __init__(self, *, most: int = MOST, most_of_an_address: int = MOST_OF_AN_ADDRESS) -> None:
        self._most = most
        self._most_of_an_address = most_of_an_address
        self._open: dict[PatientProtocol, str] = {}
        self._idle: OrderedDict[PatientProtocol, None] = OrderedDict()

    def enter(self, connection: PatientProtocol, address: str) -> None:
        """Count a new connection; one that is idle ends where there are too many."""
        self._open[connection] = address
        self._idle[connection] = None
        if not _is_own(address):
            same = [one for one, theirs in self._open.items() if theirs == address]
            if len(same) > self._most_of_an_address:
                self._end_one(same)
        if len(self._open) > self._most:
            self._end_one(list(self._open))

    def busy(self, connection: PatientProtocol) -> None:
        """Note that a request is in hand."""
        self._idle.pop(connection, None)

    def idle(self, connection: PatientProtocol) -> None:
        """Note that the next request is waited for."""
        if connection in self._open:
            self._idle[connection] = None

    def leave(self, connection: PatientProtocol) -> None:
        """Forget a connection that is closed."""
        self._open.pop(connection, None)
        self._idle.pop(connection, None)

    def _end_one(self, among: list[PatientProtocol]) -> None:
        """End the one that has been idle longest; where none is, the newest."""
        candidates = set(among)
        ended = next((one for one in self._idle if one in candidates), among[-1])
        self.leave(ended)
        ended.end()


class PatientProtocol(H11Protocol):
    """
    uvicorn's HTTP/1.1, which waits for a head no longer than ``HEAD_SECONDS``.

    Made by ``protocol_of``, which gives all connections of a server their crowd.
    """

    crowd: Crowd
    head_seconds: float

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._too_late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.crowd.enter(self, str(peer[0]) if isinstance(peer, tuple) else "")
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        self.crowd.leave(self)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """See whether a request's head is there."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
            self.crowd.busy(self)

    def on_response_complete(self) -> None:
        """Wait for the next request, if there may be one."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self.crowd.idle(self)
            self._wait_for_head()

    def end(self) -> None:
        """Hang up."""
        self._stop_waiting()
        self.transport.close()

    def _wait_for_head(self) -> None:
        if self._too_late is None:
            self._too_late = self.loop.call_later(self.head_seconds, self.end)

    def _stop_waiting(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None


def protocol_of(crowd: Crowd, *, head_seconds: float = HEAD_SECONDS) -> type[asyncio.Protocol]:
    """Make the protocol of one server."""
    made = type("Protocol", (PatientProtocol,), {"crowd": crowd, "head_seconds": head_seconds})
    return cast("type[asyncio.Protocol]", made)


def _is_own(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return True
