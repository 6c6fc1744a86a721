"""The command line against a sandbox, for the tests of this folder."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import structlog

from console import verbs_mailboxes
from console.cli import main
from console.context import Context, opened
from models import grants
from sandbox.person import Person
from sandbox.server import SandboxServer
from sandbox.tokens import TokenSigner
from sandbox.worldfile import build_world, contoso_and_friends

ALERTS = "alerts@contoso.example"
CALLBACK = "http://localhost:8400/oauth/callback"


@dataclass
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class SandboxThread:
    """A sandbox on a loop of its own."""

    def __init__(self, directory: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        # One key for the run: to make one takes longer than what most tests do.
        signer = TokenSigner.kept_in(directory / "signing.key")
        world = build_world(contoso_and_friends(["contoso", "fabrikam"]), signer=signer)
        self.server = SandboxServer(world, directory=directory)
        self._run(self.server.start())

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def close(self) -> None:
        self._run(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def logs_as_they_were() -> Iterator[None]:
    """Undo what a command does to the whole process."""
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    hooks = sys.excepthook, threading.excepthook
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:], logging.raiseExceptions = handlers, raises
        root.setLevel(level)
        sys.excepthook, threading.excepthook = hooks
        structlog.reset_defaults()


@dataclass
class Cli:
    """Runs ``alertpost`` on a data directory of its own."""

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    folder: Path
    sandbox: SandboxServer
    given: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, stdin: str | None = None) -> Ran:
        """Run in this process."""
        self.capsys.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["alertpost", *arguments])
        self.monkeypatch.setattr(sys, "stdin", io.StringIO(stdin or ""))
        code = 0
        with logs_as_they_were():
            try:
                main()
            except SystemExit as ended:
                code = int(ended.code or 0)
        captured = self.capsys.readouterr()
        assert "Traceback" not in captured.err, captured.err
        return Ran(code, captured.out, captured.err)

    @contextmanager
    def process(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Run in a process, for what is watched while it runs."""
        process = subprocess.Popen(
            [sys.executable, "-m", "console.cli", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **{"stderr": subprocess.PIPE} | options,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.communicate(timeout=40)
            except ValueError:
                process.wait(timeout=40)

    def secret_file(self, value: str | None = None) -> str:
        """Write the sandbox app's secret, or another one, to a file."""
        app = next(iter(self.sandbox.world.apps.values()))
        path = self.folder / "secret.txt"
        path.write_text((value or app.client_secrets[0].value) + "\n")
        return str(path)

    @property
    def client_id(self) -> str:
        return next(iter(self.sandbox.world.apps))

    def directory(self, slug: str = "contoso") -> Any:
        directory = self.sandbox.world.directory_named(slug)
        assert directory is not None
        return directory

    def add_tenant(self, slug: str = "contoso", *more: str) -> Ran:
        """Add a tenant that the sandbox knows."""
        return self(
            "tenants", "add", slug,
            "--directory-id", self.directory(slug).tenant_id,
            "--client-id", self.client_id,
            "--client-secret-file", self.secret_file(),
            *self.places(),
            *more,
        )  # fmt: skip

    def places(self) -> list[str]:
        """Give the options that lead to the sandbox."""
        return [
            "--authority", self.sandbox.entra_url,
            "--smtp-host", self.sandbox.smtp_host,
            "--smtp-port", str(self.sandbox.smtp_port),
            "--ca-file", str(self.sandbox.ca_file),
            "--notify", "ops@contoso.example",
        ]  # fmt: skip

    def person(self, address: str = ALERTS, **options: Any) -> Person:
        return Person(address, self.sandbox.ca_file, **options)

    def connected(self, slug: str = "contoso") -> str:
        """Add a tenant with a connected mailbox; give its address."""
        address = f"alerts@{slug}.example"
        assert self.add_tenant(slug).code == 0
        assert self("mailboxes", "add", slug, address).code == 0
        with opened() as context:
            self.consent(context, address)
        return address

    def consent(self, context: Context, address: str, *, account: str | None = None) -> None:
        """Let the right person consent, without the loopback callback."""
        who = verbs_mailboxes.account(context, address, kind=grants.DELEGATED)
        client = verbs_mailboxes.entra(context, who.sender)
        flow = verbs_mailboxes.begin(client, who, redirect_uri=CALLBACK)
        callback = self.person(account or address).go_through(flow["auth_uri"])
        verbs_mailboxes.complete(
            context, client, who, flow=flow, callback=callback, actor="cli:test"
        )

    def sign_in(
        self, process: subprocess.Popen[str], person: Person | None = None
    ) -> requests.Response:
        """Follow the printed address and bring the callback back over loopback."""
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("https://"), address + process.communicate()[1]
        parameters = (person or self.person()).go_through(address)
        uri = requests.utils.unquote(address.split("redirect_uri=")[1].split("&")[0])
        with requests.Session() as browser:
            browser.trust_env = False
            return browser.get(uri, params=parameters, timeout=20)
