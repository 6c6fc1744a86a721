"""``alertpost up``, ``worker`` and ``sandbox``: what runs until it is stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import IntEnum
from functools import partial
from pathlib import Path
from shlex import join, quote
from typing import Annotated, Any

import redis
import typer
from sqlalchemy import Connection

from console import key_users, processes
from console.commands.status import first_step
from console.context import opened
from console.data_dir import DataDir
from console.embedded_redis import EmbeddedRedis
from console.installation import begun, where_to_type
from console.output import complain, out
from console.processes import SandboxProcess
from console.supervisor import Supervisor
from models import logs, mailboxes, redis_probe, sql_probe, tenants
from models.database import create_engine_from, read
from models.errors import ConfigurationError
from models.overview import overview
from models.redis_keys import RedisKeys
from models.redis_routes import refuse_cluster
from models.redis_trouble import explained
from models.settings import Settings
from sandbox.defaults import DEFAULT_TENANTS

Processes = Annotated[
    int | None,
    typer.Option("--processes", metavar="N", min=1, max=256, help="Worker processes."),
]
Concurrency = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=4096, help="Visits at once in each process."),
]
Port = Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 takes any.")]


def up(
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Run Microsoft 365 in a box beside it.")
    ] = False,
    how_many: Processes = None,
    concurrency: Concurrency = None,
) -> None:
    """
    Run everything: Redis, SQL, workers. Ctrl-C stops it, starting again finds all as it was.

    What is not set comes from the data directory (--data-dir, ALERTPOST_DATA_DIR, else `var`),
    which is made where it is missing: an SQLite file, a key, an embedded Redis server with its
    data. Consent pages are served where there is an
    ALERTPOST_PUBLIC_URL.
    """
    given = Settings.load()
    logs.setup(given.log, process="up")
    directory = DataDir.prepare(given.data_dir)
    with ExitStack() as stack:
        stack.enter_context(directory.lock())
        children = []
        server = None
        if not given.redis_url:
            server = EmbeddedRedis.prepare(directory.redis)
            children.append(processes.embedded_redis(server))
        settings = _checked_settings(stack, given)
        if server is None:
            refuse_cluster(settings)
        box = SandboxProcess.prepare(directory.path / "sandbox") if sandbox else None
        if box is not None:
            children.append(box.child())
        workers = processes.workers(given, settings, processes=how_many, concurrency=concurrency)
        children += workers
        if settings.public_url:
            children.append(processes.consents(given, settings))
        screen = _Screen(directory, settings, server, box, len(workers))
        code = Supervisor(children, on_ready=screen.show).run()
    if not screen.shown:
        screen.explain()
    elif code == 0:
        complain(f"stopped; everything is kept in {directory.path}")
    raise typer.Exit(code)


def worker(
    how_many: Processes = None,
    concurrency: Concurrency = None,
) -> None:
    """Run workers only; Redis, and as a rule PostgreSQL, run elsewhere. Start as many as needed."""
    given = Settings.load()
    logs.setup(given.log, process="worker-supervisor")
    with ExitStack() as stack:
        with opened() as context:
            # Without a key it could send nothing.
            _, settings = context.vault, context.settings
        if not settings.redis_url:
            raise ConfigurationError(
                "a worker needs Redis: set ALERTPOST_REDIS_URL, or use `alertpost up`, which "
                "brings one along"
            )
        if not given.redis_url and not _answers(settings.redis_url):
            raise ConfigurationError(
                f"the embedded Redis of {settings.data_dir} is not running: `alertpost up` runs it "
                "together with workers; or set ALERTPOST_REDIS_URL"
            )
        refuse_cluster(settings)
        _announce_keys(stack, given, settings)
        _tell_what_refuses(settings)
        children = processes.workers(given, settings, processes=how_many, concurrency=concurrency)
        code = Supervisor(children).run()
    raise typer.Exit(code)


def sandbox(
    *,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Keys, state.  [default: var/sandbox]"),
    ] = None,
    entra_port: Port = 0,
    smtp_port: Port = 0,
    world: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON with tenants and apps.")
    ] = None,
    tenants: Annotated[
        str, typer.Option(metavar="A,B,C", help="Without --world: tenants to make.")
    ] = ",".join(DEFAULT_TENANTS),
    ready_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Written as JSON once all listens.")
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Start afresh, not as it was at the last stop.")
    ] = False,
) -> None:
    """
    Run Microsoft 365 in a box, on 127.0.0.1, until Ctrl-C.

    Started again it is as it was: consents, refresh tokens, switches, secrets. What it took and
    counted is forgotten.
    """
    # A web server and a mail server: not for every other command to load.
    from sandbox.server import SandboxOptions, run  # noqa: PLC0415

    options = SandboxOptions(
        directory=directory or Settings.load().data_dir / "sandbox",
        entra_port=entra_port,
        smtp_port=smtp_port,
        world_file=world,
        tenants=tuple(slug.strip() for slug in tenants.split(",") if slug.strip()),
        ready_file=ready_file,
        forget=forget,
    )
    raise typer.Exit(run(options))


class _Screen:
    """What ``up`` tells: what runs where and what to do next, or why it does not run."""

    def __init__(
        self,
        directory: DataDir,
        settings: Settings,
        server: EmbeddedRedis | None,
        box: SandboxProcess | None,
        workers: int,
    ) -> None:
        self._directory, self._settings = directory, settings
        self._server, self._box, self._workers = server, box, workers
        self.shown = False

    def show(self) -> None:
        """Print it; called once everything is ready."""
        self.shown = True
        _tell_what_refuses(self._settings)
        masked = self._settings.masked()
        database = masked["database_url"] or self._directory.path / "alertpost.db"
        redis_at = self._server.directory if self._server else masked["redis_url"]
        _say(f"alertpost runs, on {self._directory.path}")
        _say(f"  SQL        {database}")
        _say(f"  Redis      {redis_at}{' (embedded)' if self._server else ''}")
        _say(f"  Workers    {self._workers}")
        if self._settings.public_url:
            pages = self._settings.consents
            _say(f"  Consents   {pages.host}:{pages.port}, for {self._settings.public_url}")
        if self._box is not None:
            self._show_box(self._box.facts())
        else:
            self._show_next(_next_step(self._settings) or "alertpost send --help")
        _say("Ctrl-C stops it.")

    def _show_next(self, *commands: str) -> None:
        _say(f"Next, in another terminal{where_to_type(self._settings)}:")
        for command in commands:
            _say(f"  {begun(self._settings, command)}")

    def explain(self) -> None:
        """Say why it did not come up."""
        if self._server is not None and self._server.readiness() is not True:
            words = self._server.last_words()
            complain(f"it did not come up; the embedded Redis says: {words}")
        if self._box is not None and not self._box.ready_file.exists():
            complain(f"it did not come up; the sandbox says: {self._box.last_words()}")

    def _show_box(self, facts: dict[str, Any]) -> None:
        tenant, app = facts["tenants"][0], facts["apps"][0]
        account = tenant["accounts"][0]
        add = [
            "alertpost", "tenants", "add", tenant["slug"],
            "--directory-id", tenant["tenant_id"], "--client-id", app["client_id"],
            "--client-secret-file", "-", "--authority", facts["entra_url"],
            "--smtp-host", facts["smtp_host"], "--smtp-port", str(facts["smtp_port"]),
            "--ca-file", facts["ca_file"], "--notify", account["address"],
        ]  # fmt: skip
        _say(f"  Sandbox    {facts['entra_url']}, SMTP on port {facts['smtp_port']}")
        there = _what_is_there(self._settings, tenant["slug"], account["address"])
        begin = partial(begun, self._settings)
        steps = {
            _There.NOTHING: f"echo {quote(app['secrets'][0])} | {begin(join(add))}",
            _There.TENANT: begin(
                f"alertpost mailboxes add {tenant['slug']} {quote(account['address'])}"
            ),
            _There.MAILBOX: begin(f"alertpost mailboxes connect {quote(account['address'])}")
            + f"   # the password is {account['password']}",
        }
        left = [step for before, step in steps.items() if before >= there]
        if not left:
            self._show_next(
                f"alertpost mailboxes test {quote(account['address'])} --to you@example.com"
            )
            return
        _say(f"Next, in another terminal{where_to_type(self._settings)},")
        _say("to add one of the sandbox's tenants (nothing of it is real):")
        for step in left:
            _say(f"  {step}")
        _say("  (the browser warns of the sandbox's own certificate: go on)")


class _There(IntEnum):
    """How much of the sandbox's first mailbox is known here."""

    NOTHING = 0
    TENANT = 1
    MAILBOX = 2
    CONNECTED = 3


def _what_is_there(settings: Settings, slug: str, address: str) -> _There:
    with _looking(settings) as conn:
        if slug not in {entry.slug for entry in tenants.list_tenants(conn)}:
            return _There.NOTHING
        boxes = {entry.address: entry for entry in mailboxes.list_mailboxes(conn, tenant_slug=slug)}
    if address not in boxes:
        return _There.TENANT
    return _There.MAILBOX if boxes[address].connected_at is None else _There.CONNECTED


def _next_step(settings: Settings) -> str | None:
    with _looking(settings) as conn:
        return first_step(overview(conn, settings.pacing.day_limits))


@contextmanager
def _looking(settings: Settings) -> Iterator[Connection]:
    engine = create_engine_from(settings.sqlalchemy_url)
    try:
        with read(engine) as conn:
            yield conn
    finally:
        engine.dispose()


def _checked_settings(stack: ExitStack, given: Settings) -> Settings:
    """Fill in what the directory knows, bring our own SQLite up to date, announce the keys."""
    with opened(making=True) as context:
        settings = context.settings
    _announce_keys(stack, given, settings)
    return settings


def _announce_keys(stack: ExitStack, given: Settings, settings: Settings) -> None:
    if not given.secret_keys:
        keys = [key.get_secret_value() for key in settings.secret_keys]
        stack.enter_context(key_users.using(DataDir.prepare(given.data_dir), keys))


def _answers(url: str) -> bool:
    client = redis_probe.client_of(url)
    try:
        return bool(client.ping())
    except redis.RedisError as error:
        # What answers is there, whatever it refuses.
        return explained(error).answers
    finally:
        client.close()


def _tell_what_refuses(settings: Settings) -> None:
    """Say at the start what would keep workers from working; they begin by themselves after it."""
    client = redis_probe.client_of(settings.redis_url)
    try:
        state = redis_probe.look(client, RedisKeys(settings.redis_prefix))
    finally:
        client.close()
    for trouble in (sql_probe.look(settings), state.trouble):
        if trouble is not None:
            complain(f"nothing is sent now: {trouble.text}; {trouble.next_step}")
    if state.risk is not None:
        complain(f"{state.risk.text}; {state.risk.next_step}")


def _say(text: str) -> None:
    out.print(text, markup=False)
