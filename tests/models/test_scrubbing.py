from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.redaction import REDACTED
from models.scrubbing import LEAST, scrub, scrub_values

SECRET = 'p~8Q "s\\+/é=' * 3


@pytest.mark.parametrize(
    "said",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        json.dumps(SECRET)[1:-1],
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"user=a\x01auth=Bearer {SECRET}\x01\x01".encode()).decode(),
        base64.urlsafe_b64encode(b"12" + SECRET.encode()).decode(),
        SECRET[:20],
        base64.b64encode(SECRET.encode()).decode()[:30],
    ],
    ids=["bare", "percent", "form", "json", "base64", "xoauth2", "urlsafe", "cut", "base64 cut"],
)
def test_a_known_secret_is_taken_out_of_what_was_said(said: str) -> None:
    """In whatever form it comes back, and also where the server cut it; the rest stays."""
    told = scrub(f"550 5.7.1 You said {said}. Not here!", [SECRET])

    assert REDACTED in told
    assert said[-8:] not in told
    assert told.startswith("550 5.7.1 You said ")
    assert told.endswith(". Not here!")


def test_other_words_stay() -> None:
    """A trace id, and values too short to be told from prose, are left alone."""
    said = "AADSTS7000215: Invalid. Trace ID: 4f8b6a1e-5a0c-4a7e-9c55-0d7f3c1b2a00 a"

    assert scrub(said, [SECRET, "", "a", "ID"]) == said


def test_an_answer_is_scrubbed_throughout() -> None:
    """Lists, names and nested values of a JSON answer; numbers stay numbers."""
    value = {"error": "x", "claims": [{SECRET: f"<{SECRET}>"}], "error_codes": [7000215]}

    assert scrub_values(value, {SECRET}) == {
        "error": "x",
        "claims": [{REDACTED: f"<{REDACTED}>"}],
        "error_codes": [7000215],
    }


@given(
    secret=st.text(min_size=LEAST, max_size=60),
    before=st.text(max_size=20),
    after=st.text(max_size=20),
)
def test_no_secret_survives(secret: str, before: str, after: str) -> None:
    """Whatever stands around it."""
    assert secret not in scrub(f"{before}{secret}{after}", [secret]).replace(REDACTED, "")
