"""
Entra ID over HTTP, as far as an app needs it that signs people in and refreshes tokens.

    GET       /common/discovery/instance                          where authorities are
    GET       /{tenant}/v2.0/.well-known/openid-configuration     also without v2.0
    GET       /{tenant}/discovery/v2.0/keys
    GET POST  /{tenant}/oauth2/v2.0/authorize                     sign-in page
    POST      /{tenant}/login                                     sign-in, approval, consent
    GET       /{tenant}/v2.0/adminconsent
    POST      /{tenant}/oauth2/v2.0/token
    GET       /{tenant}/oauth2/v2.0/logout
    GET       /error?code=                                        what an AADSTS code means

`tenant` is a GUID, a verified domain, ``common`` or ``organizations``.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sandbox.entra_errors import REFUSALS, EntraError, error_body
from sandbox.entra_faults import Asked, EntraFault, EntraFaultKind
from sandbox.pages import error_page, note_page, posting_page
from sandbox.signin import GoBack, ShowPage, SignIn
from sandbox.token_endpoint import TokenEndpoint, TokenRequest
from sandbox.web import BodyTooLarge, CutLine, host_url, page, read_form

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from sandbox.signin import Step
    from sandbox.world import World

_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def entra_routes(world: World) -> list[Route]:
    """Give the routes of Entra for a world."""
    entra = _Entra(world)
    return [
        Route("/common/discovery/instance", entra.instance),
        Route("/{tenant}/v2.0/.well-known/openid-configuration", entra.configuration),
        Route("/{tenant}/.well-known/openid-configuration", entra.configuration),
        Route("/{tenant}/discovery/v2.0/keys", entra.keys),
        Route("/{tenant}/oauth2/v2.0/authorize", entra.authorize, methods=["GET", "POST"]),
        Route("/{tenant}/login", entra.login, methods=["POST"]),
        Route("/{tenant}/v2.0/adminconsent", entra.admin_consent),
        Route("/{tenant}/oauth2/v2.0/token", entra.token, methods=["POST"]),
        Route("/{tenant}/oauth2/v2.0/logout", entra.logout),
        Route("/error", entra.explain),
    ]


class _Entra:
    def __init__(self, world: World) -> None:
        self._world = world
        self._tokens = TokenEndpoint(world)
        self._sign_in = SignIn(world)

    async def instance(self, request: Request) -> Response:
        """Say which hosts are one cloud (instance discovery)."""
        host = request.url.netloc
        asked = request.query_params.get("authorization_endpoint", "")
        tenant = urlsplit(asked).path.strip("/").partition("/")[0] or "common"
        return JSONResponse(
            {
                "tenant_discovery_endpoint": (
                    f"{host_url(request)}/{tenant}/v2.0/.well-known/openid-configuration"
                ),
                "api-version": "1.1",
                "metadata": [
                    {"preferred_network": host, "preferred_cache": host, "aliases": [host]}
                ],
            }
        )

    async def configuration(self, request: Request) -> Response:
        """Publish a tenant's OpenID configuration."""
        tenant = request.path_params["tenant"]
        try:
            directory = self._world.resolve_tenant(tenant)
        except EntraError as error:
            return self._refusal(request, error)
        tenant_id = directory.tenant_id if directory else ""
        document = _configuration(host_url(request), tenant_id or tenant, tenant_id or "{tenantid}")
        answer = partial(JSONResponse, document)
        return await self._discovery(request, tenant_id, answer)

    async def keys(self, request: Request) -> Response:
        """Publish the keys that tokens are signed with."""
        try:
            directory = self._world.resolve_tenant(request.path_params["tenant"])
        except EntraError as error:
            return self._refusal(request, error)
        answer = partial(JSONResponse, self._world.signer.jwks())
        return await self._discovery(request, directory.tenant_id if directory else "", answer)

    async def _discovery(
        self, request: Request, tenant_id: str, answer: Callable[[], Response]
    ) -> Response:
        fault = self._world.entra_faults.take(Asked(endpoint="discovery", tenant_id=tenant_id))
        return await self._struck(request, fault, answer) if fault else answer()

    async def authorize(self, request: Request) -> Response:
        """Begin a sign-in."""
        asked = dict(request.query_params)
        if request.method == "POST":
            asked |= await read_form(request)
        tenant = request.path_params["tenant"]
        return self._page(lambda: self._sign_in.begin(tenant, asked), asked)

    async def admin_consent(self, request: Request) -> Response:
        """Begin an administrator's consent."""
        asked = dict(request.query_params)
        tenant = request.path_params["tenant"]
        return self._page(lambda: self._sign_in.begin_admin_consent(tenant, asked), asked)

    async def login(self, request: Request) -> Response:
        """Take the form of one of the pages."""
        posted = await read_form(request)
        tenant = request.path_params["tenant"]
        return self._page(lambda: self._sign_in.proceed(tenant, posted), {})

    async def logout(self, _request: Request) -> Response:
        """Say goodbye; nobody is kept signed in."""
        return page(note_page("You signed out", "It is a good idea to close all windows."))

    async def explain(self, request: Request) -> Response:
        """Say what an AADSTS code means."""
        code = request.query_params.get("code", "")
        row = REFUSALS.get(int(code)) if code.isdecimal() and code.isascii() else None
        if row is None:
            return page(note_page("Unknown error code", "This code is not known here."), status=404)
        return page(note_page(f"AADSTS{row.code}", f"{row.text} OAuth error: {row.error}."))

    async def token(self, request: Request) -> Response:
        """Answer a token request, or misbehave as told."""
        try:
            form = await read_form(request)
        except BodyTooLarge:
            return self._refusal(request, EntraError(9002313, "The body is too large."))
        asked_for = TokenRequest(
            tenant=request.path_params["tenant"],
            host_url=host_url(request),
            form=form,
            authorization=request.headers.get("authorization", ""),
        )
        asked = self._tokens.asked(asked_for)
        fault = self._world.entra_faults.take(asked)
        if fault is None:
            return self._token_answer(request, asked_for, asked, "ok")
        if fault.kind not in {EntraFaultKind.SLOW, EntraFaultKind.CUT_AFTER}:
            code = fault.code if fault.kind is EntraFaultKind.AADSTS else None
            self._count(asked, str(fault.kind), code)
        answer = partial(self._token_answer, request, asked_for, asked, str(fault.kind))
        said = _quoted(request, form) if fault.echo else ""
        return await self._struck(request, fault, answer, said)

    def _token_answer(
        self, request: Request, asked_for: TokenRequest, asked: Asked, result: str
    ) -> Response:
        try:
            answer = self._tokens.answer(asked_for)
        except EntraError as error:
            self._count(asked, "aadsts", error.refusal.code)
            return self._refusal(request, error)
        self._count(asked, result)
        return JSONResponse(answer, headers=_NO_STORE)

    def _count(self, asked: Asked, result: str, code: int | None = None) -> None:
        # Anyone may send any grant type; unknown ones are counted as one.
        known = {"authorization_code", "refresh_token", "client_credentials"}
        grant_type = asked.grant_type if asked.grant_type in known else "other"
        self._world.ledger.count(grant_type=grant_type, result=result, user=asked.user, code=code)

    async def _struck(  # noqa: PLR0911 - one for each kind of fault
        self,
        request: Request,
        fault: EntraFault,
        answer: Callable[[], Response],
        said: str = "",
    ) -> Response:
        retry_after = (
            {"Retry-After": str(fault.retry_after_seconds)} if fault.retry_after_seconds else {}
        )
        match fault.kind:
            case EntraFaultKind.AADSTS:
                refused = EntraError(fault.code, said, row=fault.refusal)
                return self._refusal(request, refused, fault)
            case EntraFaultKind.OAUTH:
                body = {"error": fault.error, "error_description": fault.text}
                return JSONResponse(body, status_code=fault.status or 400, headers=_NO_STORE)
            case EntraFaultKind.THROTTLED:
                body = {"error": "temporarily_unavailable", "error_description": "Slow down."}
                return JSONResponse(body, status_code=429, headers=retry_after)
            case EntraFaultKind.UNAVAILABLE:
                return HTMLResponse(
                    "<h1>Service Unavailable</h1>", status_code=503, headers=retry_after
                )
            case EntraFaultKind.NOT_JSON:
                return HTMLResponse("<html><body>Please sign in to this network.</body></html>")
            case EntraFaultKind.SLOW:
                done = answer()
                await _wait_unless_gone(request, fault.seconds)
                return done
            case EntraFaultKind.CUT:
                return CutLine()
            case EntraFaultKind.CUT_AFTER:
                answer()
                return CutLine()

    def _refusal(
        self, request: Request, error: EntraError, fault: EntraFault | None = None
    ) -> Response:
        row = error.refusal
        body = error_body(
            error,
            host_url=host_url(request),
            now=self._world.clock(),
            correlation_id=request.headers.get("client-request-id", ""),
            oauth_error=fault.error if fault else "",
        )
        headers = dict(_NO_STORE)
        if fault and fault.retry_after_seconds:
            headers["Retry-After"] = str(fault.retry_after_seconds)
        status = (fault.status if fault else 0) or row.status
        return JSONResponse(body, status_code=status, headers=headers)

    def _page(self, step: Callable[[], Step], asked: dict[str, str]) -> Response:
        try:
            outcome = step()
        except EntraError as error:
            facts = {name: asked[name] for name in ("client_id", "redirect_uri") if asked.get(name)}
            html = error_page(code=error.refusal.code, text=error.text, facts=facts)
            return page(html, status=400)
        if isinstance(outcome, ShowPage):
            return page(outcome.html)
        return _go_back(outcome)


def _quoted(request: Request, form: Mapping[str, str]) -> str:
    """Say a request back as servers do that mean to be helpful: as read, and as it came."""
    read = ", ".join(f"{name} {value}" for name, value in form.items())
    header = request.headers.get("authorization", "none")
    return f"Read: {read}. Came: {urlencode(form)}. Authorization: {header}."


async def _wait_unless_gone(request: Request, seconds: float) -> None:
    """Hold an answer back; a client that gave up, or a server that stops, ends the wait."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass


def _go_back(answer: GoBack) -> Response:
    if answer.response_mode == "form_post":
        return page(posting_page(redirect_uri=answer.redirect_uri, fields=answer.fields))
    parts = urlsplit(answer.redirect_uri)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *answer.fields.items()])
    return RedirectResponse(
        urlunsplit(parts._replace(query=query)), status_code=302, headers=_NO_STORE
    )


def _configuration(host: str, tenant: str, issuer_tenant: str) -> dict[str, object]:
    base = f"{host}/{tenant}"
    return {
        "issuer": f"{host}/{issuer_tenant}/v2.0",
        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "token_endpoint": f"{base}/oauth2/v2.0/token",
        "end_session_endpoint": f"{base}/oauth2/v2.0/logout",
        "jwks_uri": f"{base}/discovery/v2.0/keys",
        "token_endpoint_auth_methods_supported": [
            "client_secret_post",
            "client_secret_basic",
            "private_key_jwt",
        ],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "code_challenge_methods_supported": ["S256", "plain"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "claims_supported": [
            "sub",
            "iss",
            "aud",
            "exp",
            "iat",
            "nonce",
            "preferred_username",
            "name",
            "tid",
            "oid",
        ],
    }
