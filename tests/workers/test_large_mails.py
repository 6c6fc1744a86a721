"""Large mails: claimed without their content, read and written by pieces, never sent in part."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, delete, event, func, select, update

from models.database import read, write
from models.errors import StoreUnavailable
from models.large_content import PIECE_OCTETS, piece_id
from models.tables import METADATA
from models.vault import delivery_context
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, drain, send, send_many, visit
from workers import contents
from workers.visit import VisitEnd

DELIVERY = METADATA.tables["delivery"]
PIECE = METADATA.tables["content_piece"]


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    """Tries follow each other quickly."""
    return IMPATIENT


def some(octets: int) -> bytes:
    """Make octets."""
    return random.Random(octets).randbytes(octets)


def attached(octets: int, name: str = "log.zip") -> dict[str, str]:
    """Attach a file."""
    content = base64.b64encode(some(octets)).decode()
    return {"name": name, "content_type": "application/zip", "content": content}


def arrived(whole: Whole, number: int = 0) -> Any:
    """Parse what Exchange took, as a mail program would."""
    outbox = whole.sandbox.world.mailboxes.outbox("alerts@contoso.example")
    raw = outbox.content(outbox.mails[number])
    assert raw is not None
    return email.message_from_bytes(raw, policy=email.policy.default)


def pieces(whole: Whole) -> int:
    """Count what is stored beside the rows."""
    with read(whole.engine) as conn:
        return conn.execute(select(func.count()).select_from(PIECE)).scalar_one()


@contextmanager
def transactions(engine: Engine) -> Iterator[list[list[str]]]:
    """Watch which statements are executed together."""
    seen: list[list[str]] = []
    open_ones: dict[int, list[str]] = {}

    def begun(conn: Connection) -> None:
        open_ones[id(conn.connection.dbapi_connection)] = []
        seen.append(open_ones[id(conn.connection.dbapi_connection)])

    def executed(conn: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        open_ones.setdefault(id(conn.connection.dbapi_connection), []).append(statement)

    event.listen(engine, "begin", begun)
    event.listen(engine, "before_cursor_execute", executed)
    try:
        yield seen
    finally:
        event.remove(engine, "begin", begun)
        event.remove(engine, "before_cursor_execute", executed)


async def test_no_transaction_that_writes_reads_contents(whole: Whole) -> None:
    """Contents are read where nobody waits for a lock, however large they are."""
    mailbox_id = send(whole, attachments=[attached(3 * PIECE_OCTETS)]).mailbox_id
    send_many(whole, 3)
    with transactions(whole.services.engine) as seen:
        await drain(whole, mailbox_id)

    contents_read = [
        statements
        for statements in seen
        if any(
            name in re.sub(r"length\([^)]*\)", "", statement)
            for statement in statements
            for name in ("payload_encrypted", "octets_encrypted")
        )
    ]
    assert len(whole.outbox()) == 4
    assert contents_read
    assert not [one for one in contents_read if any("UPDATE" in said for said in one)]


def test_a_row_does_not_carry_what_is_large(whole: Whole) -> None:
    """A database that writes a row anew with each change has little to write."""
    send(whole, attachments=[attached(3_000_000)], text="x" * 100_000)
    with read(whole.engine) as conn:
        row = conn.execute(select(func.length(DELIVERY.c.payload_encrypted))).scalar_one()

    assert row < 2_000
    assert pieces(whole) == 14


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(".\n..\n.end" * 60_000, id="dots"),
        pytest.param("line\r\nline\rline\n" * 20_000, id="line-ends"),
        pytest.param("Ärger 🚨 " * 30_000, id="unicode-in-one-line"),
        pytest.param("x" * 2_000 + "\n" + "y\n" * 20_000, id="one-long-line"),
        pytest.param("--=_looks like a boundary\n" * 4_000, id="boundary"),
        pytest.param("x" * (PIECE_OCTETS - 3) + "\n.\n", id="at-the-end-of-a-piece"),
    ],
)
async def test_bodies_and_files_arrive_as_they_were(whole: Whole, text: str) -> None:
    """Octet by octet, wherever a piece ends."""
    files = [
        attached(0, "empty.bin"),
        attached(1, "one.bin"),
        attached(PIECE_OCTETS, "exact.bin"),
        attached(PIECE_OCTETS * 2 + 58, "ünlü.bin"),
    ]
    html = "<p>Größe</p>\n" * 9_000
    mailbox_id = send(whole, text=text, html=html, attachments=files).mailbox_id
    await drain(whole, mailbox_id)
    mail = arrived(whole)

    # The last line end is the boundary's.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    body = mail.get_body(("plain",)).get_content().replace("\r\n", "\n")
    assert body.rstrip("\n") == lines
    assert mail.get_body(("html",)).get_content().replace("\r\n", "\n") == html
    assert [part.get_filename() for part in mail.iter_attachments()] == [
        one["name"] for one in files
    ]
    assert [part.get_payload(decode=True) for part in mail.iter_attachments()] == [
        base64.b64decode(one["content"]) for one in files
    ]
    record = whole.outbox()[0]
    raw = whole.sandbox.world.mailboxes.outbox("alerts@contoso.example").content(record)
    assert raw is not None
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))


async def test_content_of_an_earlier_version(whole: Whole) -> None:
    """What stands whole in its row, as it did before, is sent as it was."""
    receipt = send(whole, attachments=[attached(900_000)])
    alert = whole.alert(attachments=[attached(900_000)])
    sealed = whole.vault.seal(alert.dump(), context=delivery_context(receipt.delivery_id))
    with write(whole.engine) as conn:
        conn.execute(delete(PIECE))
        conn.execute(update(DELIVERY).values(payload_encrypted=sealed))
    send(whole)
    await drain(whole, receipt.mailbox_id)

    [part] = arrived(whole).iter_attachments()
    assert part.get_payload(decode=True) == some(900_000)
    assert len(whole.outbox()) == 2
    assert whole.services.budget.in_hand == 0


async def test_a_lost_piece_concerns_its_mail_alone(whole: Whole) -> None:
    """A mail that is not complete any more is not sent in part; the lane goes on."""
    receipt = send(whole, attachments=[attached(5 * PIECE_OCTETS)])
    send(whole)
    with write(whole.engine) as conn:
        conn.execute(delete(PIECE).where(PIECE.c.id == piece_id(receipt.delivery_id, 3)))
    await drain(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert row.state == "dead"
    assert "no longer stored" in row.reply_text
    assert not row.uncertain
    assert len(whole.outbox()) == 1
    assert whole.services.budget.in_hand == 0


async def test_pieces_cannot_change_places(whole: Whole) -> None:
    """What was moved in the database opens nowhere: the mail stays, the mailbox waits."""
    receipt = send(whole, attachments=[attached(5 * PIECE_OCTETS)])
    first, second = (piece_id(receipt.delivery_id, number) for number in (1, 2))
    with write(whole.engine) as conn:
        sealed = conn.execute(
            select(PIECE.c.octets_encrypted).where(PIECE.c.id == second)
        ).scalar_one()
        conn.execute(update(PIECE).where(PIECE.c.id == first).values(octets_encrypted=sealed))
    end = await visit(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert end is VisitEnd.HALTED
    assert (row.state, row.uncertain) == ("queued", False)
    assert not whole.outbox()


async def test_sql_away_in_the_middle(whole: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mail that broke off because SQL was away is not in doubt, and is sent once later."""
    receipt = send(whole, attachments=[attached(5 * PIECE_OCTETS)])
    opened = contents.Contents._open

    def away(self: contents.Contents, vault: Any, delivery_id: UUID, number: int) -> bytes:
        if number == 3:
            raise StoreUnavailable("SQL is away")
        return opened(self, vault, delivery_id, number)

    with monkeypatch.context() as patch:
        patch.setattr(contents.Contents, "_open", away)
        end = await visit(whole, receipt.mailbox_id)
    row = whole.row(receipt.delivery_id)

    assert end is VisitEnd.AWAY
    assert (row.state, row.attempts, row.uncertain) == ("queued", 0, False)
    assert not whole.outbox()
    await drain(whole, receipt.mailbox_id)
    assert len(whole.outbox()) == 1
    assert whole.services.budget.in_hand == 0


async def test_a_stop_does_not_wait_for_room(whole: Whole) -> None:
    """A mail that waits for room when the process stops has not begun, and goes back as it was."""
    receipt = send(whole, attachments=[attached(PIECE_OCTETS)])
    taken = await whole.services.budget.take(2**40, critical=False)
    visiting = asyncio.create_task(visit(whole, receipt.mailbox_id))
    await whole.until(lambda: whole.row(receipt.delivery_id).state == "sending")
    whole.services.visits.stop()
    end = await visiting

    row = whole.row(receipt.delivery_id)
    assert end is VisitEnd.STOPPING
    assert (row.state, row.claims, row.uncertain) == ("queued", 0, False)
    whole.services.budget.give(taken)


async def test_small_mails_do_not_wait_for_room(whole: Whole) -> None:
    """While large mails of others fill the memory that they may have, small ones go out."""
    mailbox_id = send_many(whole, 3)[0].mailbox_id
    taken = await whole.services.budget.take(2**40, critical=False)
    await drain(whole, mailbox_id)

    assert len(whole.outbox()) == 3
    whole.services.budget.give(taken)


async def test_many_lanes_stay_within_the_budget(whole: Whole) -> None:
    """More large mails than there is room for take turns, and all go out."""
    mailbox = whole.exchange("fabrikam")
    mailbox.limits = replace(mailbox.limits, messages_per_window=None)
    other = await asyncio.to_thread(whole.add_tenant, "fabrikam")
    budget = whole.services.budget
    budget._most = 2_500_000
    mine = send(whole, attachments=[attached(600_000)]).mailbox_id
    for tenant in ("contoso", "fabrikam", "fabrikam"):
        send(whole, tenant=tenant, attachments=[attached(600_000)])
    await asyncio.gather(drain(whole, mine), drain(whole, other))

    assert whole.count("accepted") == 4
    assert budget.in_hand == 0
