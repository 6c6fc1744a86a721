"""Each mail is held against the standard library's parser, which shares no code with it."""

from __future__ import annotations

import base64
import email
import email.policy
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.alert import AlertEmail
from models.errors import InvalidAlert
from models.message_ids import new_message_id, thread_root_id
from workers.compose import ComposedMail, compose

DELIVERY = UUID("0193a8c1-7c1e-7a10-8a51-b1d7c3f0a001")
DATE = datetime(2026, 11, 23, 9, 5, 7, tzinfo=UTC)
MESSAGE_ID = new_message_id(DELIVERY, "contoso.example")
USUAL = {
    "tenant": "contoso",
    "to": "noc@contoso.example",
    "subject": "Disk full",
    "text": "C: is full",
}
SAMPLES = Path(__file__).parents[2] / "console" / "demo_data" / "alertmanager-webhooks.jsonl"
OURS = {
    "from", "to", "cc", "reply-to", "subject", "date", "message-id", "in-reply-to", "references",
    "x-alertpost-id", "x-alertpost-severity", "importance", "x-priority", "auto-submitted",
    "x-auto-response-suppress", "mime-version", "content-type", "content-transfer-encoding",
}  # fmt: skip


def composed(alert: AlertEmail, **changes: object) -> ComposedMail:
    return compose(
        alert,
        **{
            "message_id": MESSAGE_ID,
            "sender": "alerts@contoso.example",
            "sender_name": "Contoso Alerts",
            "delivery_id": DELIVERY,
            "date": DATE,
            "server_has_smtputf8": True,
            "server_has_8bitmime": True,
            **changes,
        },  # type: ignore[arg-type]
    )


def usual(**changes: object) -> AlertEmail:
    return AlertEmail.parse({**USUAL, **changes})


def parsed(mail: ComposedMail) -> email.message.EmailMessage:
    if mail.smtputf8:
        # From bytes, the parser of 3.11 leaves UTF-8 in headers undecoded.
        return email.message_from_string(mail.data.decode(), policy=email.policy.SMTPUTF8)
    return email.message_from_bytes(mail.data, policy=email.policy.SMTP)


def lines(text: str) -> str:
    """Bring a body to one form: line ends differ on the way, and empty last lines say nothing."""
    return re.sub(r"\r\n?", "\n", text).rstrip("\n")


def specs(header: str | None) -> list[tuple[str, str]]:
    return [(a.display_name, a.addr_spec) for a in header.addresses] if header else []  # type: ignore[attr-defined]


def unspaced(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    # The parser of 3.11 changes blanks in display names: it joins or widens them.
    return [("".join(name.split()), spec) for name, spec in pairs]


def assert_is_what_went_in(alert: AlertEmail, mail: ComposedMail) -> None:
    data = mail.data
    assert data.endswith(b"\r\n")
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)|\0", data)
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert mail.size == len(data)
    assert mail.smtputf8 or data.isascii()

    message = parsed(mail)
    assert {name.lower() for name in message} <= OURS | {name.lower() for name in alert.headers}
    assert len(message.keys()) == len({name.lower() for name in message})
    for part in message.walk():
        assert not part.defects
    assert message["Subject"] == alert.subject
    for name, value in alert.headers.items():
        assert message[name] == value
    for name, addresses in (("To", alert.to), ("Cc", alert.cc), ("Reply-To", alert.reply_to)):
        assert unspaced(specs(message[name])) == unspaced([(a.name, a.spec) for a in addresses])
    for address in alert.bcc:
        assert address.spec.encode() not in data.partition(b"\r\n\r\n")[0]

    leaves = [part for part in message.walk() if not part.is_multipart()]
    bodies, files = (
        leaves[: len(leaves) - len(alert.attachments)],
        leaves[len(leaves) - len(alert.attachments) :],
    )
    texts = {part.get_content_subtype(): lines(part.get_content()) for part in bodies}
    expected = {"plain": alert.text, "html": alert.html}
    assert texts == {kind: lines(body) for kind, body in expected.items() if body}
    assert [
        (
            part["Content-Disposition"].params["filename"],
            part.get_content_type(),
            part.get_payload(decode=True),
        )
        for part in files
    ] == [(file.name, file.content_type, file.content) for file in alert.attachments]
    assert all(part.get_content_disposition() == "attachment" for part in files)


def test_every_header_of_a_usual_mail() -> None:
    """A usual mail is exactly this."""
    mail = composed(usual(alert_id="disk-c", severity="critical"))

    assert mail.data.decode() == (
        "From: Contoso Alerts <alerts@contoso.example>\r\n"
        "To: noc@contoso.example\r\n"
        "Subject: Disk full\r\n"
        "Date: Mon, 23 Nov 2026 09:05:07 +0000\r\n"
        "Message-ID: <alert-0193a8c17c1e7a108a51b1d7c3f0a001@contoso.example>\r\n"
        "In-Reply-To: <alert-912495d39067aa1eea2a8d0fb1d3489f.thread@contoso.example>\r\n"
        "References: <alert-912495d39067aa1eea2a8d0fb1d3489f.thread@contoso.example>\r\n"
        "X-Alertpost-Id: 0193a8c1-7c1e-7a10-8a51-b1d7c3f0a001\r\n"
        "X-Alertpost-Severity: critical\r\n"
        "Importance: high\r\n"
        "X-Priority: 1 (Highest)\r\n"
        "Auto-Submitted: auto-generated\r\n"
        "X-Auto-Response-Suppress: All\r\n"
        "MIME-Version: 1.0\r\n"
        'Content-Type: text/plain; charset="utf-8"\r\n'
        "Content-Transfer-Encoding: 7bit\r\n"
        "\r\n"
        "C: is full\r\n"
    )
    assert not mail.smtputf8


def test_sample_mails() -> None:
    """Real alerts arrive as they were written."""
    from producers.alert_lines import alertmanager_reader, read_lines

    with SAMPLES.open("rb") as stream:
        read = alertmanager_reader(lambda tenant, _: [f"NOC <noc@{tenant}.example>"])
        alerts = [alert for line in read_lines(stream, read) for alert in line.alerts]

    assert len(alerts) == 459
    for alert in alerts:
        assert_is_what_went_in(alert, composed(alert))


# Controls that a mail's text may hold are in; those that it may not, AlertEmail refuses.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
WORDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=255
)
ASCII_WORDS = st.text(st.sampled_from('aB1 ?=_"<>,;:@\\()'), min_size=1, max_size=255)
NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp", "Zs"], exclude_characters="<>"),
    max_size=60,
)
ADDRESSES = st.builds(
    lambda name, local: '"{}" <{}@x.example>'.format(
        name.replace("\\", "\\\\").replace('"', '\\"'), local
    ),
    NAMES,
    st.from_regex(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}", fullmatch=True),
)
FILES = st.fixed_dictionaries(
    {
        "name": NAMES | st.text(st.sampled_from("aé%\"; '"), min_size=1, max_size=99),
        "content": st.binary(max_size=300),
    },
    optional={"content_type": st.sampled_from(["text/csv", "application/pdf", "text/html"])},
)


@given(
    st.fixed_dictionaries(
        {"subject": WORDS | ASCII_WORDS},
        optional={
            "text": TEXT | st.text(st.sampled_from("ab\r\n .=\t-"), max_size=300),
            "html": TEXT,
            "to": st.lists(ADDRESSES, max_size=6),
            "cc": st.lists(ADDRESSES, max_size=3),
            "reply_to": st.lists(ADDRESSES, max_size=2),
            "headers": st.dictionaries(
                st.from_regex(r"X-Z[A-Za-z0-9-]{1,30}", fullmatch=True),
                WORDS | ASCII_WORDS,
                max_size=2,
            ),
            "attachments": st.lists(FILES, max_size=3),
            "severity": st.sampled_from(["critical", "low"]),
        },
    ),
)
@example({"text": "x" * 999})
@example({"text": "é" * 2000})
@example({"text": "naïve " * 400})
@example({"text": "\x1b[31mred\x1b[0m\x0b\x0c\x85\u2028end"})
@example({"text": "."})
@example({"text": "a\r\n.\r\n.b\r\n..\r\n"})
@example({"text": "\r\r\n\n\r"})
@example({"text": "trailing \t \n blanks   "})
@example({"text": "From here\nFrom there"})
@example({"text": "ü\rb"})
@example({"subject": "=?utf-8?q?forged?="})
@example({"subject": "a" * 255})
@example({"subject": "a  b " * 51})
@example({"subject": "👩‍🚒" * 80})
@example({"subject": "שלום עולם 🔥 " * 10})
@example({"headers": {"X-" + "a" * 48: "ü" * 300, "X-Empty": " ", "X-Long": "b" * 1000}})
@example({"to": ['"=?utf-8?q?a?=" <a@x.example>', '"Müller, Jörg" <b@x.example>']})
@example(
    {
        "attachments": [
            {"name": "a" * 200 + ".txt", "content": b""},
            {"name": "日本語" * 20, "content": b"x"},
        ]
    }
)
@settings(deadline=None)
def test_whatever_goes_in_comes_out(changes: dict[str, object]) -> None:
    """Subject, addresses, texts, files and headers of any script arrive unchanged, and nothing else."""
    try:
        alert = usual(**changes)
    except InvalidAlert:
        return

    assert_is_what_went_in(alert, composed(alert))


@given(st.binary(max_size=40), st.text(st.sampled_from("\r\n:abB cX-"), max_size=40))
@settings(deadline=None)
def test_no_second_header_or_mail(name: bytes, value: str) -> None:
    """Whatever a producer writes into one-line fields adds no line of its own."""
    for field, tried in (
        ("subject", value),
        ("to", f"{value} <a@x.example>"),
        ("headers", {"X-A": value}),
        ("headers", {name.decode("latin-1"): "a"}),
        ("attachments", [{"name": value, "content": ""}]),
    ):
        try:
            alert = usual(**{field: tried})
        except InvalidAlert:
            continue
        assert_is_what_went_in(alert, composed(alert))


def test_boundary_avoids_the_content() -> None:
    """A text that holds the boundary we would use does not end its part."""
    first = composed(usual(html="<p>"))
    boundary = re.search(rb'boundary="(.*)"', first.data)[1].decode()  # type: ignore[index]
    alert = usual(
        text=f"a\n--{boundary}\nContent-Type: text/html\n\nforged\n--{boundary}--", html="<p>"
    )

    assert_is_what_went_in(alert, composed(alert))


def test_bcc_is_never_shown() -> None:
    """Unseen recipients stay unseen, also where nobody else is there."""
    mail = composed(usual(to=[], bcc=["hidden@x.example"]))

    assert b"hidden" not in mail.data
    assert b"\r\nTo: undisclosed-recipients:;\r\n" in mail.data


@pytest.mark.parametrize("size", range(1, 60))
def test_encoded_words_hold_whole_characters(size: int) -> None:
    """Each encoded word decodes by itself, and no line with one exceeds 76 columns."""
    mail = composed(
        usual(
            subject="x" * (size % 7) + "🔥é" * size, headers={"X-A-Rather-Long-Name": "日" * size}
        )
    )

    words = re.findall(rb"=\?utf-8\?b\?([^?]*)\?=", mail.data)
    assert words
    assert all(base64.b64decode(word).decode() for word in words)
    assert all(len(line) <= 76 for line in mail.data.split(b"\r\n") if b"=?" in line)


def test_header_lines_are_folded() -> None:
    """Lines break where a word ends, so that none is longer than wished."""
    mail = composed(
        usual(
            to=[f"Person number {n} <person.{n}@contoso.example>" for n in range(40)],
            subject="word " * 50,
        ),
    )

    assert max(map(len, mail.data.partition(b"\r\n\r\n")[0].split(b"\r\n"))) <= 78


ENCODINGS = [
    pytest.param("plain", "7bit", id="ascii"),
    pytest.param("x" * 998, "7bit", id="998"),
    pytest.param("x" * 999, "quoted-printable", id="999"),
    pytest.param("x\x1b" + "x" * 99, "quoted-printable", id="control"),
    pytest.param("naïve " + "word " * 50, "quoted-printable", id="mostly-ascii"),
    pytest.param("日本語" * 50, "base64", id="mostly-not"),
]


@pytest.mark.parametrize(("text", "encoding"), ENCODINGS)
def test_shortest_encoding_wins(text: str, encoding: str) -> None:
    """Text is sent as it is where that is safe, else in the shorter of two encodings."""
    assert parsed(composed(usual(text=text)))["Content-Transfer-Encoding"] == encoding


def test_utf8_addresses() -> None:
    """Where the server can, UTF-8 before the @ goes into the headers as it is."""
    alert = usual(to="Jürgen <jürgen@bücher.example>", reply_to="ö@x.example")
    mail = composed(alert)

    assert mail.smtputf8
    assert "<jürgen@xn--bcher-kva.example>".encode() in mail.data
    assert_is_what_went_in(alert, mail)


@pytest.mark.parametrize("lacking", ["server_has_smtputf8", "server_has_8bitmime"])
def test_utf8_addresses_need_the_server(lacking: str) -> None:
    """A server without the extension is never sent what it cannot take; others do not care."""
    with pytest.raises(InvalidAlert, match=r"^to: .*SMTPUTF8"):
        composed(usual(to="ü@x.example"), **{lacking: False})
    with pytest.raises(InvalidAlert, match=r"^mailbox: .*SMTPUTF8"):
        composed(usual(), sender="ü@x.example", **{lacking: False})

    assert not composed(usual(to="a@bücher.example"), **{lacking: False}).smtputf8


SENDER_NAMES = [None, "", "Ops", "Ops, Ltd.", 'The "A" team', "Überwachung", "=?utf-8?q?x?="]


@pytest.mark.parametrize("name", SENDER_NAMES)
def test_sender_name(name: str | None) -> None:
    """The sender's name arrives as it was set."""
    message = parsed(composed(usual(), sender_name=name))

    assert specs(message["From"]) == [(name or "", "alerts@contoso.example")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"sender": "nobody"},
        {"sender_name": "a\r\nBcc: b@x.example"},
        {"message_id": "<a@b>\r\nX: y"},
        {"message_id": "a@b"},
        {"date": DATE.replace(tzinfo=None)},
    ],
    ids=str,
)
def test_what_the_worker_gives_is_checked_too(wrong: dict[str, object]) -> None:
    """No caller can inject a line, by mistake or by settings."""
    with pytest.raises(ValueError, match=r"mailbox|message_id|time zone"):
        composed(usual(), **wrong)


def test_attempts_are_identical() -> None:
    """A second attempt sends the same octets, so that a duplicate is recognised as one."""
    alert = usual(html="<p>x</p>", attachments=[{"name": "a", "content": b"b"}])
    there = DATE.astimezone(timezone(timedelta(hours=5, minutes=30)))

    assert composed(alert) == composed(AlertEmail.load(alert.dump()), date=there)


def test_threads() -> None:
    """Mails of one alert of one tenant share a root; nobody else has it."""
    root = thread_root_id("contoso", "disk-c", "contoso.example")

    assert root == thread_root_id("contoso", "disk-c", "contoso.example")
    assert (
        len(
            {
                root,
                thread_root_id("fabrikam", "disk-c", "contoso.example"),
                thread_root_id("contoso", "disk-d", "contoso.example"),
            }
        )
        == 3
    )
    assert b"References" not in composed(usual()).data
    assert parsed(composed(usual(alert_id="disk-c")))["References"] == root


def test_message_id_fits_its_column() -> None:
    """The longest domain gives a Message-ID that can be stored and sent."""
    identifier = new_message_id(DELIVERY, ".".join(["x" * 62] * 4))

    assert len(identifier) <= 255
    assert composed(usual(), message_id=identifier).data
