"""``alertpost warnings``: what was told, when, to whom, by which mail; and a mail that proves it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update

from models import audit, directory, lane
from models.database import read, write
from models.ids import uuid7
from models.lookups import CREDENTIAL
from models.operator_news import news, record
from tests.console.cli_setting import Cli
from tests.console.cli_world import CliWorld
from tests.fixtures.whole import Whole
from tests.models.directory_parts import add_contoso, connect
from tests.models.passing_time import pass_time
from tests.workers.visit_parts import IMPATIENT, listening

CONTOSO = "alerts@contoso.example"
PLANTS = ("plant1@contoso.example", "plant2@contoso.example")


@pytest.fixture
def world(bare: CliWorld, monkeypatch: pytest.MonkeyPatch) -> CliWorld:
    """A tenant whose first mailbox warns the operator."""
    monkeypatch.setenv("ALERTPOST_OPERATOR_MAILBOX", CONTOSO.upper())
    with write(bare.engine) as conn:
        add_contoso(conn)
        for address in (CONTOSO, *PLANTS):
            directory.add_mailbox(conn, tenant_slug="contoso", address=address)
            connect(conn, address)
    return bare


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT


def told(world: CliWorld, delivery_id: UUID | None = None) -> None:
    """Let workers have told what is new."""
    with write(world.engine) as conn:
        seen = news(conn, keep_warm_days=7)
        assert seen.to_mail
        record(conn, seen, delivery_id=delivery_id or uuid7())


def test_what_was_told(world: CliWorld) -> None:
    """Ends and losses, one line for each cause; the mail and its state beside it."""
    assert "No warnings sent yet." in world.run("warnings").out
    mail = world.send("a warning")
    with write(world.engine) as conn:
        moment = datetime.now(UTC) + timedelta(days=6.5)
        conn.execute(update(CREDENTIAL).values(expires_at=moment))
        for address in PLANTS:
            lane.park(
                conn, mailbox_id=directory.mailbox(conn, address).id, scope="mailbox",
                reason="smtp-auth-disabled-mailbox", meaning="It is off.", next_step="Switch it on.",
                answer="535", probe_after_seconds=None,
            )  # fmt: skip
    pass_time(world.engine, minutes=2)
    told(world, UUID(mail))

    said = world.run("warnings")

    assert said.code == 0
    for text in (
        f"Warnings are mailed from {CONTOSO} to {CONTOSO}.",
        "client secret of main: 7d before its end",
        f"2 mailboxes cannot send (smtp-auth-disabled-mailbox): {', '.join(PLANTS)}",
        "still", "queued", mail,
    ):  # fmt: skip
        assert text in said.out
    found = world.run("warnings", "--json").json
    assert found["warnings"]["mailed"] is True
    assert [(one["kind"], one["detail"], one["subjects"]) for one in found["told"]] == [
        ("client secret", "7d", ["main"]),
        ("loss", "smtp-auth-disabled-mailbox", list(PLANTS)),
    ]
    assert {one["delivery_id"] for one in found["told"]} == {mail}
    assert world.run("warnings", "--limit", 1, "--json").json["told"] == found["told"][:1]

    with write(world.engine) as conn:
        lane.resume(conn, mailbox_ids=[directory.mailbox(conn, PLANTS[0]).id])
    pass_time(world.engine, minutes=2)
    told(world)
    assert "1 of 2 back" in world.run("warnings").out
    with write(world.engine) as conn:
        lane.resume(conn, mailbox_ids=[directory.mailbox(conn, PLANTS[1]).id])
    pass_time(world.engine, minutes=2)
    told(world)
    loss = next(o for o in world.run("warnings", "--json").json["told"] if o["kind"] == "loss")
    assert loss["over_at"] is not None
    assert world.run("warnings", "--since", "1s").out.count("client secret") == 0


@pytest.mark.parametrize("arguments", [(), ("--test",)], ids=["list", "test"])
def test_how_it_stands(
    world: CliWorld, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """What is missing is said with the command that helps; a test of it is refused."""
    refused = bool(arguments)
    monkeypatch.setenv("ALERTPOST_OPERATOR_MAILBOX", "nobody@contoso.example")
    said = world.run("warnings", *arguments)
    assert said.code == (3 if refused else 0)
    assert "alertpost mailboxes list" in said.out + said.err

    monkeypatch.setenv("ALERTPOST_OPERATOR_MAILBOX", CONTOSO)
    with write(world.engine) as conn:
        directory.withdraw(conn, [directory.mailbox(conn, CONTOSO).id])
    said = world.run("warnings", *arguments)
    assert said.code == (4 if refused else 0)
    assert f"alertpost mailboxes connect {CONTOSO}" in said.out + said.err

    monkeypatch.delenv("ALERTPOST_OPERATOR_MAILBOX")
    said = world.run("warnings", *arguments)
    assert said.code == (2 if refused else 0)
    assert "ALERTPOST_OPERATOR_MAILBOX is not set" in said.out + said.err
    assert world.count() == 0


def test_a_test_that_waits_says_so(world: CliWorld) -> None:
    """Without a worker it stays in the lane, on record, and the audit trail knows who asked."""
    said = world.run("warnings", "--test", "--wait", 0, "--as", "alice", "--json")

    assert said.code == 5
    assert said.json["test"]["state"] == "queued"
    entry = next(one for one in world.trail() if one.action == "warnings-test")
    assert (entry.actor, entry.subject) == ("cli:alice", CONTOSO)
    assert entry.detail == {"delivery": said.json["test"]["id"]}


async def test_a_test_that_arrives(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes the way of any alert, and what became of it is told."""
    settings = whole.settings
    for name, value in {
        "DATABASE_URL": settings.database_url.replace("+psycopg", ""),
        "REDIS_URL": settings.redis_url,
        "REDIS_PREFIX": settings.redis_prefix,
        "SECRET_KEYS": settings.secret_keys[0].get_secret_value(),
        "OPERATOR_MAILBOX": CONTOSO,
        "OPERATOR_TO": "noc@contoso.example",
    }.items():
        monkeypatch.setenv(f"ALERTPOST_{name}", value)
    world = CliWorld(settings.data_dir, whole.engine, capsys)

    async with listening(settings, whole.services.visits):
        said = await asyncio.to_thread(world.run, "warnings", "--test")

    assert said.code == 0, said.err
    assert "to noc@contoso.example" in said.out
    [mail] = whole.outbox()
    assert mail.recipients == ("noc@contoso.example",)
    with read(whole.engine) as conn:
        assert next(one.entry.action for one in audit.entries(conn)) == "warnings-test"


def test_the_doctor_says_how_warnings_stand(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing wanted is no fault; what is wanted and cannot be is a warning."""
    address = cli.connected()

    def check() -> dict[str, str]:
        found = json.loads(cli("doctor", address, "--json").out)
        return next(one for one in found if one["check"] == "warnings")

    assert (check()["result"], check()["seen"]) == (
        "ok", "not mailed: ALERTPOST_OPERATOR_MAILBOX is not set",
    )  # fmt: skip
    monkeypatch.setenv("ALERTPOST_OPERATOR_MAILBOX", "nobody@contoso.example")
    assert check()["result"] == "warning"
    assert "alertpost mailboxes list" in check()["mend"]
    monkeypatch.setenv("ALERTPOST_OPERATOR_MAILBOX", address)
    assert (check()["result"], check()["seen"]) == ("ok", f"mailed from {address} to {address}")
    assert cli("mailboxes", "park", address).code == 0
    assert "they wait" in check()["seen"]
