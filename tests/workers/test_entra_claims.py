"""Who gave a consent, by what providers say of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from models.errors import CredentialRejected
from models.senders import Sender
from workers.entra_claims import CONSUMERS, consenter

ALERTS = "alerts@contoso.example"
DIRECTORY = "11111111-2222-3333-4444-555555555555"


def sender(**values: Any) -> Sender:
    blank: dict[str, Any] = dict.fromkeys(part.name for part in dataclasses.fields(Sender))
    given = {"client_id": "app", "auth_user": ALERTS, "address": ALERTS, "tenant_slug": "contoso"}
    return Sender(**(blank | given | {"directory_id": DIRECTORY} | values))


@pytest.mark.parametrize(
    ("claims", "account"),
    [
        ({"tid": DIRECTORY, "preferred_username": ALERTS}, ALERTS),
        ({"tid": DIRECTORY.upper(), "email": "Alerts@Contoso.example"}, "Alerts@Contoso.example"),
        ({"aud": ["other", "app"], "email": ALERTS}, ALERTS),
        ({"sub": ALERTS}, ALERTS),
        ({"sub": "7", "upn": ALERTS}, ALERTS),
        # The bare login name of one claim does not stand against the address of another.
        ({"sub": "7", "preferred_username": "alerts", "email": ALERTS}, ALERTS),
        ({"sub": "7", "preferred_username": "boss@idp.example", "email": ALERTS}, ALERTS),
    ],
    ids=["entra", "entra email", "two audiences", "sub", "upn", "login and email", "alias"],
)
def test_the_mailbox_itself_is_recognised(claims: dict[str, Any], account: str) -> None:
    """Whichever claim holds the mailbox's address, nothing is left in doubt."""
    who = consenter(sender(), {"aud": "app"} | claims)

    assert (who.account, who.doubt) == (account, "")


@pytest.mark.parametrize(
    ("claims", "account"),
    [
        ({"sub": "5f0c"}, "5f0c"),
        ({"sub": "5f0c", "preferred_username": "alerts"}, "alerts"),
        ({"sub": "5f0c", "preferred_username": None, "email": 7}, "5f0c"),
        ({}, ""),
    ],
    ids=["sub", "login name", "nonsense", "nothing"],
)
def test_a_provider_that_tells_no_address_is_taken_with_a_doubt(
    claims: dict[str, Any], account: str
) -> None:
    """No more than ``sub`` is promised; the doubt names both, so that somebody can test."""
    who = consenter(sender(), {"aud": "app"} | claims)

    assert who.account == account
    assert repr(account) in who.doubt
    assert ALERTS in who.doubt


@pytest.mark.parametrize(
    ("claims", "error", "text"),
    [
        ({"aud": "other", "sub": ALERTS}, "wrong_audience", "another app"),
        ({"sub": ALERTS, "aud": None}, "wrong_audience", "another app"),
        ({"sub": "boss@contoso.example"}, "wrong_account", "boss@contoso"),
        ({"sub": "5f0c", "email": "boss@contoso.example"}, "wrong_account", "boss@contoso"),
        ({"tid": DIRECTORY, "preferred_username": "boss@x.example"}, "wrong_account", "boss@x"),
        # Entra tells an address: its absence is no reason to believe, nor is another claim.
        ({"tid": DIRECTORY}, "wrong_account", "an unnamed account"),
        ({"tid": DIRECTORY, "sub": ALERTS}, "wrong_account", "an unnamed account"),
        (
            {"tid": DIRECTORY, "preferred_username": "boss@x.example", "email": ALERTS},
            "wrong_account",
            "boss@x",
        ),
        ({"tid": DIRECTORY[::-1], "preferred_username": ALERTS}, "wrong_tenant", "belongs to"),
        ({"tid": CONSUMERS, "preferred_username": ALERTS}, "wrong_tenant", "personal"),
    ],
    ids=[
        "other app", "no app", "sub", "email", "entra", "entra unnamed", "entra sub",
        "entra email behind a name", "other directory", "personal",
    ],
)  # fmt: skip
def test_another_account_is_refused(claims: dict[str, Any], error: str, text: str) -> None:
    """What a provider says of app, directory and address must fit, and Entra must say it."""
    with pytest.raises(CredentialRejected, match=text) as refused:
        consenter(sender(), {"aud": "app"} | claims)

    assert refused.value.error == error
