"""What one mail causes holds that mail; the others of its mailbox go out meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from models.tables import METADATA
from sandbox.faults import Answer, Fault, RefuseRecipients
from tests.fixtures.whole import MAILBOX, Whole
from tests.workers.test_visit_parks import LONG_AGO
from tests.workers.visit_parts import IMPATIENT, change, send, send_many, visit

NOT_IMPLEMENTED = "502 5.3.3 Command not implemented"
ODD_ADDRESS = "störung@contoso.example"
ODD = "550 5.9.9 Never seen"
DELIVERY = METADATA.tables["delivery"]


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    # A retry comes when the test lets its time come, not within the same visit.
    waits = {"soon_seconds": 60.0, "first_seconds": 60.0}
    return IMPATIENT | {
        "retry": IMPATIENT["retry"] | waits,
        "sweep": {"interval_seconds": 3600},
    }


def _refuse(whole: Whole, phase: Any, reply: str, *, times: int | None = 1, after: int = 0) -> None:
    whole.sandbox.exchange.inject(Fault("no", phase, Answer(reply), times=times, after=after))


async def _probe(whole: Whole, redis_client: Any, redis_keys: Any) -> None:
    """Let the time of a probe, of a pause and of a retry have come, and look."""
    change(whole, DELIVERY, due_at=LONG_AGO)
    change(whole, MAILBOX, paused_until=LONG_AGO)
    if whole.mailbox(whole.mailbox_id("contoso")).parked_at is not None:
        change(whole, MAILBOX, probe_at=LONG_AGO)
    for key in redis_client.scan_iter(f"{redis_keys.prefix}:pause:*", count=1000):
        redis_client.delete(key)
    await visit(whole, whole.mailbox_id("contoso"))


@pytest.mark.parametrize(
    "reply",
    [
        NOT_IMPLEMENTED,
        "501 5.5.4 Invalid arguments",
        "555 5.5.4 SMTPUTF8 not supported",
        "504 5.5.4 Parameter not implemented",
        "550 5.6.7 Non-ASCII addresses not permitted for that sender",
        "553 5.6.7 SMTPUTF8 required but not offered",
        "500 5.5.2 What?",
        "550 5.9.9 Never seen",
    ],
)
async def test_a_mail_whose_own_parameters_are_refused_is_dead_and_says_so(
    whole: Whole, reply: str
) -> None:
    """SMTPUTF8 is one mail's wish: who refuses it refuses that mail, not the mailbox."""
    _refuse(whole, "mail", reply)
    odd, others = send(whole, to=[ODD_ADDRESS]), send_many(whole, 3, severity="low")

    await visit(whole, odd.mailbox_id)

    row = whole.row(odd.delivery_id)
    assert (row.state, row.reason, row.attempts) == ("dead", "mail-parameters-refused", 1)
    assert {whole.row(one.delivery_id).state for one in others} == {"accepted"}
    mailbox = whole.mailbox(odd.mailbox_id)
    assert (mailbox.parked_at, mailbox.paused_until) == (None, None)


async def test_a_sender_that_is_refused_parks_also_with_such_a_mail(whole: Whole) -> None:
    """What the server says of the sender is no matter of the mail's parameters."""
    _refuse(whole, "mail", "550 5.1.8 Access denied, bad outbound sender")
    receipt = send(whole, to=[ODD_ADDRESS])

    await visit(whole, receipt.mailbox_id)

    assert whole.mailbox(receipt.mailbox_id).park_reason == "sender-restricted"
    assert whole.row(receipt.delivery_id).state == "queued"


@pytest.mark.parametrize(
    ("phase", "reply"),
    [("mail", ODD), ("mail", NOT_IMPLEMENTED), ("data", NOT_IMPLEMENTED), ("body", "503 5.5.1 no")],
)
async def test_an_answer_that_tells_nothing_is_tried_with_another_mail(
    whole: Whole, phase: Any, reply: str, redis_client: Any, redis_keys: Any
) -> None:
    """Others go out, so the mail is the cause: it dies at its second refusal, nobody waits."""
    _refuse(whole, phase, reply)
    odd, others = send(whole), send_many(whole, 3, severity="low")

    await visit(whole, odd.mailbox_id)

    assert whole.row(odd.delivery_id).attempts == 1
    assert {whole.row(one.delivery_id).state for one in others} == {"accepted"}
    assert whole.mailbox(odd.mailbox_id).parked_at is None
    _refuse(whole, phase, reply)
    await _probe(whole, redis_client, redis_keys)
    row = whole.row(odd.delivery_id)
    assert (row.state, row.reason) == ("dead", "mail-refused-alone")
    assert reply[4:] in row.reply_text
    assert whole.mailbox(odd.mailbox_id).parked_at is None


async def test_an_answer_that_two_mails_meet_parks_the_mailbox(whole: Whole) -> None:
    """Two different mails are refused so and none went out since: it is the mailbox."""
    _refuse(whole, "mail", ODD, times=None)
    receipts = send_many(whole, 4)

    await visit(whole, receipts[0].mailbox_id)

    assert whole.mailbox(receipts[0].mailbox_id).park_reason == "refused-at-mail"
    assert whole.sandbox.exchange.faults.struck["no"] == 2
    assert whole.count("queued") == 4


async def test_a_probe_never_rides_on_a_mail_that_was_refused_before(
    whole: Whole, redis_client: Any, redis_keys: Any
) -> None:
    """It takes another mail, so a mailbox is not held by the one mail that parked it."""
    _refuse(whole, "body", "outbound_spam")
    odd = send(whole, severity="critical")
    await visit(whole, odd.mailbox_id)
    assert whole.mailbox(odd.mailbox_id).park_reason == "outbound-spam"
    low, normal = send(whole, severity="low"), send(whole)
    change(whole, MAILBOX, probe_at=LONG_AGO)
    sandbox = whole.sandbox.exchange
    sandbox.inject(Fault("no", "body", Answer("outbound_spam"), times=1, after=1))

    await visit(whole, odd.mailbox_id)

    # The probe was the normal one; after it went out the critical one had its turn, and parked.
    assert whole.row(normal.delivery_id).state == "accepted"
    assert whole.row(low.delivery_id).state == "queued"
    assert len(whole.attempts(odd.delivery_id)) == 2
    sandbox.inject(Fault("no", "body", Answer("outbound_spam"), times=1, after=1))
    await _probe(whole, redis_client, redis_keys)

    assert whole.row(low.delivery_id).state == "accepted"
    row = whole.row(odd.delivery_id)
    assert (row.state, row.reason) == ("dead", "mail-refused-alone")
    assert whole.mailbox(odd.mailbox_id).parked_at is None


async def test_probes_take_turns_where_all_were_refused(
    whole: Whole, redis_client: Any, redis_keys: Any
) -> None:
    """No mail is burned by being first; none of them dies while nothing goes out."""
    _refuse(whole, "body", "outbound_spam", times=None)
    receipts = send_many(whole, 3)

    await visit(whole, receipts[0].mailbox_id)
    for _ in range(5):
        await _probe(whole, redis_client, redis_keys)

    assert [len(whole.attempts(one.delivery_id)) for one in receipts] == [2, 2, 2]
    assert {whole.row(one.delivery_id).state for one in receipts} == {"queued"}
    assert whole.mailbox(receipts[0].mailbox_id).park_count == 5


async def test_a_throttle_that_only_one_mail_meets_becomes_its_own_matter(
    whole: Whole, redis_client: Any, redis_keys: Any
) -> None:
    """Each time the others went out: at last it waits alone and its tries count."""
    throttled = "451 4.7.500 Server busy. Please try again later"
    _refuse(whole, "body", throttled)
    odd = send(whole)
    await visit(whole, odd.mailbox_id)
    for number in range(6):
        other = send(whole, severity="low")
        # It comes second: the other one is tried before it.
        _refuse(whole, "body", throttled, after=1 if number < 3 else 0)
        await _probe(whole, redis_client, redis_keys)
        assert whole.row(other.delivery_id).state == "accepted"

    row = whole.row(odd.delivery_id)
    assert (row.state, row.reason, row.attempts) == ("dead", "mail-refused-alone", 4)


async def test_a_mailbox_that_may_not_send_as_itself_is_asked_once_more(
    whole: Whole, redis_client: Any, redis_keys: Any
) -> None:
    """Taken back a moment later, it parks nothing; repeated, it does."""
    _refuse(whole, "body", "554 5.2.252 SendAsDenied; not allowed to send as")
    receipts = send_many(whole, 3)
    lane_id = receipts[0].mailbox_id

    await visit(whole, lane_id)

    mailbox = whole.mailbox(lane_id)
    assert (mailbox.parked_at, mailbox.pause_reason) == (None, "send-as-denied-once")
    await _probe(whole, redis_client, redis_keys)
    assert whole.count("accepted") == 3

    _refuse(whole, "body", "554 5.2.252 SendAsDenied; not allowed to send as", times=None)
    send_many(whole, 3)
    await visit(whole, lane_id)
    assert whole.mailbox(lane_id).parked_at is None
    await _probe(whole, redis_client, redis_keys)

    assert whole.mailbox(lane_id).park_reason == "send-as-denied"
    assert whole.sandbox.exchange.faults.struck["no"] == 2


async def test_a_recipient_whose_syntax_is_refused_is_no_matter_of_the_mailbox(
    whole: Whole,
) -> None:
    """501, 502 and their like at RCPT concern that recipient."""
    for code in ("501 5.5.4", "502 5.3.3", "500 5.5.2", "555 5.5.4", "504 5.5.4"):
        whole.sandbox.exchange.inject(
            Fault("no", "rcpt", RefuseRecipients("odd@*", f"{code} What is this?"))
        )
        receipt = send(whole, to=["odd@contoso.example", "ops@contoso.example"])
        await visit(whole, receipt.mailbox_id)
        row = whole.row(receipt.delivery_id)
        assert (row.state, list(row.refused)) == ("accepted", ["odd@contoso.example"])
    assert whole.mailbox(receipt.mailbox_id).parked_at is None
