"""Which parked mailboxes go on after a person consented, gave a secret or mended settings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from workers import conclusion, oauth_rules, reply_rules
from workers.verdict import Action, Remedy, Verdict

_MISCONFIGURED = conclusion.misconfigured("").rule

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
    return frozenset(_rules(_oauth_verdicts())) | _REFUSED_AT_AUTH | {_MISCONFIGURED}


@cache
def lost_consent() -> frozenset[str]:
    """Return the reasons that say that a consent is worth nothing any more."""
    told = (Remedy.SIGN_IN_AGAIN, Remedy.ADMIN_CONSENT)
    return frozenset().union(*(_rules(_oauth_verdicts(), remedy) for remedy in told))


@cache
def cured_by_credential() -> frozenset[str]:
    """Return the reasons that a new secret or certificate puts an end to."""
    rules = _rules(_oauth_verdicts(), Remedy.NEW_SECRET)
    return frozenset(rules) | {"client-not-authenticated", "public-client", _MISCONFIGURED}


@cache
def cured_by_settings() -> frozenset[str]:
    """Return the reasons that other addresses, scopes or files may put an end to."""
    everything = [*_oauth_verdicts(), *_reply_verdicts()]
    return frozenset(_rules(everything, Remedy.FIX_CONFIGURATION)) | {_MISCONFIGURED}


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


def _reply_verdicts() -> Iterator[Verdict]:
    for row in reply_rules.RULES:
        yield row.chosen(fresh_token=False)
        yield row.chosen(fresh_token=True)
    for pair in reply_rules.REFUSED_BY_STAGE.values():
        yield from pair
    yield from reply_rules.FAILURES.values()
    # Where no row fits: an answer that is none of SMTP's comes of a wrong host or port.
    yield from (reply_rules.UNKNOWN_AT_CONNECT, reply_rules.UNEXPECTED)
