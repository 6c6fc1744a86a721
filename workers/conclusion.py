"""From how a try ended to what is recorded: verdict, step, outcome. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from models.errors import SubmissionFailed, TokenUnavailable
from models.lane import AttemptRecord, Claimed, Outcome
from models.lifecycle import ACCEPT, EXPIRE, GIVE_UP, RETRY, Transition
from models.quota import Spent
from models.senders import Sender
from models.settings import RetrySettings
from models.stages import Stage
from workers.faults import VISIT_FAILED
from workers.oauth_errors import classify_oauth
from workers.replies import classify, classify_failure
from workers.reply_rule import parse_enhanced
from workers.reply_rules import Failure
from workers.retry import (
    Cause,
    Done,
    GiveUp,
    NextStep,
    OnUncertain,
    Park,
    Pause,
    Repeat,
    Retry,
    RetryPolicy,
    StopWorker,
    next_step,
)
from workers.smtp_session import Submitted
from workers.splitting import SPLIT_RULE
from workers.verdict import Action, Remedy, Scope, Verdict, park, throttle

SESSION_STAGES = frozenset({Stage.TOKEN, Stage.CONNECT, Stage.STARTTLS, Stage.EHLO, Stage.AUTH})
"""Failures here concern the mailbox, whatever mail was next: the whole lane waits, none pays."""

FINAL_FOR_RECIPIENT = frozenset({Action.RECIPIENT_REJECTED, Action.DEAD})

ACCEPTED_RULE = "accepted"
DEFERRED_RULE = "recipients-deferred"
"""Some recipients were taken, others put off; those are tried again alone."""

_PROBLEM_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Repeated:
    """How often the same answer came in a row, the present one included, and since when."""

    times: int = 1
    elapsed: timedelta = timedelta(0)


def judge(failed: SubmissionFailed, *, fresh_token: bool) -> Verdict:
    """
    Give the verdict on a dialogue that failed.

    Where every recipient was refused, one that may be taken later decides over one that never
    will be: the mail is not dead as long as somebody may still get it.
    """
    stage = Stage(failed.stage)
    if failed.refused:
        verdicts = [
            classify(Stage.RCPT, code, text, fresh_token=fresh_token)
            for code, text in failed.refused.values()
        ]
        return next(
            (verdict for verdict in verdicts if verdict.action not in FINAL_FOR_RECIPIENT),
            verdicts[0],
        )
    if failed.reply_code is not None:
        return classify(stage, failed.reply_code, failed.reply_text, fresh_token=fresh_token)
    if stage is Stage.COMPOSE:
        return classify(stage, 550, failed.reply_text, fresh_token=fresh_token)
    return classify_failure(
        stage, Failure(failed.failure or Failure.DISCONNECTED), failed.reply_text
    )


def concerns_account(rest: Pause, stage: Stage | str) -> bool:
    """
    Say whether Exchange asked for patience with the account that signs in, over all its mailboxes.

    A token that cannot be had is one mailbox's own, and so is a line that breaks.
    """
    return rest.verdict.action is Action.THROTTLE_MAILBOX and stage != Stage.TOKEN


def token_unavailable(away: TokenUnavailable) -> Verdict:
    """Give the verdict on a token that cannot be had now: the mailbox waits and tries again."""
    said = away.refusal
    if said is not None:
        return classify_oauth(
            said.error,
            said.codes,
            said.suberror,
            said.description,
            http_status=said.http_status,
            retry_after=away.retry_after_seconds if away.asked_to_wait else None,
        )
    first = max(1.0, away.retry_after_seconds)
    return throttle(
        "token-unavailable",
        Scope.MAILBOX,
        (first, max(first, 900.0)),
        f"No access token can be had at the moment: {away}.",
        "Nothing to do; it is asked for again after the pause.",
    )


def misconfigured(reason: str) -> Verdict:
    """Give the verdict on a mailbox whose set-up cannot work."""
    return park(
        "misconfigured",
        Scope.MAILBOX,
        Remedy.FIX_CONFIGURATION,
        f"The set-up of this mailbox cannot work: {reason}.",
        "Correct it (`alertpost tenants edit SLUG --help` says how); then run"
        " `alertpost mailboxes resume ADDRESS`.",
        probe=_PROBLEM_SECONDS,
    )


def decide(
    verdict: Verdict,
    failed: SubmissionFailed,
    delivery: Claimed,
    sender: Sender,
    *,
    retry: RetrySettings,
    now: datetime,
    repeated: Repeated,
) -> NextStep:
    """
    Decide what follows from a verdict for this delivery and its mailbox.

    Args:
        verdict: From ``judge`` or the OAuth table.
        failed: How the dialogue ended.
        delivery: The mail in hand.
        sender: Its mailbox.
        retry: Our own waits and limits.
        now: The present moment.
        repeated: The same answers in a row.
    """
    in_session = failed.stage in SESSION_STAGES
    if in_session:
        verdict = replace(verdict, counts=False)
    parked = sender.parked_at is not None
    if parked and verdict.limit is not None and verdict.limit.then.rule == sender.park_reason:
        # The probe found what the mailbox is parked for: no patience a second time.
        verdict = replace(verdict.limit.then, detail=verdict.detail)
    step = next_step(
        verdict,
        attempt=delivery.attempts + 1,
        max_attempts=retry.max_attempts,
        now=now,
        jitter=random.random(),  # noqa: S311 - spreads load
        deadline=None if in_session else delivery.expires_at,
        repeats=sender.pause_count + 1 if in_session and verdict.limit is None else repeated.times,
        elapsed=max(repeated.elapsed, timedelta(0)),
        throttle_count=sender.pause_count,
        # ``park_count`` was read before the probe that has just failed.
        park_count=sender.park_count + parked,
        policy=RetryPolicy(
            soon_seconds=retry.soon_seconds,
            first_seconds=retry.first_seconds,
            longest_seconds=retry.longest_seconds,
            spread=retry.jitter_share,
            on_uncertain=OnUncertain(sender.uncertain_policy),
        ),
    )
    if in_session and isinstance(step, Repeat | Done):
        # No mail was in hand, so none may be given up for it.
        delay = timedelta(seconds=retry.first_seconds)
        step = Retry(verdict=step.verdict, delay=delay, at=now + delay, counted=False)
    match step:
        case Retry() if in_session:
            return Pause(verdict=step.verdict, scope=Scope.MAILBOX, delay=step.delay, at=step.at)
        case Repeat():
            # Re-authentication has its own second try; what is left is a new connection, soon.
            delay = timedelta(seconds=retry.soon_seconds)
            if delivery.attempts + 1 >= retry.max_attempts:
                return GiveUp(verdict=step.verdict, cause=Cause.ATTEMPTS)
            return Retry(verdict=step.verdict, delay=delay, at=now + delay, counted=True)
        case Done():
            # A 2xx where a refusal was expected: the server broke the protocol.
            delay = timedelta(seconds=retry.first_seconds)
            return Retry(verdict=step.verdict, delay=delay, at=now + delay, counted=True)
    return step


def failed_outcome(
    delivery: Claimed,
    claimed_by: str,
    step: NextStep,
    failed: SubmissionFailed,
    *,
    host: str,
    worker: str,
    seconds: float,
    took_permit: bool,
) -> Outcome:
    """Shape what is recorded of a try that did not end with a 250."""
    transition: Transition = RETRY
    delay: float | None = None
    counted = False
    match step:
        case Retry():
            delay, counted = step.delay.total_seconds(), step.counted
        case GiveUp():
            transition, counted = GIVE_UP, True
            if delivery.taken and failed.refused:
                # Others have the mail; those that were put off will not get it any more.
                transition = ACCEPT
    refused = {
        address: f"{code} {text}"
        for address, (code, text) in failed.refused.items()
        if transition is ACCEPT
        or classify(Stage.RCPT, code, text, fresh_token=False).action in FINAL_FOR_RECIPIENT
    }
    return Outcome(
        delivery_id=delivery.id,
        mailbox_id=delivery.mailbox_id,
        claimed_by=claimed_by,
        transition=transition,
        delay_seconds=delay,
        counted=counted,
        reason=step.verdict.rule,
        uncertain=step.verdict.uncertain,
        refused=refused or None,
        attempt=AttemptRecord(
            stage=failed.stage,
            rule=step.verdict.rule,
            reply_code=failed.reply_code,
            enhanced_code=enhanced_code(failed.reply_text),
            reply_text=failed.reply_text,
            smtp_host=host,
            worker=worker,
            duration_ms=seconds * 1000,
            took_permit=took_permit,
        ),
    )


def accepted(
    delivery: Claimed,
    claimed_by: str,
    submitted: Submitted,
    *,
    host: str,
    worker: str,
    seconds: float,
    refused: dict[str, str],
    taken: Sequence[str],
    deferred: Mapping[str, Verdict],
    left: Sequence[str] = (),
    retry: RetrySettings,
    now: datetime,
    spent: Spent | None = None,
) -> Outcome:
    """
    Shape what is recorded of a 250.

    Recipients that were put off are tried again alone, until the attempts or the time are used
    up; then they are refused with that reason, and the delivery is accepted for the others.
    Recipients that are ``left`` because one mail does not take so many get theirs at once, and that
    costs no attempt.
    """
    delay = min(retry.soon_seconds * 2.0**delivery.attempts, retry.longest_seconds)
    delay = max([delay, *(verdict.pause_seconds[0] for verdict in deferred.values())])
    late = delivery.expires_at is not None and delivery.expires_at <= now + timedelta(seconds=delay)
    later = bool(deferred) and delivery.attempts + 1 < retry.max_attempts and not late
    if deferred and not later:
        refused = refused | {
            address: f"put off until the end: {verdict.rule}"
            for address, verdict in deferred.items()
        }
    again = later or bool(left)
    rule = DEFERRED_RULE if later else SPLIT_RULE if again else ACCEPTED_RULE
    return Outcome(
        delivery_id=delivery.id,
        mailbox_id=delivery.mailbox_id,
        claimed_by=claimed_by,
        transition=RETRY if again else ACCEPT,
        delay_seconds=delay if later else None,
        counted=rule != SPLIT_RULE,
        reason=rule if again else None,
        refused=refused or None,
        taken=dict.fromkeys(taken, f"{submitted.reply.code} {submitted.reply.text}")
        if again or delivery.taken
        else None,
        spent=spent,
        attempt=AttemptRecord(
            stage=Stage.BODY,
            rule=rule,
            reply_code=submitted.reply.code,
            enhanced_code=enhanced_code(submitted.reply.text),
            reply_text=submitted.reply.text,
            smtp_host=host,
            worker=worker,
            duration_ms=seconds * 1000,
            took_permit=True,
            recipients=len(taken),
        ),
    )


def faulted(
    delivery: Claimed,
    claimed_by: str,
    failed: SubmissionFailed,
    *,
    worker: str,
    retry: RetrySettings,
) -> Outcome:
    """
    Shape what is recorded of a refusal from which, by a fault of ours, nothing was concluded.

    It counts: what was tried and refused must not be tried for ever.
    """
    last = delivery.attempts + 1 >= retry.max_attempts
    return Outcome(
        delivery_id=delivery.id,
        mailbox_id=delivery.mailbox_id,
        claimed_by=claimed_by,
        transition=GIVE_UP if last else RETRY,
        delay_seconds=None if last else retry.first_seconds * 2.0**delivery.attempts,
        counted=True,
        reason=VISIT_FAILED,
        attempt=AttemptRecord(
            stage=failed.stage,
            rule=VISIT_FAILED,
            reply_code=failed.reply_code,
            enhanced_code=enhanced_code(failed.reply_text),
            reply_text=failed.reply_text,
            worker=worker,
            took_permit=True,
        ),
    )


def expired(delivery: Claimed, claimed_by: str) -> Outcome:
    """Shape what is recorded of a claim whose time was over before it could be sent."""
    return Outcome(
        delivery_id=delivery.id,
        mailbox_id=delivery.mailbox_id,
        claimed_by=claimed_by,
        transition=EXPIRE,
        reason="expired",
    )


def enhanced_code(text: str) -> str | None:
    """Read a reply's enhanced status code as text, None where it has none."""
    code = parse_enhanced(text)
    return ".".join(map(str, code)) if code else None


__all__ = [
    "ACCEPTED_RULE", "DEFERRED_RULE", "FINAL_FOR_RECIPIENT", "SESSION_STAGES", "NextStep", "Park",
    "Pause", "Repeated", "StopWorker", "accepted", "decide", "enhanced_code", "expired",
    "failed_outcome", "faulted", "judge", "misconfigured", "token_unavailable",
]  # fmt: skip
