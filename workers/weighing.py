"""
Whether a refusal holds the mailbox, or the one mail that met it. Pure.

Which of them an answer means, its words do not always tell: a mailbox would wait for a person, and
every probe would ask again with the same mail, although any other mail would be taken. So what the
server did with others counts.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from models.mail_evidence import MAIL_STAGES
from workers import reply_rules
from workers.reply_rule import parse_enhanced, words
from workers.reply_rules_session import PROTOCOL_ERROR
from workers.retry import Cause, GiveUp, NextStep, Park, Pause, Retry
from workers.verdict import Action, Remedy, Verdict, dead

if TYPE_CHECKING:
    from models.errors import SubmissionFailed
    from models.mail_evidence import Evidence
    from models.settings import RetrySettings
    from workers.smtp_session import Envelope

PARAMETERS_REFUSED = dead(
    "mail-parameters-refused",
    Remedy.FIX_RECIPIENT,
    "The server does not take a mail with letters beyond ASCII in an address (SMTPUTF8), or with"
    " content of eight bits.",
    "Send it to an address without such letters; other mails of this mailbox go out.",
)

REFUSED_ALONE = dead(
    "mail-refused-alone",
    Remedy.REPORT_BUG,
    "The server refuses this mail again and again, and takes others of the same mailbox.",
    "Read the raw reply; change what is peculiar about the mail, such as its content, its size or a"
    " recipient, and send it again.",
)

_WITH_PATIENCE = 2
"""So often may a mail meet a refusal that names its cause before others that go out tell against
it."""

_THROTTLED = 3
"""So often may it meet a throttle: that is seldom about one mail."""

_PARAMETER_CODES = frozenset({500, 501, 502, 504, 555})
_PARAMETER_WORDS = words(r"SMTPUTF8|8BITMIME|BODY=|utf-?8|non-?ascii|internationali[sz]")


def _with_what_follows(*verdicts: Verdict) -> frozenset[str]:
    limits = [verdict.limit for verdict in verdicts]
    return frozenset(
        [verdict.rule for verdict in verdicts]
        + [limit.then.rule for limit in limits if limit is not None]
    )


_TELL_NOTHING = _with_what_follows(
    reply_rules.UNKNOWN_AT_MAIL, reply_rules.UNEXPECTED, PROTOCOL_ERROR
)
"""Rules of answers that do not say what they are about."""


def rules_of(verdict: Verdict, step: NextStep) -> frozenset[str]:
    """Name the rules under which tries that ended so are recorded."""
    return _with_what_follows(verdict, step.verdict)


def in_context(verdict: Verdict, failed: SubmissionFailed, envelope: Envelope | None) -> Verdict:
    """
    Read a verdict with what the answer's tables cannot know: the mail.

    Args:
        verdict: From the tables.
        failed: The refusal.
        envelope: What was asked for; None where it did not come to that.
    """
    if envelope is not None and _is_about_parameters(verdict, failed, envelope):
        return replace(PARAMETERS_REFUSED, detail=verdict.detail)
    return verdict


def _is_about_parameters(verdict: Verdict, failed: SubmissionFailed, envelope: Envelope) -> bool:
    code = failed.reply_code
    if code is None or code < 500 or failed.stage not in MAIL_STAGES:  # noqa: PLR2004 - 5xx
        return False
    if not (envelope.smtputf8 or envelope.eight_bit) or failed.refused:
        return False
    if verdict.action is Action.REAUTH or code == 503:  # noqa: PLR2004 - out of sequence
        return False
    number = parse_enhanced(failed.reply_text)
    return (
        verdict.rule in _TELL_NOTHING
        or bool(_PARAMETER_WORDS.search(failed.reply_text))
        or (code in _PARAMETER_CODES and (number is None or number[1] in {0, 3, 5, 6}))
        or (number is not None and number[1] == 6 and number[2] in range(7, 11))  # noqa: PLR2004
    )


def needs_evidence(step: NextStep, stage: str) -> bool:
    """Say whether a step would hold the mailbox for what may be one mail's fault."""
    return stage in MAIL_STAGES and isinstance(step, Park | Pause)


def weigh(
    step: NextStep,
    evidence: Evidence,
    *,
    others_in_hand: bool,
    attempts: int,
    retry: RetrySettings,
    now: datetime,
) -> NextStep:
    """
    Decide whom a refusal holds.

    Args:
        step: What would follow from the answer alone.
        evidence: What the server did with this mail and others.
        others_in_hand: The visit has another mail that can be tried at once.
        attempts: Counted tries of this mail before.
        retry: Our own waits and limits.
        now: The present moment.
    """
    verdict = step.verdict
    again = timedelta(seconds=min(retry.first_seconds * 2.0**attempts, retry.longest_seconds))
    aside = Retry(verdict=verdict, delay=again, at=now + again, counted=True)
    exhausted = attempts + 1 >= retry.max_attempts
    alone = GiveUp(verdict=replace(REFUSED_ALONE, detail=verdict.detail), cause=Cause.REFUSED)
    match step:
        case Park():
            says_nothing = verdict.rule in _TELL_NOTHING
            if evidence.others_taken and (says_nothing or evidence.mine >= _WITH_PATIENCE):
                return alone
            unclear = not evidence.mine and not evidence.others_refused
            if says_nothing and unclear and others_in_hand and not exhausted:
                # One more refusal tells whether it is the mailbox.
                return aside
        case Pause() if evidence.others_taken and evidence.mine >= _THROTTLED:
            return alone if exhausted else aside
    return step
