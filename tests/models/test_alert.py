from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.addresses import parse_address
from models.alert import AlertEmail
from models.attachments import Attachment
from models.errors import InvalidAlert
from models.severity import Severity

SECRET = "hunter2-SECRET"
USUAL = {
    "tenant": "contoso",
    "to": ["NOC <noc@contoso.example>"],
    "subject": "Disk full",
    "text": f"C: has 0 bytes left {SECRET}",
}
FULL = {
    **USUAL,
    "mailbox": "Alerts@Contoso.example",
    "cc": ["b@x.example"],
    "bcc": ["c@x.example"],
    "reply_to": ["Desk <desk@x.example>"],
    "html": "<p>C: has 0 bytes left</p>",
    "severity": "critical",
    "idempotency_key": "k-1",
    "alert_id": "disk-c",
    "not_before": "2026-11-23T10:00:00+01:00",
    "expires_at": "2026-11-23T12:00:00Z",
    "headers": {"X-Site": "Köln"},
    "attachments": [{"name": "log.txt", "content_type": "Text/Plain", "content": "aGVsbG8="}],
    "metadata": {"rule": "42"},
}


def usual(**changes: object) -> AlertEmail:
    return AlertEmail.parse({**USUAL, **changes})


BAD = [
    ("tenant", "tenant", "Contoso Ltd"),
    ("tenant", "tenant", "a\n"),
    ("tenant", "tenant", "x" * 64),
    ("mailbox", "mailbox", "Name <a@x.example>"),
    ("mailbox", "mailbox", "nobody"),
    ("to[0]", "to", "a@x.example, b@x.example"),
    ("to[1]", "to", ["a@x.example", "b@x.example\r\nBcc: c@x.example"]),
    ("to[0]", "to", [5]),
    ("to", "to", 5),
    ("to", "to", [f"a{n}@x.example" for n in range(501)]),
    ("to", "to", ["a@x.example"] * 5001),
    ("cc[0]", "cc", ["a@x"]),
    ("reply_to", "reply_to", ["a@x.example"] * 21),
    ("subject", "subject", ""),
    ("subject", "subject", "   "),
    ("subject", "subject", "x" * 256),
    ("subject", "subject", "a\r\nBcc: b@x.example"),
    ("subject", "subject", "a\x00b"),
    ("subject", "subject", "a\x85b"),
    ("subject", "subject", "a\u2029b"),
    ("subject", "subject", "a\ud800b"),
    ("subject", "subject", b"bytes"),
    ("text", "text", ""),
    ("text", "text", "a\0"),
    ("text", "text", "a\udfff"),
    ("text", "text", 7),
    ("html", "html", "a\0"),
    ("text", "text", "x" * 35_000_001),
    ("severity", "severity", "urgent"),
    ("severity", "severity", 0),
    ("idempotency_key", "idempotency_key", ""),
    ("idempotency_key", "idempotency_key", "x" * 201),
    ("idempotency_key", "idempotency_key", "a\n"),
    ("alert_id", "alert_id", "x" * 301),
    ("alert_id", "alert_id", "a\0"),
    ("not_before", "not_before", "2026-11-23T10:00:00"),
    ("not_before", "not_before", "soon"),
    ("not_before", "not_before", "9999-12-31T23:59:59Z"),
    ("not_before", "not_before", "9999-12-31T23:59:59-05:00"),
    ("not_before", "not_before", True),
    ("not_before", "not_before", "nan"),
    ("expires_at", "expires_at", ""),
    ("expires_at", "expires_at", "2026-11-23"),
    ("expires_at", "expires_at", "10001-01-01T00:00:00Z"),
    ("expires_at", "expires_at", float("inf")),
    ("headers", "headers", {"Bcc": "a@x.example"}),
    ("headers", "headers", {"X-": "a"}),
    ("headers", "headers", {"X-Ü": "a"}),
    ("headers", "headers", {"X-A: b\r\nX-B": "a"}),
    ("headers", "headers", {"X-" + "a" * 49: "a"}),
    ("headers", "headers", {"X-A": "a\r\nBcc: b@x.example"}),
    ("headers", "headers", {"X-A": "a\u2028"}),
    ("headers", "headers", {"X-A": "a" * 1001}),
    ("headers", "headers", {"X-A": "1", "x-a": "2"}),
    ("headers", "headers", {"X-AlertPost-Id": "1"}),
    ("headers", "headers", {"X-Priority": "1"}),
    ("headers", "headers", {f"X-A{n}": "1" for n in range(51)}),
    ("headers", "headers", ["X-A"]),
    ("headers.X-A", "headers", {"X-A": 1}),
    ("attachments", "attachments", {}),
    ("attachments", "attachments", [{"name": "a", "content": ""}] * 251),
    ("attachments[0]", "attachments", ["a"]),
    ("attachments[0].content", "attachments", [{"name": "a"}]),
    ("attachments[0].content", "attachments", [{"name": "a", "content": "§"}]),
    ("attachments[0].content", "attachments", [{"name": "a", "content": "abc"}]),
    ("attachments[0].content", "attachments", [{"name": "a", "content": 1}]),
    ("attachments[0].name", "attachments", [{"name": "../a", "content": ""}]),
    ("attachments[0].name", "attachments", [{"name": "a\\b", "content": ""}]),
    ("attachments[0].name", "attachments", [{"name": "a\nb", "content": ""}]),
    ("attachments[0].name", "attachments", [{"name": "a\u202etxt.exe", "content": ""}]),
    ("attachments[0].name", "attachments", [{"name": "..", "content": ""}]),
    ("attachments[0].name", "attachments", [{"name": "ü" * 128, "content": ""}]),
    (
        "attachments[0].content_type",
        "attachments",
        [{"name": "a", "content": "", "content_type": "text/plain; charset=x"}],
    ),
    (
        "attachments[0].content_type",
        "attachments",
        [{"name": "a", "content": "", "content_type": "message/rfc822"}],
    ),
    (
        "attachments[1].size",
        "attachments",
        [{"name": "a", "content": ""}, {"name": "a", "content": "", "size": 1}],
    ),
    ("attachments", "attachments", [{"name": "a", "content": bytes(26_000_000)}]),
    ("metadata", "metadata", {f"k{n}": "" for n in range(51)}),
    ("metadata", "metadata", {"": "a"}),
    ("metadata", "metadata", {"k" * 101: "a"}),
    ("metadata", "metadata", {"k": "a" * 1001}),
    ("metadata", "metadata", {"k": "a\0"}),
    ("metadata.k", "metadata", {"k": None}),
]


@pytest.mark.parametrize(("field", "key", "value"), BAD, ids=lambda value: ascii(value)[:40])
def test_refusal_names_the_field(field: str, key: str, value: object) -> None:
    """Every broken rule is told by field and reason, and nothing of a body is repeated."""
    with pytest.raises(InvalidAlert) as caught:
        usual(**{key: value})

    assert caught.value.field == field
    assert caught.value.reason
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_field_is_refused_with_the_nearest_name() -> None:
    """A misspelt field is an error that says what was probably meant."""
    with pytest.raises(InvalidAlert, match=r"sevrity: .* did you mean severity\?"):
        usual(sevrity="low")


def test_unknown_field_of_an_attachment_is_compared_with_an_attachments() -> None:
    """What is misspelt inside an attachment is not compared with the fields of the alert."""
    for name, hint in (("content_typ", "did you mean content_type?"), ("zzz", "known are name,")):
        attachment = {"name": "a.txt", "content": "YQ==", name: "text/plain"}
        with pytest.raises(InvalidAlert, match=re.escape(hint)) as caught:
            AlertEmail.parse({**USUAL, "attachments": [attachment]})
        assert caught.value.field == f"attachments[0].{name}"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("subject", "", "is empty"),
        ("not_before", "tomorrow", "is not a time; write it like 2026-11-01T08:00:00Z"),
        ("expires_at", [], "is not a time; write it like 2026-11-01T08:00:00Z"),
    ],
)
def test_a_refusal_says_what_would_be_right(field: str, value: object, reason: str) -> None:
    """The reason is in our own words, and helps."""
    with pytest.raises(InvalidAlert) as caught:
        AlertEmail.parse({**USUAL, field: value})

    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_unknown_field_far_from_all_lists_the_fields() -> None:
    """A field nobody would recognise gets the list, and cannot smuggle a line break."""
    with pytest.raises(InvalidAlert, match="known are tenant, mailbox") as caught:
        usual(**{"q\r\nz": 1})

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["tenant", "subject"])
def test_missing_field_is_named(missing: str) -> None:
    """A field that must be there is named where it is not."""
    with pytest.raises(InvalidAlert, match="is missing") as caught:
        AlertEmail.parse({key: value for key, value in USUAL.items() if key != missing})

    assert caught.value.field == missing


@pytest.mark.parametrize(
    "document", [b"{", b"\xff", '"\ud800"', b"", b"[" * 100_000, b'{"to":"\\ud800"}']
)
def test_broken_json_is_told(document: bytes | str) -> None:
    """What is not JSON is refused as such."""
    with pytest.raises(InvalidAlert, match=r"body: is not valid (JSON|UTF-8)"):
        AlertEmail.parse_json(document)


@pytest.mark.parametrize("document", ["[]", "1", "null"])
def test_json_of_another_shape_is_told(document: str) -> None:
    """JSON that is no object is refused as such."""
    with pytest.raises(InvalidAlert, match="body: is not a JSON object"):
        AlertEmail.parse_json(document)


def test_non_text_key_is_refused() -> None:
    """A mapping with other keys than texts is refused like any unknown field."""
    with pytest.raises(InvalidAlert):
        AlertEmail.parse({**USUAL, 1: 2})  # type: ignore[dict-item]


def test_expiry_must_follow_not_before() -> None:
    """A mail that would expire before it may go is refused."""
    with pytest.raises(InvalidAlert, match="expires_at: is not after"):
        usual(not_before="2026-01-02T00:00:00Z", expires_at="2026-01-02T00:00:00Z")


def test_construction_raises_without_the_input() -> None:
    """pydantic's own error, which callers may log, holds no body."""
    with pytest.raises(ValidationError) as caught:
        AlertEmail(**{**USUAL, "subject": f"{SECRET}\n"})

    assert SECRET not in str(caught.value)


def test_full_alert() -> None:
    """Every field keeps what was given, in its canonical form."""
    alert = AlertEmail.parse_json(json.dumps(FULL))

    assert alert.mailbox == "alerts@contoso.example"
    assert alert.to == (parse_address("NOC <noc@contoso.example>"),)
    assert alert.severity is Severity.CRITICAL
    assert alert.not_before == datetime(2026, 11, 23, 9, tzinfo=UTC)
    assert alert.attachments == (
        Attachment(name="log.txt", content_type="text/plain", content=b"hello"),
    )
    assert alert.headers == {"X-Site": "Köln"}
    assert alert.envelope_recipients == ("noc@contoso.example", "b@x.example", "c@x.example")


def test_json_round_trip() -> None:
    """What is written as JSON is accepted as JSON, severity as its word."""
    alert = AlertEmail.parse(FULL)
    document = alert.model_dump_json()

    assert json.loads(document)["severity"] == "critical"
    assert AlertEmail.parse_json(document) == alert


def test_address_objects_are_taken() -> None:
    """Python callers may hand in addresses that they have read already."""
    address = parse_address('"Doe, J" <a@x.example>')

    assert usual(to=[address], cc=address).to == (address,)


def test_frozen() -> None:
    """An alert e-mail never changes after it was accepted."""
    with pytest.raises(ValidationError, match="frozen"):
        usual().subject = "other"  # type: ignore[misc]


def test_duplicates_are_removed() -> None:
    """An address counts once over to, cc and bcc, whatever the case of its domain."""
    alert = usual(
        to=["A <a@x.example>", "a@X.example", "b@x.example"],
        cc=["b@x.EXAMPLE", "B@x.example"],
        bcc=["a@x.example"],
    )

    assert alert.envelope_recipients == ("a@x.example", "b@x.example", "B@x.example")
    assert alert.to[0].name == "A"
    assert alert.bcc == ()


def test_five_hundred_recipients_after_duplicates() -> None:
    """The limit counts people, not entries."""
    many = [f"a{n}@x.example" for n in range(500)]

    assert len(usual(to=many[:250] * 2, cc=many[200:]).envelope_recipients) == 500


def test_bcc_alone_is_enough() -> None:
    """A mail needs one recipient, seen or unseen."""
    assert usual(to=[], bcc="a@x.example").envelope_recipients == ("a@x.example",)


def test_needs_smtputf8() -> None:
    """A letter beyond ASCII before an @ asks for SMTPUTF8, a domain in any script does not."""
    assert not usual(to="a@bücher.example").needs_smtputf8
    assert usual(bcc="ü@x.example").needs_smtputf8


@pytest.mark.parametrize("word", ["critical", "elevated", "normal", "low", "CRITICAL", " low "])
def test_severity_words(word: str) -> None:
    """The four words are taken in any case."""
    assert usual(severity=word).severity.label == word.strip().lower()


def test_severity_member_and_default() -> None:
    """Python callers may give the member; nothing given means normal."""
    assert usual(severity=Severity.LOW).severity is Severity.LOW
    assert usual().severity is Severity.NORMAL


def test_fingerprint_ignores_the_key_and_the_order() -> None:
    """The same content has the same fingerprint under any key."""
    first = AlertEmail.parse({**FULL, "metadata": {"a": "1", "b": "2"}})
    again = AlertEmail.parse({**FULL, "metadata": {"b": "2", "a": "1"}, "idempotency_key": "k-2"})

    assert first.fingerprint() == again.fingerprint()
    assert len(first.fingerprint()) == 64


OTHER = {
    "tenant": "fabrikam", "mailbox": "x@x.example", "to": "o@x.example", "cc": [], "bcc": [],
    "reply_to": [], "subject": "Other", "text": "other", "html": "other", "severity": "low",
    "alert_id": "other", "not_before": None, "expires_at": "2027-01-01T00:00:00Z", "headers": {},
    "attachments": [], "metadata": {},
}  # fmt: skip


@pytest.mark.parametrize("field", OTHER)
def test_fingerprint_covers_every_field(field: str) -> None:
    """A change of any field but the key changes the fingerprint."""
    assert set(OTHER) == set(AlertEmail.model_fields) - {"idempotency_key"}
    changed = AlertEmail.parse({**FULL, field: OTHER[field]})

    assert changed.fingerprint() != AlertEmail.parse(FULL).fingerprint()


@given(
    subject=st.text(min_size=1, max_size=255),
    text=st.text(),
    html=st.none() | st.text(),
    metadata=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
    later=st.integers(0, 10**6),
)
def test_storage_round_trip(subject, text, html, metadata, later) -> None:
    """Every accepted alert e-mail comes back from storage as it went in."""
    try:
        alert = usual(
            subject=subject,
            text=text,
            html=html,
            metadata=metadata,
            attachments=[{"name": "a", "content": text.encode("utf-8", "replace")}],
            expires_at=datetime.now(UTC) + timedelta(seconds=later),
        )
    except InvalidAlert:
        return
    loaded = AlertEmail.load(alert.dump())

    assert loaded == alert
    assert loaded.fingerprint() == alert.fingerprint()
    assert alert.dump_and_fingerprint() == (alert.dump(), alert.fingerprint())
    assert loaded.model_dump_json() == alert.model_dump_json()


def test_smallest_alert_round_trip() -> None:
    """Absent fields come back absent, and are not shared between mails."""
    loaded = AlertEmail.load(usual().dump())

    assert loaded == usual()
    assert loaded.headers is not AlertEmail.load(usual().dump()).headers
    assert loaded.model_fields_set >= {"tenant", "to", "subject", "text"}


@given(st.text() | st.binary())
def test_parse_json_never_raises_anything_else(document: str | bytes) -> None:
    """Whatever arrives, the answer is an alert or InvalidAlert."""
    with pytest.raises(InvalidAlert):
        AlertEmail.parse_json(document)


@given(
    st.dictionaries(
        st.sampled_from(sorted(FULL)),
        st.recursive(
            st.none() | st.integers() | st.floats() | st.text() | st.booleans(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
            ),
        ),
    )
)
def test_parse_never_raises_anything_else(changes: dict[str, object]) -> None:
    """Whatever a field holds, the answer is an alert or InvalidAlert."""
    try:
        alert = AlertEmail.parse({**FULL, **changes})
    except InvalidAlert:
        return

    assert AlertEmail.load(alert.dump()) == alert


ZEROS = [
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00.000000000Z",
    "0001-01-01T00:00:00",
    "0001-01-01 00:00:00",
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00-12:00",
    "0000-00-00 00:00:00",
    "0001-01-01",
    -62_135_596_800,
    -62_135_596_800_000,
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1, 1, 1),  # noqa: DTZ001
    datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
]


@pytest.mark.parametrize("zero", ZEROS)
@pytest.mark.parametrize("field", ["not_before", "expires_at"])
def test_a_zero_value_means_none(field: str, zero: object) -> None:
    """What programs write where they have no time to name is taken as no time, at each door."""
    given = {"tenant": "a", "to": "a@x.example", "subject": "s", "text": "t", field: zero}

    assert getattr(AlertEmail.parse(given), field) is None
    if isinstance(zero, str | int):
        assert getattr(AlertEmail.parse_json(json.dumps(given)), field) is None


@pytest.mark.parametrize(
    "never", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.9999999", "9999-12-31T23:59:59-12:00"]
)
def test_a_deadline_in_the_last_year_is_none(never: str) -> None:
    """So is the greatest moment that a calendar has, as a deadline."""
    given = {"tenant": "a", "to": "a@x.example", "subject": "s", "text": "t", "expires_at": never}

    assert AlertEmail.parse(given).expires_at is None
