"""Which parked mailboxes go on after a person consented, gave a secret or mended settings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from workers import oauth_rules, rule_book
from workers.verdict import Action, Remedy, Verdict

_REFUSED_AT_AUTH = frozenset(
    {"credentials-incorrect-again", "token-refused-again", "auth-refused-again"}
)
"""The SMTP server took neither the token nor a fresh one; a token of a new consent may do."""


@cache
def cured_by_consent() -> frozenset[str]:
    """
    Return the reasons that a consent, or a token that was just given, puts an end to.

    Entra has answered with a token for this app, directory and account. So nothing that it
    refused before stands any more, whoever had to act.
    """
    return frozenset(_rules(_oauth_verdicts())) | _REFUSED_AT_AUTH | {_misconfigured()}


@cache
def lost_consent() -> frozenset[str]:
    """Return the reasons that say that a consent is worth nothing any more."""
    told = (Remedy.SIGN_IN_AGAIN, Remedy.ADMIN_CONSENT)
    return frozenset().union(*(_rules(_oauth_verdicts(), remedy) for remedy in told))


@cache
def cured_by_credential() -> frozenset[str]:
    """Return the reasons that a new secret or certificate puts an end to."""
    rules = _rules(_oauth_verdicts(), Remedy.NEW_SECRET)
    other = {"client-not-authenticated", "public-client", "client-refused-unknown-code"}
    return frozenset(rules) | other | {_misconfigured()}


@cache
def cured_by_settings() -> frozenset[str]:
    """Return the reasons that other addresses, scopes or files may put an end to."""
    everything = [*_oauth_verdicts(), *_reply_verdicts()]
    return frozenset(_rules(everything, Remedy.FIX_CONFIGURATION)) | {_misconfigured()}


def _misconfigured() -> str:
    # It comes with the whole way to SMTP, which a listing of lost consents has no need of.
    from workers import conclusion  # noqa: PLC0415

    return conclusion.misconfigured("").rule


def _rules(verdicts: Iterator[Verdict] | list[Verdict], remedy: Remedy | None = None) -> set[str]:
    found = set()
    for first in verdicts:
        verdict: Verdict | None = first
        while verdict is not None:
            if verdict.action is Action.PARK and remedy in {None, verdict.remedy}:
                found.add(verdict.rule)
            verdict = verdict.limit.then if verdict.limit else None
    return found


_oauth_verdicts = oauth_rules.every_verdict
_reply_verdicts = rule_book.every_reply_verdict
