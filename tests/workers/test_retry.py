from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.stages import Stage
from workers import oauth_rules
from workers.oauth_errors import classify_oauth
from workers.replies import classify, classify_failure
from workers.reply_rules import (
    ACCEPTED,
    LOST_AFTER_DOT,
    RULES,
    UNKNOWN_AT_DATA,
    UNKNOWN_AT_MAIL,
    UNKNOWN_AT_RCPT,
    UNKNOWN_TRANSIENT,
    Failure,
)
from workers.retry import (
    Cause,
    Done,
    GiveUp,
    OnUncertain,
    Park,
    Pause,
    Repeat,
    Retry,
    RetryPolicy,
    StopWorker,
    escalated,
    next_step,
)
from workers.verdict import Action, Remedy, Scope, Verdict, park, retry_soon

NOW = datetime(2026, 11, 20, 8, 15, 42, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)

VERDICTS: list[Verdict] = [
    ACCEPTED,
    LOST_AFTER_DOT,
    UNKNOWN_AT_DATA,
    UNKNOWN_AT_MAIL,
    UNKNOWN_AT_RCPT,
    UNKNOWN_TRANSIENT,
    *(v for r in RULES for v in (r.verdict, r.with_fresh_token) if v is not None),
    *oauth_rules.CODES.values(),
    *oauth_rules.ERRORS.values(),
]
SOON = retry_soon("soon", "It was cut.")


def step(verdict, **given_values):
    values = {"attempt": 1, "max_attempts": 12, "now": NOW, "jitter": 0.0}
    return next_step(verdict, **(values | given_values))


def reply(code, text, *, stage=Stage.BODY, fresh=True):
    return classify(stage, code, text, fresh_token=fresh)


@pytest.mark.parametrize(
    ("attempt", "seconds"),
    [(1, 2), (2, 2), (3, 2), (4, 5), (5, 10), (6, 20), (11, 640), (12, 900), (400, 900)],
)
def test_soon_turns_into_backoff(attempt, seconds):
    """Three tries follow at once, then the pauses double from 5 s to 15 min."""
    outcome = step(SOON, attempt=attempt, max_attempts=1000)

    assert outcome.delay == timedelta(seconds=seconds)


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 5), (2, 10), (8, 640), (9, 900), (99, 900)])
def test_backoff_doubles(attempt, seconds):
    """The pauses double from 5 s to 15 min."""
    outcome = step(UNKNOWN_TRANSIENT, attempt=attempt, max_attempts=1000)

    assert outcome == Retry(
        verdict=UNKNOWN_TRANSIENT,
        delay=timedelta(seconds=seconds),
        at=NOW + timedelta(seconds=seconds),
        counted=True,
    )


def test_jitter_only_adds():
    """Chance lengthens a wait by at most its share, so that Retry-After is never undercut."""
    asked = classify_oauth("", [], http_status=429, retry_after=100)

    assert step(asked, jitter=0.0).delay == 100 * SECOND
    assert step(asked, jitter=1.0).delay == 120 * SECOND


def test_attempts_end():
    """The last permitted attempt is not followed by another."""
    assert isinstance(step(UNKNOWN_TRANSIENT, attempt=11), Retry)
    assert step(UNKNOWN_TRANSIENT, attempt=12) == GiveUp(
        verdict=UNKNOWN_TRANSIENT, cause=Cause.ATTEMPTS
    )


def test_what_is_not_counted_does_not_end():
    """Trouble before MAIL goes on as long as the delivery may live, and its waits grow."""
    verdict = classify_failure(Stage.CONNECT, Failure.REFUSED)

    outcome = step(verdict, attempt=12, repeats=50)

    assert isinstance(outcome, Retry)
    assert not outcome.counted
    assert outcome.delay == 900 * SECOND
    assert step(verdict, attempt=12, repeats=1).delay == 5 * SECOND


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (2 * HOUR, 900 * SECOND),
        (timedelta(minutes=10), timedelta(minutes=10) - 30 * SECOND),
        (32 * SECOND, 2 * SECOND),
        (31 * SECOND, None),
        (timedelta(0), None),
        (-HOUR, None),
    ],
)
def test_deadline_gets_a_last_call(left, expected):
    """A wait that would outlast the deadline ends shortly before it, or not at all."""
    outcome = step(UNKNOWN_TRANSIENT, attempt=9, deadline=NOW + left)

    if expected is None:
        assert outcome == GiveUp(verdict=UNKNOWN_TRANSIENT, cause=Cause.DEADLINE)
    else:
        assert outcome.delay == expected


def test_a_pause_that_was_asked_for_is_not_cut_short():
    """A recipient that is flooded for an hour is not tried before the hour is over."""
    flooded = reply(550, "5.2.121 too much", stage=Stage.RCPT)

    assert step(flooded, deadline=NOW + HOUR / 2) == GiveUp(verdict=flooded, cause=Cause.DEADLINE)
    assert step(flooded, deadline=NOW + 2 * HOUR).delay == HOUR


def test_uncertain_mails_are_resent_or_held():
    """A mail in doubt is sent again by default, and held where the tenant wants that."""
    held = RetryPolicy(on_uncertain=OnUncertain.HOLD)

    assert isinstance(step(LOST_AFTER_DOT), Retry)
    assert step(LOST_AFTER_DOT, policy=held) == GiveUp(
        verdict=LOST_AFTER_DOT, cause=Cause.UNCERTAIN
    )
    assert isinstance(step(UNKNOWN_TRANSIENT, policy=held), Retry)


@pytest.mark.parametrize(
    ("count", "minutes"), [(0, 5), (1, 10), (2, 20), (3, 40), (4, 60), (90, 60)]
)
def test_throttles_grow(count, minutes):
    """A restricted pattern rests 5 minutes, then longer, up to an hour; it costs no attempt."""
    verdict = reply(451, "4.7.500 Server busy", stage=Stage.MAIL)

    outcome = step(verdict, throttle_count=count, attempt=12)

    assert outcome == Pause(
        verdict=verdict,
        scope=Scope.MAILBOX,
        delay=timedelta(minutes=minutes),
        at=NOW + timedelta(minutes=minutes),
    )


def test_a_pause_holds_past_the_deadline():
    """The mailbox rests although the delivery in hand has expired."""
    verdict = reply(432, "4.3.2 Concurrent connections limit exceeded")

    assert isinstance(step(verdict, deadline=NOW - HOUR), Pause)
    assert step(reply(550, "5.7.233 limit")).scope is Scope.TENANT


def test_parks_probe_by_themselves_or_not():
    """A switched-off protocol is looked at again; a lost consent waits for a person."""
    off = reply(
        535, "5.7.139 x, SmtpClientAuthentication is disabled for the Mailbox.", stage=Stage.AUTH
    )
    lost = classify_oauth("invalid_grant", [65001])

    assert step(off) == Park(verdict=off, scope=Scope.MAILBOX, probe_at=NOW + 600 * SECOND)
    assert step(lost) == Park(verdict=lost, scope=Scope.MAILBOX, probe_at=None)


@pytest.mark.parametrize(
    ("first", "count", "expected"),
    [
        (600, 1, 1200),
        (600, 3, 4800),
        (600, 4, 7200),
        (600, 10_000, 7200),
        (3600, 1, 7200),
        (3600, 4, 43_200),
        (21_600, 1, 43_200),
        (21_600, 2, 86_400),
        (86_400, 9, 86_400),
    ],
)
def test_probes_keep_a_growing_distance(first: float, count: int, expected: float):
    """Each that fails makes the next one dearer, up to twelve times the first or a day."""
    off = park("off", Scope.MAILBOX, Remedy.ADMIN_SETTING, "It is off.", "Do it.", probe=first)

    assert step(off, park_count=count).probe_at == NOW + expected * SECOND


def test_spam_is_probed_after_an_hour_and_then_daily():
    """After a probe that failed the next one waits a day."""
    spam = reply(554, "5.2.0 STOREDRV.Submission.Exception:OutboundSpamException; x")

    assert step(spam).probe_at == NOW + HOUR
    assert step(spam, park_count=1).probe_at == NOW + 24 * HOUR
    assert step(spam, park_count=7).probe_at == NOW + 24 * HOUR


@pytest.mark.parametrize(
    ("verdict", "repeats", "elapsed", "before", "after"),
    [
        (reply(451, "4.7.0 Temporary server error. PRX2", stage=Stage.AUTH), 999, 6 * HOUR, Retry, "proxy-to-mailbox-failing"),
        (reply(535, "5.7.139 x, federated STS service was unreachable.", stage=Stage.AUTH), 2, HOUR, Retry, "federated-sign-in-failing"),
        (reply(530, "5.7.57 Client not authenticated", stage=Stage.MAIL), 2, HOUR, Retry, "not-authenticated-again"),
        (reply(503, "5.5.2 Send hello first", stage=Stage.MAIL), 2, HOUR, Retry, "protocol-error-again"),
        (reply(554, "5.2.0 STOREDRV.Submission.Exception:Odd; x"), 4, HOUR, Retry, "store-refused-again"),
        (reply(554, "5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException"), 30, 24 * HOUR, Pause, "submission-quota-stuck"),
        (reply(451, "4.7.500 Server busy"), 30, 24 * HOUR, Pause, "new-pattern-refused"),
        (reply(452, "4.5.3 Too many recipients", stage=Stage.RCPT), 11, HOUR, Repeat, "too-many-recipients-always"),
        (classify_oauth("invalid_grant", [50053]), 4, 4 * HOUR, Retry, "account-stays-locked"),
        (classify_oauth("server_error", [90036]), 4, HOUR, Retry, "directory-failing"),
        (classify_oauth("brand_new", []), 4, HOUR, Retry, "sign-in-unknown-error-again"),
        (classify_failure(Stage.STARTTLS, Failure.CERTIFICATE), 4, HOUR, Retry, "certificate-invalid-again"),
    ],
    ids=lambda value: value.rule if isinstance(value, Verdict) else None,
)  # fmt: skip
def test_the_same_answer_again_and_again(verdict, repeats, elapsed, before, after):
    """A row with a limit holds up to it and hands over beyond it, keeping what was named."""
    earlier = step(verdict, repeats=repeats - 1, elapsed=elapsed - SECOND)
    later = step(verdict, repeats=repeats, elapsed=elapsed)

    assert isinstance(earlier, before)
    assert later.verdict.rule == after
    assert later.verdict.detail == verdict.detail
    assert later.verdict.action in {Action.PARK, Action.DEAD}


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (reply(250, "2.0.0 OK"), Done),
        (reply(535, "5.7.3 no", stage=Stage.AUTH, fresh=False), Repeat),
        (reply(500, "5.5.2 Line too long", stage=Stage.AUTH), Repeat),
        (reply(452, "4.5.3 Too many recipients", stage=Stage.RCPT), Repeat),
        (reply(550, "5.1.1 User unknown", stage=Stage.RCPT), GiveUp),
        (reply(550, "5.6.11 Invalid characters"), GiveUp),
        (reply(550, "5.7.606 banned sending IP", stage=Stage.MAIL), StopWorker),
    ],
    ids=lambda value: value.rule if isinstance(value, Verdict) else None,
)
def test_each_action_has_its_outcome(verdict, outcome):
    """Every action of a verdict becomes one kind of step."""
    assert type(step(verdict)) is outcome


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempt": 0},
        {"max_attempts": 0},
        {"repeats": 0},
        {"throttle_count": -1},
        {"park_count": -1},
        {"jitter": 1.1},
        {"jitter": -0.1},
        {"jitter": float("nan")},
        {"elapsed": -SECOND},
    ],
    ids=str,
)
def test_nonsense_is_refused(wrong):
    """Counts below their start, chance outside its range and negative times are errors."""
    with pytest.raises(ValueError, match=r"count from|jitter|elapsed"):
        step(UNKNOWN_TRANSIENT, **wrong)


situations = st.fixed_dictionaries(
    {
        "attempt": st.integers(1, 10_000),
        "max_attempts": st.integers(1, 10_000),
        "jitter": st.floats(0, 1),
        "deadline": st.one_of(
            st.none(), st.timedeltas(-30 * HOUR, 30 * HOUR).map(lambda left: NOW + left)
        ),
        "repeats": st.integers(1, 10_000),
        "elapsed": st.timedeltas(timedelta(0), timedelta(days=30)),
        "throttle_count": st.integers(0, 10_000),
        "park_count": st.integers(0, 10_000),
    }
)


@given(st.sampled_from(VERDICTS), situations)
def test_waits_stay_within_bounds(verdict, situation):
    """Whatever happened before, a wait is positive, at most a day and a bit, and adds up."""
    outcome = step(verdict, **situation)

    if isinstance(outcome, Retry | Pause | StopWorker):
        first, longest = outcome.verdict.pause_seconds
        bound = max(longest, 900.0) * 1.2
        # Times have microseconds, so the last digit of a product may be rounded away.
        assert max(first, 2.0) - 1e-6 <= outcome.delay.total_seconds() <= bound + 1e-6
        assert outcome.at == NOW + outcome.delay
    if isinstance(outcome, Retry) and situation["deadline"] is not None:
        assert outcome.at < situation["deadline"]


@given(st.sampled_from(VERDICTS), situations)
def test_throttles_and_parks_cost_no_attempt(verdict, situation):
    """Only a retry may be counted; who rests, waits or signs in again keeps all attempts."""
    outcome = step(verdict, **situation)

    if not isinstance(outcome, Done | GiveUp | Retry):
        assert not outcome.verdict.counts
    if isinstance(outcome, Retry):
        assert outcome.counted == outcome.verdict.counts


@given(st.sampled_from(VERDICTS), situations)
def test_a_park_always_speaks(verdict, situation):
    """Who waits for a person tells that person why and what to do, and probes in the future."""
    outcome = step(verdict, **situation)

    if isinstance(outcome, Park):
        assert outcome.verdict.meaning
        assert outcome.verdict.next_step
        assert outcome.probe_at is None or outcome.probe_at >= NOW + 600 * SECOND


@given(st.sampled_from(VERDICTS), situations)
def test_only_what_is_over_is_given_up(verdict, situation):
    """A delivery ends by refusal, by its attempts or by its deadline, and says by which."""
    outcome = step(verdict, **situation)

    if isinstance(outcome, GiveUp):
        final = outcome.verdict.action in {Action.DEAD, Action.RECIPIENT_REJECTED}
        assert final == (outcome.cause is Cause.REFUSED)
        if outcome.cause is Cause.ATTEMPTS:
            assert situation["attempt"] >= situation["max_attempts"]
        if outcome.cause is Cause.DEADLINE:
            assert situation["deadline"] is not None


@given(st.sampled_from(VERDICTS), st.integers(1, 200))
def test_waits_never_shrink(verdict, steps):
    """Of the same answer each wait is at least as long as the one before."""
    if verdict.action is Action.RETRY_BACKOFF and verdict.limit is None:
        waits = [
            step(verdict, attempt=n, repeats=n, max_attempts=1000).delay
            for n in range(1, steps + 1)
        ]
        assert all(one <= two for one, two in pairwise(waits))


@given(st.sampled_from(VERDICTS), st.integers(1, 99), st.timedeltas(timedelta(0), 48 * HOUR))
def test_escalation_happens_once(verdict, repeats, elapsed):
    """What follows a limit is final: escalating it again changes nothing."""
    once = escalated(verdict, repeats=repeats, elapsed=elapsed)

    if once.rule != verdict.rule:
        assert escalated(once, repeats=repeats, elapsed=elapsed) == once
