"""A worker at a shared mailbox: when one way to sign in is refused, the other one is tried once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import update

from models import audit
from models.auth_forms import AuthForm
from models.database import read, write
from sandbox.mailboxes import Mailbox
from tests.fixtures.whole import MAILBOX, Whole
from tests.workers.visit_parts import IMPATIENT, change, drain, send, send_many, visit
from workers.visit import VisitEnd

ADMIN = "admin@contoso.example"
SHARED = "alerts@contoso.example"


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"sweep": {"interval_seconds": 3600}}


@pytest.fixture
async def shared(whole: Whole) -> Whole:
    """Contoso's mailbox, for which its administrator consented."""
    key = whole.mailbox_id("contoso")
    with write(whole.engine) as conn:
        conn.execute(update(MAILBOX).where(MAILBOX.c.id == key).values(auth_user=ADMIN))
    await asyncio.to_thread(whole.connect, key, account=ADMIN)
    return whole


def box(whole: Whole, address: str) -> Mailbox:
    found = whole.sandbox.world.mailboxes.get(address)
    assert found is not None
    return found


def keep(whole: Whole, form: AuthForm) -> None:
    change(whole, MAILBOX, auth_form=form.value)


def kept(whole: Whole) -> Any:
    return whole.mailbox(whole.mailbox_id("contoso")).auth_form


async def test_the_kept_way_is_taken(shared: Whole) -> None:
    """Signed in as the mailbox, its mails count there and need no Send As."""
    keep(shared, AuthForm.MAILBOX)
    box(shared, SHARED).full_access.add(ADMIN)
    receipt = send(shared)

    await drain(shared, receipt.mailbox_id)

    assert shared.row(receipt.delivery_id).state == "accepted"
    assert len(box(shared, SHARED).outbox.mails) == 1
    assert not shared.sandbox.world.mailboxes.token_refusals


async def test_a_refused_sign_in_is_tried_the_other_way(shared: Whole) -> None:
    """When Full Access is gone, Send As still lets it send; no attempt is spent, and it is kept."""
    keep(shared, AuthForm.MAILBOX)
    box(shared, ADMIN).send_as.add(SHARED)
    receipts = send_many(shared, 3)

    await drain(shared, receipts[0].mailbox_id)

    assert [mail.sender for mail in box(shared, ADMIN).outbox.mails] == [SHARED] * 3
    assert all(len(shared.attempts(one.delivery_id)) == 1 for one in receipts)
    assert kept(shared) == "delegate"
    with read(shared.engine) as conn:
        entry = audit.entries(conn, subject=SHARED)[0].entry
    assert entry.action == "mailbox-auth-form"
    assert entry.actor.startswith("worker:")


async def test_denied_send_as_is_tried_the_other_way(shared: Whole) -> None:
    """When the delegate may not send as the mailbox, but may sign in as it, the mail goes out."""
    box(shared, SHARED).full_access.add(ADMIN)
    receipts = send_many(shared, 3)

    await drain(shared, receipts[0].mailbox_id)

    assert len(box(shared, SHARED).outbox.mails) == 3
    assert kept(shared) == "mailbox"
    attempts = shared.attempts(receipts[0].delivery_id)
    assert [attempt.rule for attempt in attempts] == ["signed-in-as-mailbox", "accepted"]
    assert shared.sandbox.world.mailboxes.refusals["send_as_denied"] == 1


async def test_without_either_right_it_parks_after_one_refusal(shared: Whole) -> None:
    """Repeated refusals lock a mailbox out, so the first one parks it; a sign-in is no mail."""
    receipt = send(shared)

    assert await visit(shared, receipt.mailbox_id) is VisitEnd.HALTED

    assert shared.mailbox(receipt.mailbox_id).park_reason == "send-as-denied"
    assert shared.sandbox.world.mailboxes.refusals["send_as_denied"] == 1
    assert shared.sandbox.world.mailboxes.token_refusals["token of another user"] == 1
    assert shared.row(receipt.delivery_id).state == "queued"
    assert kept(shared) is None


async def test_without_any_sign_in_it_parks(shared: Whole) -> None:
    """Where both ways are refused at AUTH, what parks it is the refusal of the kept one."""
    keep(shared, AuthForm.MAILBOX)
    change(shared, MAILBOX, auth_user="night@contoso.example")
    receipt = send(shared)

    assert await visit(shared, receipt.mailbox_id) is VisitEnd.HALTED

    assert shared.mailbox(receipt.mailbox_id).park_reason == "token-refused-again"
    assert kept(shared) == "mailbox"


async def test_a_mailbox_of_its_own_has_no_other_way(whole: Whole) -> None:
    """Nothing but the token that was refused is tried for a mailbox that consented itself."""
    key = whole.mailbox_id("contoso")
    await asyncio.to_thread(whole.connect, key)
    whole.sandbox.world.revoke_grants(SHARED, recall_access_tokens=True)
    receipt = send(whole)

    await visit(whole, receipt.mailbox_id)

    assert kept(whole) is None
    assert whole.mailbox(key).parked_at is not None
