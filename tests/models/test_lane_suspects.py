"""Two deaths make a suspect: from then on it is in hand alone, so the third tells who did it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from models import lane
from models.composing_deaths import COMPOSING
from models.database import write
from models.intake import Receipt
from models.moves import DELIVERY
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import send_many


def _claim(whole: Whole, slug: str, visit: str, limit: int = 10) -> list[lane.Claimed]:
    with write(whole.engine) as connection:
        return lane.claim(
            connection,
            mailbox_id=whole.mailbox_id(slug),
            claimed_by=visit,
            limit=limit,
            lease_seconds=20.0,
        )


def _suspect(whole: Whole, receipt: Receipt, **values: Any) -> None:
    with write(whole.engine) as connection:
        connection.execute(
            update(DELIVERY).where(DELIVERY.c.id == receipt.delivery_id).values(**values)
        )


BEGUN, COMPOSED = {"claims": 2}, {"reason": COMPOSING}


@pytest.mark.parametrize(("one_is", "other_is"), [(BEGUN, BEGUN), (COMPOSED, BEGUN)])
async def test_only_one_suspect_is_in_hand_at_a_time(
    whole: Whole, one_is: dict[str, Any], other_is: dict[str, Any]
) -> None:
    """While a suspect is in hand, lanes give all but theirs; once it is settled, theirs too."""
    one, innocent, other = send_many(whole, 3)
    _suspect(whole, one, **one_is)
    first = _claim(whole, "contoso", "visit/1", limit=1)
    assert [claimed.id for claimed in first] == [one.delivery_id]
    _suspect(whole, other, **other_is)

    meanwhile = _claim(whole, "contoso", "visit/2")
    with write(whole.engine) as connection:
        lane.give_back(connection, claimed_by="visit/1", ids=[one.delivery_id])
    afterwards = _claim(whole, "contoso", "visit/3", limit=1)

    assert [claimed.id for claimed in meanwhile] == [innocent.delivery_id]
    assert len(afterwards) == 1
    assert afterwards[0].id in {one.delivery_id, other.delivery_id}
