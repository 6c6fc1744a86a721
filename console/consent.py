"""
The browser's way back: one callback, on loopback, answered with a page for the person.

A consent ends with the browser being sent to ``http://localhost:<port>/oauth/callback`` (RFC 8252
section 7.3; Entra ignores the port of localhost addresses). What arrives there is believed only if
it carries this sign-in's ``state``, and only once.
"""

from __future__ import annotations

import hmac
import html
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlencode

from models.errors import AlertpostError, ConfigurationError, TokenUnavailable
from models.urls import split_url

CALLBACK_PATH = "/oauth/callback"
LOOPBACK = "127.0.0.1"
_REGISTERED = (
    f"give the address that is registered with the app, such as http://localhost{CALLBACK_PATH}"
)
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1"})
_LARGEST_FORM = 64 * 1024
_IDLE_SECONDS = 10.0

Finish = Callable[[Mapping[str, str]], str]
"""Redeems the callback's parameters; gives a sentence for the person, or raises."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """
    Where the browser is sent, and where we listen for it.

    Attributes:
        uri: As Entra is told; None: made from the port that was found free.
        path: Of the callback.
        port: On loopback; 0 takes any that is free.
    """

    uri: str | None
    path: str
    port: int

    @classmethod
    def choose(cls, uri: str | None, port: int | None, *, pasted: bool = False) -> Redirect:
        """
        Check what the person asked for.

        Args:
            uri: ``--redirect-uri``.
            port: ``--port``.
            pasted: The callback's address is pasted, so nobody has to listen.

        Raises:
            ConfigurationError: It cannot work.
        """
        if uri is None:
            return cls(None, CALLBACK_PATH, port or 0)
        try:
            parts = split_url(uri)
        except ValueError as error:
            raise ConfigurationError(
                f"--redirect-uri {uri!r} is not a URL; {_REGISTERED}"
            ) from error
        own_port = parts.port
        local = parts.hostname in _LOCAL_NAMES
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment:
            raise ConfigurationError(f"--redirect-uri {uri!r}: {_REGISTERED}")
        if parts.scheme == "http" and not local:
            raise ConfigurationError(
                "--redirect-uri: Microsoft takes http only for localhost; anything else is https"
            )
        if pasted and parts.scheme == "https":
            raise ConfigurationError(
                "--paste needs a redirect address on http://localhost: to others the browser "
                "posts its answer, so the address line does not hold it"
            )
        if port is None and own_port is not None and local and parts.scheme == "http":
            port = own_port
        if port is None and not pasted:
            raise ConfigurationError(
                f"--redirect-uri {uri!r}: say with --port where on this machine it arrives"
            )
        return cls(uri, parts.path or "/", port or 0)


class Callback:
    """
    Listens on 127.0.0.1 for one callback. A context manager.

    Attributes:
        redirect_uri: To be told to Entra.
    """

    def __init__(self, redirect: Redirect) -> None:
        """
        Listen at once, so that the address printed next is one that answers.

        Raises:
            ConfigurationError: The port is taken.
        """
        self._path = redirect.path
        try:
            self._server = _Server((LOOPBACK, redirect.port), _Handler)
        except OSError as error:
            raise ConfigurationError(
                f"port {redirect.port} of {LOOPBACK} cannot be used: {error.strerror}; give "
                "another one with --port, or none to take one that is free"
            ) from error
        self._server.callback = self
        self.redirect_uri = (
            redirect.uri or f"http://localhost:{self._server.server_port}{redirect.path}"
        )
        self._turn = threading.Lock()
        self._done = threading.Event()
        self._state = ""
        self._finish: Finish | None = None
        self._error: BaseException | None = None
        self._answer = ""

    def __enter__(self) -> Self:
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self, *, state: str, finish: Finish, seconds: float) -> str:
        """
        Wait for the callback, let it be redeemed, and show the person what became of it.

        Args:
            state: Of this sign-in; a request without it is not this sign-in's.
            finish: Redeems the parameters. Called once, in another thread.
            seconds: How long somebody may take to sign in.

        Returns:
            What ``finish`` said.

        Raises:
            TokenUnavailable: Nobody came in time.
            AlertpostError: What ``finish`` raised; its text was shown to the person.
        """
        self._state, self._finish = state, finish
        if not self._done.wait(seconds):
            raise TokenUnavailable(
                f"nobody finished the sign-in within {_span(seconds)}; run the command again for "
                "a new address",
                retry_after_seconds=0,
            )
        if self._error is not None:
            raise self._error
        return self._answer

    def receive(self, path: str, given: Mapping[str, str]) -> tuple[HTTPStatus, str, str]:
        """
        Take a request.

        Returns:
            Status, title and text of the page that answers it.
        """
        if path != self._path:
            return HTTPStatus.NOT_FOUND, "Nothing here", "This is not the callback's address."
        state = given.get("state", "")
        if not self._state or not hmac.compare_digest(state.encode(), self._state.encode()):
            return (
                HTTPStatus.BAD_REQUEST,
                "Not this sign-in",
                (
                    "This answer does not belong to the sign-in that is waited for. Use the "
                    "address that was printed last."
                ),
            )
        with self._turn:
            finish, self._finish = self._finish, None
        if finish is None:
            return HTTPStatus.CONFLICT, "Used already", "This sign-in was finished before."
        try:
            self._answer = finish(given)
        except AlertpostError as error:
            self._error = error
            return HTTPStatus.FORBIDDEN, "Not connected", str(error)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
            return HTTPStatus.INTERNAL_SERVER_ERROR, "Not connected", "See where it was started."
        return HTTPStatus.OK, "Connected", self._answer

    def answered(self) -> None:
        """Let the waiting thread go on, now that the page is on its way."""
        if self._answer or self._error is not None:
            self._done.set()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Another program on the same port would get the callback of this one.
    allow_reuse_port = False
    callback: Callback

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing when a browser hangs up: what it brought was redeemed or was none."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _IDLE_SECONDS
    server_version = "alertpost"
    sys_version = ""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self._receive(path, query)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LARGEST_FORM:
            self._show(HTTPStatus.BAD_REQUEST, "Not a callback", "The form is too large.")
            return
        form = self.rfile.read(int(length)).decode("utf-8", "replace")
        self._receive(self.path.partition("?")[0], form)

    def _receive(self, path: str, query: str) -> None:
        page = self.server.callback.receive(path, dict(parse_qsl(query, keep_blank_values=True)))
        try:
            self._show(*page)
        finally:
            # Also where the browser has hung up: what it brought was redeemed.
            self.server.callback.answered()

    def _show(self, status: HTTPStatus, title: str, text: str) -> None:
        body = _PAGE.format(title=html.escape(title), text=html.escape(text)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing: the request line holds the code."""


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:38rem;margin:4rem auto;padding:0 1rem}}
</style><h1>{title}</h1><p>{text}</p><p>You may close this window.</p></html>
"""


def admin_consent_link(
    authority: str,
    *,
    client_id: str,
    scope: str,
    redirect_uri: str | None = None,
    state: str | None = None,
) -> str:
    """
    Give the address at which an administrator allows the app for a whole tenant.

    Args:
        authority: The directory's address at the sign-in service.
        client_id: The app's.
        scope: What it asks for, with spaces between.
        redirect_uri: Its last page; None: on localhost, where nobody may listen. The consent is
            given by then.
        state: What comes back with the answer.

    Source:
        learn.microsoft.com/entra/identity-platform/v2-admin-consent.
    """
    asked = {
        "client_id": client_id,
        "scope": scope,
        "redirect_uri": redirect_uri or f"http://localhost{CALLBACK_PATH}",
    }
    if state is not None:
        asked["state"] = state
    return f"{authority.rstrip('/')}/v2.0/adminconsent?{urlencode(asked)}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} minutes" if minutes > 1 and not rest else f"{seconds:.0f} seconds"


def pasted_parameters(address: str) -> dict[str, str]:
    """
    Read the parameters out of a callback address that somebody copied from the browser.

    Raises:
        ConfigurationError: It is not such an address.
    """
    query = address.strip().partition("?")[2].partition("#")[0]
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    if "state" not in parameters or not {"code", "error"} & parameters.keys():
        raise ConfigurationError(
            "this is not the callback's address: copy the whole line from the browser's address "
            f"bar after the sign-in; it begins with the redirect address ({CALLBACK_PATH}) and "
            "holds code= and state="
        )
    return parameters
