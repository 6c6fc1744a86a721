"""
MSAL's way to the network: one request gives a JSON answer, a refusal, or ``TokenUnavailable``.

What says "not now" (no connection, a time-out, 429, 5xx, a page where JSON was due) is told apart
here, before MSAL sees it: MSAL would hide the status, and log pages of proxies as errors.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import unquote_plus, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from models.errors import ConfigurationError, CredentialRejected, TokenUnavailable
from models.proxies import Proxies, Proxy
from models.scrubbing import scrub_values
from models.secret_routes import NO_OTHERS, AllowedHosts

DISCOVERY_SECONDS = 24 * 3600.0
"""How long a tenant's OpenID configuration is remembered; it changes about never."""

UNAVAILABLE_RETRY_SECONDS = 5.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
"""Whatever Retry-After says; MSAL's own limit too."""

_CONNECT_SHARE = 1 / 3
"""Of the time-out, for each address that is tried; the answer has the rest."""

_LARGEST_ANSWER = 1_000_000
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_OK = 200
_BAD_REQUEST = 400
_PROXY_SIGN_IN = 407
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")
"""How Python's http.client says what a proxy answered to CONNECT."""

_SECRET_FIELDS = frozenset(
    {
        "assertion", "client_assertion", "client_secret", "code", "code_verifier", "refresh_token",
    }
)  # fmt: skip
"""Of a form that is posted to a token endpoint."""


class PostedTooLate(TokenUnavailable):
    """What gave the right to ask may be another's by now."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, as far as MSAL reads one."""

    status_code: int
    text: str = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)


class EntraHttp:
    """
    Sessions with one CA file and time-outs, and the memory of OpenID configurations.

    Args:
        ca_file: PEM file with the certificates to trust; what the environment says (such as
            REQUESTS_CA_BUNDLE, which ``requests`` would let win) does not count.
        timeout_seconds: For a request with its answer.
        hosts: Which may be asked, also where a provider's own document names another.
        proxies: Which proxy leads to a server; None: as the environment says.
    """

    def __init__(
        self,
        *,
        ca_file: str,
        timeout_seconds: float,
        hosts: AllowedHosts = NO_OTHERS,
        proxies: Proxies | None = None,
    ) -> None:
        self.hosts = hosts
        self.ca_file = ca_file
        self.proxies = Proxies.of() if proxies is None else proxies
        self.timeout_seconds = timeout_seconds
        self.discovered: dict[str, tuple[float, Answer]] = {}
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._sessions = threading.local()

    def call(self, *, post_until: float = math.inf) -> EntraCall:
        """
        Give MSAL's ``http_client`` for one call.

        Args:
            post_until: After this moment of ``time.monotonic`` nothing is posted any more.
        """
        return EntraCall(self, post_until)

    def session(self) -> requests.Session:
        """
        Give this thread's session: requests' sessions are not made for several threads.

        Raises:
            ConfigurationError: The CA file is missing or holds no certificate.
        """
        session: requests.Session | None = getattr(self._sessions, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False
            # Cookies of one tenant's sign-in have no business in another's.
            session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            session.mount("https://", _Trusting(self._trust()))
            self._sessions.session = session
        return session

    def _trust(self) -> ssl.SSLContext:
        """Load the CA file once: doing so takes longer than a whole refresh."""
        with self._lock:
            if self._context is None:
                try:
                    self._context = ssl.create_default_context(cafile=self.ca_file)
                except (OSError, ssl.SSLError) as error:
                    raise ConfigurationError(
                        f"the CA file {self.ca_file} cannot be used ({error}): "
                        "give a readable PEM file with --ca-file or ALERTPOST_CA_FILE"
                    ) from error
                self._context.minimum_version = ssl.TLSVersion.TLSv1_2
            return self._context


class EntraCall:
    """
    The requests of one MSAL call.

    Attributes:
        status: Of the last answer; None where none came.
        refusal: The last answer's JSON, if it was a refusal; MSAL hides it at some steps.
        secrets: What was posted and must not be read in any answer.
    """

    def __init__(self, http: EntraHttp, post_until: float) -> None:
        self._http = http
        self._post_until = post_until
        self.status: int | None = None
        self.refusal: dict[str, Any] = {}
        self.secrets: set[str] = set()

    def post(self, url: str, **request: Any) -> Answer:
        """
        Post a form.

        Raises:
            PostedTooLate: The moment has passed; nothing was posted.
            TokenUnavailable: Not now.
            ConfigurationError: The CA file cannot be used.
        """
        if time.monotonic() > self._post_until:
            raise PostedTooLate("too late to ask", retry_after_seconds=UNAVAILABLE_RETRY_SECONDS)
        self.secrets |= _secrets(request)
        answer = self._ask("POST", url, **request)
        if not self._is_json(answer):
            raise _unavailable(answer)
        return answer

    def get(self, url: str, **request: Any) -> Answer:
        """
        Get a document; one that is remembered costs no request.

        Raises:
            TokenUnavailable: Not now.
            ConfigurationError: The CA file cannot be used.
        """
        known = self._http.discovered.get(url)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        answer = self._ask("GET", url, **request)
        if _OK <= answer.status_code < _BAD_REQUEST:
            if not _is_configuration(answer):
                raise _unavailable(answer)
            self._http.discovered[url] = (time.monotonic() + DISCOVERY_SECONDS, answer)
        self._is_json(answer)
        return answer

    def _ask(self, method: str, url: str, **request: Any) -> Answer:
        self.status = None
        self.refusal = {}
        self._http.hosts.check(url, what="the sign-in service names the host")
        answer = _without(_send(self._http, method, url, request), self.secrets)
        self.status = answer.status_code
        if answer.status_code == _TOO_MANY_REQUESTS or answer.status_code >= _SERVER_ERROR:
            raise _unavailable(answer)
        return answer

    def _is_json(self, answer: Answer) -> bool:
        value = _json(answer)
        if value is not None and answer.status_code >= _BAD_REQUEST:
            self.refusal = value
        return value is not None


class _Trusting(HTTPAdapter):
    """Verifies servers by our context alone."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Verify behind a proxy as without one, and the proxy itself where it speaks TLS."""
        # Both by our context: what a proxy hands through is still Entra's own TLS.
        options |= {"ssl_context": self._context, "proxy_ssl_context": self._context}
        return super().proxy_manager_for(proxy, **options)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:  # noqa: ARG002
        """Demand a certificate, without loading the public roots into our context."""
        conn.cert_reqs = "CERT_REQUIRED"


def _send(http: EntraHttp, method: str, url: str, request: dict[str, Any]) -> Answer:
    """
    Send one request and read its answer whole, within the time-out.

    Redirects are not followed: what is posted holds the app's secret and the refresh token.
    """
    given = time.monotonic() + http.timeout_seconds
    proxy = http.proxies.for_url(url)
    if proxy is not None and proxy.trouble:
        raise TokenUnavailable(
            f"the proxy that {proxy.source} names cannot be used: it {proxy.trouble}",
            retry_after_seconds=UNAVAILABLE_RETRY_SECONDS,
            refusal=CredentialRejected(""),
        )
    # A pair of numbers would give the answer no more than its own share, however quickly the
    # connection was made.
    patience = urllib3.Timeout(
        total=http.timeout_seconds, connect=http.timeout_seconds * _CONNECT_SHARE
    )
    try:
        with http.session().request(
            method,
            url,
            timeout=patience,  # type: ignore[arg-type]  # its adapter passes it on
            allow_redirects=False,
            stream=True,
            # Both named: else a session would look for the other one itself.
            proxies={} if proxy is None else {"https": proxy.url, "http": proxy.url},
            **request,
        ) as response:
            body = _read(response.raw, until=given)
            return Answer(response.status_code, body, dict(response.headers))
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise _unreachable(http, url, proxy, error) from error


def _read(raw: Any, *, until: float) -> str:
    """Read a body; requests' time-out alone would start anew with every byte."""
    body = bytearray()
    while chunk := raw.read1(decode_content=True):
        body += chunk
        if len(body) > _LARGEST_ANSWER:
            raise requests.ConnectionError("the answer does not end")
        if time.monotonic() > until:
            raise requests.ReadTimeout
    return body.decode("utf-8", "replace")


def _secrets(request: Mapping[str, Any]) -> set[str]:
    """Name what is secret in a request: fields of the form, or the client's in its header."""
    form = request.get("data")
    found = {
        # MSAL makes its assertion as bytes.
        value.decode() if isinstance(value, bytes) else str(value)
        for name, value in dict(form or {}).items()
        if name in _SECRET_FIELDS and value
    }
    basic = str((request.get("headers") or {}).get("Authorization", "")).partition("Basic ")[2]
    if basic:
        found.add(basic)
        try:
            pair = base64.b64decode(basic, validate=True).decode()
        except (binascii.Error, ValueError):
            return found
        found.add(unquote_plus(pair.partition(":")[2]))
    return found


def _without(answer: Answer, secrets: set[str]) -> Answer:
    """Take out of a refusal what it quotes of our request; its text is stored and shown."""
    value = _json(answer)
    if value is None or "access_token" in value or not secrets:
        return answer
    return replace(answer, text=json.dumps(scrub_values(value, secrets)))


def _unreachable(
    http: EntraHttp, url: str, proxy: Proxy | None, error: BaseException
) -> TokenUnavailable:
    host = urlsplit(url).netloc
    by_way = "" if proxy is None else f" through the proxy {proxy}"
    if proxy is not None and _is_of_proxy(error):
        reason = _proxy_trouble(host, proxy, error)
    elif isinstance(error, requests.exceptions.SSLError):
        reason = (
            f"the sign-in service {host} has no certificate that we trust ({_innermost(error)}); "
            f"check the CA file {http.ca_file}"
        )
        if proxy is not None:
            reason += f", and whether the proxy {proxy} opens TLS to look inside"
    elif isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)):
        reason = (
            f"the sign-in service {host} did not answer within {http.timeout_seconds:g} seconds"
            f"{by_way}"
        )
    else:
        reason = f"the sign-in service {host} cannot be reached{by_way} ({_innermost(error)})"
    return TokenUnavailable(
        reason, retry_after_seconds=UNAVAILABLE_RETRY_SECONDS, refusal=CredentialRejected("")
    )


def _is_of_proxy(error: BaseException) -> bool:
    """Tell whether the proxy itself is what failed, not what is behind it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (requests.exceptions.ProxyError, urllib3.exceptions.ProxyError)):
            return True
        seen = _inner(seen)
    return False


def _proxy_trouble(host: str, proxy: Proxy, error: BaseException) -> str:
    said = _innermost(error)
    status = _TUNNEL.search(said)
    if status is None:
        return f"the proxy {proxy}, by which {host} is asked, cannot be reached ({said})"
    if int(status[1]) == _PROXY_SIGN_IN:
        return (
            f"the proxy {proxy} demands a sign-in ({said}): give the right user and password in "
            f"{proxy.source}, http://user:PASSWORD@host:port"
        )
    return f"the proxy {proxy} does not connect us to {host} ({said}): let it, or see its log"


def _unavailable(answer: Answer) -> TokenUnavailable:
    refusal: CredentialRejected | None = None
    busy = answer.status_code == _TOO_MANY_REQUESTS or answer.status_code >= _SERVER_ERROR
    if busy or answer.status_code == _OK:
        refusal = refusal_in(_json(answer) or {}, status=answer.status_code)
    if busy:
        reason = f"the sign-in service answered HTTP {answer.status_code}"
    else:
        reason = (
            f"the sign-in service answered HTTP {answer.status_code} with something else than was "
            "asked for (a proxy in between?)"
        )
    asked = _retry_after(answer.headers)
    return TokenUnavailable(
        reason,
        retry_after_seconds=UNAVAILABLE_RETRY_SECONDS if asked is None else asked,
        asked_to_wait=asked is not None,
        refusal=refusal,
    )


def refusal_in(
    value: Mapping[str, Any], *, status: int | None, error: str = ""
) -> CredentialRejected:
    """
    Read a refusal out of an answer's JSON (RFC 6749 section 5.2, and what Entra adds to it).

    Args:
        value: The answer.
        status: Its HTTP status.
        error: Stands for an ``error`` that it lacks.
    """
    codes = value.get("error_codes")
    return CredentialRejected(
        str(value.get("error") or error),
        codes=tuple(c for c in codes if type(c) is int) if isinstance(codes, list) else (),
        description=str(value.get("error_description") or ""),
        suberror=str(value.get("suberror") or ""),
        http_status=status,
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After, in seconds or as a date (RFC 9110 section 10.2.3); None: not asked for."""
    text = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
    text = text.strip()
    if text.isascii() and text.isdecimal():
        seconds = float(text[:9])
    else:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return None
    return min(max(seconds, 1.0), LONGEST_RETRY_AFTER_SECONDS)


def _json(answer: Answer) -> dict[str, Any] | None:
    try:
        value = json.loads(answer.text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _is_configuration(answer: Answer) -> bool:
    value = _json(answer) or {}
    return all(
        isinstance(value.get(name), str) for name in ("token_endpoint", "authorization_endpoint")
    )


def _innermost(error: BaseException) -> str:
    """Say what went wrong without the layers around it, which repeat address and parameters."""
    seen: BaseException = error
    while (inner := _inner(seen)) is not None:
        seen = inner
    text = getattr(seen, "strerror", None) or str(seen) or type(seen).__name__
    # urllib3 begins with the object that failed.
    return (text.rpartition(">: ")[2].splitlines() or [type(seen).__name__])[0][:300]


def _inner(error: BaseException) -> BaseException | None:
    inner = (
        getattr(error, "reason", None)
        or getattr(error, "original_error", None)
        or next((part for part in error.args if isinstance(part, BaseException)), None)
    )
    return inner if isinstance(inner, BaseException) else None
