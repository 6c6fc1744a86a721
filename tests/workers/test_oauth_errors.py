from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.oauth_rows import BACKOFF, BY_CODE, BY_ERROR, PARK
from workers.oauth_errors import classify_oauth, parse_codes, trace_id
from workers.oauth_rules import CODES, ERRORS, every_verdict
from workers.verdict import Action, Remedy, Scope

TRACE = "4f8b6a1e-5a0c-4a7e-9c55-0d7f3c1b2a00"


def described(code: int, text: str = "Something was refused.") -> str:
    return (
        f"AADSTS{code}: {text} Trace ID: {TRACE} "
        "Correlation ID: 9d1d2f6c-8a54-4f0c-8a8e-1f3b1c5d7e90 Timestamp: 2026-11-20 08:15:42Z"
    )


def found(verdict):
    return verdict.rule, verdict.action, verdict.scope, verdict.remedy


@pytest.mark.parametrize(
    ("code", "row"), [pytest.param(c, r, id=f"{c}-{r.rule}") for r in BY_CODE for c in r.codes]
)
def test_each_code_has_its_row(code, row):
    """Every AADSTS code ends in its row, given as a number or only in the description."""
    expected = (row.rule, row.action, row.scope, row.remedy)
    text = described(code)

    assert found(classify_oauth(row.error, [code], "", text)) == expected
    assert found(classify_oauth(row.error, [], "", text)) == expected


@pytest.mark.parametrize("row", BY_ERROR, ids=lambda r: r.error)
def test_each_error_has_its_default(row):
    """Every error has a verdict of its own."""
    expected = (row.rule, row.action, row.scope, row.remedy)

    assert found(classify_oauth(row.error, [])) == expected


@pytest.mark.parametrize("error", [row.error for row in BY_ERROR])
def test_a_code_that_nobody_knows_stops_one_mailbox_at_most(error):
    """Beside an unknown code the error is believed about the mailbox, and about nothing wider."""
    verdict = classify_oauth(error, [59999], "", described(59999, "A new kind of refusal."))

    assert verdict.scope in {None, Scope.MAILBOX}
    assert verdict.remedy is not Remedy.NEW_SECRET
    assert "AADSTS59999 is not in our tables" in verdict.next_step
    assert "A new kind of refusal." in verdict.next_step
    if verdict.action is PARK:
        assert verdict.probe_in(0) <= 3600


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        ("invalid_client", 700024, "Client assertion is not within its valid time range."),
        ("invalid_grant", 500133, "Assertion isn't within its valid time range."),
        ("invalid_client", 50013, "Assertion failed: token is not yet valid. Current time: 10:00."),
        ("invalid_client", 700027, "The signature's timestamp is in the future."),
        ("invalid_client", 59999, "The request is too old; check the clock of the client."),
        ("invalid_request", 59998, "Time skew between client and server."),
    ],
)
def test_a_wrong_clock_is_told_as_such(error, code, text):
    """Whatever the number: it is tried again, the clock is named, and nothing is to be renewed."""
    verdict = classify_oauth(error, [code], "", described(code, text), http_status=401)

    assert verdict.rule == "clock-wrong"
    assert "clock" in verdict.meaning
    assert verdict.limit.then.scope is Scope.MAILBOX
    assert verdict.limit.then.probe_in(0) <= 600
    assert "renew" in verdict.next_step


@pytest.mark.parametrize(
    "text", ["The certificate is not within its validity window.", "The key was not found."]
)
def test_a_certificate_of_another_time_is_no_wrong_clock(text):
    """A certificate has a time of its own, by Entra's clock."""
    assert classify_oauth("invalid_client", [700027], "", text).rule == "certificate-refused"


@pytest.mark.parametrize(
    "text", ["A transient error.", "Temporarily out of order.", "Please try again later."]
)
@pytest.mark.parametrize("error", ["invalid_grant", "invalid_client", "invalid_request"])
def test_what_says_that_it_passes_is_waited_for(error, text):
    """An unknown code whose words say so is tried again before anybody is asked."""
    verdict = classify_oauth(error, [59999], "", described(59999, text))

    assert (verdict.rule, verdict.action) == ("sign-in-refused-for-now", BACKOFF)


def test_the_tables_are_complete():
    """The tests name every code and error of the data, and no other."""
    assert {c for r in BY_CODE for c in r.codes} == set(CODES)
    assert {r.error for r in BY_ERROR} == set(ERRORS)


def test_consent_and_secret_are_told_apart():
    """A lost consent and an expired secret ask for different cures."""
    consent = classify_oauth("invalid_grant", [65001])
    secret = classify_oauth("invalid_client", [7000222])

    assert (consent.needs_consent, consent.needs_new_secret) == (True, False)
    assert (secret.needs_consent, secret.needs_new_secret) == (False, True)


def test_unknown_codes_are_shown():
    """An unknown code is shown with its text, its trace id and Entra's page about it."""
    verdict = classify_oauth(
        "invalid_grant", [59999], "", described(59999, "A new kind of refusal.")
    )

    assert verdict.rule == "grant-refused"
    assert "AADSTS59999" in verdict.detail
    assert "A new kind of refusal." in verdict.detail
    assert TRACE in verdict.detail
    assert verdict.next_step.endswith("https://login.microsoftonline.com/error?code=59999")


def test_known_code_beats_an_unknown_one_before_it():
    """The first code that is known decides, whatever stands before it."""
    verdict = classify_oauth("invalid_grant", [59999, 50173], "bad_token")

    assert verdict.rule == "tokens-revoked"
    assert verdict.detail == "AADSTS50173"


@pytest.mark.parametrize(
    ("error", "suberror", "rule"),
    [
        ("invalid_grant", "consent_required", "consent-required"),
        ("interaction_required", "consent_required", "consent-required"),
        ("invalid_grant", "bad_token", "grant-refused"),
        ("invalid_grant", "token_expired", "grant-refused"),
        ("invalid_client", "consent_required", "client-refused"),
    ],
)
def test_suberror_refines_only_the_grant(error, suberror, rule):
    """A suberror that is an error of its own says better what the grant lacks."""
    assert classify_oauth(error, [], suberror).rule == rule


@pytest.mark.parametrize(
    ("error", "codes", "status", "rule"),
    [
        ("", [], 429, "sign-in-busy"),
        ("", [], 503, "sign-in-busy"),
        ("", [], 500, "sign-in-busy"),
        ("invalid_grant", [], 503, "sign-in-busy"),
        ("invalid_grant", [50173], 502, "sign-in-busy"),
        ("invalid_grant", [50173], 400, "tokens-revoked"),
        ("server_error", [90036], 500, "directory-failure"),
        ("temporarily_unavailable", [90055], 429, "sign-in-throttled"),
        ("", [], 200, "sign-in-not-json"),
        ("", [], None, "sign-in-unreachable"),
        ("", [], 404, "sign-in-unknown-error"),
        ("brand_new_error", [], 400, "sign-in-unknown-error"),
    ],
)
def test_http_status_counts_where_it_says_more(error, codes, status, rule):
    """An overloaded endpoint parks nobody; an answer that is none is named for what it is."""
    assert classify_oauth(error, codes, http_status=status).rule == rule


@pytest.mark.parametrize(
    ("retry_after", "pause"),
    [
        (42.0, (42.0, 900.0)),
        (7200.0, (7200.0, 7200.0)),
        (1e12, (86400.0, 86400.0)),
        (0.0, (5.0, 900.0)),
        (-3.0, (5.0, 900.0)),
        (float("nan"), (5.0, 900.0)),
        (float("inf"), (5.0, 900.0)),
        (None, (5.0, 900.0)),
    ],
)
def test_retry_after_is_honoured(retry_after, pause):
    """A sane Retry-After becomes the pause; nonsense does not."""
    verdict = classify_oauth("", [], http_status=503, retry_after=retry_after)

    assert verdict.pause_seconds == pause


def test_tenant_throttle_waits_as_asked():
    """AADSTS90055 rests the tenant five minutes, or as long as the answer asks."""
    assert classify_oauth("temporarily_unavailable", [90055]).pause_seconds == (300.0, 300.0)
    asked = classify_oauth("temporarily_unavailable", [90055], http_status=429, retry_after=30)
    assert asked.pause_seconds == (30.0, 300.0)


@pytest.mark.parametrize(
    ("code", "times", "then"),
    [(50053, 3, "account-stays-locked"), (90036, 3, "directory-failing")],
)
def test_some_rows_end_parked(code, times, then):
    """A lock and a directory failure are tried three times and then come to a person."""
    limit = classify_oauth("invalid_grant", [code]).limit

    assert limit is not None
    assert (limit.times, limit.then.rule, limit.then.action) == (times, then, PARK)


def test_codes_and_trace_are_read_out_of_texts():
    """Codes come in order and once, the trace id as Entra writes it; neither is invented."""
    text = f"{described(70011)} inner: AADSTS50173, AADSTS70011"

    assert parse_codes(text) == (70011, 50173)
    assert trace_id(text) == TRACE
    assert parse_codes("no code: 50173, XAADSTS50173x") == ()
    assert trace_id("none here") == ""


def test_detail_stays_short_and_keeps_the_trace():
    """However long Entra's text is, the detail fits and still names the trace id."""
    verdict = classify_oauth("invalid_grant", [59999], "", described(59999, "x" * 5000))

    assert len(verdict.detail) <= 300
    assert verdict.detail.endswith(f"(trace id {TRACE})")


@given(
    error=st.one_of(st.sampled_from(sorted(ERRORS)), st.text(max_size=20)),
    codes=st.lists(st.one_of(st.sampled_from(sorted(CODES)), st.integers()), max_size=3),
    suberror=st.text(max_size=20),
    description=st.text(max_size=100),
    http_status=st.one_of(st.none(), st.integers(100, 599)),
    retry_after=st.one_of(st.none(), st.floats()),
)
def test_any_answer_gets_one_verdict(
    *, error, codes, suberror, description, http_status, retry_after
):
    """Whatever Entra answers: one verdict, no attempt spent, no mail ended, words for people."""
    verdict = classify_oauth(
        error, codes, suberror, description, http_status=http_status, retry_after=retry_after
    )

    assert verdict.action in {
        PARK,
        BACKOFF,
        Action.THROTTLE_MAILBOX,
        Action.THROTTLE_TENANT,
    }
    assert not verdict.counts
    assert not verdict.uncertain
    assert verdict.meaning.endswith(".")
    assert verdict.next_step
    assert (verdict.action is PARK) or 0 < verdict.pause_seconds[0] <= 86400
    assert len(verdict.detail) <= 300


@given(st.sampled_from(sorted(CODES)), st.integers(500, 599))
def test_an_overloaded_endpoint_parks_nobody(code, status):
    """A 5xx is never taken for a person's business."""
    assert classify_oauth("invalid_grant", [code], http_status=status).action is not PARK


def test_every_park_is_probed():
    """A refusal that Entra takes back must not need a person: the first try is soon."""
    for verdict in every_verdict():
        if verdict.action is PARK:
            assert 60 <= verdict.probe_in(0) <= 3600
            assert verdict.probe_in(100) <= 24 * 3600
