"""The mail to the operator: what stands in its subject, in which order, and what never does."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from models.expiries import CredentialRow, Expiry, Kind, expiries
from models.losses import BackMailbox, Lost, LostMailbox
from models.operator_mailbox import OperatorMailbox
from models.operator_news import News
from models.senders import Sender
from models.severity import Severity
from models.unsent import Unsent
from workers.warning_mail import NAMED, trial_mail, warning_mail

SENDER = Sender(
    **dict.fromkeys(part.name for part in fields(Sender))
    | {"address": "alerts@msp.example", "tenant_slug": "msp"}
)
NOW = datetime(2027, 3, 2, 8, tzinfo=UTC)
DAY = timedelta(days=1)
OPERATOR = OperatorMailbox(SENDER.address, ("noc@msp.example", "boss@msp.example"), SENDER)
LOST = LostMailbox(
    address="alerts@contoso.example",
    tenant="contoso",
    app="all customers",
    parked_at=NOW - timedelta(minutes=5),
    reason="secret-expired",
    scope="app",
    meaning="The client secret has expired; nothing is sent until there is another.",
    next_step="Create a new secret now.",
)


def secret(left: timedelta, *, mailboxes: int = 12, app: str = "x") -> Expiry:
    rows = [
        CredentialRow(app, False, NOW + left, "contoso", f"a{n:02}@contoso.example")
        for n in range(mailboxes)
    ]
    return expiries(rows, NOW)[0]


def grant(left: timedelta, address: str = "a@contoso.example") -> Expiry:
    row = CredentialRow("x", False, None, "contoso", address, "delegated", NOW + left - 90 * DAY)
    return next(one for one in expiries([row], NOW) if one.kind is Kind.GRANT)


def lost(count: int = 1, **changes: Any) -> Lost:
    one = replace(LOST, **changes)
    boxes = [replace(one, address=f"a{n:03}@contoso.example") for n in range(count)]
    return Lost(tuple(boxes), waiting=41)


def back(**changes: Any) -> BackMailbox:
    given = {
        "told_id": uuid4(),
        "address": "alerts@contoso.example",
        "tenant": "contoso",
        "cause": "app all customers: secret-expired",
        "reason": "secret-expired",
        "parked_at": NOW - timedelta(hours=3),
        "resumed_at": NOW - timedelta(minutes=2),
        "waited": 7,
    }
    return BackMailbox(**given | changes)


def unsent(alerts: int, **changes: Any) -> Unsent:
    one = Unsent("contoso", "a@contoso.example", "expired", "expired", alerts, NOW - DAY, NOW)
    return replace(one, **changes)


@pytest.mark.parametrize(
    ("news", "subject", "severity"),
    [
        (
            News(NOW, ends=(secret(7 * DAY),)),
            "alertpost: client secret of app 'x' ends in 7 days (12 mailboxes)",
            Severity.ELEVATED,
        ),
        (
            News(NOW, ends=(secret(6.999 * DAY),)),
            "alertpost: client secret of app 'x' ends in 7 days (12 mailboxes)",
            Severity.ELEVATED,
        ),
        (
            News(NOW, ends=(secret(0.999 * DAY, mailboxes=1),)),
            "alertpost: client secret of app 'x' ends in 24 hours (1 mailbox)",
            Severity.CRITICAL,
        ),
        (
            News(NOW, ends=(secret(-DAY),)),
            "alertpost: client secret of app 'x' has ended (12 mailboxes)",
            Severity.CRITICAL,
        ),
        (
            News(NOW, ends=(grant(29.5 * DAY),)),
            "alertpost: grant of a@contoso.example ends in 30 days",
            Severity.ELEVATED,
        ),
        (
            News(NOW, lost=(lost(300, app="msp"),), ends=(secret(0.5 * DAY),)),
            "alertpost: lost: app 'msp' (300 mailboxes) cannot send: secret-expired, and 1 more",
            Severity.CRITICAL,
        ),
        (
            News(NOW, lost=(lost(scope="mailbox", reason="consent-lost"),)),
            "alertpost: lost: a000@contoso.example cannot send: consent-lost",
            Severity.CRITICAL,
        ),
        (
            News(NOW, lost=(lost(2, scope="tenant"),)),
            "alertpost: lost: tenant 'contoso' (2 mailboxes) cannot send: secret-expired",
            Severity.CRITICAL,
        ),
        (
            News(NOW, repeated=(lost(2, scope="mailbox"),), back=(back(),)),
            "alertpost: still lost: 2 mailboxes cannot send: secret-expired, and 1 more",
            Severity.ELEVATED,
        ),
        (
            News(NOW, back=(back(),)),
            "alertpost: back again: app 'all customers' (1 mailbox) can send",
            Severity.NORMAL,
        ),
        (
            News(NOW, unsent=(unsent(3), unsent(1, mailbox="b@contoso.example")), back=(back(),)),
            "alertpost: unsent: 4 alerts ended without being sent, and 1 more",
            Severity.ELEVATED,
        ),
    ],
    ids=[
        "a-week", "hardly-less", "a-day", "ended", "grant", "loss-first", "own-loss", "tenant",
        "repeated", "back", "unsent",
    ],
)  # fmt: skip
def test_the_subject_says_the_worst(news: News, subject: str, severity: Severity) -> None:
    """And how many other things the mail tells; severity follows the worst too."""
    mail = warning_mail(news, OPERATOR)

    assert mail.subject == subject
    assert mail.severity is severity
    assert mail.mailbox == SENDER.address
    assert [str(one) for one in mail.to] == ["noc@msp.example", "boss@msp.example"]


def test_everything_stands_in_order_of_urgency() -> None:
    """Losses, then what ends first, then what was told before, then what is back; in both parts."""
    news = News(
        NOW,
        ends=(secret(50 * DAY, app="later"), secret(2 * DAY, app="soon")),
        lost=(lost(),),
        repeated=(lost(reason="token-refused-again"),),
        back=(back(),),
    )

    mail = warning_mail(news, OPERATOR)

    for part in (mail.text, mail.html):
        assert part is not None
        places = [
            part.index(word)
            for word in (
                "Lost: app", "'soon'", "'later'", "Still lost", "Back again",
            )
        ]  # fmt: skip
        assert places == sorted(places)
    assert mail.subject.endswith(", and 4 more")


def test_grants_of_one_level_are_one_thing() -> None:
    """Those of three hundred customers get old together where no worker runs."""
    old = [grant(n * DAY / 10 + 31 * DAY, f"a{n:03}@contoso.example") for n in range(30)]

    mail = warning_mail(News(NOW, ends=(*old, grant(5 * DAY))), OPERATOR)

    assert mail.subject == "alertpost: grant of a@contoso.example ends in 5 days, and 1 more"
    assert "Grants of 30 mailboxes end: the first ends in 31 days" in (mail.text or "")
    assert ", and 10 more" in (mail.text or "")


def test_it_says_what_when_who_and_what_to_do() -> None:
    """With the command as it is typed; of many mailboxes the first, and how many others."""
    mail = warning_mail(News(NOW, lost=(lost(300),), back=(back(),)), OPERATOR)

    for words in (
        "The client secret has expired",
        "2027-03-02 07:55 UTC; 41 alerts wait",
        "a000@contoso.example, a001@contoso.example",
        f", and {300 - NAMED} more",
        "Create a new secret now.",
        "alertpost apps secret 'all customers' --client-secret-file FILE --secret-expires DATE",
        "for 3 h, 2027-03-02 05:00 UTC to 2027-03-02 07:58 UTC",
        "7 alerts waited",
    ):
        assert words in (mail.text or "")
    assert "<code>alertpost apps secret 'all customers'" in (mail.html or "")
    assert mail.text is not None
    assert mail.text.count("@contoso.example") == NAMED + 1


def test_words_from_elsewhere_are_only_words() -> None:
    """Neither markup nor a second line, and nothing that looks like a secret."""
    secret_value = "abc8Q~" + "x" * 34
    hostile = lost(
        meaning=f"<script>alert(1)</script>\r\nBcc: all@example.com {secret_value}",
        next_step="Use client_secret=hunter2hunter2 and eyJhbGciOiJub25lIn0.e30.x",
    )

    mail = warning_mail(News(NOW, lost=(hostile,)), OPERATOR)

    told = f"{mail.subject}\n{mail.text}\n{mail.html}"
    assert secret_value not in told
    assert "hunter2" not in told
    assert "eyJ" not in told
    assert "<script>" not in (mail.html or "")
    assert "\nBcc" not in told


def test_a_reason_that_nobody_knows_has_a_command_too() -> None:
    """Such as one of a later version."""
    odd = lost(3, reason="never-heard-of", scope="mailbox", meaning="", next_step="")

    mail = warning_mail(News(NOW, lost=(odd,)), OPERATOR)

    assert "alertpost mailboxes show a000@contoso.example   (and so on" in (mail.text or "")


def test_a_long_name_leaves_room_for_the_rest() -> None:
    """A subject has 255 characters."""
    address = f"{'a' * 64}@{'b' * 60}.{'c' * 60}.{'d' * 60}.example"
    box = replace(LOST, scope="mailbox", address=address, reason="r" * 100)

    mail = warning_mail(News(NOW, lost=(Lost((box,)),), back=(back(),)), OPERATOR)

    assert len(mail.subject) <= 255
    assert mail.subject.endswith(", and 1 more")


def test_the_trial_says_that_it_is_one() -> None:
    """Nobody has to do anything."""
    mail = trial_mail(OPERATOR)

    assert "nobody has to do anything" in mail.subject
    assert mail.severity is Severity.ELEVATED


def test_what_ended_unsent_is_named_by_mailbox_and_reason() -> None:
    """The mail says where how many ended and why, and where each of them is listed."""
    left = unsent(2, mailbox="b@contoso.example", state="cancelled", reason="left-behind")
    mail = warning_mail(News(NOW, unsent=(unsent(1), left)), OPERATOR)

    for text in (
        "3 alerts ended without being sent",
        "1 of a@contoso.example (contoso): expired; 2 of b@contoso.example (contoso): left-behind",
        "2027-03-01 08:00 UTC to 2027-03-02 08:00 UTC",
        "alertpost deliveries list --state expired",
    ):
        assert text in mail.text
