"""Addresses that a server refuses are not used again, and that is told, listed and ended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from models import suppressions
from models.database import read, write
from models.suppressions import RECIPIENT_SUPPRESSED
from models.tables import METADATA
from sandbox.faults import Answer, Close, Fault, RefuseRecipients
from tests.fixtures.whole import Whole
from tests.workers.test_visit_parks import LONG_AGO
from tests.workers.visit_parts import IMPATIENT, change, drain, send, visit

GOOD, BAD = "good@contoso.example", "bad@contoso.example"
INVALID = "501 5.1.3 Invalid address"
UNKNOWN = "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found"


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    # A retry comes when the test lets its time come.
    return IMPATIENT | {"retry": IMPATIENT["retry"] | {"soon_seconds": 60.0}}


def _refuse(whole: Whole, reply: str) -> None:
    whole.sandbox.exchange.inject(Fault("bad", "rcpt", RefuseRecipients(BAD, reply)))


def _asked(whole: Whole) -> int:
    return whole.sandbox.exchange.faults.struck["bad"]


def _listed(whole: Whole) -> list[str]:
    with read(whole.engine) as connection:
        return [one.address for one in suppressions.list_suppressions(connection)]


async def _send(whole: Whole, **changes: Any) -> Any:
    receipt = send(whole, **changes)
    await drain(whole, receipt.mailbox_id)
    return whole.row(receipt.delivery_id)


@pytest.mark.parametrize(("reply", "enough"), [(INVALID, 1), (UNKNOWN, 3)])
async def test_an_address_is_not_tried_again_after_as_many_refusals_as_its_verdict_says(
    whole: Whole, reply: str, enough: int
) -> None:
    """From then on a mail to it alone dies without a submission, and says why."""
    _refuse(whole, reply)
    for _ in range(enough):
        row = await _send(whole, to=[BAD])
        assert row.reason != RECIPIENT_SUPPRESSED
    opened = whole.sandbox.exchange.snapshot()["accepted"]
    await whole.services.connections.close()

    row = await _send(whole, to=[BAD.title()])

    assert (row.state, row.reason, row.attempts) == ("dead", RECIPIENT_SUPPRESSED, 0)
    (words,) = row.refused.values()
    assert words.startswith("suppressed since")
    assert reply in words
    (attempt,) = whole.attempts(row.id)
    assert (attempt.rule, attempt.took_permit) == (RECIPIENT_SUPPRESSED, False)
    assert _asked(whole) == enough
    assert whole.sandbox.exchange.snapshot()["accepted"] == opened
    assert _listed(whole) == [BAD]


async def test_the_other_recipients_get_their_mail(whole: Whole) -> None:
    """The suppressed one is accounted as refused beside them."""
    _refuse(whole, INVALID)
    await _send(whole, to=[BAD, GOOD])

    row = await _send(whole, to=[BAD, GOOD])

    assert (row.state, list(row.refused)) == ("accepted", [BAD])
    assert row.refused[BAD].startswith("suppressed since")
    assert _asked(whole) == 1
    assert [mail.recipients for mail in whole.outbox()] == [(GOOD,), (GOOD,)]


async def test_it_is_of_one_tenant(whole: Whole) -> None:
    """What one customer's server says of an address is nothing to another's."""
    _refuse(whole, INVALID)
    await _send(whole, to=[BAD])
    mailbox_id = await asyncio.to_thread(whole.add_tenant, "fabrikam")

    receipt = send(whole, tenant="fabrikam", to=[BAD])
    await drain(whole, mailbox_id)

    assert whole.row(receipt.delivery_id).reason == "recipient-address-invalid"
    assert _asked(whole) == 2


async def test_criticals_try_it_once_a_day_and_a_success_takes_it_off(whole: Whole) -> None:
    """A critical alert is worth one more question a day; taken, the address is as any other."""
    _refuse(whole, INVALID)
    await _send(whole, to=[BAD])

    row = await _send(whole, to=[BAD], severity="critical")
    assert row.reason == RECIPIENT_SUPPRESSED
    assert _asked(whole) == 1

    change(whole, METADATA.tables["suppression"], last_at=LONG_AGO)
    row = await _send(whole, to=[BAD], severity="critical")
    assert row.reason == "recipient-address-invalid"
    assert _asked(whole) == 2
    row = await _send(whole, to=[BAD], severity="critical")
    assert row.reason == RECIPIENT_SUPPRESSED

    change(whole, METADATA.tables["suppression"], last_at=LONG_AGO)
    whole.sandbox.exchange.faults.clear()
    assert (await _send(whole, to=[BAD])).reason == RECIPIENT_SUPPRESSED
    assert (await _send(whole, to=[BAD], severity="critical")).state == "accepted"
    assert _listed(whole) == []
    assert (await _send(whole, to=[BAD])).state == "accepted"


async def test_a_mail_that_is_taken_begins_the_count_anew(whole: Whole) -> None:
    """Two refusals, a success, two refusals: nobody is suppressed who is sometimes there."""
    for _ in range(2):
        _refuse(whole, UNKNOWN)
        await _send(whole, to=[BAD])
        await _send(whole, to=[BAD])
        whole.sandbox.exchange.faults.clear()
        assert (await _send(whole, to=[BAD])).state == "accepted"

    assert _listed(whole) == []


async def test_a_lone_recipient_that_is_refused_after_the_content_counts(whole: Whole) -> None:
    """Some servers say it late; of several recipients nobody knows whom it means."""
    whole.sandbox.exchange.inject(Fault("late", "body", Answer(INVALID)))
    await _send(whole, to=[BAD, GOOD])
    assert _listed(whole) == []

    await _send(whole, to=[BAD])

    assert _listed(whole) == [BAD]


async def test_a_person_takes_it_off(whole: Whole) -> None:
    """Removed from the list it is tried again."""
    _refuse(whole, INVALID)
    await _send(whole, to=[BAD])
    with write(whole.engine) as connection:
        (removed,) = suppressions.remove(connection, BAD.upper())
    assert removed.rule == "recipient-address-invalid"
    whole.sandbox.exchange.faults.clear()

    assert (await _send(whole, to=[BAD])).state == "accepted"


async def test_a_suppressed_recipient_is_not_lost_to_a_mail_that_has_to_wait(whole: Whole) -> None:
    """Only what is ended is accounted; a mail that is tried again asks the list again."""
    _refuse(whole, INVALID)
    await _send(whole, to=[BAD])
    whole.sandbox.exchange.faults.clear()
    whole.sandbox.exchange.inject(Fault("cut", "data", Close(), times=1))
    receipt = send(whole, to=[BAD, GOOD])
    await visit(whole, receipt.mailbox_id)
    with write(whole.engine) as connection:
        suppressions.remove(connection, BAD)
    change(whole, METADATA.tables["delivery"], due_at=LONG_AGO)

    await drain(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.refused) == ("accepted", {})
    assert whole.outbox()[-1].recipients == (BAD, GOOD)
