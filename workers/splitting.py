"""
One mail in parts: to fewer recipients at a time, under one Message-ID. Pure.

Each part is a try of its own, and settled before the next begins: who has the mail stands in
``taken`` by then, so nobody gets it twice, and a crash leaves only the part in hand in doubt. Parts
cost no attempts. It ends, because each either serves somebody or is smaller than the one before,
and a single recipient that is too many is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.lane import AttemptRecord, Claimed, Outcome
from models.lifecycle import ACCEPT, GIVE_UP, RETRY
from models.stages import Stage
from workers.replies import classify
from workers.reply_rule import parse_enhanced
from workers.verdict import Action

if TYPE_CHECKING:
    from models.errors import SubmissionFailed
    from models.senders import Sender
    from workers.smtp_session import Features
    from workers.verdict import Verdict

SPLIT_RULE = "recipients-split"
"""Some recipients have the mail, or it is cut: the others get it in parts of their own."""

_CUT = 4
"""
A part that is too large as a whole is cut to this share, not halved: repeated errors of this kind
lock a mailbox out (5.2.254).
"""

_FINAL = frozenset({Action.RECIPIENT_REJECTED, Action.DEAD})


def left_to_serve(delivery: Claimed) -> list[str]:
    """Name the recipients that neither have the mail nor were refused for good."""
    served = {*delivery.refused, *delivery.taken}
    return [address for address in delivery.recipients if address not in served]


def most_recipients(sender: Sender, features: Features) -> int | None:
    """Say how many recipients one mail may have, as far as anybody said; None: nobody did."""
    known = [most for most in (sender.max_recipients, features.recipients_limit) if most]
    return min(known, default=None)


def smaller(recipients: int) -> int:
    """Say how many to try after so many were too many."""
    return max(1, recipients // _CUT)


def can_split(verdict: Verdict, failed: SubmissionFailed, recipients: Sequence[str]) -> bool:
    """Say whether less may help, or nothing will; a single recipient that is put off may wait."""
    final = failed.reply_code is not None and failed.reply_code >= 500  # noqa: PLR2004 - 5xx
    return verdict.action is Action.SPLIT and (final or len(recipients) > 1)


def too_many(
    delivery: Claimed,
    claimed_by: str,
    verdict: Verdict,
    failed: SubmissionFailed,
    recipients: Sequence[str],
    *,
    host: str,
    worker: str,
    seconds: float,
) -> tuple[Outcome, int | None]:
    """
    Conclude from a part that was refused because it has too many recipients.

    Args:
        delivery: The mail.
        claimed_by: The visit.
        verdict: That it is to be split.
        failed: The refusal.
        recipients: Of this part.
        host: Who refused.
        worker: Our process.
        seconds: How long the try took.

    Returns:
        What to record, and how many recipients to try next; None where that changes nothing.
    """
    refused = {
        address: f"{code} {text}"
        for address, (code, text) in failed.refused.items()
        if classify(Stage.RCPT, code, text, fresh_token=False).action in _FINAL
    }
    wanted = [address for address in recipients if address not in refused]
    rule, learned = verdict.rule, None
    if len(wanted) > 1:
        learned = smaller(len(wanted))
    else:
        # It is alone and still too many: that is no matter of the number.
        rule = verdict.limit.then.rule if verdict.limit is not None else verdict.rule
        answer = f"{failed.reply_code or ''} {failed.reply_text}".strip()
        refused |= dict.fromkeys(wanted, answer)
    transition = RETRY
    if not [address for address in left_to_serve(delivery) if address not in refused]:
        transition = ACCEPT if delivery.taken else GIVE_UP
    return (
        Outcome(
            delivery_id=delivery.id,
            mailbox_id=delivery.mailbox_id,
            claimed_by=claimed_by,
            transition=transition,
            counted=transition is not RETRY,
            reason=None if transition is ACCEPT else rule,
            refused=refused or None,
            attempt=AttemptRecord(
                stage=failed.stage,
                rule=rule,
                reply_code=failed.reply_code,
                enhanced_code=_enhanced(failed.reply_text),
                reply_text=failed.reply_text,
                smtp_host=host,
                worker=worker,
                duration_ms=seconds * 1000,
                took_permit=True,
            ),
        ),
        learned,
    )


def _enhanced(text: str) -> str | None:
    code = parse_enhanced(text)
    return ".".join(map(str, code)) if code else None
