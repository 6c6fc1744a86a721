"""``alertpost status`` and ``alertpost expiries``, on both databases, with Redis and without."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import update

from console import live
from models import directory
from models.database import write
from models.grants import GRANT
from models.lookups import CREDENTIAL, MAILBOX
from models.presence import Presence
from models.redis_keys import RedisKeys
from tests.console.cli_world import CliWorld
from tests.models.directory_parts import add_contoso, connect

CONTOSO, FABRIKAM = "alerts@contoso.example", "alerts@fabrikam.example"
PARK = {
    "park_reason": "smtp-auth-disabled-tenant",
    "park_scope": "mailbox",
    "park_meaning": "SMTP AUTH is switched off.",
    "park_next_step": "Switch it on.",
}


@pytest.fixture
def world(bare: CliWorld) -> CliWorld:
    """Two tenants that can send, and a secret that lasts."""
    with write(bare.engine) as conn:
        for slug in ("contoso", "fabrikam"):
            add_contoso(conn, slug=slug, notify={"default": [f"noc@{slug}.example"]})
            directory.add_mailbox(conn, tenant_slug=slug, address=f"alerts@{slug}.example")
            connect(conn, f"alerts@{slug}.example")
        conn.execute(update(CREDENTIAL).values(expires_at=_in_days(100)))
    return bare


@pytest.fixture
def worker(redis_client: redis.Redis, redis_keys: RedisKeys) -> Iterator[Presence]:
    """A worker that lives."""
    one = Presence("msp-1-4711", "msp-1", 4711, "0.1.0", datetime.now(UTC), 512)
    seconds, _ = redis_client.time()
    redis_client.zadd(redis_keys.workers, {one.as_text(): (seconds + 60) * 1000})
    yield one
    redis_client.delete(redis_keys.workers)


def _in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def _set_mailbox(world: CliWorld, address: str, **values: Any) -> None:
    with write(world.engine) as conn:
        conn.execute(update(MAILBOX).where(MAILBOX.c.address == address).values(**values))


def _end_secret(world: CliWorld, days: float | None) -> None:
    with write(world.engine) as conn:
        moment = None if days is None else _in_days(days)
        conn.execute(update(CREDENTIAL).values(expires_at=moment))


# -- all is well ----------------------------------------------------------------------------------


def test_all_is_well(world: CliWorld, worker: Presence) -> None:
    """One screen, and nobody has to do anything."""
    said = world.run("status")

    assert said.code == 0
    for text in (
        "All is well",
        "2 ready, 0 waiting",
        "1 alive: msp-1 (pid 4711, 0.1.0)",
        "answers",
    ):
        assert text in said.out


def test_json_has_everything(world: CliWorld, worker: Presence) -> None:
    """Also what is empty, under names that stay."""
    said = world.run("status", "--json")

    assert said.code == 0
    found = said.json
    assert set(found) == {
        "at", "needs_a_person", "first_step", "tenants", "mailboxes", "waiting", "in_hand",
        "lanes", "dead", "refused", "suppressed", "host_holds", "recipients", "redis", "sql", "workers",
        "expiries", "unrecorded", "unsent", "warnings",
    }  # fmt: skip
    assert found["tenants"] == {"ready": 2, "waiting": 0, "without_mailbox": 0}
    assert found["redis"] == {"answers": True, "writes": True, "reason": None}
    assert found["sql"] == {"writes": True, "reason": None}
    assert [one["name"] for one in found["workers"]] == ["msp-1-4711"]
    assert (found["needs_a_person"], found["first_step"]) == ([], None)


# -- what needs a person --------------------------------------------------------------------------


def test_a_bad_day(world: CliWorld, worker: Presence) -> None:
    """Parked, dead and ending: each in a sentence with its command, and exit code 7."""
    world.send("a")
    world.set(
        world.send("b", tenant="fabrikam"), state="dead", settled_at=_in_days(0),
        reason="recipient-unknown",
    )  # fmt: skip
    _set_mailbox(world, CONTOSO, parked_at=_in_days(0), **PARK)
    _end_secret(world, 3.5)

    said = world.run("status")

    assert said.code == 7
    for text in (
        "3 things need a person",
        f"{CONTOSO} is parked: smtp-auth-disabled-tenant",
        f"alertpost mailboxes resume {CONTOSO}",
        "SMTP AUTH is switched off.",
        "Switch it on.",
        "not before a person acts (parked)",
        "1 dead letter",
        "recipient-unknown",
        "client secret of main ends in 4 days",
        "2 mailboxes of 2 tenants",
    ):
        assert text in said.out

    found = world.run("status", "--json").json
    assert [one["matter"] for one in found["needs_a_person"]] == [
        "parked", "expiry", "dead-letters",
    ]  # fmt: skip
    [held] = found["mailboxes"]["held"]
    assert (held["mailboxes"], held["meaning"]) == ([CONTOSO], "SMTP AUTH is switched off.")
    [lane] = found["lanes"]
    assert (lane["mailbox"], lane["waiting"], lane["next_at"]) == (CONTOSO, 1, None)
    assert lane["oldest_seconds"] >= 0
    [dead] = found["dead"]
    assert (dead["letters"], dead["reason"]) == (1, "recipient-unknown")
    assert dead["next_step"]
    assert [one["level"] for one in found["expiries"]] == ["7d"]


def test_a_pause_needs_nobody(world: CliWorld, worker: Presence) -> None:
    """It says until when, and why."""
    world.send("a")
    _set_mailbox(world, CONTOSO, paused_until=_in_days(0.5), pause_reason="recipients-per-day")

    said = world.run("status")

    assert said.code == 0
    assert "1 mailbox paused: recipients-per-day" in said.out
    assert "used up" in said.out
    assert "in 12 h (paused)" in said.out


def test_mail_that_waits_for_a_consent(world: CliWorld, worker: Presence) -> None:
    """A mailbox that is not connected needs a person as soon as mail waits there."""
    with write(world.engine) as conn:
        directory.withdraw(conn, [directory.mailbox(conn, CONTOSO).id])
    assert world.run("status").code == 0
    world.send("a")

    said = world.run("status")

    assert said.code == 7
    assert f"alertpost mailboxes connect {CONTOSO}" in said.out


# -- warnings by mail -----------------------------------------------------------------------------


def test_warnings_are_not_mailed_unless_somebody_wants_it(
    world: CliWorld, worker: Presence
) -> None:
    """One line says so, and nobody has to act."""
    said = world.run("status")

    assert said.code == 0
    assert "not mailed: ALERTPOST_OPERATOR_MAILBOX is not set" in said.out
    assert world.run("status", "--json").json["warnings"]["mailed"] is False


def test_warnings_that_cannot_be_mailed_need_a_person(
    world: CliWorld, worker: Presence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mailbox is unknown or not connected; one that is parked says that they wait."""
    monkeypatch.setenv("ALERTPOST_OPERATOR_MAILBOX", "alert@contoso.example")
    said = world.run("status")
    assert said.code == 7
    assert (
        f"names 'alert@contoso.example', which is not a mailbox here; perhaps '{CONTOSO}' is meant"
        in said.out
    )
    assert "alertpost mailboxes list" in said.out

    monkeypatch.setenv("ALERTPOST_OPERATOR_MAILBOX", CONTOSO)
    monkeypatch.setenv("ALERTPOST_OPERATOR_TO", "noc@msp.example, boss@msp.example")
    said = world.run("status")
    assert said.code == 0
    assert f"mailed from {CONTOSO} to noc@msp.example, boss@msp.example" in said.out

    _set_mailbox(world, CONTOSO, parked_at=_in_days(0), **PARK)
    said = world.run("status")
    assert said.code == 7
    assert "mailed, but they wait: the operator's own mailbox" in said.out

    with write(world.engine) as conn:
        directory.withdraw(conn, [directory.mailbox(conn, CONTOSO).id])
    [concern] = [
        one for one in world.run("status", "--json").json["needs_a_person"]
        if one["matter"] == "warnings"
    ]  # fmt: skip
    assert concern["command"] == f"alertpost mailboxes connect {CONTOSO}"


# -- Redis and workers ----------------------------------------------------------------------------


def test_no_worker_lives_while_mail_waits(world: CliWorld) -> None:
    """Without mail nobody is missed; with mail somebody has to start one."""
    assert world.run("status").code == 0
    world.send("a")

    said = world.run("status")

    assert said.code == 7
    assert "1 delivery could go, but no worker lives" in said.out
    assert "none alive" in said.out


def test_redis_is_away(world: CliWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rest is told all the same, in time, and no password with it."""
    monkeypatch.setenv("ALERTPOST_REDIS_URL", "redis://alertpost:hushhush@127.0.0.1:1/0")
    assert world.run("status").code == 0
    world.send("a")

    said = world.run("status")

    assert said.code == 7
    assert "Redis does not answer" in said.out
    assert "2 ready" in said.out
    assert "hushhush" not in said.out + said.err
    found = world.run("status", "--json").json
    assert found["redis"]["answers"] is False
    assert found["workers"] is None
    assert found["lanes"][0]["permits"] is None


def test_redis_that_says_nothing_is_not_waited_for(
    world: CliWorld, own_redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that accepts and stays silent counts as away."""
    monkeypatch.setattr(live, "ANSWER_SECONDS", 0.2)
    monkeypatch.setenv("ALERTPOST_REDIS_URL", own_redis.url)
    own_redis.freeze()
    try:
        said = world.run("status")
    finally:
        own_redis.thaw()

    assert said.code == 0
    assert "does not answer" in said.out


def test_no_redis_was_ever_there(world: CliWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded one that never ran is away, with the command that runs it."""
    monkeypatch.delenv("ALERTPOST_REDIS_URL")

    said = world.run("status")

    assert said.code == 0
    assert "`alertpost up` runs it" in said.out


def test_permits_that_are_left(
    world: CliWorld, worker: Presence, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """A full window puts off the moment at which the next may go."""
    world.send("a")
    lane = world.run("status", "--json").json["lanes"][0]
    assert (lane["permits"], lane["critical_permits"]) == (None, None)
    account = lane["mailbox"]
    seconds, _ = redis_client.time()
    redis_client.set(redis_keys.generation, "1", ex=60)
    redis_client.hset(redis_keys.slots(account), mapping={"gen": 1, "era": 1, "seeded": 1})
    redis_client.rpush(redis_keys.permits(account), *[(seconds - 1) * 1000] * 28)

    lane = world.run("status", "--json").json["lanes"][0]

    assert (lane["permits"], lane["critical_permits"]) == (0, 2)
    left = datetime.fromisoformat(lane["next_at"]) - datetime.now(UTC)
    assert timedelta(seconds=45) < left <= timedelta(seconds=60)


# -- the beginning --------------------------------------------------------------------------------


def test_nothing_is_set_up(bare: CliWorld) -> None:
    """Step by step it says what comes first, and that is no alarm."""
    said = bare.run("status")
    assert said.code == 0
    assert "Nothing is set up yet" in said.out
    assert "alertpost tenants add" in said.out
    assert "nothing is set up yet" in bare.run("expiries").out

    with write(bare.engine) as conn:
        add_contoso(conn)
    assert "alertpost mailboxes add TENANT ADDRESS" in bare.run("status").out
    with write(bare.engine) as conn:
        directory.add_mailbox(conn, tenant_slug="contoso", address=CONTOSO)
    first = f"alertpost mailboxes connect {CONTOSO}"
    assert first in bare.run("status").out
    assert bare.run("status", "--json").json["first_step"] == first
    with write(bare.engine) as conn:
        connect(conn, CONTOSO)
    assert bare.run("status", "--json").json["first_step"] is None


def test_a_database_that_is_not_there(
    empty_url: str, bare: CliWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is that of every other command."""
    monkeypatch.setenv("ALERTPOST_DATABASE_URL", empty_url)
    for command in ("status", "expiries"):
        said = bare.run(command)
        assert said.code == bare.run("tenants", "list").code == 2
        assert "alertpost db upgrade" in said.err
    monkeypatch.setenv("ALERTPOST_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert bare.run("status").code == 5


# -- expiries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "within", "code"),
    [(-1, "0", 7), (20.5, "30", 7), (20.5, "14", 0), (100, "30", 0), (None, "30", 0)],
    ids=["ended", "within", "later", "much-later", "unknown"],
)
def test_expiries_for_monitoring(
    world: CliWorld, days: float | None, within: str, code: int
) -> None:
    """The exit code says whether something that is needed ends within so many days."""
    _end_secret(world, days)

    assert world.run("expiries", "--within", within).code == code
    assert world.run("expiries", "--within", within, "--json").code == code


def test_expiries_say_who_needs_it_and_what_to_do(world: CliWorld) -> None:
    """A grant that was not used for long stands beside the app's secret."""
    _end_secret(world, 12.5)
    with write(world.engine) as conn:
        mailbox = directory.mailbox(conn, FABRIKAM).id
        conn.execute(
            update(GRANT).where(GRANT.c.mailbox_id == mailbox).values(granted_at=_in_days(-85.5))
        )

    said = world.run("expiries")

    assert said.code == 7
    for text in (
        f"grant of {FABRIKAM} ends in 5 days",
        "client secret of main ends in 13 days",
        f"2 mailboxes of 2 tenants: {CONTOSO}, {FABRIKAM}",
        f"alertpost mailboxes test {FABRIKAM} --to {FABRIKAM}",
        "alertpost apps secret main --client-secret-file FILE --secret-expires DATE",
    ):
        assert text in said.out
    assert CONTOSO not in said.out.partition("client secret")[0]
    grant, secret = world.run("expiries", "--json").json
    assert (grant["kind"], grant["level"], grant["days"]) == ("grant", "7d", 5)
    assert (secret["kind"], secret["level"]) == ("client secret", "14d")
    assert secret["tenants"] == ["contoso", "fabrikam"]


def test_nothing_ends_soon(world: CliWorld) -> None:
    """What ends first is told all the same."""
    said = world.run("expiries")

    assert said.code == 0
    assert "Nothing ends within 30 days; first the grant of" in said.out


# -- what ended unsent ----------------------------------------------------------------------------


def test_what_expired_is_shown_for_a_day(world: CliWorld, worker: Presence) -> None:
    """With mailbox, tenant and how many; it is nobody's duty any more, but all is not well."""
    for tenant, state, days in (
        *[("contoso", "expired", -0.5)] * 3,
        ("fabrikam", "expired", -1.5),
        ("fabrikam", "cancelled", -0.5),
    ):
        ended = {"state": state, "reason": state, "settled_at": _in_days(days)}
        world.set(world.send(tenant=tenant), **ended)

    said = world.run("status")

    assert said.code == 0
    assert "All is well" not in said.out
    assert "3 alerts ended unsent within 24 hours" in said.out
    assert CONTOSO in said.out
    assert "alertpost deliveries list --state expired" in said.out
    [one] = world.run("status", "--json").json["unsent"]
    assert (one["mailbox"], one["tenant"], one["alerts"]) == (CONTOSO, "contoso", 3)
