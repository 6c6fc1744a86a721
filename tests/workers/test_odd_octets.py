"""Servers whose answers are no UTF-8: read as well as they can be, at every step of a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.database import write
from models.errors import SubmissionFailed
from models.lane_park import park
from sandbox.faults import Answer, Fault
from tests.fixtures.whole import Whole
from tests.models.test_any_text import ODD
from tests.workers.test_auth_line import dialogue
from tests.workers.test_conversation import _ask, says, talking_to
from tests.workers.visit_parts import IMPATIENT, send, visit

LATIN = b"535 5.7.139 Anmeldung f\xfcr diesen Benutzer verweigert \x00\xff"


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"sweep": {"interval_seconds": 3600}}


async def test_a_refused_sign_in_is_read(sandbox_directory: Path) -> None:
    """Odd octets in the answer to AUTH are replaced, the rest of it stays to the letter."""
    with pytest.raises(SubmissionFailed) as failed:
        await dialogue(sandbox_directory, lambda _line: LATIN, "t" * 43)

    failed.value.reply_text.encode()
    assert failed.value.reply_code == 535
    assert "Anmeldung f\ufffdr diesen Benutzer verweigert" in failed.value.reply_text


async def test_an_answer_to_a_command_is_read() -> None:
    """So are those in the answer to any later command."""
    async with talking_to(says(LATIN + b"\r\n")) as conversation:
        [reply] = await _ask(conversation)

    reply.text.encode()
    assert "f\ufffdr diesen" in reply.text


async def test_such_a_refusal_parks(whole: Whole) -> None:
    """A refusal that parks does so whatever octets it has; each is met once, not again and again."""
    said = LATIN + b" SmtpClientAuthentication is disabled for the Mailbox."
    odd = Answer(said.decode("utf-8", "surrogateescape"))
    whole.sandbox.exchange.inject(Fault("odd", "auth", odd))
    receipt = send(whole)

    await visit(whole, receipt.mailbox_id)

    mailbox = whole.mailbox(receipt.mailbox_id)
    assert mailbox.park_reason == "smtp-auth-disabled-mailbox"
    assert "Anmeldung" in mailbox.park_answer
    assert whole.sandbox.exchange.faults.struck["odd"] == 1


async def test_every_text_of_a_park(whole: Whole) -> None:
    """And the statement that parks takes any text at all."""
    key = whole.mailbox_id("contoso")
    with write(whole.engine) as conn:
        park(
            conn, mailbox_id=key, scope="app", reason="r", meaning=ODD, next_step=ODD, answer=ODD,
            probe_after_seconds=1,
        )  # fmt: skip

    assert whole.mailbox(key).parked_at is not None
