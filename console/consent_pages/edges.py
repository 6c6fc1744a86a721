"""What goes around every answer: headers, a line in the log, and nothing told of our own faults."""

from __future__ import annotations

import asyncio
import time

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console.consent_pages.layout import CONTENT_SECURITY_POLICY
from console.consent_pages.pages import Page

log = structlog.get_logger()

LARGEST_FORM = 32 * 1024
"""Bytes, as a query or as a body; a callback holds a code of some thousand characters."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class BodyTooLarge(Exception):  # noqa: N818 - reads as what it is
    """A request brings more than any browser has to say here."""


class BodyTooSlow(Exception):  # noqa: N818 - as above
    """A request takes too long to say what it has to say."""


async def read_body(request: Request) -> bytes:
    """
    Read a request's body.

    Raises:
        BodyTooLarge: It is longer than ``LARGEST_FORM``.
        BodyTooSlow: It is not there after ``BODY_SECONDS``.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_FORM:
                    raise BodyTooLarge
    except TimeoutError:
        raise BodyTooSlow from None
    return bytes(body)


def answer(page: Page) -> Response:
    """Send a page."""
    return HTMLResponse(page.html, status_code=page.status)


AT_ONCE = 200
"""Requests in hand; more are told to come again. Forty of them can wait for Entra at a time."""

BODY_SECONDS = 10.0
"""For a request's body: a browser sends its form at once."""


class Edges:
    """
    Stands around the application.

    Args:
        app: What answers, faults included.
        busy: Answers in its place where too many requests are in hand.
        always: A path that is answered however many there are.
    """

    def __init__(self, app: ASGIApp, *, busy: Response, always: str) -> None:
        self._app = app
        self._busy = busy
        self._always = always
        self._in_hand = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        self._in_hand += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self._in_hand -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._app
        if self._in_hand > AT_ONCE and scope["path"] != self._always:
            app = self._busy
        begun = time.monotonic()
        status: int | None = None

        def tell() -> None:
            # Neither path nor query: the one holds the link, the other the code.
            log.info(
                "consent_page",
                method=scope["method"][:10],
                page=_page_name(scope),
                status=status,
                duration_ms=round((time.monotonic() - begun) * 1000),
            )

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                message["headers"] = headers.raw
            elif not message.get("more_body"):
                tell()
            await send(message)

        try:
            await app(scope, receive, guarded)
        except Exception:
            # Whoever asked has their answer already, which tells nothing of this.
            log.exception("consent_page_failed", page=_page_name(scope))


def _page_name(scope: Scope) -> str:
    """Name what was asked for, by the route that took it."""
    endpoint = scope.get("endpoint")
    return getattr(endpoint, "__name__", "none") if endpoint is not None else "none"
