"""A visit against Microsoft 365 in a box, on both databases."""

from __future__ import annotations

from tests.fixtures.whole import Whole
from workers.visit import VisitEnd


async def test_an_alert_goes_out_and_its_outcome_is_recorded(whole: Whole) -> None:
    """A committed alert is submitted once, and SQL says so."""
    receipt = whole.producer.enqueue(whole.alert())

    end = await whole.services.visits.run(receipt.mailbox_id, critical=False)

    assert end is VisitEnd.LANE_EMPTY
    row = whole.row(receipt.delivery_id)
    assert row.state == "accepted"
    assert row.attempts == 1
    (attempt,) = whole.attempts(receipt.delivery_id)
    assert (attempt.rule, attempt.reply_code, attempt.outcome) == ("accepted", 250, "accepted")
    (mail,) = whole.outbox()
    assert mail.message_id == row.message_id
