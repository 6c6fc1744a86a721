"""Consent and refresh at a provider that is not Entra: see ``fixtures/foreign_provider``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from models.app_registrations import Credential
from models.errors import CredentialRejected
from models.senders import Sender
from sandbox.authority import throwaway_authority
from tests.fixtures.foreign_provider import ALERTS, CLIENT_ID, CLIENT_SECRET, Provider
from workers.entra import Consent, Entra

CALLBACK = "http://localhost:8400/oauth/callback"
SECRET = Credential.secret(CLIENT_SECRET)


@pytest.fixture
def entra(sandbox_directory: Path) -> Entra:
    ca_file = throwaway_authority(sandbox_directory).ca_file
    return Entra(ca_file=str(ca_file), timeout_seconds=10)


def sender(**values: Any) -> Sender:
    blank: dict[str, Any] = dict.fromkeys(part.name for part in dataclasses.fields(Sender))
    given = {
        "client_id": CLIENT_ID,
        "auth_user": ALERTS,
        "address": ALERTS,
        "tenant_slug": "contoso",
    }
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
