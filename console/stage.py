"""
A stage for the demo and the benchmarks: Redis, SQL, Microsoft 365 in a box, tenants, workers.

Everything is real and runs in processes of its own, as in production; only Microsoft is a box.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import requests
from pydantic import SecretStr
from sqlalchemy import Connection, Engine

from console.embedded_redis import EmbeddedRedis
from console.interrupts import undisturbed
from console.supervisor import Child, Guard, start
from models import app_registrations, grants, mailboxes, schema, senders, tenants
from models.database import create_engine_from, read, write
from models.errors import ConfigurationError
from models.redis_keys import RedisKeys
from models.settings import Settings
from models.vault import Vault
from models.waker import Waker
from producers.enqueue import Producer
from sandbox.person import Person
from workers import first_token
from workers.entra import Entra

START_SECONDS = 30.0
STOP_SECONDS = 20.0
CALLBACK = "http://localhost/oauth/callback"
"""Nobody listens there: the stage's person hands the callback's parameters over by hand."""

CONSENTS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where the box is, and its control API."""

    facts: Mapping[str, Any]
    session: requests.Session = field(repr=False)

    @property
    def ca_file(self) -> Path:
        """The box's certificate authority."""
        return Path(self.facts["ca_file"])

    def ask(self, path: str) -> Any:
        """Read from the control API; JSON lines come as a list."""
        answer = self.session.get(f"{self.facts['control_url']}{path}", timeout=60)
        answer.raise_for_status()
        if "jsonl" in answer.headers.get("content-type", "") or "ndjson" in answer.headers.get(
            "content-type", ""
        ):
            return [json.loads(line) for line in answer.text.splitlines() if line]
        return answer.json()

    def tell(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """
        Change something through the control API.

        Raises:
            ConfigurationError: The box refuses; carries its reason.
        """
        answer = self.session.request(
            method, f"{self.facts['control_url']}{path}", json=body or {}, timeout=60
        )
        if not answer.ok:
            raise ConfigurationError(f"the sandbox refuses {method} {path}: {answer.text[:300]}")
        return answer.json() if answer.text else None

    def directory_id(self, slug: str) -> str:
        """Name a tenant's directory."""
        return str(next(t["tenant_id"] for t in self.facts["tenants"] if t["slug"] == slug))


class Stage:
    """
    Everything that the demo and the benchmarks play on. A context manager.

    Args:
        directory: Where it keeps its files.
        slugs: Tenants; each has the mailbox ``alerts@<slug>.example``.
        limits: Of the box's mailboxes, over its own.
        database_url: Empty: SQLite in the directory.
        settings: Groups of settings that differ from the defaults.
    """

    def __init__(
        self,
        directory: Path,
        slugs: Sequence[str],
        *,
        limits: Mapping[str, Any] | None = None,
        database_url: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._directory = directory
        self.slugs = tuple(slugs)
        self._limits = dict(limits or {})
        self._database_url = database_url
        self._changes = dict(settings or {})
        self._stack = ExitStack()
        self.workers: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        with undisturbed():
            self._stack.close()

    def _open(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._guard = self._stack.enter_context(Guard())
        redis_url = self._stack.enter_context(
            EmbeddedRedis.prepare(self._directory / "redis").running()
        )
        self.settings = Settings.load(
            database_url=self._database_url,
            redis_url=redis_url,
            data_dir=self._directory,
            secret_keys=(SecretStr(Vault.new_key()),),
            **self._changes,
        )
        self.vault = Vault([key.get_secret_value() for key in self.settings.secret_keys])
        self.engine: Engine = create_engine_from(self.settings.sqlalchemy_url)
        self._stack.callback(self.engine.dispose)
        schema.upgrade(self.engine)
        self.sandbox = self._stack.enter_context(self._boxed())
        waker = Waker(redis_url, RedisKeys(self.settings.redis_prefix))
        self._stack.callback(waker.close)
        self.wake = waker.wake
        self.producer = Producer(self.engine, self.vault, waker)
        self._stack.callback(self.stop_workers)

    @contextmanager
    def _boxed(self) -> Iterator[Sandbox]:
        world: dict[str, Any] = {
            "tenants": [{"slug": slug} for slug in self.slugs],
            "apps": [{"home_tenant": self.slugs[0]}],
        }
        if self._limits:
            world["limits"] = self._limits
        folder = self._directory / "sandbox"
        folder.mkdir(mode=0o700, exist_ok=True)
        world_file, ready_file = folder / "world.json", folder / "ready.json"
        ready_file.unlink(missing_ok=True)
        world_file.write_text(json.dumps(world), encoding="utf-8")
        argv = (
            sys.executable, "-m", "sandbox", "--dir", str(folder), "--world", str(world_file),
            "--ready-file", str(ready_file),
        )  # fmt: skip
        process = self._start(Child("sandbox", argv), log_file=folder / "sandbox.log")
        try:
            _wait_for(ready_file, process, "the sandbox")
            facts = json.loads(ready_file.read_text(encoding="utf-8"))
            with requests.Session() as session:
                session.trust_env = False
                session.verify = facts["ca_file"]
                yield Sandbox(facts, session)
        finally:
            _end(process)

    # -- tenants -----------------------------------------------------------------------------

    def add_tenants(self) -> None:
        """Add every tenant with its mailbox, under the one app of the box."""
        facts = self.sandbox.facts
        app = facts["apps"][0]
        with write(self.engine) as connection:
            app_registrations.add_app(
                connection,
                self.vault,
                name="stage",
                client_id=app["client_id"],
                credential=app_registrations.Credential.secret(app["secrets"][0]),
            )
            for slug in self.slugs:
                tenants.add_tenant(
                    connection,
                    slug=slug,
                    directory_id=self.sandbox.directory_id(slug),
                    app="stage",
                    authority=facts["entra_url"],
                    smtp_host=facts["smtp_host"],
                    smtp_port=facts["smtp_port"],
                    ca_file=str(self.sandbox.ca_file),
                    notify={"default": [f"ops@{slug}.example"]},
                )
                mailboxes.add_mailbox(
                    connection, tenant_slug=slug, address=f"alerts@{slug}.example"
                )

    def connect_all(self) -> Iterator[str]:
        """Consent for every tenant through the real authorization code flow; yields slugs."""
        with ThreadPoolExecutor(CONSENTS_AT_ONCE) as threads:
            yield from threads.map(self.connect, self.slugs)

    def connect(self, slug: str) -> str:
        """Consent for one tenant: sign in on the box's pages, press Accept, redeem the code."""
        mailbox_id = self.mailbox_id(slug)
        with read(self.engine) as connection:
            sender = senders.sender(connection, mailbox_id)
            assert sender is not None
            app = app_registrations.open_app(connection, self.vault, sender.app_id)
        entra = Entra(ca_file=str(self.sandbox.ca_file), timeout_seconds=30)
        flow = entra.begin(sender, app.credential, redirect_uri=CALLBACK)
        person = Person(address=sender.address, ca_file=self.sandbox.ca_file)
        callback = person.go_through(flow["auth_uri"])
        consent = entra.complete(sender, app.credential, flow=flow, callback=callback)
        with write(self.engine) as connection:
            grant = grants.connect_mailbox(
                connection,
                self.vault,
                mailbox_id=mailbox_id,
                kind=grants.DELEGATED,
                cache=consent.tokens.cache,
                account=consent.account,
                tenant_claim=consent.tenant_claim,
                object_claim=consent.object_claim,
            )
        keys = RedisKeys(self.settings.redis_prefix)
        first_token.share(
            self.settings.redis_url, keys, self.vault, grant=grant, tokens=consent.tokens
        )
        return slug

    def mailbox_ids(self, connection: Connection) -> list[UUID]:
        """Name all mailboxes."""
        return [entry.id for entry in mailboxes.list_mailboxes(connection)]

    def mailbox_id(self, slug: str) -> UUID:
        """Name a tenant's mailbox."""
        with read(self.engine) as connection:
            return mailboxes.mailbox(connection, f"alerts@{slug}.example").id

    # -- workers -----------------------------------------------------------------------------

    def worker_environment(self) -> dict[str, str]:
        """Give the variables that a worker of this stage is started with."""
        settings = self.settings
        env = {
            "ALERTPOST_DATABASE_URL": settings.sqlalchemy_url.replace("+psycopg", ""),
            "ALERTPOST_REDIS_URL": settings.redis_url,
            "ALERTPOST_REDIS_PREFIX": settings.redis_prefix,
            "ALERTPOST_DATA_DIR": str(self._directory),
            "ALERTPOST_SECRET_KEYS": ",".join(
                key.get_secret_value() for key in settings.secret_keys
            ),
            "ALERTPOST_LOG__FORMAT": "json",
        }
        for group, values in self._changes.items():
            if isinstance(values, Mapping):
                for name, value in values.items():
                    env[f"ALERTPOST_{group.upper()}__{name.upper()}"] = str(value)
        return env

    def start_worker(self, number: int, **changes: str) -> int:
        """Start a worker process, its variables changed as given; returns its process id."""
        env = self.worker_environment() | changes
        child = Child(f"worker-{number}", (sys.executable, "-m", "workers.main"), env=env)
        process = self._start(child, log_file=self._directory / f"worker-{number}.log")
        self.workers[number] = process
        return process.pid

    def wait_for_workers(self) -> None:
        """
        Wait until every worker says that it has started.

        Raises:
            ConfigurationError: One ended, or took too long; carries its last line.
        """
        deadline = time.monotonic() + START_SECONDS
        for number, process in self.workers.items():
            log = self._directory / f"worker-{number}.log"
            while '"event": "worker_start"' not in (said := _said(log)):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ConfigurationError(f"worker {number} did not start: {said[-500:]}")
                time.sleep(0.02)

    def kill_worker(self, number: int) -> None:
        """End a worker as a power cut would."""
        process = self.workers.pop(number)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop_workers(self) -> None:
        """Stop all workers gracefully."""
        for process in self.workers.values():
            process.terminate()
        for process in self.workers.values():
            _end(process)
        self.workers.clear()

    def _start(self, child: Child, *, log_file: Path) -> subprocess.Popen[bytes]:
        """Start a child whose output goes to a file; the guard ends it should we be killed."""
        # The supervisor's starter lets the child inherit our output; the shell redirects it.
        script = ("/bin/sh", "-c", 'log=$0; exec "$@" >>"$log" 2>&1', str(log_file), *child.argv)
        return start(Child(child.name, script, env=child.env), self._guard)


def _wait_for(file: Path, process: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            said = _said(file.with_name("sandbox.log"))[-500:]
            raise ConfigurationError(f"{what} did not start: {said or 'it said nothing'}")
        time.sleep(0.02)


def _said(log: Path) -> str:
    return log.read_text("utf-8", "replace").strip() if log.exists() else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
