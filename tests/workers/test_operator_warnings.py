"""Warnings by mail, through the lane of the operator's own mailbox: the whole way, by real parts."""

from __future__ import annotations

import asyncio
import email
import email.policy
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import redis
from sqlalchemy import insert, select, update
from structlog.testing import capture_logs

from models import app_registrations, lane, mailboxes, told_warnings
from models.database import read, write
from models.ids import uuid7
from models.lookups import APP, CREDENTIAL, TENANT
from models.redis_keys import RedisKeys
from tests.fixtures.whole import DELIVERY, MAILBOX, Whole
from tests.models.passing_time import pass_time
from tests.workers.visit_parts import IMPATIENT, another_worker, drain, flush, send_many, visit
from workers import operator_warnings

OPERATOR = "alerts@contoso.example"
NOC = "noc@contoso.example"
PLANTED = "wrong~secret8Q~" + "s" * 34


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {
        "operator_mailbox": OPERATOR,
        "operator_to": (NOC,),
        "sweep": {"interval_seconds": 3600},
    }


async def look(whole: Whole) -> UUID | None:
    return await whole.services.warnings.look()


def secret_ends(whole: Whole, app: str, **span: float) -> None:
    moment = datetime.now(UTC) + timedelta(**span)
    with write(whole.engine) as conn:
        of_app = select(APP.c.id).where(APP.c.name == app).scalar_subquery()
        conn.execute(
            update(CREDENTIAL)
            .where(CREDENTIAL.c.app_registration_id == of_app)
            .values(expires_at=moment)
        )


def add_mailboxes(whole: Whole, slug: str, count: int) -> None:
    """Add connected mailboxes to a tenant; the box need not know them to refuse their app."""
    now = datetime.now(UTC)
    with write(whole.engine) as conn:
        tenant = conn.execute(TENANT.select().where(TENANT.c.slug == slug)).one().id
        conn.execute(
            insert(MAILBOX),
            [
                {
                    "id": uuid7(), "tenant_id": tenant, "address": f"plant{n:02}@{slug}.example",
                    "connected_at": now, "created_at": now,
                }
                for n in range(count)
            ],
        )  # fmt: skip


def give_secret(whole: Whole, app: str, value: str | None = None) -> None:
    """Give an app a client secret: a wrong one, or the right one again."""
    right = next(iter(whole.sandbox.world.apps.values())).client_secrets[0].value
    credential = app_registrations.Credential.secret(value or right)
    with write(whole.engine) as conn:
        app_registrations.renew_credential(conn, whole.vault, name=app, credential=credential)


async def lose(whole: Whole, slug: str) -> UUID:
    """Let a tenant's app be refused by Entra; returns the mailbox whose mail met it."""
    mailbox_id = whole.mailbox_id(slug)
    give_secret(whole, slug, PLANTED)
    whole.producer.enqueue(whole.alert(tenant=slug, to=[f"ops@{slug}.example"]))
    await visit(whole, mailbox_id)
    assert whole.mailbox(mailbox_id).park_reason == "secret-wrong"
    return mailbox_id


def mails(whole: Whole) -> list[Any]:
    """Give what the operator was mailed, parsed."""
    outbox = whole.sandbox.world.mailboxes.outbox(OPERATOR)
    raw = [outbox.content(mail) for mail in outbox.mails if mail.recipients == (NOC,)]
    return [email.message_from_bytes(one or b"", policy=email.policy.default) for one in raw]


def body(mail: Any, kind: str = "plain") -> str:
    part = mail.get_body((kind,))
    text: str = part.get_content()
    return text


async def test_an_end_is_told_once_whatever_restarts(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Not after a second look, nor after a flush of Redis, nor by another worker."""
    secret_ends(whole, "contoso", days=6.5)

    told = await look(whole)

    assert told is not None
    await drain(whole, whole.mailbox_id("contoso"))
    [mail] = mails(whole)
    assert mail["Subject"] == (
        "alertpost: client secret of app 'contoso' ends in 7 days (1 mailbox)"
    )
    assert "alertpost apps secret contoso --client-secret-file FILE" in body(mail)
    assert "<code>alertpost apps secret contoso" in body(mail, "html")
    assert whole.row(told).state == "accepted"
    assert await look(whole) is None
    flush(redis_client, redis_keys)
    async with another_worker(whole) as other:
        assert await other.warnings.look() is None
    pass_time(whole.engine, days=6)
    assert await look(whole) is not None


async def test_two_workers_at_once_tell_it_once(whole: Whole) -> None:
    """Also where Redis elected both."""
    await asyncio.to_thread(whole.add_tenant, "fabrikam", connect=False)
    secret_ends(whole, "contoso", days=3)
    secret_ends(whole, "fabrikam", hours=3)
    async with another_worker(whole) as one, another_worker(whole) as other:
        found = await asyncio.gather(
            look(whole), one.warnings.look(), other.warnings.look(), one.warnings.look()
        )

    assert sum(told is not None for told in found) == 1
    assert whole.count("queued") == 1


async def test_one_secret_that_loses_thirty_mailboxes_is_one_mail(whole: Whole) -> None:
    """And one more when they are back, with how long it took and how many alerts waited."""
    await asyncio.to_thread(whole.add_tenant, "fabrikam")
    add_mailboxes(whole, "fabrikam", 29)
    lost = await lose(whole, "fabrikam")
    assert await look(whole) is None, "within a minute it may be over"
    pass_time(whole.engine, seconds=61)
    send_many(whole, 2, tenant="fabrikam", to=["ops@fabrikam.example"])

    assert await look(whole) is not None
    assert await look(whole) is None

    operator = whole.mailbox_id("contoso")
    await visit(whole, operator)
    [mail] = mails(whole)
    assert mail["Subject"] == (
        "alertpost: lost: app 'fabrikam' (30 mailboxes) cannot send: secret-wrong"
    )
    text = body(mail)
    for words in ("3 alerts wait", ", and 10 more", "apps secret fabrikam", "Create a new secret"):
        assert words in text
    give_secret(whole, "fabrikam")
    with write(whole.engine) as conn:
        assert len(lane.resume_scope(conn, mailbox_id=lost)) == 30
    await drain(whole, lost)
    pass_time(whole.engine, minutes=2)
    assert await look(whole) is not None
    assert await look(whole) is None

    await visit(whole, operator)
    back = mails(whole)[-1]
    assert back["Subject"] == "alertpost: back again: app 'fabrikam' (30 mailboxes) can send"
    assert "3 alerts waited" in body(back)
    assert len(mails(whole)) == 2


async def test_what_parks_and_resumes_within_a_minute_is_not_told(whole: Whole) -> None:
    """Nor is that it is back."""
    await asyncio.to_thread(whole.add_tenant, "fabrikam")
    lost = await lose(whole, "fabrikam")
    pass_time(whole.engine, seconds=50)
    with write(whole.engine) as conn:
        lane.resume_scope(conn, mailbox_id=lost)
    pass_time(whole.engine, minutes=5)

    assert await look(whole) is None


async def test_the_operators_own_mailbox_is_lost(whole: Whole) -> None:
    """The mail waits in its lane, which the log says, and goes out when that is mended."""
    operator = await lose(whole, "contoso")
    pass_time(whole.engine, seconds=61)

    with capture_logs() as lines:
        told = await look(whole)

    assert told is not None
    assert whole.row(told).state == "queued"
    [line] = [line for line in lines if line["event"] == "warning_waits"]
    assert line["log_level"] == "error"
    assert "is parked: secret-wrong" in line["reason"]
    assert mails(whole) == []
    give_secret(whole, "contoso")
    with write(whole.engine) as conn:
        lane.resume_scope(conn, mailbox_id=operator)
    await drain(whole, operator)
    [mail] = mails(whole)
    assert mail["Subject"].startswith("alertpost: lost: app 'contoso'")


async def test_a_mailbox_that_is_missing_is_looked_up_again(whole: Whole) -> None:
    """One line in the log for each thing that is wrong; what was not told is told then."""
    secret_ends(whole, "contoso", days=3)
    settings = {"operator_mailbox": "alerts@fabrikam.example", "operator_to": ()}
    async with another_worker(whole, **settings) as worker:
        with capture_logs() as lines:
            assert await worker.warnings.look() is None
            assert await worker.warnings.look() is None
            fabrikam = await asyncio.to_thread(whole.add_tenant, "fabrikam", connect=False)
            assert await worker.warnings.look() is None
            await asyncio.to_thread(whole.connect, fabrikam)
            told = await worker.warnings.look()
        with write(whole.engine) as conn:
            mailboxes.remove_mailbox(conn, "alerts@fabrikam.example", force=True)
        assert await worker.warnings.look() is None

    assert [
        (line["event"], line.get("next_step")) for line in lines if line["event"].startswith("warn")
    ] == [
        ("warnings_not_mailed", "alertpost mailboxes list"),
        ("warnings_not_mailed", "alertpost mailboxes connect alerts@fabrikam.example"),
        ("warnings_mailed_again", None),
        ("warning_enqueued", None),
    ]
    assert told is not None
    assert whole.row(told).recipients == ["alerts@fabrikam.example"]
    assert whole.row(told).mailbox_id == fabrikam


async def test_no_secret_is_told(whole: Whole) -> None:
    """Neither in the mail, nor in what is remembered, nor in the log."""
    await asyncio.to_thread(whole.add_tenant, "fabrikam")
    await lose(whole, "fabrikam")
    with write(whole.engine) as conn:
        conn.execute(
            update(MAILBOX)
            .where(MAILBOX.c.parked_at.is_not(None))
            .values(
                park_answer=f"AADSTS7000215 {PLANTED}",
                park_meaning=f"Refused: client_secret={PLANTED}.",
                park_next_step=f"Do not use {PLANTED[5:]}.",
            )
        )
    pass_time(whole.engine, seconds=61)

    with capture_logs() as lines:
        told = await look(whole)

    assert told is not None
    await visit(whole, whole.mailbox_id("contoso"))
    [mail] = mails(whole)
    with read(whole.engine) as conn:
        remembered = told_warnings.told(conn)
        row = conn.execute(DELIVERY.select().where(DELIVERY.c.id == told)).one()
    assert "secret-wrong" in body(mail)
    for text in (mail.as_string(), body(mail), body(mail, "html"), repr(remembered), repr(lines)):
        assert "8Q~" not in text
    assert b"8Q~" not in row.payload_encrypted


@pytest.mark.parametrize("database_kind", ["sqlite"])
async def test_one_of_several_workers_looks(
    whole: Whole, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, elected by a key in Redis, and the lane is woken."""
    monkeypatch.setattr(operator_warnings, "LOOK_SECONDS", 0.05)
    secret_ends(whole, "contoso", days=3)
    async with another_worker(whole), another_worker(whole):
        await whole.until(lambda: whole.count("queued") == 1, seconds=20)
        keys = RedisKeys(whole.settings.redis_prefix)
        mailbox_id = whole.mailbox_id("contoso")
        await whole.until(
            lambda: bool(redis_client.exists(keys.wake(mailbox_id, critical=False))), seconds=5
        )

    assert whole.count("queued") == 1


@pytest.mark.parametrize("database_kind", ["sqlite"])
async def test_nobody_looks_where_nobody_wants_to_know(
    whole: Whole, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the setting nothing is looked at, told or remembered."""
    monkeypatch.setattr(operator_warnings, "LOOK_SECONDS", 0.01)
    secret_ends(whole, "contoso", days=3)
    async with another_worker(whole, operator_mailbox="") as worker:
        assert await worker.warnings.look() is None
        stop = asyncio.Event()
        running = asyncio.create_task(worker.warnings.run(stop))
        await asyncio.sleep(0.1)
        assert not redis_client.exists(RedisKeys(whole.settings.redis_prefix).warnings_lock)
        stop.set()
        await asyncio.wait_for(running, 5)

    assert whole.count("queued") == 0
