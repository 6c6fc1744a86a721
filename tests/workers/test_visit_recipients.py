"""One mail, several recipients: some are taken, some refused, some put off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import aiosmtplib
import pytest

from models import deliveries, mailboxes, reports
from models.database import read, write
from models.deliveries import DeliveryFilter
from models.partly_accepted import Refusals, lately_refused
from sandbox import exchange_session
from sandbox.faults import Answer, Close, CutAfterDot, Fault, RefuseRecipients
from sandbox.limits import Limits
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, drain, send, visit
from workers import smtp_session

GOOD, BAD = "good@contoso.example", "bad@contoso.example"
PUT_OFF = "451 4.4.0 Not now"


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    # Later than a visit lasts, also on a busy machine.
    return IMPATIENT | {"retry": IMPATIENT["retry"] | {"soon_seconds": 0.6}}


def _refuse(whole: Whole, pattern: str, reply: str, *, times: int | None = None) -> None:
    whole.sandbox.exchange.inject(
        Fault(f"refuse {pattern}", "rcpt", RefuseRecipients(pattern, reply), times=times)
    )


def _served(whole: Whole) -> list[tuple[str, ...]]:
    return [mail.recipients for mail in whole.outbox()]


async def test_a_refused_recipient_does_not_keep_the_others_from_their_mail(whole: Whole) -> None:
    """What one recipient is refused with stands beside a mail that the others got."""
    _refuse(whole, BAD, "no_such_recipient")
    receipt = send(whole, to=[GOOD, BAD])

    await visit(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.attempts) == ("accepted", 1)
    assert list(row.refused) == [BAD]
    assert row.refused[BAD].startswith("550 5.1.1")
    assert _served(whole) == [(GOOD,)]


async def test_a_limit_that_the_server_names_in_ehlo_is_kept(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LIMITS (RFC 9422): a mail to more goes out in parts, and no refusal is needed to learn it."""

    class Ceiling(int):
        def __format__(self, spec: str) -> str:
            return f"{int(self)}\r\n250-LIMITS MAILMAX=50 RCPTMAX=2"

    monkeypatch.setattr(exchange_session, "SERVICE_CEILING_BYTES", Ceiling(150 * 2**20))
    everybody = [f"ops-{number}@contoso.example" for number in range(5)]
    receipt = send(whole, to=everybody)

    await drain(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.refused) == ("accepted", {})
    assert _served(whole) == [tuple(everybody[:2]), tuple(everybody[2:4]), tuple(everybody[4:])]


@pytest.mark.parametrize(
    ("said", "most"),
    [
        ("RCPTMAX=100", 100), ("mailmax=5 rcptmax=7 rcptdomainmax=2", 7), ("RCPTDOMAINMAX=3", None),
        ("RCPTMAX=0", None), ("RCPTMAX=many", None), ("RCPTMAX=99999999", None), ("", None),
    ],
)  # fmt: skip
def test_how_limits_are_read(said: str, most: int | None) -> None:
    """RCPTMAX alone, in whatever letters; what is no number of recipients names no limit."""
    client = aiosmtplib.SMTP()
    client.esmtp_extensions = {"limits": said}

    assert smtp_session._features(client).recipients_limit == most


async def test_refused_recipients_of_accepted_mails_are_counted_and_found(whole: Whole) -> None:
    """Report, status and the list name them; a dead letter, which says so itself, is not there."""
    _refuse(whole, "bad*", "no_such_recipient")
    other = "bad-too@contoso.example"
    partly = send(whole, to=[GOOD, BAD, other])
    # Put off by one, and refused for good in another try: that is once.
    _refuse(whole, "later*", PUT_OFF, times=1)
    late = send(whole, to=[GOOD, BAD, "later@contoso.example"])
    send(whole, to=[GOOD])
    dead = send(whole, to=[other])
    await drain(whole, partly.mailbox_id)
    assert whole.row(dead.delivery_id).state == "dead"

    with read(whole.engine) as connection:
        figures = reports.report(connection)
        lately = lately_refused(connection)
        listed = deliveries.list_deliveries(connection, DeliveryFilter(refused=True))

    assert figures.total.accepted == 3
    assert (figures.total.recipients_refused, figures.total.partly_accepted) == (3, 2)
    assert figures.tenants["contoso"].recipients_refused == 3
    assert lately == Refusals(recipients=3, mails=2)
    assert [(row.id, sorted(row.refused)) for row in listed] == [
        (late.delivery_id, [BAD]),
        (partly.delivery_id, [other, BAD]),
    ]


async def test_a_recipient_that_is_put_off_is_tried_alone(whole: Whole) -> None:
    """Nobody gets a mail twice because somebody else was not to be reached."""
    _refuse(whole, BAD, PUT_OFF, times=2)
    receipt = send(whole, to=[GOOD, BAD])

    await visit(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.reason) == ("queued", "recipients-deferred")
    assert list(row.taken) == [GOOD]

    await drain(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.refused) == ("accepted", {})
    assert _served(whole) == [(GOOD,), (BAD,)]
    assert len({mail.message_id for mail in whole.outbox()}) == 1


async def test_a_recipient_that_is_put_off_to_the_end_is_refused(whole: Whole) -> None:
    """After the attempts allowed the mail is accepted for those who have it, and says for whom."""
    _refuse(whole, BAD, PUT_OFF)
    receipt = send(whole, to=[GOOD, BAD])

    await drain(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.attempts) == ("accepted", 4)
    assert (list(row.taken), list(row.refused)) == ([GOOD], [BAD])
    assert _served(whole) == [(GOOD,)]


async def test_a_recipient_refused_in_the_end_leaves_the_mail_accepted(whole: Whole) -> None:
    """Put off first and refused for good later is the same as refused at once."""
    _refuse(whole, BAD, PUT_OFF, times=1)
    receipt = send(whole, to=[GOOD, BAD])
    await visit(whole, receipt.mailbox_id)
    _refuse(whole, BAD, "no_such_recipient")

    await drain(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, list(row.refused)) == ("accepted", [BAD])


async def test_a_mail_that_nobody_may_get_is_dead(whole: Whole) -> None:
    """Refused by all for good: a dead letter with the reason, and each with its reply."""
    _refuse(whole, "*", "no_such_recipient")
    receipt = send(whole, to=[GOOD, BAD])

    await visit(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.reason) == ("dead", "recipient-unknown")
    assert sorted(row.refused) == [BAD, GOOD]
    assert not whole.outbox()


async def test_a_mail_lives_while_one_recipient_may_still_get_it(whole: Whole) -> None:
    """One refused for good and one put off: tried again, without the one that is hopeless."""
    _refuse(whole, BAD, "no_such_recipient")
    _refuse(whole, GOOD, PUT_OFF, times=1)
    receipt = send(whole, to=[BAD, GOOD])

    await drain(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, list(row.refused)) == ("accepted", [BAD])
    assert _served(whole) == [(GOOD,)]


async def test_more_recipients_than_a_mail_may_have_get_theirs_in_turns(whole: Whole) -> None:
    """452 4.5.3 splits: who was one too many gets the mail next."""
    mailbox = whole.exchange()
    mailbox.limits = replace(Limits(), recipients_per_message=2)
    receipt = send(whole, to=[f"{n}@contoso.example" for n in range(5)])

    await drain(whole, receipt.mailbox_id)

    assert whole.row(receipt.delivery_id).state == "accepted"
    assert [len(recipients) for recipients in _served(whole)] == [2, 2, 1]
    assert len({address for served in _served(whole) for address in served}) == 5


async def test_a_refused_recipient_before_a_cut_does_not_end_the_mail(whole: Whole) -> None:
    """The line broke before all had been judged: that is no answer about the mail."""
    _refuse(whole, BAD, "no_such_recipient", times=1)
    whole.sandbox.exchange.inject(Fault("cut", "data", Close(), times=1))
    receipt = send(whole, to=[BAD, GOOD])

    await visit(whole, receipt.mailbox_id)

    assert whole.row(receipt.delivery_id).reason == "connection-lost"
    await drain(whole, receipt.mailbox_id)
    assert whole.row(receipt.delivery_id).state == "accepted"


async def test_international_addresses_go_out_where_the_server_takes_them(whole: Whole) -> None:
    """SMTPUTF8 is declared for the mails that need it."""
    receipt = send(whole, to=["störung@contoso.example"])

    await visit(whole, receipt.mailbox_id)

    assert whole.row(receipt.delivery_id).state == "accepted"
    assert _served(whole) == [("störung@contoso.example",)]


async def test_international_addresses_are_refused_where_the_server_knows_none(
    whole: Whole,
) -> None:
    """A server without SMTPUTF8 gets no such mail; its dead letter says why, the lane goes on."""
    await visit(whole, send(whole).mailbox_id)
    (kept,) = whole.services.connections._kept.values()
    kept.session.features = replace(kept.session.features, smtputf8=False)
    receipt, later = send(whole, to=["störung@contoso.example"]), send(whole, severity="low")

    await visit(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.reason) == ("dead", "mail-not-built")
    assert "SMTPUTF8" in row.reply_text
    assert whole.attempts(receipt.delivery_id)[0].took_permit is False
    assert whole.row(later.delivery_id).state == "accepted"


TOO_MANY = "550 5.5.3 RESOLVER.ADR.RecipLimit; too many recipients"


async def _all_parts(whole: Whole, receipt: Any) -> Any:
    """Look until all is over; of a mail in parts nobody may be served twice or under another id."""
    await drain(whole, receipt.mailbox_id)
    row = whole.row(receipt.delivery_id)
    served = [address for served in _served(whole) for address in served]
    assert len(served) == len(set(served))
    assert {mail.message_id for mail in whole.outbox()} <= {row.message_id}
    return row


async def test_parts_cost_no_attempts_and_the_limit_is_remembered(whole: Whole) -> None:
    """Forty recipients by two: more parts than attempts, and no refusal for the next mail."""
    mailbox = whole.exchange()
    mailbox.limits = replace(Limits(), recipients_per_message=2)
    receipt = send(whole, to=[f"{n}@contoso.example" for n in range(40)])

    row = await _all_parts(whole, receipt)

    assert (row.state, row.attempts, row.refused) == ("accepted", 1, {})
    assert len(row.taken) == 40
    assert [len(recipients) for recipients in _served(whole)] == [2] * 20
    assert [attempt.recipients for attempt in whole.attempts(receipt.delivery_id)] == [2] * 20
    violations = mailbox.violations["recipients_per_message"]
    second = send(whole, to=[f"x{n}@contoso.example" for n in range(5)])
    await drain(whole, second.mailbox_id)
    assert mailbox.violations["recipients_per_message"] == violations
    assert [len(recipients) for recipients in _served(whole)][20:] == [2, 2, 1]


@pytest.mark.parametrize("phase", ["data", "body"])
async def test_a_mail_that_is_refused_whole_for_its_recipients_is_split(
    whole: Whole, phase: Any
) -> None:
    """550 5.5.3 to all of it: the same mail goes to fewer at a time, and all of them have it."""
    whole.sandbox.exchange.inject(Fault("many", phase, Answer(TOO_MANY), times=2))
    receipt = send(whole, to=[f"{n}@contoso.example" for n in range(20)])

    row = await _all_parts(whole, receipt)

    assert (row.state, row.attempts, len(row.taken)) == ("accepted", 1, 20)
    # 20, then 5, then 1 at a time.
    assert [len(recipients) for recipients in _served(whole)] == [1] * 20


async def test_a_mail_of_which_all_recipients_are_too_many_is_split(whole: Whole) -> None:
    """Also where each RCPT is refused so."""
    _refuse(whole, "*", TOO_MANY, times=8)
    receipt = send(whole, to=[f"{n}@contoso.example" for n in range(8)])

    row = await _all_parts(whole, receipt)

    assert (row.state, row.attempts, len(row.taken)) == ("accepted", 1, 8)
    assert [len(recipients) for recipients in _served(whole)] == [2] * 4


async def test_a_recipient_that_alone_is_too_many_is_refused_and_it_ends(whole: Whole) -> None:
    """The others have their mail; where that is nobody, it is a dead letter with the reason."""
    _refuse(whole, BAD, TOO_MANY)
    receipt = send(whole, to=[BAD, GOOD, *(f"{n}@contoso.example" for n in range(6))])

    row = await _all_parts(whole, receipt)

    assert (row.state, list(row.refused), len(row.taken)) == ("accepted", [BAD], 7)
    assert row.refused[BAD].startswith("550 5.5.3")
    _refuse(whole, "*", TOO_MANY)
    nobody = send(whole, to=[f"{n}@contoso.example" for n in range(6)])
    await drain(whole, nobody.mailbox_id)
    row = whole.row(nobody.delivery_id)
    assert (row.state, row.reason) == ("dead", "too-many-recipients-always")
    assert len(row.refused) == 6
    tries = whole.attempts(nobody.delivery_id)
    assert len(tries) <= 10


async def test_a_single_recipient_that_is_too_many_for_now_is_tried_again(whole: Whole) -> None:
    """452 to one recipient alone is no matter of its number: it is put off, and counts."""
    _refuse(whole, GOOD, "452 4.5.3 Too many recipients", times=2)
    receipt = send(whole, to=[GOOD])

    row = await _all_parts(whole, receipt)

    assert (row.state, row.attempts) == ("accepted", 3)


async def test_a_known_limit_splits_before_anything_is_sent(whole: Whole) -> None:
    """What somebody set for the mailbox, or the server says in EHLO, is kept to from the start."""
    with write(whole.engine) as connection:
        mailboxes.edit_mailbox(connection, "alerts@contoso.example", max_recipients=3)
    receipt = send(whole, to=[f"{n}@contoso.example" for n in range(7)])

    row = await _all_parts(whole, receipt)

    assert (row.state, row.attempts) == ("accepted", 1)
    assert [len(recipients) for recipients in _served(whole)] == [3, 3, 1]


async def test_refused_and_put_off_recipients_are_accounted_between_parts(whole: Whole) -> None:
    """One who is refused and one who is put off change nothing for the parts of the others."""
    with write(whole.engine) as connection:
        mailboxes.edit_mailbox(connection, "alerts@contoso.example", max_recipients=2)
    _refuse(whole, BAD, "no_such_recipient")
    whole.sandbox.exchange.inject(Fault("later", "rcpt", RefuseRecipients("1@*", PUT_OFF), times=2))
    receipt = send(whole, to=["0@contoso.example", "1@contoso.example", BAD, GOOD])

    row = await _all_parts(whole, receipt)

    assert (row.state, list(row.refused)) == ("accepted", [BAD])
    assert sorted(row.taken) == ["0@contoso.example", "1@contoso.example", GOOD]


async def test_a_part_that_is_lost_leaves_only_its_own_recipients_in_doubt(whole: Whole) -> None:
    """Cut after the dot of the second part: those of the first are not served again."""
    with write(whole.engine) as connection:
        mailboxes.edit_mailbox(connection, "alerts@contoso.example", max_recipients=2)
    whole.sandbox.exchange.inject(Fault("cut", "body", CutAfterDot(taken=True), times=1, after=1))
    receipt = send(whole, to=[f"{n}@contoso.example" for n in range(6)])

    await drain(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.uncertain, len(row.taken)) == ("accepted", True, 6)
    served = [address for served in _served(whole) for address in served]
    assert sorted(served) == sorted(
        [f"{n}@contoso.example" for n in range(6)] + [f"{n}@contoso.example" for n in (2, 3)]
    )
