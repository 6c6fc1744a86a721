"""Grants that no alert uses: kept alive about once a week, and missed in time when they are lost."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from models import app_registrations, grants, lane
from models.database import read, write
from models.grants import GRANT
from sandbox.entra_faults import EntraFault, EntraFaultKind
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, send, visit
from workers import keep_warm


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"lease": {"keep_warm_days": 7}}


def idle(whole: Whole, days: float) -> None:
    """Let all grants have idled for so long, with no token left anywhere."""
    moment = datetime.now(UTC) - timedelta(days=days)
    with write(whole.engine) as connection:
        connection.execute(update(GRANT).values(granted_at=moment, refreshed_at=None))


def refreshes(whole: Whole) -> int:
    return whole.sandbox.world.ledger.refreshes


def last_use(whole: Whole) -> datetime | None:
    with read(whole.engine) as connection:
        moment: datetime | None = connection.execute(select(GRANT.c.refreshed_at)).scalar_one()
    return moment


async def test_a_grant_that_idled_for_a_week_is_refreshed_once(whole: Whole) -> None:
    """Its clock starts anew, and the next look leaves it alone."""
    idle(whole, 7.1)

    assert await whole.services.keep_warm.look() == 1
    assert await whole.services.keep_warm.look() == 0

    assert refreshes(whole) == 1
    used = last_use(whole)
    assert used is not None
    assert datetime.now(UTC) - used < timedelta(minutes=1)


async def test_a_grant_in_use_costs_nothing(whole: Whole) -> None:
    """Who mails each day refreshes anyway."""
    idle(whole, 5.5)

    assert await whole.services.keep_warm.look() == 0
    assert refreshes(whole) == 0


async def test_the_last_weeks_refresh_is_what_counts(whole: Whole) -> None:
    """A consent of long ago that was used lately is not idle."""
    idle(whole, 80)
    await visit(whole, send(whole).mailbox_id)
    before = refreshes(whole)

    assert await whole.services.keep_warm.look() == 0
    assert refreshes(whole) == before


async def test_a_lost_consent_is_noticed_before_an_alert_needs_it(whole: Whole) -> None:
    """The mailbox is parked with a reason and a next step, once, and Entra is not asked again."""
    idle(whole, 8)
    mailbox_id = whole.mailbox_id("contoso")
    whole.sandbox.world.revoke_grants("alerts@contoso.example", recall_access_tokens=True)

    assert await whole.services.keep_warm.look() == 0
    asked = whole.sandbox.world.ledger.by_grant_type.total()
    whole.services.keep_warm._not_before.clear()  # As in another worker, or hours later.
    assert await whole.services.keep_warm.look() == 0

    box = whole.mailbox(mailbox_id)
    assert box.parked_at is not None
    assert "sign in with this mailbox again" in box.park_next_step
    assert whole.sandbox.world.ledger.by_grant_type.total() == asked


async def test_a_new_consent_ends_what_a_lost_one_began(whole: Whole) -> None:
    """As for any other park of this cause."""
    idle(whole, 8)
    whole.sandbox.world.revoke_grants("alerts@contoso.example", recall_access_tokens=True)
    await whole.services.keep_warm.look()
    mailbox_id = whole.mailbox_id("contoso")
    await asyncio.to_thread(whole.connect, mailbox_id)
    with write(whole.engine) as connection:
        assert lane.resume_scope(connection, mailbox_id=mailbox_id) == [mailbox_id]
    idle(whole, 8)
    whole.services.keep_warm._not_before.clear()

    assert await whole.services.keep_warm.look() == 1


async def test_an_entra_that_is_away_parks_nothing_and_is_left_alone(whole: Whole) -> None:
    """There are months left: another look, hours later, is soon enough."""
    idle(whole, 8)
    whole.sandbox.world.entra_faults.add(EntraFault(kind=EntraFaultKind.UNAVAILABLE))

    assert await whole.services.keep_warm.look() == 0
    asked = whole.sandbox.world.ledger.by_grant_type.total()
    assert await whole.services.keep_warm.look() == 0

    assert whole.mailbox(whole.mailbox_id("contoso")).parked_at is None
    assert whole.sandbox.world.ledger.by_grant_type.total() == asked


async def test_an_expired_secret_parks_all_that_use_it(whole: Whole) -> None:
    """The scope is that of the answer, as it is for a mail."""
    idle(whole, 8)
    with write(whole.engine) as connection:
        app_registrations.renew_credential(
            connection, whole.vault, name="contoso",
            credential=app_registrations.Credential.secret("no such secret"),
        )  # fmt: skip

    assert await whole.services.keep_warm.look() == 0

    assert whole.mailbox(whole.mailbox_id("contoso")).park_reason == "secret-wrong"


async def test_many_are_spread_out(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what fell idle together only so much is refreshed in one look, the longest idle first."""
    monkeypatch.setattr(keep_warm, "AT_ONCE", 1)
    await asyncio.to_thread(whole.add_tenant, "fabrikam")
    idle(whole, 8)

    assert [await whole.services.keep_warm.look() for _ in range(3)] == [1, 1, 0]


async def test_those_that_wait_for_a_person_hold_up_nobody(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost consent idles for longer than all others and takes no turn of theirs."""
    monkeypatch.setattr(keep_warm, "AT_ONCE", 1)
    await asyncio.to_thread(whole.add_tenant, "fabrikam")
    whole.sandbox.world.revoke_grants("alerts@contoso.example", recall_access_tokens=True)
    idle(whole, 80)
    lost = whole.mailbox_id("contoso")
    with write(whole.engine) as connection:
        moment = datetime.now(UTC) - timedelta(days=85)
        connection.execute(
            update(GRANT).where(GRANT.c.mailbox_id == lost).values(granted_at=moment)
        )

    assert await whole.services.keep_warm.look() == 0
    whole.services.keep_warm._not_before.clear()
    assert whole.mailbox(lost).parked_at is not None
    assert await whole.services.keep_warm.look() == 1


def test_each_mailbox_has_a_moment_of_its_own() -> None:
    """Shares lie between the least and the whole, and are not all the same."""
    shares = {keep_warm._share_of(uuid4()) for _ in range(50)}

    assert len(shares) > 10
    assert all(keep_warm.LEAST_SHARE <= share <= 1 for share in shares)


async def test_only_delegated_grants_in_service_are_asked_for(whole: Whole) -> None:
    """An app's own permission has no refresh token, and a removed mailbox no use for one."""
    idle(whole, 8)
    with write(whole.engine) as connection:
        connection.execute(update(GRANT).values(kind=grants.APP_ONLY))
    with read(whole.engine) as connection:
        assert grants.idle_since(connection, seconds=60) == []
