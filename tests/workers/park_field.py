"""
One answer after the other through the real parts, each from what it parks to how that ends.

Sandbox, database and worker are made once for many answers; ``ParkField.begin`` puts everything
back to where nobody waits.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from sqlalchemy import select

from console import verbs_apps, verbs_mailboxes, verbs_tenants
from console.context import Context
from models import grants, mailboxes, tenants
from models.app_registrations import Credential
from models.database import create_engine_from, read, write
from models.redis_keys import RedisKeys
from models.tables import METADATA
from models.waker import Waker
from sandbox.limits import Limits
from sandbox.person import Person
from tests.fixtures.databases import database_copy
from tests.fixtures.whole import ATTEMPT, CALLBACK, DELIVERY, MAILBOX, Whole, whole_on
from tests.workers.visit_parts import IMPATIENT, change, send, visit
from workers.verdict import Remedy, Scope
from workers.visit import VisitEnd

ALERTS = "alerts@contoso.example"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

IN_SCOPE = {
    Scope.MAILBOX: {ALERTS},
    Scope.TENANT: {ALERTS, "second@contoso.example"},
    # Fabrikam uses the same app registration, Litware has one of its own.
    Scope.APP: {ALERTS, "second@contoso.example", "alerts@fabrikam.example"},
}
HOST_HOLD = METADATA.tables["host_hold"]
SUPPRESSION = METADATA.tables["suppression"]
_AT_REST = {VisitEnd.NOT_READY, VisitEnd.NO_PERMIT}
"""Redis knows of a pause as well, and says so before SQL is asked."""

_SENTENCE = re.compile(r"[A-Z][^\n]{10,220}\.")
_LINK_OR_COMMAND = re.compile(r"https://|`alertpost [a-z]+ |Set-[A-Z]\w+ -")
_TRACE = re.compile(r"Trace ID: [0-9a-f-]{36}|\[\w+\.PROD\.OUTLOOK\.COM [^\]]+\]")


@dataclass(frozen=True)
class Case:
    """
    An answer.

    Attributes:
        rule: The reason that it gives.
        strike: Makes the sandbox answer so.
        parks: What waits for a person; None: nothing does, it is a pause.
        pauses: How far the pause reaches.
        cure: What ends it: see ``ParkField.cure``.
        tries: The answer has to come so often.
        later: So much time passes between the tries.
        counted: Attempts that it costs, where it came to a mail.
        traced: The answer has a trace id.
    """

    rule: str
    strike: Callable[[ParkField], object]
    parks: Scope | None = None
    pauses: Scope = Scope.MAILBOX
    cure: str = "time"
    tries: int = 1
    later: timedelta = timedelta(0)
    counted: int = 0
    traced: bool = True


def cure_for(remedy: Remedy, scope: Scope) -> str:
    """Name how a park ends by who has to act."""
    if remedy is Remedy.FIX_CONFIGURATION:
        # Nobody mends an app registration with the settings of one tenant.
        return "resume" if scope is Scope.APP else "settings"
    return {
        Remedy.SIGN_IN_AGAIN: "consent",
        Remedy.ADMIN_CONSENT: "consent",
        Remedy.NEW_SECRET: "secret",
        Remedy.ADMIN_SETTING: "probe",
        Remedy.REPORT_BUG: "resume",
    }[remedy]


@dataclass
class ParkField:
    """One tenant that sends, and three mailboxes beside it that only wait along."""

    whole: Whole
    context: Context
    redis: redis.Redis
    keys: RedisKeys
    mailbox_id: UUID

    async def begin(self) -> None:
        """Let nobody wait, nothing misbehave, and the next mail need a token and a connection."""
        self.heal()
        with write(self.whole.engine) as connection:
            for table in (ATTEMPT, DELIVERY, HOST_HOLD, SUPPRESSION):
                connection.execute(table.delete())
        self.whole.services.held_hosts.forget(self.whole.sandbox.smtp_host)
        nothing = dict.fromkeys(
            ("parked_at", "park_reason", "park_scope", "park_meaning", "park_next_step",
             "park_answer", "probe_at", "paused_until", "pause_reason", "max_recipients",
             "recipients_learned_at")
        )  # fmt: skip
        change(self.whole, MAILBOX, park_count=0, pause_count=0, **nothing)
        for what in ("token", "refresh-failure", "pause", "wake"):
            self.forget(what)
        self.whole.services.leases._copies.clear()
        await self.whole.services.connections.close()

    def heal(self) -> None:
        """Take the cause away."""
        self.whole.sandbox.world.entra_faults.clear()
        self.whole.sandbox.exchange.faults.clear()

    def forget(self, what: str) -> None:
        for key in self.redis.scan_iter(f"{self.keys.prefix}:{what}:*", count=1000):
            self.redis.delete(key)

    def pass_time(self) -> None:
        """Let pauses, probes' waits and the memory of a failed refresh be over."""
        change(self.whole, DELIVERY, due_at=LONG_AGO)
        with write(self.whole.engine) as connection:
            for column in (MAILBOX.c.paused_until, MAILBOX.c.probe_at):
                waits = MAILBOX.update().where(column.is_not(None))
                connection.execute(waits.values({column: LONG_AGO}))
        self.forget("pause")
        self.forget("refresh-failure")

    def calls(self) -> int:
        """Count what Entra and Exchange were asked so far."""
        accepted: int = self.whole.sandbox.exchange.snapshot()["accepted"]
        return accepted + self.whole.sandbox.world.ledger.by_grant_type.total()

    def waiting(self, column: Any) -> set[str]:
        """Name the mailboxes that are parked, or paused."""
        with read(self.whole.engine) as connection:
            found = connection.execute(select(MAILBOX.c.address).where(column.is_not(None)))
            return set(found.scalars())

    def cure(self, way: str) -> None:
        """Do what ends a park, as the command line does. Blocks: call it from a thread."""
        if way == "consent":
            who = verbs_mailboxes.account(self.context, ALERTS, kind=grants.DELEGATED)
            client = verbs_mailboxes.entra(self.context, who.sender)
            flow = verbs_mailboxes.begin(client, who, redirect_uri=CALLBACK)
            back = Person(ALERTS, self.whole.sandbox.ca_file).go_through(flow["auth_uri"])
            verbs_mailboxes.complete(
                self.context, client, who, flow=flow, callback=back, actor="test"
            )
        elif way == "secret":
            app = next(iter(self.whole.sandbox.world.apps.values()))
            app.client_secrets[:] = [app.add_secret(ends_at=self.whole.sandbox.world.clock() + 1e6)]
            credential = Credential.secret(app.client_secrets[0].value)
            verbs_apps.give_credential(
                self.context, actor="test", name="contoso", credential=credential, alone=True
            )
        elif way == "settings":
            verbs_tenants.edit(
                self.context,
                actor="test",
                slug="contoso",
                changes={"smtp_port": self.whole.sandbox.smtp_port},
                credential=None,
                force=False,
            )
        else:
            assert way == "resume"
            verbs_mailboxes.resume(self.context, ALERTS, actor="test")


async def play(field: ParkField, case: Case) -> None:
    """Meet an answer with one alert in the lane, wait, take the cause away, and drain."""
    await field.begin()
    case.strike(field)
    delivery_id = send(field.whole).delivery_id

    for number in range(case.tries):
        if number:
            field.pass_time()
            age(field.whole, case.later)
        end = await visit(field.whole, field.mailbox_id)

    assert end is VisitEnd.HALTED
    mailbox = field.whole.mailbox(field.mailbox_id)
    assert field.whole.row(delivery_id).attempts == case.counted
    assert field.whole.row(delivery_id).state == "queued"
    tries = field.whole.attempts(delivery_id)
    assert [attempt.counted for attempt in tries].count(True) == case.counted
    if case.traced:
        assert _TRACE.search(tries[-1].reply_text)
    calls = field.calls()
    assert await visit(field.whole, field.mailbox_id) in _AT_REST
    assert field.calls() == calls

    if case.parks is None:
        assert field.waiting(MAILBOX.c.parked_at) == set()
        assert mailbox.pause_reason == case.rule
        assert field.waiting(MAILBOX.c.paused_until) == IN_SCOPE[case.pauses]
        field.heal()
        field.pass_time()
    else:
        assert (mailbox.park_reason, mailbox.park_scope) == (case.rule, case.parks.value)
        assert field.waiting(MAILBOX.c.parked_at) == IN_SCOPE[case.parks]
        assert _SENTENCE.fullmatch(mailbox.park_meaning)
        assert ". " not in mailbox.park_meaning
        assert _LINK_OR_COMMAND.search(mailbox.park_next_step)
        assert mailbox.park_answer.endswith(tries[-1].reply_text)
        await _end(field, case.cure, may_probe=mailbox.probe_at is not None)

    await visit(field.whole, field.mailbox_id)

    assert field.whole.row(delivery_id).state == "accepted"
    assert field.whole.row(delivery_id).attempts == case.counted + 1
    assert field.waiting(MAILBOX.c.parked_at) == set()


async def _end(field: ParkField, cure: str, *, may_probe: bool) -> None:
    field.heal()
    if cure == "probe":
        assert may_probe
        field.pass_time()
        return
    field.forget("wake")
    await asyncio.to_thread(field.cure, cure)
    # In the very commit that cured it, and with a wake-up.
    assert field.waiting(MAILBOX.c.parked_at) == set()
    assert field.redis.exists(field.keys.wake(field.mailbox_id, critical=False))


def age(whole: Whole, by: timedelta) -> None:
    """Let the tries have been so long ago."""
    with write(whole.engine) as connection:
        for row in connection.execute(select(ATTEMPT.c.id, ATTEMPT.c.finished_at)).all():
            earlier = ATTEMPT.update().where(ATTEMPT.c.id == row.id)
            connection.execute(earlier.values(finished_at=row.finished_at - by))


@asynccontextmanager
async def park_field(
    request: pytest.FixtureRequest, kind: str, factory: pytest.TempPathFactory, **changes: Any
) -> AsyncIterator[ParkField]:
    """Build the field on a database of its own, with other settings; for fixtures of a module."""
    folder: Path = factory.mktemp(f"parks-{kind}")
    shared = request.getfixturevalue("_shared_redis")
    keys = RedisKeys(prefix=f"test-{uuid4().hex[:12]}")
    with database_copy(request, kind, folder) as url:
        engine = create_engine_from(url)
        async with whole_on(
            engine,
            redis_url=shared.url,
            redis_keys=keys,
            folder=folder,
            sandbox_directory=request.getfixturevalue("sandbox_directory"),
            limits=Limits.open(),
            **IMPATIENT
            | {
                # Nobody but this module's own visits looks at a lane.
                "sweep": {"interval_seconds": 3600},
                "pacing": {"messages_per_window": 100_000},
            }
            | changes,
        ) as whole:
            _neighbours(whole)
            waker = Waker(shared.url, keys)
            context = Context(whole.settings, whole.engine, whole.vault, waker)
            with redis.Redis.from_url(shared.url) as client:
                yield ParkField(whole, context, client, keys, whole.mailbox_id("contoso"))
            waker.close()
        engine.dispose()


def _neighbours(whole: Whole) -> None:
    with write(whole.engine) as connection:
        mailboxes.add_mailbox(connection, tenant_slug="contoso", address="second@contoso.example")
        tenants.add_tenant(connection, slug="fabrikam", directory_id=str(uuid4()), app="contoso")
        mailboxes.add_mailbox(connection, tenant_slug="fabrikam", address="alerts@fabrikam.example")
        verbs_apps.apps.add_app(
            connection,
            whole.vault,
            name="litware",
            client_id=str(uuid4()),
            credential=Credential.secret("of-another-app"),
        )
        tenants.add_tenant(connection, slug="litware", directory_id=str(uuid4()), app="litware")
        mailboxes.add_mailbox(connection, tenant_slug="litware", address="alerts@litware.example")
