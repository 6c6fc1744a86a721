"""
Who gave a consent, read from the ID token that came with it.

The ID token came over TLS from the token endpoint, so its signature may go unchecked (OpenID
Connect Core section 3.1.3.7); what it says may not. Entra always names directory (``tid``) and
account, and is held to both. Other providers promise no more than ``sub``: what they say of an
address must fit, and where they say nothing the submission server is the one to compare token and
user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.errors import CredentialRejected
from models.senders import Sender

CONSUMERS = "9188040d-6c67-4c5b-b112-36a304b66dad"
"""The directory of all personal Microsoft accounts."""

_ENTRA_NAMES = ("preferred_username", "email")
_FOREIGN_NAMES = ("preferred_username", "email", "upn", "sub")
"""Of these the first may be a bare login name and the last a number (Core sections 2 and 5.1)."""


@dataclass(frozen=True, slots=True)
class Consenter:
    """
    Who consented.

    Attributes:
        account: The name that fits the mailbox, or whatever the provider calls them.
        doubt: What could not be checked, for people; empty where everything was.
    """

    account: str
    doubt: str = ""


def consenter(sender: Sender, claims: Mapping[str, Any]) -> Consenter:
    """
    Tell who consented.

    Args:
        sender: The mailbox that was to be connected.
        claims: Of the ID token.

    Raises:
        CredentialRejected: It is the wrong account, directory or app.
    """
    audience = claims.get("aud")
    if sender.client_id not in (audience if isinstance(audience, list) else [audience]):
        raise CredentialRejected("wrong_audience", description="the answer is for another app")
    tenant = str(claims.get("tid") or "").lower()
    _check_directory(sender, tenant)
    expected = (sender.auth_user or sender.address).lower()
    if tenant:
        named = [next((_text(claims, name) for name in _ENTRA_NAMES if _text(claims, name)), "")]
    else:
        named = [text for name in _FOREIGN_NAMES if "@" in (text := _text(claims, name))]
    if expected in (text.lower() for text in named):
        return Consenter(next(text for text in named if text.lower() == expected))
    if named:
        account = named[0].lower() or "an unnamed account"
        raise CredentialRejected(
            "wrong_account",
            description=f"consent was given by {account}, but the mailbox sends as {expected}: "
            f"sign in as {expected} (a private window helps)",
        )
    account = _text(claims, "preferred_username") or _text(claims, "sub")
    return Consenter(
        account,
        doubt=f"the sign-in service calls the account {account!r} and gives no address, so nobody "
        f"compared it with {expected}; if another account signed in, the submission server will "
        "refuse the token",
    )


def unnamed(sender: Sender) -> Consenter:
    """Say of a grant that came without an ID token what nobody could check."""
    expected = (sender.auth_user or sender.address).lower()
    return Consenter(
        "an account that was not named",
        doubt="the sign-in service sent no ID token, so nobody compared account and directory with "
        f"{expected} and {sender.directory_id}; if it is another account's grant, the submission "
        "server will refuse the token",
    )


def _check_directory(sender: Sender, tenant: str) -> None:
    if tenant == CONSUMERS:
        # Such an account may bear the address of a work account, so the name alone proves nothing.
        raise CredentialRejected(
            "wrong_tenant",
            description="consent was given by a personal Microsoft account: sign in with the work "
            f"account of {sender.tenant_slug}",
        )
    if tenant and _is_guid(sender.directory_id) and tenant != sender.directory_id.lower():
        raise CredentialRejected(
            "wrong_tenant",
            description=f"the account belongs to directory {tenant}, not to "
            f"{sender.directory_id}: sign in with an account of {sender.tenant_slug}",
        )


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value.strip() if isinstance(value, str) else ""


def _is_guid(text: str) -> bool:
    return len(text) == 36 and text.count("-") == 4  # noqa: PLR2004
