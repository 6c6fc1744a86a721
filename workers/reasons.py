"""What a reason means: the words behind the rules under which deliveries wait and die."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from models.composing_deaths import COMPOSING, EARLY, LIMIT, STOPS_UNSENT
from models.quota import EXTERNAL, RECIPIENTS
from models.suppressions import RECIPIENT_SUPPRESSED
from workers.faults import VISIT_FAILED
from workers.rule_book import every_verdict
from workers.verdict import Remedy


@dataclass(frozen=True, slots=True)
class Meaning:
    """
    What a reason says to the operator.

    Attributes:
        meaning: One plain sentence.
        next_step: What to do.
        remedy: What kind of cure it needs.
    """

    meaning: str
    next_step: str
    remedy: Remedy = Remedy.NONE


# Words that lie in the database for years; a test holds them against those that write them.
_OWN = {
    "stops-its-worker": Meaning(
        "It was in hand each time a worker died, so it is taken for the cause.",
        "Look at the workers' logs; replay it once they no longer stop.",
    ),
    STOPS_UNSENT: Meaning(
        "It was being composed each time a worker died, so it is taken for the cause; nothing of "
        "it was sent.",
        "Look at the workers' logs and at their memory; replay it once they no longer stop.",
    ),
    COMPOSING: Meaning(
        "A worker died while it composed it; nothing of it was sent.",
        f"Nothing to do; it is tried again, alone, and set aside after {LIMIT} such deaths.",
    ),
    EARLY: Meaning(
        "The worker that held it died before it was begun; nothing of it was sent.",
        "Nothing to do; it is tried again.",
    ),
    "worker-died": Meaning(
        "A worker died while it was in hand, so it may have been sent.",
        "Look at the workers' logs; the mail itself was tried again.",
    ),
    "uncertain-held": Meaning(
        "It may have been sent, and this tenant does not want such mails sent again.",
        "Look for its Message-ID in Sent Items; replay it if it is not there, else discard it.",
    ),
    "expired": Meaning(
        "It was not to be sent later than its expiry.", "Find what held its lane up so long."
    ),
    "cancelled": Meaning("Somebody took it back before it was sent.", "Nothing to do."),
    "mailbox-removed": Meaning(
        "Its mailbox was removed while it waited.", "Send it again from another mailbox."
    ),
    "left-behind": Meaning(
        "It was accepted for a mailbox that was removed at that moment; it was never sent.",
        "Send it again from another mailbox.",
    ),
    "token-unavailable": Meaning(
        "No access token could be had.", "Nothing to do; it is asked for again after a pause."
    ),
    VISIT_FAILED: Meaning(
        "Visits to its mailbox end by a fault of ours, so they keep a growing distance; nothing is "
        "lost.",
        "Look for visit_failed in the workers' logs and report it with these lines; it goes on "
        "by itself once the fault is gone.",
        Remedy.REPORT_BUG,
    ),
    "misconfigured": Meaning(
        "The set-up of its mailbox cannot work.",
        "Correct it: `alertpost tenants edit SLUG --help` says how.",
    ),
    RECIPIENTS: Meaning(
        "The recipients that its account may reach in 24 hours are used up.",
        "Nothing to do; it continues by itself as the 24 hours slide. Fewer recipients, or a "
        "second mailbox, make room.",
    ),
    EXTERNAL: Meaning(
        "The external recipients that its tenant may reach in 24 hours are used up.",
        "Nothing to do; it continues by itself as the 24 hours slide. Alerts to the tenant's own "
        "domains are not held up.",
    ),
    RECIPIENT_SUPPRESSED: Meaning(
        "Its recipients were refused before, so often that they are not used again.",
        "See `alertpost suppressions list`; correct the address, or take it off with `alertpost "
        "suppressions remove ADDRESS` and replay.",
        Remedy.FIX_RECIPIENT,
    ),
    "recipients-split": Meaning(
        "One mail does not take so many recipients; some have it already.",
        "Nothing to do; the others get it in parts of their own.",
    ),
    "recipients-deferred": Meaning(
        "Some recipients were put off by the server; the others got their mail.",
        "Nothing to do; those are tried again alone.",
    ),
}


def meaning_of(reason: str | None) -> Meaning | None:
    """Explain a reason; None where it is of a version that we do not know."""
    return _meanings().get(reason or "")


@cache
def _meanings() -> dict[str, Meaning]:
    found = {
        verdict.rule: Meaning(verdict.meaning, verdict.next_step, verdict.remedy)
        for verdict in every_verdict()
    }
    return found | _OWN
