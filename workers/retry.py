"""From a verdict to a moment: when to try again, what to pause, when to give up. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from workers.verdict import Action, Scope, Verdict


class OnUncertain(StrEnum):
    """What becomes of a mail that may have been taken; the tenant's ``uncertain_policy``."""

    RESEND = "resend"
    """Sent again under the same Message-ID: rather twice than never."""
    HOLD = "hold"
    """A dead letter, until somebody has looked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """
    Waits of our own choosing; what a verdict says about its pause goes before them.

    Attributes:
        soon_seconds: Wait of RETRY_SOON.
        soon_times: RETRY_SOON turns into RETRY_BACKOFF after this many in a row.
        first_seconds: First wait of RETRY_BACKOFF; each further one doubles.
        longest_seconds: No wait of RETRY_BACKOFF is longer, jitter aside.
        spread: Largest share of a wait that jitter adds.
        last_call_seconds: A retry that would fall behind the deadline is moved to this long
            before it, if that is not sooner than ``soon_seconds`` from now; the verdict's own
            pauses are never cut short.
        on_uncertain: What becomes of a mail whose fate is unknown.
    """

    soon_seconds: float = 2.0
    soon_times: int = 3
    first_seconds: float = 5.0
    longest_seconds: float = 900.0
    spread: float = 0.2
    last_call_seconds: float = 30.0
    on_uncertain: OnUncertain = OnUncertain.RESEND


DEFAULT_POLICY = RetryPolicy()

PROBE_GROWS = 12
LONGEST_PROBE_SECONDS = 86_400.0
"""Probes double their distance up to so many times the first, but not beyond a day."""


class Cause(StrEnum):
    """Why a delivery is given up."""

    REFUSED = "refused"
    ATTEMPTS = "attempts"
    DEADLINE = "deadline"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The server took the mail."""

    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """
    Try again at once, changed as ``verdict.action`` says.

    The action is ``REAUTH`` or ``SPLIT``; no attempt is counted.
    """

    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try this delivery again at ``at``, which is ``delay`` from now."""

    verdict: Verdict
    delay: timedelta
    at: datetime
    counted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Let the whole mailbox or tenant rest until ``at``; the delivery keeps its attempts."""

    verdict: Verdict
    scope: Scope
    delay: timedelta
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """Wait for a person; ``probe_at`` None: for nobody else."""

    verdict: Verdict
    scope: Scope
    probe_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """End this delivery, or at RCPT this recipient; ``verdict.rule`` is the reason code."""

    verdict: Verdict
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class StopWorker:
    """Send nothing from this host until ``at``; the delivery keeps its attempts."""

    verdict: Verdict
    delay: timedelta
    at: datetime


NextStep: TypeAlias = Done | Repeat | Retry | Pause | Park | GiveUp | StopWorker


def next_step(  # noqa: C901, PLR0911 - one branch and one return per action
    verdict: Verdict,
    *,
    attempt: int,
    max_attempts: int,
    now: datetime,
    jitter: float,
    deadline: datetime | None = None,
    repeats: int = 1,
    elapsed: timedelta = timedelta(0),
    throttle_count: int = 0,
    park_count: int = 0,
    policy: RetryPolicy = DEFAULT_POLICY,
) -> NextStep:
    """
    Decide what happens after a verdict.

    A mailbox or tenant that has to rest is said so even when the delivery in hand is past its
    deadline; ending that delivery is the sweep's.

    Args:
        verdict: What the last answer meant.
        attempt: Counted attempts so far, from 1, the present one included.
        max_attempts: A retry that counts is given up at this many.
        now: The present moment, from the database's clock.
        jitter: By chance, 0.0 to 1.0; the share of ``policy.spread`` to add to a wait.
        deadline: When the delivery expires, if it does.
        repeats: Answers of this rule in a row, the present one included, from 1.
        elapsed: Time since the first of them.
        throttle_count: Throttles of this mailbox or tenant in a row before this one.
        park_count: Probes in a row that ended parked again.
        policy: Our own waits.

    Raises:
        ValueError: attempt, max_attempts or repeats is below 1, a count or a time is negative, or
            jitter is outside 0.0 to 1.0.

    Source:
        RFC 5321 section 4.5.4.1; waits of a reply of its own stand in the verdicts.
    """
    if min(attempt, max_attempts, repeats) < 1 or min(throttle_count, park_count) < 0:
        raise ValueError("attempts and repeats count from 1, throttles and parks from 0")
    if not 0.0 <= jitter <= 1.0:
        raise ValueError(f"jitter is a share from 0.0 to 1.0, not {jitter}")
    if elapsed < timedelta(0):
        raise ValueError("elapsed time is never negative")

    verdict = escalated(verdict, repeats=repeats, elapsed=elapsed)
    wobble = 1.0 + policy.spread * jitter
    match verdict.action:
        case Action.ACCEPTED:
            return Done(verdict=verdict)
        case Action.REAUTH | Action.SPLIT:
            return Repeat(verdict=verdict)
        case Action.DEAD | Action.RECIPIENT_REJECTED:
            return GiveUp(verdict=verdict, cause=Cause.REFUSED)
        case Action.PARK:
            return _park(verdict, now=now, park_count=park_count)
        case Action.THROTTLE_MAILBOX | Action.THROTTLE_TENANT:
            assert verdict.scope is not None
            delay = _grown(verdict.pause_seconds, throttle_count) * wobble
            return Pause(verdict=verdict, scope=verdict.scope, delay=delay, at=now + delay)
        case Action.STOP_WORKER:
            delay = _grown(verdict.pause_seconds, throttle_count) * wobble
            return StopWorker(verdict=verdict, delay=delay, at=now + delay)
        case Action.RETRY_SOON | Action.RETRY_BACKOFF:  # pragma: no branch - mypy: all are named
            cause = _exhausted(
                verdict,
                attempt=attempt,
                max_attempts=max_attempts,
                now=now,
                deadline=deadline,
                policy=policy,
            )
            if cause is not None:
                return GiveUp(verdict=verdict, cause=cause)
            # What is not counted does not move ``attempt``, so its own repetition grows the wait.
            step = attempt if verdict.counts else repeats
            delay = _wait(verdict, step, policy) * wobble
            return _before_deadline(verdict, delay, now=now, deadline=deadline, policy=policy)


def escalated(verdict: Verdict, *, repeats: int, elapsed: timedelta) -> Verdict:
    """
    Give the verdict that holds once the same answer has come too often or for too long.

    Args:
        verdict: What the last answer meant.
        repeats: Answers of this rule in a row, the present one included.
        elapsed: Time since the first of them.
    """
    limit = verdict.limit
    if limit is None or not limit.is_reached(repeats=repeats, elapsed=elapsed):
        return verdict
    return replace(limit.then, detail=verdict.detail)


def _park(verdict: Verdict, *, now: datetime, park_count: int) -> Park:
    """Let probes come at a growing distance, but to the verdict's own second one."""
    assert verdict.scope is not None
    seconds = verdict.probe_in(park_count)
    probe_at = None if seconds is None else now + timedelta(seconds=seconds)
    return Park(verdict=verdict, scope=verdict.scope, probe_at=probe_at)


def _exhausted(
    verdict: Verdict,
    *,
    attempt: int,
    max_attempts: int,
    now: datetime,
    deadline: datetime | None,
    policy: RetryPolicy,
) -> Cause | None:
    if verdict.uncertain and policy.on_uncertain is OnUncertain.HOLD:
        return Cause.UNCERTAIN
    if verdict.counts and attempt >= max_attempts:
        return Cause.ATTEMPTS
    if deadline is not None and now >= deadline:
        return Cause.DEADLINE
    return None


def _wait(verdict: Verdict, step: int, policy: RetryPolicy) -> timedelta:
    """Give the wait after the ``step``-th try, from 1, without jitter."""
    if verdict.pause_seconds[0] > 0:
        return _grown(verdict.pause_seconds, step - 1)
    if verdict.action is Action.RETRY_SOON:
        if step <= policy.soon_times:
            return timedelta(seconds=policy.soon_seconds)
        step -= policy.soon_times
    return _grown((policy.first_seconds, policy.longest_seconds), step - 1)


def _grown(pause_seconds: tuple[float, float], doublings: int) -> timedelta:
    first, longest = pause_seconds
    # Thirty doublings exceed any pause; a larger exponent would overflow a float in the end.
    return timedelta(seconds=min(longest, first * 2.0 ** min(doublings, 30)))


def _before_deadline(
    verdict: Verdict,
    delay: timedelta,
    *,
    now: datetime,
    deadline: datetime | None,
    policy: RetryPolicy,
) -> Retry | GiveUp:
    """
    Move a retry that would come too late to just before the deadline, if time is left.

    A pause that the verdict itself asks for is not cut short: an earlier try would only be refused.
    """
    if deadline is not None and now + delay >= deadline:
        if verdict.pause_seconds[0] > 0:
            return GiveUp(verdict=verdict, cause=Cause.DEADLINE)
        delay = deadline - now - timedelta(seconds=policy.last_call_seconds)
        if delay < timedelta(seconds=policy.soon_seconds):
            return GiveUp(verdict=verdict, cause=Cause.DEADLINE)
    return Retry(verdict=verdict, delay=delay, at=now + delay, counted=verdict.counts)
