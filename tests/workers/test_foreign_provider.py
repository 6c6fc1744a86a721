"""
Consent and refresh at a provider that is not Entra: strict where OpenID Connect is.

It does what a widely used provider was seen to do: its issuer has no path, it gives offline access
to nobody who did not ask for the consent page, it knows no ``select_account``, names the account by
``sub`` alone, and ends a grant whose refresh token comes twice.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from models.app_registrations import Credential
from models.errors import CredentialRejected
from models.senders import Sender
from sandbox.authority import throwaway_authority
from workers.entra import Consent, Entra

ALERTS = "alerts@contoso.example"
CALLBACK = "http://localhost:8400/oauth/callback"
SECRET = Credential.secret("s3cret")


@dataclass
class Provider:
    """
    What the provider knows.

    Attributes:
        mount: Path of the issuer; empty for none.
        subject: Who signs in.
        paths: What was asked for.
    """

    mount: str = ""
    subject: str = ALERTS
    url: str = ""
    paths: list[str] = field(default_factory=list)
    asked: dict[str, str] = field(default_factory=dict)
    refresh_token: str = ""
    given: int = 0

    @property
    def issuer(self) -> str:
        return self.url + self.mount

    def configuration(self) -> dict[str, Any]:
        names = ("authorization", "token")
        return {"issuer": self.issuer} | {f"{n}_endpoint": f"{self.issuer}/{n}" for n in names}

    def sign_in(self, address: str) -> dict[str, str]:
        """Do what a browser and a person would do at the authorization endpoint."""
        self.asked = dict(parse_qsl(urlsplit(address).query))
        state = self.asked["state"]
        if self.asked.get("prompt") not in {None, "login", "consent"}:
            return {"state": state, "error": "invalid_request", "error_description": "prompt"}
        return {"state": state, "code": "code", "iss": self.issuer}

    def token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if form["grant_type"] == "refresh_token" and form["refresh_token"] != self.refresh_token:
            self.refresh_token = ""
            return 400, {"error": "invalid_grant", "error_description": "already used"}
        self.given += 1
        answer = {"access_token": f"opaque-{self.given}", "token_type": "Bearer", "expires_in": 10}
        if "offline_access" in self.asked["scope"] and self.asked.get("prompt") == "consent":
            self.refresh_token = f"once-{self.given}"
            answer["refresh_token"] = self.refresh_token
        claims = {"iss": self.issuer, "sub": self.subject, "aud": "app", "exp": 4e9, "iat": 1}
        if form["grant_type"] == "authorization_code":
            claims["nonce"] = self.asked["nonce"]
        return 200, answer | {"id_token": f"{_part({'alg': 'none'})}.{_part(claims)}."}


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


class _Server(ThreadingHTTPServer):
    provider: Provider


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        provider = self.server.provider
        provider.paths.append(self.path)
        known = self.path == f"{provider.mount}/.well-known/openid-configuration"
        self._answer(200 if known else 404, provider.configuration() if known else {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer(*self.server.provider.token({k: v[0] for k, v in parse_qs(body).items()}))

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture
def provider(sandbox_directory: Path) -> Iterator[Provider]:
    server = _Server(("127.0.0.1", 0), _Handler)
    context = throwaway_authority(sandbox_directory).server_context()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.provider = Provider(url=f"https://localhost:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.provider
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def entra(sandbox_directory: Path) -> Entra:
    ca_file = throwaway_authority(sandbox_directory).ca_file
    return Entra(ca_file=str(ca_file), timeout_seconds=10)


def sender(**values: Any) -> Sender:
    blank: dict[str, Any] = dict.fromkeys(part.name for part in dataclasses.fields(Sender))
    given = {"client_id": "app", "auth_user": ALERTS, "address": ALERTS, "tenant_slug": "contoso"}
    return Sender(**(blank | given | {"directory_id": "d.example", "scopes": ("send",)} | values))


def consent(entra: Entra, provider: Provider, who: Sender) -> Consent:
    flow = entra.begin(who, SECRET, redirect_uri=CALLBACK)
    back = provider.sign_in(flow["auth_uri"])
    return entra.complete(who, SECRET, flow=flow, callback=back)


@pytest.mark.parametrize("mount", ["", "/realms/contoso"], ids=["without a path", "with a path"])
def test_a_whole_issuer_connects_and_refreshes(
    provider: Provider, entra: Entra, mount: str
) -> None:
    """Also an issuer without a path gives a grant, which every rotated token keeps alive."""
    provider.mount = mount
    who = sender(oidc_authority=provider.issuer)

    given = consent(entra, provider, who)
    cache = given.tokens.cache
    tokens = [given.tokens.access_token]
    for _ in range(3):
        refreshed = entra.refresh(who, SECRET, cache)
        cache = refreshed.cache
        tokens.append(refreshed.access_token)

    assert tokens == ["opaque-1", "opaque-2", "opaque-3", "opaque-4"]
    assert provider.paths == [f"{mount}/.well-known/openid-configuration"]
    assert (given.account, given.doubt, given.tenant_claim) == (ALERTS, "", "")
    assert refreshed.expires_in_seconds == 10


def test_the_base_of_an_authority_serves_as_well(provider: Provider, entra: Entra) -> None:
    """A provider at Entra's kind of address, but with other endpoints, is asked for consent."""
    provider.mount = "/d.example/v2.0"
    who = sender(authority_url=f"{provider.url}/d.example")

    cache = consent(entra, provider, who).tokens.cache

    assert provider.asked["prompt"] == "consent"
    assert entra.refresh(who, SECRET, cache).access_token == "opaque-2"


def test_who_has_no_address_is_taken_with_a_doubt(provider: Provider, entra: Entra) -> None:
    """The doubt reaches whoever connects."""
    provider.subject = "5f0c"

    given = consent(entra, provider, sender(oidc_authority=provider.issuer))

    assert given.account == "5f0c"
    assert ALERTS in given.doubt


def test_another_address_is_refused(provider: Provider, entra: Entra) -> None:
    """The subject is an address, and another one than the mailbox's."""
    provider.subject = "boss@contoso.example"

    with pytest.raises(CredentialRejected, match=r"boss@contoso\.example") as refused:
        consent(entra, provider, sender(oidc_authority=provider.issuer))

    assert refused.value.error == "wrong_account"


def test_a_refresh_token_that_comes_twice_ends_the_grant(provider: Provider, entra: Entra) -> None:
    """This is what the lease must never let happen: after it, also the newest token is worthless."""
    who = sender(oidc_authority=provider.issuer)
    old = consent(entra, provider, who).tokens.cache
    new = entra.refresh(who, SECRET, old).cache

    for cache in (old, new):
        with pytest.raises(CredentialRejected) as refused:
            entra.refresh(who, SECRET, cache)
        assert refused.value.error == "invalid_grant"
