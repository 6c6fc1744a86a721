"""Which refusals count against an address, and what becomes of a mail to suppressed ones. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from models.lane import AttemptRecord, Claimed, Outcome
from models.lifecycle import ACCEPT, GIVE_UP
from models.stages import Stage
from models.suppressions import RECIPIENT_SUPPRESSED, Refusal
from workers.replies import classify

if TYPE_CHECKING:
    from models.errors import SubmissionFailed
    from workers.verdict import Verdict


def refusals(refused: Mapping[str, tuple[int, str]]) -> list[Refusal]:
    """Pick the recipients whose refusal counts, from the replies at RCPT."""
    found = []
    for address, (code, text) in refused.items():
        verdict = classify(Stage.RCPT, code, text, fresh_token=False)
        if verdict.suppress_after is not None:
            enough = verdict.suppress_after
            found.append(Refusal(address, verdict.rule, f"{code} {text}", enough))
    return found


def refusals_of(
    failed: SubmissionFailed, verdict: Verdict, recipients: Sequence[str]
) -> list[Refusal]:
    """Pick them from a dialogue that failed: a lone recipient may be refused later than at RCPT."""
    if failed.refused:
        return refusals(failed.refused)
    if verdict.suppress_after is None or len(recipients) != 1:
        return []
    answer = f"{failed.reply_code or ''} {failed.reply_text}".strip()
    return [Refusal(recipients[0], verdict.rule, answer, verdict.suppress_after)]


def suppressed(
    delivery: Claimed, claimed_by: str, barred: Mapping[str, str], *, worker: str
) -> Outcome:
    """
    Shape what is recorded of a mail that nobody is left to get.

    Args:
        delivery: The mail.
        claimed_by: The visit.
        barred: Its suppressed recipients, each with what stands beside it.
        worker: Our process.
    """
    return Outcome(
        delivery_id=delivery.id,
        mailbox_id=delivery.mailbox_id,
        claimed_by=claimed_by,
        transition=ACCEPT if delivery.taken else GIVE_UP,
        reason=None if delivery.taken else RECIPIENT_SUPPRESSED,
        refused=dict(barred),
        attempt=AttemptRecord(
            stage=Stage.COMPOSE,
            rule=RECIPIENT_SUPPRESSED,
            reply_text=next(iter(barred.values())),
            worker=worker,
        ),
    )
