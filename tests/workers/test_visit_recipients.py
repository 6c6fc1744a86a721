"""One mail, several recipients: some are taken, some refused, some put off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sandbox.faults import Close, Fault, RefuseRecipients
from sandbox.limits import Limits
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, drain, send, visit

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
