"""Which answers make the other way to sign in for a shared mailbox worth a try; see auth_forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.auth_forms import AuthForm
from models.grants import APP_ONLY
from workers.reply_rules_mail import SEND_AS_DENIED, SEND_AS_DENIED_ONCE
from workers.reply_rules_session import AUTH_REFUSED_AGAIN, TOKEN_REFUSED_AGAIN

if TYPE_CHECKING:
    from models.senders import Sender
    from workers.verdict import Verdict

_REFUSED_AT_AUTH = frozenset({TOKEN_REFUSED_AGAIN.rule, AUTH_REFUSED_AGAIN.rule})


def other_form_at_auth(sender: Sender, verdict: Verdict) -> AuthForm | None:
    """
    Name the form to try after a sign-in that was refused for good; None: no other may help.

    A sign-in that fails is no mail, and nothing that Exchange counts towards a lock-out.
    """
    if _is_delegated_for_another(sender) and verdict.rule in _REFUSED_AT_AUTH:
        return sender.auth_form.other
    return None


def other_form_for_sender(sender: Sender, verdict: Verdict) -> AuthForm | None:
    """
    Name the form to try after the From address was refused; None: no other may help.

    Only one way: signed in as the mailbox, the From address is its own.
    """
    denied = verdict.rule == SEND_AS_DENIED.rule and sender.auth_form is AuthForm.DELEGATE
    return AuthForm.MAILBOX if denied and _is_delegated_for_another(sender) else None


def with_patience(sender: Sender, verdict: Verdict) -> Verdict:
    """
    Doubt the first refusal of a From address that is the mailbox's own, signed in as itself.

    Each such refusal counts towards a lock-out, so the mailbox rests until the second try.
    """
    itself = sender.signs_in_as.lower() == sender.address.lower()
    return SEND_AS_DENIED_ONCE if itself and verdict.rule == SEND_AS_DENIED.rule else verdict


def _is_delegated_for_another(sender: Sender) -> bool:
    return sender.is_shared and sender.grant_kind != APP_ONLY
