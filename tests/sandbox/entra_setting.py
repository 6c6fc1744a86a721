"""A running sandbox and the real MSAL before it, for the tests of this folder."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import msal
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from sandbox.person import Person
from sandbox.server import SandboxServer
from sandbox.tokens import TokenSigner
from sandbox.worldfile import build_world, contoso_and_friends

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox.apps import AppRegistration
    from sandbox.directory import Directory
    from sandbox.world import World

SCOPE = "https://outlook.office.com/SMTP.Send"
CALLBACK = "http://localhost:5057/callback"
ALERTS = "alerts@contoso.example"
ADMIN = "admin@contoso.example"
START = time.time()


class Clock:
    """Time that moves only when told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@dataclass
class Setting:
    """
    A sandbox that runs on a loop of its own thread, and clients before it.

    MSAL and requests block, so tests that use them are plain functions.
    """

    server: SandboxServer
    clock: Clock
    http: requests.Session

    @property
    def world(self) -> World:
        return self.server.world

    @property
    def contoso(self) -> Directory:
        directory = self.world.directory_named("contoso")
        assert directory is not None
        return directory

    @property
    def app(self) -> AppRegistration:
        return next(iter(self.world.apps.values()))

    def client(self, tenant: str = "", *, credential: Any = None, **kw: Any) -> Any:
        """Give a new MSAL application, with nothing cached."""
        given = {
            "authority": f"{self.server.entra_url}/{tenant or self.contoso.tenant_id}",
            "instance_discovery": False,
        }
        return msal.ConfidentialClientApplication(
            self.app.client_id,
            client_credential=credential or self.app.client_secrets[0].value,
            http_client=self.http,
            **(kw or given),
        )

    def person(self, address: str = ALERTS, **kw: Any) -> Person:
        return Person(address, self.server.ca_file, **kw)

    def sign_in(self, client: Any, address: str = ALERTS, **flow_options: Any) -> dict[str, Any]:
        """Go through the whole authorization code flow."""
        options = {"redirect_uri": CALLBACK, "response_mode": "form_post"} | flow_options
        flow = client.initiate_auth_code_flow([SCOPE], **options)
        back = self.person(address).go_through(flow["auth_uri"])
        result: dict[str, Any] = client.acquire_token_by_auth_code_flow(flow, back)
        return result

    def refresh(self, refresh_token: str, *, client: Any = None) -> dict[str, Any]:
        """Refresh once, with a client that has nothing cached and throttles nothing."""
        result: dict[str, Any] = (client or self.client()).acquire_token_by_refresh_token(
            refresh_token, [SCOPE]
        )
        return result

    def grant(self, address: str = ALERTS) -> str:
        return self.world.give_grant(address, self.app.client_id)

    def post_token(self, tenant: str = "", **form: str) -> requests.Response:
        """Ask the token endpoint by hand."""
        url = f"{self.server.entra_url}/{tenant or self.contoso.tenant_id}/oauth2/v2.0/token"
        return self.http.post(url, data=form, timeout=20)

    def control(self, method: str, path: str, body: Any = None) -> requests.Response:
        return self.http.request(method, f"{self.server.control_url}{path}", json=body, timeout=20)


class SandboxThread:
    """Runs a sandbox on a loop in a thread."""

    def __init__(self, directory: Path, signer: TokenSigner) -> None:
        self.clock = Clock()
        world = build_world(
            contoso_and_friends(["contoso", "fabrikam"]), signer=signer, clock=self.clock
        )
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.server = SandboxServer(world, directory=directory)
        self.run(self.server.start())

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def close(self) -> None:
        self.run(self.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@cache
def _key() -> rsa.RSAPrivateKey:
    """Make one key for all certificates; it takes a while, and none is told by its key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate(*, days: int = 30, around: float = START) -> tuple[str, str]:
    """Make a self-signed certificate as people upload it; give certificate and key as PEM."""
    key = _key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Alert mailer")])
    moment = datetime.fromtimestamp(around, UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - timedelta(days=60))
        .not_valid_after(moment + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return cert.public_bytes(serialization.Encoding.PEM).decode(), key_pem.decode()
