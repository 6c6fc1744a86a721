"""Nothing breaks out of a header or a command, also where the door's validation was passed by."""

from __future__ import annotations

import email
import re
from datetime import UTC, datetime
from email import policy
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from models.addresses import Address
from models.alert import AlertEmail
from models.attachments import Attachment
from models.errors import InvalidAlert, SubmissionFailed
from models.stages import Stage
from models.vault import Vault
from producers.enqueue import Producer
from tests.models.factories import states, world_rows
from workers.compose import compose
from workers.line_locks import command_line, locked, path, sign_in_argument

BREAKS = ["\r\n", "\n", "\r", "\x00", "\x0b", "\x1f", "\x7f", "\x85", "\u2028", "\u2029", "\udc80"]
ALERT = AlertEmail(
    tenant="contoso",
    to="Night shift <noc@contoso.example>",
    cc="c@contoso.example",
    reply_to="r@contoso.example",
    subject="Disk full",
    text="C: is full",
    html="<b>C: is full</b>",
    alert_id="disk",
    headers={"X-Ticket": "42"},
    attachments=[{"name": "log.txt", "content_type": "text/plain", "content": b"x"}],
)
TEXTS = st.text(
    st.one_of(st.characters(codec=None), st.sampled_from('\r\n\x00<>:;,"\\ @=?')), max_size=60
)


def composed(alert: AlertEmail, **changes: Any) -> bytes:
    given = {
        "message_id": "<alert-1@contoso.example>",
        "sender": "alerts@contoso.example",
        "sender_name": "Alerts",
        "delivery_id": UUID(int=1),
        "date": datetime(2026, 11, 1, tzinfo=UTC),
        "server_has_smtputf8": True,
        "server_has_8bitmime": True,
    }
    return compose(alert, **(given | changes)).data


def slips(bad: str) -> list[dict[str, Any]]:
    """Say all ways in which a text may be slipped into a valid alert."""
    address = Address(name="", local=f"a{bad}", domain="x.example", unicode_domain="x.example")
    named = Address(name=f"A{bad}b", local="a", domain="x.example", unicode_domain="x.example")
    beyond = Address(name="", local="a", domain=f"x.example{bad}", unicode_domain="x.example")
    file = Attachment.model_construct(name=f"a{bad}", content_type="text/plain", content=b"")
    kind = Attachment.model_construct(name="a", content_type=f"text/x{bad}", content=b"")
    return [
        {"subject": f"Disk{bad}Bcc: eve@evil.example"},
        {"alert_id": f"a{bad}"},
        {"headers": {"X-A": f"b{bad}Bcc: eve@evil.example"}},
        {"headers": {f"X-A{bad}Bcc": "eve@evil.example"}},
        *(
            {field: (one,)}
            for field in ("to", "cc", "reply_to")
            for one in (address, named, beyond)
        ),
        {"attachments": (file,)},
        {"attachments": (kind,)},
    ]


@pytest.mark.parametrize("bad", BREAKS)
def test_the_composer_refuses(bad: str) -> None:
    """Each control character in each value of each header is refused, whoever put it there."""
    for change in slips(bad):
        with pytest.raises(InvalidAlert) as refused:
            composed(ALERT.model_copy(update=change))
        assert refused.value.field == next(iter(change)), change


@pytest.mark.parametrize("bad", BREAKS)
def test_the_sender_is_looked_at(bad: str) -> None:
    """So are the values that do not come from the alert."""
    for change in (
        {"sender": f"a{bad}@contoso.example"},
        {"sender": f"a@contoso.example{bad}"},
        {"sender_name": f"A{bad}b"},
        {"message_id": f"<a{bad}@b>"},
        {"delivery_id": f"1{bad}"},
    ):
        with pytest.raises((InvalidAlert, ValueError)):
            composed(ALERT, **change)


@pytest.mark.parametrize(
    "headers",
    [{"Bcc": "eve@evil.example"}, {"From": "x@y.example"}, {"X-Alertpost-Id": "1"}, {"": "x"}],
)
def test_no_header_that_is_ours_or_nobodys(headers: dict[str, str]) -> None:
    """A name that the door would refuse is refused here."""
    with pytest.raises(InvalidAlert, match="headers"):
        composed(ALERT.model_copy(update={"headers": headers}))


@pytest.mark.parametrize(
    "change",
    [
        {"subject": None}, {"subject": 3}, {"to": ("a@b.example",)}, {"severity": "high"},
        {"text": "\ud800"}, {"to": (None,)}, {"not_before": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"expires_at": "tomorrow"}, {"attachments": ({"name": "x"},)},
    ],
)  # fmt: skip
def test_what_is_no_value_is_told(change: dict[str, Any]) -> None:
    """A value of another kind is refused by its field, not by a traceback."""
    with pytest.raises(InvalidAlert) as refused:
        composed(ALERT.model_copy(update=change))
    assert refused.value.field == next(iter(change))


def test_the_producer_refuses(engine: Engine) -> None:
    """An alert that was changed behind its validation is not accepted in the first place."""
    world_rows(engine, slug="contoso")
    producer = Producer(engine, Vault([Vault.new_key()]), None)

    for change in slips("\r\n"):
        for enqueue in (producer.enqueue_many, producer.enqueue_notifications):
            with pytest.raises(InvalidAlert):
                enqueue([ALERT.model_copy(update=change)])
    with engine.connect() as conn:
        assert states(conn) == {}


@given(subject=TEXTS, name=TEXTS, value=TEXTS, alert_id=TEXTS, file=TEXTS, sender=TEXTS)
@settings(max_examples=400, deadline=None)
def test_no_text_makes_a_header(**texts: str) -> None:
    """Whatever the texts are: a mail has the headers that it should have, or there is no mail."""
    wild = AlertEmail.model_construct(
        **{
            **ALERT.__dict__,
            "subject": texts["subject"],
            "alert_id": texts["alert_id"],
            "headers": {"X-Ticket": texts["value"]},
            "to": (Address(texts["name"], "a", "x.example", "x.example"),),
            "attachments": (
                Attachment.model_construct(
                    name=texts["file"], content_type="text/plain", content=b"x"
                ),
            ),
        }
    )
    try:
        data = composed(wild, sender_name=texts["sender"])
    except InvalidAlert:
        return

    head, _, _ = data.partition(b"\r\n\r\n")
    names = [line.partition(b":")[0] for line in re.split(rb"\r\n(?! )", head)]
    assert not set(re.sub(rb"\r\n", b"", head)) & (set(range(32)) | {127})
    assert names[:4] == [b"From", b"To", b"Cc", b"Reply-To"]
    assert {b"Bcc", b"Sender"}.isdisjoint(names)
    assert len(names) == len(set(names))
    mail = email.message_from_bytes(data, policy=policy.default)
    assert len(mail.keys()) == len(names)


@pytest.mark.parametrize(
    "head",
    [
        "Subject: a\r\nBcc: b\r\n", "Subject: a\r\nSubject: b\r\n", "Subject: a\n", "Subject: a",
        "Subject: a\r\n\r\nX-B: c\r\n", "Subject: a\x00\r\n", "no header\r\n", "Subject: a\rb\r\n",
    ],
)  # fmt: skip
def test_the_last_lock(head: str) -> None:
    """Headers as a whole are looked at once more, as the octets that they will be."""
    with pytest.raises(InvalidAlert):
        locked(head)


def test_folded_headers_pass() -> None:
    """What is folded rightly stays as it is."""
    head = "Subject: a\r\n b\r\nX-Ticket: 42\r\n"

    assert locked(head) == head


@given(TEXTS)
@settings(max_examples=400, deadline=None)
def test_no_text_makes_a_command(text: str) -> None:
    """One command stays one line with one address, or nothing is sent."""
    try:
        line = command_line(f"RCPT TO:{path(text)}")
    except SubmissionFailed as failed:
        told = failed.stage, failed.reply_code
    else:
        assert re.fullmatch(rb"RCPT TO:<[^<>\s\x00-\x1f\x7f]+>\r\n", line)
        return

    assert told == (Stage.COMPOSE, None)


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_no_user_makes_another_part(text: str) -> None:
    """The answer to AUTH is parted by control characters; no user name brings one."""
    held = bool(set(text) & set(map(chr, range(32))))
    try:
        passed = sign_in_argument(text, "the user") == text
    except SubmissionFailed:
        passed = False

    assert not (held and passed)
