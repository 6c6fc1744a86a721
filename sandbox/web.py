"""Small things that both HTTP halves of the sandbox, Entra and control, need."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.responses import HTMLResponse, Response

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

FORM_LIMIT = 256 * 1024
TRANSPORT = "sandbox.transport"
"""Under this name the server hands its transport to the application, so that a fault can cut it."""


class BodyTooLarge(Exception):  # noqa: N818 - reads as what it is
    """The request's body is larger than anything the sandbox has use for."""


async def read_body(request: Request, *, limit: int = FORM_LIMIT) -> bytes:
    """
    Read a request's body.

    Raises:
        BodyTooLarge: It is longer than the limit, in bytes.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge
    return bytes(body)


async def read_form(request: Request) -> dict[str, str]:
    """Read a posted form; of a name given twice the last value counts."""
    body = await read_body(request)
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def host_url(request: Request) -> str:
    """Give scheme, host and port that the caller used, so that every name of the sandbox works."""
    return f"{request.url.scheme}://{request.url.netloc}"


def page(html: str, *, status: int = 200) -> HTMLResponse:
    """Answer with HTML that nobody may store, frame or load scripts into."""
    return HTMLResponse(
        html,
        status_code=status,
        headers={
            "Cache-Control": "no-store",
            "Content-Security-Policy": (
                "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
                " frame-ancestors 'none'; base-uri 'none'"
            ),
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )


class CutLine(Response):
    """Break the connection off instead of answering."""

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,  # noqa: ARG002 - nothing is sent
    ) -> None:
        """Abort the transport and wait until the server has noticed."""
        transport = scope.get("extensions", {}).get(TRANSPORT)
        if transport is None:
            raise RuntimeError("the server gave no transport to cut")
        transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass
