"""
The web application: which request leads to which verb.

    GET       {prefix}/consent/{token}    who asks for what
    POST      {prefix}/consent/{token}    begins a sign-in
    GET POST  {prefix}/oauth/callback     where the sign-in service sends the browser back
    GET       /health                     200 where SQL answers, else 503

``prefix`` is the path of ALERTPOST_PUBLIC_URL, mostly none. Opening a link starts nothing: mail
scanners open links too.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

import structlog
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from console import verbs_consents as verbs
from console.consent import CALLBACK_PATH
from console.consent_pages.edges import (
    LARGEST_FORM,
    BodyTooLarge,
    BodyTooSlow,
    Edges,
    answer,
    read_body,
)
from console.consent_pages.pages import Page, Pages
from console.context import Context
from console.public_address import CONSENT_PATH
from console.verbs_consents import AdminReturned, Away, Dead, Ending, Refused, TooManySignIns
from console.verbs_mailboxes import Connected
from models.database import read
from models.errors import AlertpostError, NotFound, StoreUnavailable
from models.sign_ins import Unusable

log = structlog.get_logger()

HEALTH_PATH = "/health"


def build_app(context: Context) -> ASGIApp:
    """
    Make the application.

    Args:
        context: Open resources, for as long as it serves.
    """
    pages = Pages(context.settings.consents)
    routes = _Routes(context, pages)
    prefix = urlsplit(context.settings.public_url).path.rstrip("/")

    async def other(_request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        return answer(pages.front() if status == 404 else pages.wrong_request(status))  # noqa: PLR2004

    async def too_large(_request: Request, _error: Exception) -> Response:
        return answer(pages.wrong_request(413))

    async def too_slow(_request: Request, _error: Exception) -> Response:
        return answer(pages.wrong_request(408))

    async def fault(_request: Request, _error: Exception) -> Response:
        return answer(pages.trouble(500))

    app = Starlette(
        routes=[
            Route(HEALTH_PATH, routes.health),
            Route(f"{prefix}{CONSENT_PATH}{{token}}", routes.link, methods=["GET", "POST"]),
            Route(f"{prefix}{CALLBACK_PATH}", routes.callback, methods=["GET", "POST"]),
        ],
        exception_handlers={
            HTTPException: other,
            BodyTooLarge: too_large,
            BodyTooSlow: too_slow,
            Exception: fault,
        },
    )
    busy = answer(pages.trouble(503))
    busy.headers["Retry-After"] = "5"
    return Edges(app, busy=busy, always=HEALTH_PATH)


class _Routes:
    def __init__(self, context: Context, pages: Pages) -> None:
        self._context = context
        self._pages = pages

    async def health(self, _request: Request) -> Response:
        """Say whether links can be answered."""

        def ask() -> Response:
            try:
                with read(self._context.engine) as conn:
                    conn.execute(text("SELECT 1"))
            except StoreUnavailable:
                return PlainTextResponse("SQL does not answer\n", 503)
            return PlainTextResponse("ok\n")

        return await run_in_threadpool(ask)

    async def link(self, request: Request) -> Response:
        """Show a link, or begin a sign-in by it."""
        token = request.path_params["token"]
        if request.method == "POST":
            await read_body(request)
            return await self._done(lambda: self._start(token))
        remember = request.method == "GET"
        return await self._done(lambda: self._look(token, remember=remember))

    async def callback(self, request: Request) -> Response:
        """Take a browser that comes back from signing in."""
        if request.method == "POST":
            given = (await read_body(request)).decode("utf-8", "replace")
        else:
            given = request.url.query
            if len(given) > LARGEST_FORM:
                raise BodyTooLarge
        if request.method == "HEAD":
            return PlainTextResponse("")
        parameters = dict(parse_qsl(given, keep_blank_values=True))
        return await self._done(lambda: self._finish(parameters))

    def _look(self, token: str, *, remember: bool) -> Response:
        found = verbs.look(self._context, token, remember=remember)
        if isinstance(found, Dead):
            return answer(self._pages.dead(found))
        return answer(self._pages.invitation(found))

    def _start(self, token: str) -> Response:
        begun = verbs.start(self._context, token)
        if isinstance(begun, str):
            return RedirectResponse(begun, status_code=303)
        return answer(self._ended(begun))

    def _finish(self, parameters: dict[str, str]) -> Response:
        return answer(self._ended(verbs.finish(self._context, parameters)))

    def _ended(self, ending: Ending) -> Page:
        match ending:
            case Connected():
                return self._pages.connected(ending)
            case Refused():
                return self._pages.refused(ending)
            case Away():
                return self._pages.away(ending)
            case Dead():
                return self._pages.dead(ending)
            case AdminReturned():
                return self._pages.admin_returned(ending)
            case Unusable():
                return self._pages.unusable(ending)

    async def _done(self, work: Callable[[], Response]) -> Response:
        """Run what waits for SQL and for the sign-in service, off the loop."""
        try:
            return await run_in_threadpool(work)
        except NotFound:
            return answer(self._pages.unknown_link())
        except TooManySignIns:
            page = answer(self._pages.too_often())
            page.headers["Retry-After"] = "60"
            return page
        except StoreUnavailable:
            log.exception("consent_page_failed")
            return answer(self._pages.trouble(503))
        except AlertpostError:
            log.exception("consent_page_failed")
            return answer(self._pages.trouble(500))
