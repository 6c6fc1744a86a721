"""Whoever opens connections and says nothing keeps nobody out."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import requests

from console.consent_pages import edges
from console.consent_pages.connections import Crowd, PatientProtocol
from tests.console.consent_setting import Hosted, served

SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"])


@contextmanager
def crowded(hosted: Hosted, crowd: Crowd, *, head_seconds: float = 60.0) -> Iterator[int]:
    """Serve the same pages on a port of their own."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    with served(hosted.context, listener, crowd=crowd, head_seconds=head_seconds):
        yield listener.getsockname()[1]


def connect(port: int, stack: ExitStack, said: bytes = b"") -> socket.socket:
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
    connection.sendall(said)
    return connection


def _has_ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        # What it had said was not read any more.
        return True


@SQLITE
@pytest.mark.parametrize("said", [b"", b"GET /health HT", b"POST / HTTP/1.1\r\nHost: x\r\nX-A: "])
def test_idle_connections_make_way(hosted: Hosted, said: bytes) -> None:
    """More of them than there may be: the pages and the health check answer all the same."""
    link = hosted.link()
    with crowded(hosted, Crowd(most=20)) as port, ExitStack() as stack:
        idle = [connect(port, stack, said) for _ in range(60)]

        health = requests.get(f"http://127.0.0.1:{port}/health", timeout=30)
        page = requests.get(f"http://127.0.0.1:{port}{link}", timeout=30)

        assert (health.status_code, page.status_code) == (200, 200)
        # The longest idle ones were ended first.
        assert _has_ended(idle[0])


@SQLITE
@pytest.mark.parametrize(
    "said",
    [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"],
)
def test_a_head_that_does_not_come_ends_the_connection(hosted: Hosted, said: bytes) -> None:
    """The first one or, after an answer, the next one."""
    with crowded(hosted, Crowd(), head_seconds=0.2) as port, ExitStack() as stack:
        connection = connect(port, stack, said)

        answer = b""
        while more := connection.recv(4096):
            answer += more

    assert answer.startswith(b"HTTP/1.1 200") is said.endswith(b"\r\n\r\n")


@SQLITE
def test_a_body_that_does_not_come_is_not_waited_for(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A form that is announced and not sent is answered with 408."""
    monkeypatch.setattr(edges, "BODY_SECONDS", 0.2)
    with ExitStack() as stack:
        head = b"POST /oauth/callback HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nstate="
        answer = connect(hosted.port, stack, head).recv(4096)

    assert answer.startswith(b"HTTP/1.1 408")


@SQLITE
def test_too_many_requests_in_hand_leave_the_health_check(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are told to come again; whoever watches the service still hears how it is."""
    monkeypatch.setattr(edges, "AT_ONCE", 0)

    page = hosted.get(hosted.link())

    assert (page.status_code, page.headers["retry-after"]) == (503, "5")
    assert hosted.get("/health").status_code == 200


class _Connection:
    ended = False

    def end(self) -> None:
        self.ended = True


def test_an_address_has_no_more_than_its_share() -> None:
    """Its own longest idle connection ends, nobody else's; a proxy on this machine has no share."""
    crowd = Crowd(most=100, most_of_an_address=2)
    made: dict[str, list[_Connection]] = {}
    for address in ("192.0.2.1", "198.51.100.7", "192.0.2.1", "192.0.2.1", "127.0.0.1", "127.0.0.1",
                    "127.0.0.1"):  # fmt: skip
        connection = _Connection()
        made.setdefault(address, []).append(connection)
        crowd.enter(_as_protocol(connection), address)
        if address == "192.0.2.1" and len(made[address]) == 1:
            crowd.busy(_as_protocol(connection))

    assert [one.ended for one in made["192.0.2.1"]] == [False, True, False]
    assert not any(one.ended for one in (*made["198.51.100.7"], *made["127.0.0.1"]))


def _as_protocol(connection: _Connection) -> PatientProtocol:
    from typing import cast

    return cast("PatientProtocol", connection)
