"""What a refusal of Entra means, in the same words wherever it is told."""

from __future__ import annotations

from dataclasses import dataclass

from console.next_commands import command_for
from models.errors import CredentialRejected
from models.mailboxes import MailboxEntry
from workers.oauth_errors import classify_oauth
from workers.verdict import Remedy, Verdict

_SAYS_ALL = frozenset(
    {
        "wrong_account", "wrong_tenant", "wrong_audience", "state_mismatch", "nonce_mismatch",
        "invalid_tenant", "no_refresh_token",
    }
)  # fmt: skip
"""Errors that our own checks raise, whose description already is for people."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    What a refusal of Entra means.

    Attributes:
        words: For people: what it means and what to do, without our commands.
        verdict: What it was taken for; None where one of our own checks refused.
    """

    words: str
    verdict: Verdict | None


def explanation(refused: CredentialRejected) -> Explanation:
    """Find the words for a refusal; the same ones wherever it is told."""
    if refused.error in _SAYS_ALL:
        return Explanation(str(refused), None)
    verdict = classify_oauth(
        refused.error,
        refused.codes,
        refused.suberror,
        refused.description,
        http_status=refused.http_status,
    )
    return Explanation(f"{verdict.meaning} {verdict.next_step}", verdict)


def explained(refused: CredentialRejected, entry: MailboxEntry) -> CredentialRejected:
    """Say in plain words what a refusal of Entra means and what to do about it."""
    said = explanation(refused)
    if said.verdict is None:
        return refused
    command = None
    if said.verdict.remedy is not Remedy.SIGN_IN_AGAIN:
        command = command_for(said.verdict.rule, entry)
    detail = f" Here: `{command}`." if command else ""
    detail += f" [{said.verdict.detail}]" if said.verdict.detail else ""
    return CredentialRejected(
        refused.error,
        codes=refused.codes,
        description=f"{said.words}{detail}",
        suberror=refused.suberror,
        http_status=refused.http_status,
    )
