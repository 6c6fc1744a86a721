"""A parked lane goes on within two seconds of its cause's end, most severe first, however it ended."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import requests

from models import audit, mailboxes
from models.database import read, write
from sandbox.entra_faults import EntraFault, EntraFaultKind
from sandbox.limits import Limits
from sandbox.person import Person
from tests.fixtures.whole import ATTEMPT, DELIVERY, MAILBOX, Whole
from tests.workers.test_worker_process import ROOT, environment, worker
from tests.workers.visit_parts import IMPATIENT, change, send

ALERTS = "alerts@contoso.example"
SECOND = "second@contoso.example"
BOUND_SECONDS = 2.0
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

BACKLOG = ["low", "critical", "normal", "elevated", "low", "critical", "normal", "elevated"]
IN_ORDER = [
    "critical 1", "critical 5", "elevated 3", "elevated 7", "normal 2", "normal 6", "low 0",
    "low 4",
]  # fmt: skip

PULSE_SECONDS = 0.02


@pytest.fixture
def limits() -> Limits:
    return Limits.open()


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    # Nothing but the command's own wake-up brings a worker to the lane.
    return IMPATIENT | {"sweep": {"interval_seconds": 3600}}


class Pulse:
    """Notes for how long this machine let a thread that only sleeps wait."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._over = threading.Event()

    def beat(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            time.sleep(PULSE_SECONDS)
            late = time.monotonic() - began - PULSE_SECONDS
            if late > PULSE_SECONDS:
                self._late.append((time.time(), late))

    def stop(self) -> None:
        self._over.set()

    def lost(self, begin: float, end: float) -> float:
        """Sum the seconds that were nobody's fault but the machine's."""
        return sum(late for at, late in self._late if begin <= at <= end + late)


@contextmanager
def pulse() -> Iterator[Pulse]:
    found = Pulse()
    thread = threading.Thread(target=found.beat, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.stop()
        thread.join()


class Scene:
    """A tenant whose lane a real worker drains, parked and let go on again and again."""

    def __init__(self, whole: Whole, pulse: Pulse, folder: Path) -> None:
        self.whole = whole
        self.pulse = pulse
        self.folder = folder
        self.world = whole.sandbox.world
        self.mailbox_id = whole.mailbox_id("contoso")

    async def parked(self, reason: str) -> None:
        """Build up a backlog before a cause; its first alert is what meets it."""
        with write(self.whole.engine) as connection:
            for table in (ATTEMPT, DELIVERY):
                connection.execute(table.delete())
        for session in list(self.whole.sandbox.exchange._front.sessions):
            session.abort()
        for number, severity in enumerate(BACKLOG):
            send(self.whole, severity=severity, subject=f"{severity} {number}")
            if not number:
                await self.whole.until(lambda: self._mailbox().parked_at is not None, seconds=20)
        assert self._mailbox().park_reason == reason
        self.before = len(self.whole.outbox())

    async def drained(self, began: float) -> None:
        """See all of it arrive, in its order, the first of it in time."""
        await self.whole.until(lambda: self.whole.count("accepted") == len(BACKLOG), seconds=30)
        mails = self.whole.outbox()[self.before :]
        assert [mail.subject for mail in mails] == IN_ORDER
        self.in_time(began, mails[0].time)

    def in_time(self, began: float, ended: float) -> None:
        assert ended - began - self.pulse.lost(began, ended) <= BOUND_SECONDS

    def recall_tokens(self) -> None:
        """Let the tokens that workers have be worth nothing, the grant be good."""
        _, user = self.world.account(ALERTS)
        user.recalls += 1

    def new_secret(self) -> str:
        """Make another secret at Entra, the one that holds; give a file with it."""
        app = next(iter(self.world.apps.values()))
        secret = app.add_secret(ends_at=self.world.clock() + 1e6)
        path = self.folder / "secret.txt"
        path.write_text(secret.value)
        return str(path)

    async def command(self, *arguments: str) -> float:
        """Run a command; give the moment in which it was done, from the audit trail."""
        process = self._start(*arguments)
        out, err = await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 0, out + err
        assert "Resumed; the next mail shows whether the cause is gone." in out
        return self._done_at()

    async def consent(self) -> float:
        """Sign in as the link of ``mailboxes connect`` asks for."""
        process = self._start("mailboxes", "connect", ALERTS, "--no-browser")
        assert process.stdout is not None
        address = (await asyncio.to_thread(process.stdout.readline)).strip()
        person = Person(ALERTS, self.whole.sandbox.ca_file)
        callback = await asyncio.to_thread(person.go_through, address)
        back = unquote(address.split("redirect_uri=")[1].split("&")[0])
        await asyncio.to_thread(requests.get, back, params=callback, timeout=20)
        out, err = await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 0, out + err
        return self._done_at()

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "console.cli", *arguments],
            cwd=ROOT,
            env=environment(self.whole.administrator),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _done_at(self) -> float:
        with read(self.whole.engine) as connection:
            return max(row.at for row in audit.entries(connection)).timestamp()

    def _mailbox(self) -> Any:
        return self.whole.mailbox(self.mailbox_id)


async def test_a_lane_goes_on_within_two_seconds_in_order(whole: Whole, tmp_path: Path) -> None:
    """After each thing that a person can do about a park, from the commit to Exchange's 250."""
    with pulse() as beats:
        async with worker(
            whole,
            ALERTPOST_SWEEP__INTERVAL_SECONDS="3600",
            ALERTPOST_PACING__MESSAGES_PER_WINDOW="1000",
        ):
            scene = Scene(whole, beats, tmp_path)
            await _after_a_consent(scene)
            await _after_a_new_secret(scene, "apps", "secret", "contoso")
            await _after_a_new_secret(scene, "tenants", "edit", "contoso", "--replace")
            await _after_a_resume(scene)
            await _after_a_probe(scene)


async def _after_a_consent(scene: Scene) -> None:
    scene.world.revoke_grants(ALERTS, recall_access_tokens=True)
    await scene.parked("tokens-revoked")

    await scene.drained(await scene.consent())


async def _after_a_new_secret(scene: Scene, *command: str) -> None:
    next(iter(scene.world.apps.values())).client_secrets.clear()
    scene.recall_tokens()
    await scene.parked("secret-wrong")

    await scene.drained(await scene.command(*command, "--client-secret-file", scene.new_secret()))


async def _after_a_resume(scene: Scene) -> None:
    """A policy that was in the way is lifted; whoever did it does not wait for the probe."""
    scene.world.entra_faults.add(
        EntraFault(EntraFaultKind.AADSTS, code=53003, grant_type="refresh_token")
    )
    scene.recall_tokens()
    await scene.parked("conditional-access")

    scene.world.entra_faults.clear()
    await scene.drained(await scene.command("mailboxes", "resume", ALERTS))


async def _after_a_probe(scene: Scene) -> None:
    """One mail tries; behind it goes the rest, and what waited for the same cause."""
    whole = scene.whole
    whole.exchange().organisation.smtp_auth = False
    await scene.parked("smtp-auth-disabled-tenant")
    with write(whole.engine) as connection:
        entry = mailboxes.add_mailbox(connection, tenant_slug="contoso", address=SECOND)
        same = MAILBOX.select().where(MAILBOX.c.id == scene.mailbox_id)
        parked = {
            name: value
            for name, value in connection.execute(same).one()._mapping.items()
            if name.startswith("park")
        }
        beside = MAILBOX.update().where(MAILBOX.c.id == entry.id)
        connection.execute(beside.values(parked))

    whole.exchange().organisation.smtp_auth = True
    change(whole, MAILBOX, probe_at=LONG_AGO)
    await whole.services.wake(scene.mailbox_id, critical=False)

    await whole.until(lambda: whole.count("accepted") == len(BACKLOG), seconds=30)
    probe, *rest = whole.outbox()[scene.before :]
    assert [probe.subject, *(mail.subject for mail in rest)] == IN_ORDER
    scene.in_time(probe.time, rest[0].time)
    assert whole.mailbox(entry.id).parked_at is None
