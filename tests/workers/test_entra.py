"""Entra through the real MSAL, against the sandbox over TLS."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest

from models.app_registrations import Credential
from models.errors import ConfigurationError, CredentialRejected, TokenUnavailable
from models.ids import uuid7
from models.senders import Sender
from sandbox.apps import AppCertificate
from sandbox.authority import throwaway_authority
from sandbox.directory import Directory, User
from sandbox.entra_faults import EntraFault, EntraFaultKind
from sandbox.person import Person, StoppedAtPage
from sandbox.server import SandboxServer
from sandbox.tokens import TokenSigner
from sandbox.worldfile import APP_ROLE, build_world, contoso_and_friends
from tests.sandbox.entra_setting import certificate
from workers.entra import Consent, Entra, Tokens
from workers.entra_claims import CONSUMERS

T = TypeVar("T")

CALLBACK = "http://localhost:8400/oauth/callback"
SCOPE = "https://outlook.office.com/SMTP.Send"
ALERTS = "alerts@contoso.example"


@dataclass
class Box:
    """A sandbox with one tenant's sender and an Entra client before it. MSAL blocks: use ``do``."""

    server: SandboxServer
    sender: Sender
    credential: Credential
    entra: Entra

    @property
    def world(self) -> Any:
        return self.server.world

    @property
    def app(self) -> Any:
        return next(iter(self.world.apps.values()))

    @property
    def requests(self) -> int:
        return int(self.world.ledger.by_grant_type.total())

    def client(self, **changes: Any) -> Entra:
        given: dict[str, Any] = {"ca_file": str(self.server.ca_file), "timeout_seconds": 10.0}
        return Entra(**given | changes)

    def fault(self, kind: str, **changes: Any) -> None:
        self.world.entra_faults.add(EntraFault(EntraFaultKind(kind), **changes))

    async def do(self, call: Callable[..., T], *args: Any, **kw: Any) -> T:
        return await asyncio.to_thread(call, *args, **kw)

    async def go(self, flow: dict[str, Any], address: str = ALERTS, **kw: Any) -> dict[str, str]:
        person = Person(address, self.server.ca_file, **kw)
        return await self.do(person.go_through, flow["auth_uri"])

    async def consent(
        self, address: str = ALERTS, *, sender: Sender | None = None, **kw: Any
    ) -> Consent:
        sender = sender or self.sender
        flow = await self.do(self.entra.begin, sender, self.credential, redirect_uri=CALLBACK)
        back = await self.go(flow, address, **kw)
        return await self.do(self.entra.complete, sender, self.credential, flow=flow, callback=back)

    async def refresh(
        self,
        cache: str,
        *,
        sender: Sender | None = None,
        credential: Credential | None = None,
        entra: Entra | None = None,
    ) -> Tokens:
        return await self.do(
            (entra or self.entra).refresh,
            sender or self.sender,
            credential or self.credential,
            cache,
        )


@pytest.fixture(scope="module")
def signer() -> TokenSigner:
    return TokenSigner()


@pytest.fixture
async def box(sandbox_directory: Path, signer: TokenSigner) -> AsyncIterator[Box]:
    world = build_world(contoso_and_friends(["contoso", "fabrikam"]), signer=signer)
    server = SandboxServer(world, directory=sandbox_directory)
    await server.start()
    directory = world.directory_named("contoso")
    assert directory is not None
    app = next(iter(world.apps.values()))
    values: dict[str, Any] = dict.fromkeys(
        (part.name for part in dataclasses.fields(Sender)), None
    ) | {
        "mailbox_id": uuid7(),
        "tenant_slug": "contoso",
        "address": ALERTS,
        "auth_user": ALERTS,
        "client_id": app.client_id,
        "directory_id": directory.tenant_id,
        "authority_url": f"{server.entra_url}/{directory.tenant_id}",
        "scopes": (SCOPE,),
    }
    secret = Credential.secret(app.client_secrets[0].value)
    entra = Entra(ca_file=str(server.ca_file), timeout_seconds=10.0)
    yield Box(server, Sender(**values), secret, entra)
    await server.stop()


def refresh_token(cache: str) -> str:
    (entry,) = json.loads(cache)["RefreshToken"].values()
    return str(entry["secret"])


# -- consent ------------------------------------------------------------------------------------


async def test_a_consent_gives_a_token_and_says_who_gave_it(box: Box) -> None:
    """What comes of the pages is a token that Exchange takes and the names of who consented."""
    consent = await box.consent()

    assert consent.account == ALERTS
    assert consent.tenant_claim == box.sender.directory_id
    assert UUID(consent.object_claim)
    assert box.world.check_token(consent.tokens.access_token, ALERTS).ok
    assert consent.tokens.access_token not in repr(consent)


async def test_the_address_to_open_has_what_protects_the_sign_in(box: Box) -> None:
    """PKCE, state and nonce are there, offline access is asked for, the account is suggested."""
    flow = await box.do(box.entra.begin, box.sender, box.credential, redirect_uri=CALLBACK)

    asked = {name: value for name, (value,) in parse_qs(urlsplit(flow["auth_uri"]).query).items()}
    assert asked["code_challenge_method"] == "S256"
    assert asked["state"] == flow["state"]
    assert asked["nonce"]
    assert set(asked["scope"].split()) == {SCOPE, "openid", "profile", "offline_access"}
    assert asked["login_hint"] == ALERTS
    assert asked["prompt"] == "select_account"
    assert asked["response_mode"] == "query"


async def test_scopes_that_msal_adds_may_stand_in_the_settings(box: Box) -> None:
    """Somebody who lists offline_access gets a grant all the same, not MSAL's refusal."""
    sender = replace(box.sender, scopes=("openid", SCOPE, "offline_access", "profile"))

    consent = await box.consent(sender=sender)
    tokens = await box.refresh(consent.tokens.cache, sender=sender)

    assert box.world.check_token(tokens.access_token, ALERTS).ok


async def test_a_scope_without_permission_is_a_mistake_of_the_settings(box: Box) -> None:
    """Only scopes that MSAL adds itself leave nothing to ask for, and the text says what to do."""
    sender = replace(box.sender, scopes=("openid", "offline_access"))

    with pytest.raises(ConfigurationError, match="tenants edit contoso --scope"):
        await box.do(box.entra.begin, sender, box.credential, redirect_uri=CALLBACK)


async def test_another_account_of_the_tenant_is_refused(box: Box) -> None:
    """A consent by the administrator for himself is no consent for the mailbox."""
    with pytest.raises(CredentialRejected, match=r"admin@contoso\.example") as refused:
        await box.consent("admin@contoso.example")

    assert refused.value.error == "wrong_account"


async def test_the_account_may_be_written_in_capitals(box: Box) -> None:
    """Addresses are compared as Entra compares them."""
    consent = await box.consent(sender=replace(box.sender, auth_user="Alerts@Contoso.example"))

    assert consent.account == ALERTS


async def test_an_account_of_another_tenant_is_refused(box: Box) -> None:
    """Through the endpoint for all tenants one can sign in anywhere; the directory is compared."""
    sender = replace(box.sender, authority_url=f"{box.server.entra_url}/organizations")

    with pytest.raises(CredentialRejected, match="belongs to directory") as refused:
        await box.consent("alerts@fabrikam.example", sender=sender)

    assert refused.value.error == "wrong_tenant"


async def test_an_account_of_another_tenant_stops_at_the_page(box: Box) -> None:
    """The tenant's own endpoint does not let strangers in."""
    with pytest.raises(StoppedAtPage, match="50020"):
        await box.consent("alerts@fabrikam.example")


async def test_a_personal_account_is_refused_whatever_its_address(box: Box) -> None:
    """A personal account that bears the mailbox's own address is not the mailbox."""
    personal = box.world.add_directory(
        Directory(CONSUMERS, slug="personal", display_name="Personal", domains=("me.example",))
    )
    personal.add_user(User("alerts@me.example"))
    sender = replace(
        box.sender,
        address="alerts@me.example",
        auth_user="alerts@me.example",
        directory_id="me.example",
        authority_url=f"{box.server.entra_url}/common",
    )

    with pytest.raises(CredentialRejected, match="personal Microsoft account") as refused:
        await box.consent("alerts@me.example", sender=sender)

    assert refused.value.error == "wrong_tenant"


async def test_who_declines_is_believed(box: Box) -> None:
    """Cancel on the consent page comes back as access_denied, with Entra's code in the text."""
    with pytest.raises(CredentialRejected, match="AADSTS65004") as refused:
        await box.consent(decision="cancel")

    assert refused.value.error == "access_denied"


@pytest.mark.parametrize(
    "forge",
    [
        lambda back: back | {"state": "of another sign-in"},
        lambda back: {name: value for name, value in back.items() if name != "state"},
        lambda back: {},
    ],
    ids=["another", "none", "nothing at all"],
)
async def test_an_answer_of_another_sign_in_is_not_redeemed(
    box: Box, forge: Callable[[dict[str, str]], dict[str, str]]
) -> None:
    """Without the state of this sign-in the code is not even shown to Entra."""
    flow = await box.do(box.entra.begin, box.sender, box.credential, redirect_uri=CALLBACK)
    back = forge(await box.go(flow))

    with pytest.raises(CredentialRejected) as refused:
        await box.do(box.entra.complete, box.sender, box.credential, flow=flow, callback=back)

    assert refused.value.error == "state_mismatch"
    assert box.requests == 0


async def test_a_callback_works_once(box: Box) -> None:
    """The second time Entra refuses the code, and nothing is left of it."""
    flow = await box.do(box.entra.begin, box.sender, box.credential, redirect_uri=CALLBACK)
    back = await box.go(flow)
    before = dict(flow)
    await box.do(box.entra.complete, box.sender, box.credential, flow=flow, callback=back)

    with pytest.raises(CredentialRejected, match="AADSTS54005") as refused:
        await box.do(box.entra.complete, box.sender, box.credential, flow=flow, callback=back)

    assert refused.value.error == "invalid_grant"
    assert flow == before


async def test_a_code_for_another_nonce_leaves_nothing(box: Box) -> None:
    """A code slipped in from another sign-in, with the right state, gives no consent."""
    mine = await box.do(box.entra.begin, box.sender, box.credential, redirect_uri=CALLBACK)
    other = await box.do(box.entra.begin, box.sender, box.credential, redirect_uri=CALLBACK)
    slipped = (await box.go(other)) | {"state": mine["state"]}
    flow = mine | {"code_verifier": other["code_verifier"]}

    with pytest.raises(CredentialRejected) as refused:
        await box.do(box.entra.complete, box.sender, box.credential, flow=flow, callback=slipped)

    assert refused.value.error == "nonce_mismatch"


async def test_a_grant_that_would_end_within_the_hour_is_refused(box: Box) -> None:
    """A consent without offline access is told at once, not an hour later."""
    flow = await box.do(box.entra.begin, box.sender, box.credential, redirect_uri=CALLBACK)
    narrowed = flow | {"auth_uri": flow["auth_uri"].replace("offline_access", "openid")}
    back = await box.go(narrowed)

    with pytest.raises(CredentialRejected, match="offline access") as refused:
        await box.do(box.entra.complete, box.sender, box.credential, flow=flow, callback=back)

    assert refused.value.error == "no_refresh_token"


# -- refresh ------------------------------------------------------------------------------------


async def test_a_refresh_gives_another_token_and_keeps_the_rotated_one(box: Box) -> None:
    """Under strict rotation every cache that comes back serves for the next refresh."""
    box.world.directory_named("contoso").strict_rotation = True
    tokens = (await box.consent()).tokens
    seen = [refresh_token(tokens.cache)]

    for _ in range(3):
        before = tokens.access_token
        tokens = await box.refresh(tokens.cache)
        assert tokens.access_token != before
        assert 3600 <= tokens.expires_in_seconds <= 5400
        seen.append(refresh_token(tokens.cache))

    assert len(set(seen)) == 4
    assert box.world.check_token(tokens.access_token, ALERTS).ok


async def test_any_openid_provider_will_do(box: Box) -> None:
    """With a whole issuer for an authority, consent and refresh work the same."""
    issuer = f"{box.server.entra_url}/{box.sender.directory_id}/v2.0/"
    sender = replace(box.sender, authority_url=None, oidc_authority=issuer)

    consent = await box.consent(sender=sender)
    tokens = await box.refresh(consent.tokens.cache, sender=sender)

    assert box.world.check_token(tokens.access_token, ALERTS).ok


async def test_the_openid_configuration_is_asked_for_once(box: Box) -> None:
    """Refreshing does not depend on a document that never changes."""
    cache = (await box.consent()).tokens.cache
    box.fault("unavailable", endpoint="discovery")

    cache = (await box.refresh(cache)).cache

    with pytest.raises(TokenUnavailable, match="HTTP 503"):
        await box.refresh(cache, entra=box.client())


async def test_a_certificate_proves_as_well_who_we_are(box: Box) -> None:
    """A signed assertion instead of a secret gives a token."""
    certificate_pem, key_pem = certificate(around=time.time())
    box.app.certificates.append(AppCertificate.from_pem(certificate_pem))
    cache = (await box.consent()).tokens.cache
    box.app.client_secrets.clear()
    proof = Credential.certificate(certificate_pem=certificate_pem, private_key_pem=key_pem)

    tokens = await box.refresh(cache, credential=proof)

    assert box.world.check_token(tokens.access_token, ALERTS).ok


async def test_a_certificate_that_was_not_uploaded_is_refused(box: Box) -> None:
    """Entra's code comes through."""
    certificate_pem, key_pem = certificate(around=time.time())
    cache = (await box.consent()).tokens.cache
    proof = Credential.certificate(certificate_pem=certificate_pem, private_key_pem=key_pem)

    with pytest.raises(CredentialRejected) as refused:
        await box.refresh(cache, credential=proof)

    assert refused.value.codes == (700027,)


async def test_an_app_without_credential_is_a_mistake_of_the_settings(box: Box) -> None:
    """What is missing is said before anybody is asked."""
    with pytest.raises(ConfigurationError, match="neither a client secret nor a certificate"):
        await box.refresh("{}", credential=Credential())


@pytest.mark.parametrize(
    ("spoil", "error", "code"),
    [
        (lambda box: box.app.client_secrets.clear(), "invalid_client", 7000215),
        (lambda box: box.world.advance(200 * 86400), "invalid_client", 7000222),
        (
            lambda box: box.world.revoke_grants(ALERTS, recall_access_tokens=False),
            "invalid_grant",
            50173,
        ),
        (
            lambda box: setattr(
                box.world.directory_named("contoso").user(ALERTS), "enabled", False
            ),
            "invalid_grant",
            50057,
        ),
        (
            lambda box: box.fault("aadsts", code=53003),
            None,
            53003,
        ),
    ],
    ids=["wrong secret", "expired secret", "revoked", "disabled", "conditional access"],
)
async def test_a_refusal_says_what_entra_said(
    box: Box, spoil: Callable[[Box], Any], error: str | None, code: int
) -> None:
    """Error, code, text and status reach whoever has to act."""
    cache = (await box.consent()).tokens.cache
    spoil(box)

    with pytest.raises(CredentialRejected, match=f"AADSTS{code}") as refused:
        await box.refresh(cache)

    assert refused.value.codes == (code,)
    assert error in {None, refused.value.error}
    assert refused.value.http_status in {400, 401}


async def test_the_cause_gone_the_same_grant_serves_at_once(box: Box) -> None:
    """A refusal is not answered from MSAL's memory: an enabled account refreshes immediately."""
    user = box.world.directory_named("contoso").user(ALERTS)
    cache = (await box.consent()).tokens.cache
    user.enabled = False
    with pytest.raises(CredentialRejected):
        await box.refresh(cache)
    user.enabled = True

    tokens = await box.refresh(cache)

    assert box.world.check_token(tokens.access_token, ALERTS).ok


@pytest.mark.parametrize(
    ("cache", "reason"),
    [
        ("", "no account"),
        ("no json", "cannot be read"),
        ("{}", "no account"),
    ],
    ids=["empty", "damaged", "without account"],
)
async def test_a_grant_that_holds_nothing_needs_a_new_consent(
    box: Box, cache: str, reason: str
) -> None:
    """Nobody is asked with it."""
    with pytest.raises(CredentialRejected, match=reason) as refused:
        await box.refresh(cache)

    assert refused.value.error == "invalid_grant"
    assert box.requests == 0


async def test_an_unknown_tenant_is_named(box: Box) -> None:
    """Entra's own code comes with it, so that the verdict is about the tenant."""
    unknown = "11111111-2222-4333-8444-555555555555"
    sender = replace(box.sender, authority_url=f"{box.server.entra_url}/{unknown}")

    with pytest.raises(CredentialRejected, match=unknown) as refused:
        await box.refresh("{}", sender=sender)

    assert refused.value.error == "invalid_tenant"
    assert refused.value.codes == (90002,)


async def test_an_issuer_without_tls_is_refused(box: Box) -> None:
    """A secret is never sent in clear."""
    sender = replace(box.sender, authority_url="http://127.0.0.1:1/contoso")

    with pytest.raises(CredentialRejected, match="https"):
        await box.refresh("{}", sender=sender)


# -- an app for itself --------------------------------------------------------------------------


async def test_an_app_gets_a_token_for_itself(box: Box) -> None:
    """Client credentials give a token for the mailbox that the app may open, and no grant."""
    presence = box.world.directory_named("contoso").admit(box.app.client_id)
    presence.roles.add(APP_ROLE)
    presence.mailboxes.add(ALERTS)
    sender = replace(box.sender, scopes=("https://outlook.office365.com/.default",))

    tokens = await box.do(box.entra.client_credentials, sender, box.credential)

    assert box.world.check_token(tokens.access_token, ALERTS).ok


async def test_an_app_that_the_tenant_does_not_know_is_refused(box: Box) -> None:
    """Without the administrator's consent there is no token."""
    sender = replace(box.sender, scopes=("https://outlook.office365.com/.default",))

    with pytest.raises(CredentialRejected) as refused:
        await box.do(box.entra.client_credentials, sender, box.credential)

    assert refused.value.codes == (700016,)


# -- not now ------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["token", "discovery"])
@pytest.mark.parametrize(
    ("kind", "changes", "reason", "retry_after"),
    [
        ("throttled", {"retry_after_seconds": 17}, "HTTP 429", 17.0),
        ("throttled", {}, "HTTP 429", 5.0),
        ("throttled", {"retry_after_seconds": 99999}, "HTTP 429", 3600.0),
        ("unavailable", {"retry_after_seconds": 3}, "HTTP 503", 3.0),
        ("unavailable", {}, "HTTP 503", 5.0),
        ("not_json", {}, "a proxy in between", 5.0),
        ("cut", {}, "cannot be reached", 5.0),
        ("cut_after", {}, "cannot be reached", 5.0),
    ],
    ids=["429", "429 without", "429 for a day", "503", "503 without", "html", "cut", "cut after"],
)
async def test_trouble_that_passes_is_no_refusal(  # noqa: PLR0917 - a table
    box: Box, endpoint: str, kind: str, changes: dict[str, Any], reason: str, retry_after: float
) -> None:
    """Whatever says "not now" says when to come back, and the grant is as good as before."""
    cache = (await box.consent()).tokens.cache
    client = box.client()
    box.fault(kind, remaining=1, endpoint=endpoint, **changes)

    with pytest.raises(TokenUnavailable, match=reason) as away:
        await box.refresh(cache, entra=client)

    assert away.value.retry_after_seconds == retry_after
    assert (await box.refresh(cache, entra=client)).access_token


@pytest.mark.parametrize("endpoint", ["token", "discovery"])
async def test_a_slow_answer_is_waited_for_no_longer_than_the_time_out(
    box: Box, endpoint: str
) -> None:
    """The thread is free again when the time is up."""
    cache = (await box.consent()).tokens.cache
    client = box.client(timeout_seconds=0.5)
    box.fault("slow", seconds=20, endpoint=endpoint, remaining=1)
    began = time.monotonic()

    with pytest.raises(TokenUnavailable, match=r"did not answer within 0\.5 seconds"):
        await box.refresh(cache, entra=client)

    assert time.monotonic() - began < 3


async def test_an_answer_has_all_the_time_that_connecting_left(box: Box) -> None:
    """One that takes longer than two thirds of the time-out is heard: asking again would rotate."""
    cache = (await box.consent()).tokens.cache
    client = box.client(timeout_seconds=4.0)
    box.fault("slow", seconds=3.2, endpoint="token", remaining=1)

    assert (await box.refresh(cache, entra=client)).access_token


@pytest.mark.parametrize("step", ["begin", "complete"])
async def test_a_consent_does_not_hang_either(box: Box, step: str) -> None:
    """Both steps of a consent end in time."""
    client = box.client(timeout_seconds=0.5)
    flow = await box.do(box.entra.begin, box.sender, box.credential, redirect_uri=CALLBACK)
    back = await box.go(flow)
    options = {"redirect_uri": CALLBACK} if step == "begin" else {"flow": flow, "callback": back}
    box.fault("slow", seconds=20, endpoint="discovery" if step == "begin" else "token")

    with pytest.raises(TokenUnavailable, match="did not answer"):
        await box.do(getattr(client, step), box.sender, box.credential, **options)


@asynccontextmanager
async def scripted(
    directory: Path, answer: Callable[[asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[str]:
    """Run an HTTPS server that answers everything in one way; give its authority."""

    serving: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                await answer(writer)
        writer.close()

    context = throwaway_authority(directory, names=("127.0.0.1",)).server_context()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/contoso"
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def test_an_answer_that_drips_is_cut_off(box: Box, sandbox_directory: Path) -> None:
    """A byte every moment keeps no thread beyond the time-out."""

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with scripted(sandbox_directory, drip) as authority:
        sender = replace(box.sender, authority_url=authority)
        began = time.monotonic()
        with pytest.raises(TokenUnavailable, match="did not answer within"):
            await box.refresh("{}", sender=sender, entra=box.client(timeout_seconds=0.6))

    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\n", b""),
        (b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\n", b""),
        (b"HTTP/1.1 200 OK\r\n", b'{"signed_in": false}'),
        (b"HTTP/1.1 200 OK\r\n", b'["a list"]'),
    ],
    ids=["302", "307", "other json", "a list"],
)
async def test_what_is_no_openid_configuration_is_neither_followed_nor_remembered(
    box: Box, sandbox_directory: Path, head: bytes, body: bytes
) -> None:
    """A captive portal that speaks JSON, or sends us elsewhere, is gone when it is gone."""
    calls: list[int] = []

    async def answer(writer: asyncio.StreamWriter) -> None:
        calls.append(1)
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    client = box.client()
    async with scripted(sandbox_directory, answer) as authority:
        sender = replace(box.sender, authority_url=authority)
        for _ in range(2):
            with pytest.raises(TokenUnavailable, match="a proxy in between"):
                await box.refresh("{}", sender=sender, entra=client)

    assert len(calls) == 2


@pytest.mark.parametrize(
    "expires_in", ['"soon"', "Infinity", "[]"], ids=["a word", "infinite", "a list"]
)
async def test_an_answer_that_makes_no_sense_is_no_refusal(
    box: Box, sandbox_directory: Path, expires_in: str
) -> None:
    """Nobody is sent to sign in because an answer could not be read."""
    cache = (await box.consent()).tokens.cache

    async def answer(writer: asyncio.StreamWriter) -> None:
        body = json.dumps(
            {
                "issuer": authority,
                "authorization_endpoint": f"{authority}/authorize",
                "token_endpoint": f"{authority}/token",
                "access_token": "a token",
                "token_type": "Bearer",
                "expires_in": 0,
            }
        ).replace('"expires_in": 0', f'"expires_in": {expires_in}')
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body.encode())
        await writer.drain()

    async with scripted(sandbox_directory, answer) as authority:
        sender = replace(box.sender, authority_url=authority)
        with pytest.raises(TokenUnavailable, match="cannot be understood"):
            await box.refresh(cache, sender=sender)


async def test_nobody_listening_is_told_with_the_address(box: Box) -> None:
    """The text says who cannot be reached."""
    sender = replace(box.sender, authority_url="https://127.0.0.1:1/contoso")

    with pytest.raises(TokenUnavailable, match=r"127\.0\.0\.1:1 cannot be reached \(.*refused"):
        await box.refresh("{}", sender=sender)


async def test_a_certificate_that_we_do_not_trust_is_told_clearly(box: Box, tmp_path: Path) -> None:
    """The text names host and CA file; nothing was sent."""
    wrong = throwaway_authority(tmp_path).ca_file

    with pytest.raises(TokenUnavailable, match="no certificate that we trust") as away:
        await box.refresh("{}", entra=box.client(ca_file=str(wrong)))

    assert str(wrong) in str(away.value)
    assert "127.0.0.1" in str(away.value)


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_the_environment_does_not_win_over_our_ca_file(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Neither for bad nor for good: a foreign bundle neither breaks nor mends anything."""
    wrong = throwaway_authority(tmp_path).ca_file
    monkeypatch.setenv(name, str(wrong))
    cache = (await box.consent()).tokens.cache
    assert (await box.refresh(cache, entra=box.client())).access_token

    monkeypatch.setenv(name, str(box.server.ca_file))
    with pytest.raises(TokenUnavailable, match="no certificate that we trust"):
        await box.refresh(cache, entra=box.client(ca_file=str(wrong)))


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "garbage"])
async def test_a_ca_file_that_cannot_be_used_is_a_mistake_of_the_settings(
    box: Box, tmp_path: Path, content: str | None
) -> None:
    """The text names the file and the options."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigurationError, match="--ca-file") as wrong:
        await box.refresh("{}", entra=box.client(ca_file=str(path)))

    assert str(path) in str(wrong.value)


async def test_many_threads_refresh_at_once(box: Box) -> None:
    """One client serves all of a worker's threads."""
    cache = (await box.consent()).tokens.cache
    client = box.client()

    results = await asyncio.gather(*(box.refresh(cache, entra=client) for _ in range(24)))

    assert len({tokens.access_token for tokens in results}) == 24
