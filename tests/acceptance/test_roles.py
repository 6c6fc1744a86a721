"""PostgreSQL's roles of ``deploy/roles.sql``: each can do its work, and is refused all else."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import LargeBinary, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from console import verbs_consents
from console.cli import main
from console.context import Context
from console.verbs_consents import Ending, Invitation
from console.verbs_mailboxes import Connected
from models import consent_links, lane, schema, sql_probe
from models.database import create_engine_from, write
from models.errors import StoreUnavailable
from models.settings import Settings
from models.tables import METADATA
from models.vault import Vault
from producers.enqueue import Producer
from sandbox.person import Person
from tests.console.cli_setting import logs_as_they_were
from tests.fixtures.databases import database_copy
from tests.fixtures.roles import DEPLOY, ROLES, Roles, roles_in
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import send
from workers import health

ROOT = Path(__file__).parents[2]
EXIT_AWAY = 5
RIGHTS = (DEPLOY / "rights.sql").read_text("utf-8")


@pytest.fixture
def database_kind() -> str:
    """SQLite has no roles."""
    return "postgresql"


@pytest.fixture(scope="module")
def roles(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Roles]:
    """Give the roles of a migrated database, which tests of this module leave as it was."""
    folder = tmp_path_factory.mktemp("roles")
    with database_copy(request, "postgresql", folder) as url, roles_in(url, folder) as made:
        made.run("roles.sql")
        yield made


def execute(url: str, *statements: str) -> list[Any]:
    """Run statements in a transaction that is rolled back; give what the last one returned."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    with engine.connect() as conn:
        results = [conn.execute(text(statement)) for statement in statements]
        last = results[-1]
        return list(last) if last.returns_rows else []


# -- the files -------------------------------------------------------------------------------------


def test_rights_speak_of_what_is_there() -> None:
    """
    Rights on what no table has would be left out without a word: each of their names is known.

    And what is sealed is known by its name, which is how readers are kept from it.
    """
    given = re.findall(r"\('(\w+)', '([A-Z, ]+)', '(\w+)',\s*((?:'[^']*'\s*)+)\)", RIGHTS)
    assert len(given) == RIGHTS.count("\n    ('")
    for role, may, table, quoted in given:
        assert role in ROLES
        columns = "".join(re.findall(r"'([^']*)'", quoted)).split()
        if table == "alembic_version":
            assert may == "SELECT"
            continue
        known = METADATA.tables[table].c
        if columns not in (["*"], ["open"]):
            assert set(columns) <= set(known.keys()), table
            assert len(set(columns)) == len(columns)
        if columns != ["*"]:
            assert may in {"SELECT", "INSERT", "UPDATE"}
    for table in METADATA.tables.values():
        for column in table.c:
            assert isinstance(column.type, LargeBinary) == column.name.endswith("_encrypted")


def test_the_owner_gets_each_table() -> None:
    """Tables of before there were roles go to the owner, all of them."""
    listed = re.search(r"relname IN \(([^)]*)\)", (DEPLOY / "roles.sql").read_text("utf-8"))
    assert listed is not None

    assert set(re.findall(r"'(\w+)'", listed[1])) == {"alembic_version", *METADATA.tables}


# -- from an empty database to a mail --------------------------------------------------------------


@dataclass
class Command:
    """Runs ``alertpost`` in this process, without a key."""

    monkeypatch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]

    def __call__(self, settings: Settings, *argv: str) -> tuple[int, str, str]:
        for name in [name for name in os.environ if name.startswith("ALERTPOST_")]:
            self.monkeypatch.delenv(name)
        self.monkeypatch.setenv("ALERTPOST_DATABASE_URL", settings.database_url)
        self.monkeypatch.setenv("ALERTPOST_REDIS_URL", settings.redis_url)
        self.monkeypatch.setenv("ALERTPOST_REDIS_PREFIX", settings.redis_prefix)
        self.monkeypatch.setenv("ALERTPOST_DATA_DIR", str(settings.data_dir / "never"))
        self.monkeypatch.setattr(sys, "argv", ["alertpost", *argv])
        self.capture.readouterr()
        with logs_as_they_were(), pytest.raises(SystemExit) as ended:
            main()
        out, err = self.capture.readouterr()
        return int(ended.value.code or 0), out, err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def test_made_twice_and_migrated_by_the_owner(empty_url: str, tmp_path: Path) -> None:
    """
    On an empty database: roles, then tables by their owner, then rights by the owner alone.

    The passwords are those of the files. Tables that somebody else made go to the owner later.
    """
    with roles_in(empty_url, tmp_path / "secrets") as made:
        for _ in range(2):
            made.run("roles.sql")
        with pytest.raises(StoreUnavailable, match=f'"{made.name("worker")}", at CREATE'):
            _upgrade(made.url_of("worker"))
        _upgrade(made.url_of("owner"))
        with pytest.raises(DBAPIError, match="permission denied"):
            execute(made.url_of("reader"), "SELECT count(*) FROM mailbox")
        for _ in range(2):
            made.run("rights.sql", role="owner")

        assert execute(made.url_of("reader"), "SELECT count(id) FROM mailbox") == [(0,)]
        owners = execute(empty_url, "SELECT DISTINCT tableowner::text FROM pg_tables"
                         " WHERE schemaname = 'public'")  # fmt: skip
        assert owners == [(made.name("owner"),)]
        for role in ROLES:
            (kept,) = execute(
                empty_url,
                f"SELECT rolpassword FROM pg_authid WHERE rolname = '{made.name(role)}'",
            )
            assert _is_password(kept[0], (made.secrets / f"{role}_password").read_text("utf-8"))

        # As a database of before there were roles, or one that an administrator migrated.
        engine = create_engine(empty_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as conn:
            conn.execute(text("ALTER TABLE delivery OWNER TO CURRENT_USER"))
            conn.execute(text("CREATE TABLE of_somebody_else (id int)"))
        made.run("roles.sql")
        owners = execute(empty_url, "SELECT tablename::text FROM pg_tables WHERE tableowner = "
                         "current_user AND schemaname = 'public'")  # fmt: skip
        assert owners == [("of_somebody_else",)]

        # What a later version's migration makes: nobody gave rights on it yet.
        execute_for_good(made.url_of("owner"), "CREATE TABLE later (id int)")
        execute(made.url_of("worker"), "INSERT INTO later VALUES (1)")
        with pytest.raises(DBAPIError, match="permission denied"):
            execute(made.url_of("reader"), "SELECT * FROM later")


def execute_for_good(url: str, statement: str) -> None:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    with engine.begin() as conn:
        conn.execute(text(statement))


def _upgrade(url: str) -> None:
    engine = create_engine_from(url)
    try:
        schema.upgrade(engine)
    finally:
        engine.dispose()


def _is_password(kept: str, password: str) -> bool:
    """Check a password by what the server keeps of it, as RFC 5803 writes it down."""
    _, iterations, salt, stored, _ = re.split(r"[$:]", kept)
    salted = hashlib.pbkdf2_hmac(
        "sha256", password.encode(), base64.b64decode(salt), int(iterations)
    )
    client = hmac.digest(salted, b"Client Key", "sha256")
    return hashlib.sha256(client).digest() == base64.b64decode(stored)


async def test_each_role_does_its_work(whole: Whole, command: Command, tmp_path: Path) -> None:
    """A door hands in, a real worker sends, a reader looks; none of them is more than that."""
    with roles_in(whole.administrator.database_url, tmp_path / "secrets") as made:
        made.run("roles.sql")
        door, worker, reader = (
            whole.settings.model_copy(update={"database_url": made.url_of(role)})
            for role in ("door", "worker", "reader")
        )
        hand_in = Whole(
            whole.engine, door, whole.vault, whole.sandbox, Producer.from_settings(door),
            whole.services,
        )  # fmt: skip
        try:
            receipts = [send(hand_in, idempotency_key="once") for _ in range(2)]
        finally:
            hand_in.producer.close()
        assert [receipt.created for receipt in receipts] == [True, False]

        process = _start_worker(_maybe_in_clear(worker))
        try:
            row = whole.row
            await whole.until(lambda: row(receipts[0].delivery_id).state == "accepted")
            assert health.check(worker).startswith("healthy")
            with pytest.raises(StoreUnavailable, match="lacks a right"):
                health.check(door)
            code, out, err = command(reader, "status", "--json")
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0
        assert "permission denied" not in log
        (told,) = (line for line in log.splitlines() if "database_in_clear" in line)
        assert json.loads(told)["level"] == "warning"
        assert json.loads(told)["hosts"] == ["db.example"]
        assert len(whole.outbox()) == 1
        (attempt,) = whole.attempts(receipts[0].delivery_id)
        assert f"-{process.pid}-" in attempt.worker
        assert (code, err) == (0, "")
        seen = json.loads(out)
        assert process.pid in {one["pid"] for one in seen["workers"]}
        assert seen["sql"]["writes"] is None
        assert "looked at as a reader" in seen["sql"]["reason"]

        for argv in _LOOKS:
            words = [word.format(id=receipts[0].delivery_id) for word in argv]
            code, out, err = command(reader, *words)
            assert (code, err) == (0, ""), words
            assert out, words
        code, _, err = command(reader, "mailboxes", "park", "alerts@contoso.example")
        assert code == EXIT_AWAY
        assert f'"{made.name("reader")}", at UPDATE, lacks a right' in " ".join(err.split())


async def test_the_pages_keep_a_consent(whole: Whole, tmp_path: Path) -> None:
    """A link is opened, signed in by and ended, with no more than the pages' role may."""
    with roles_in(whole.administrator.database_url, tmp_path / "secrets") as made:
        made.run("roles.sql")
        mailbox_id = whole.mailbox_id("contoso")
        with write(whole.engine) as conn:
            lane.park(
                conn, mailbox_id=mailbox_id, scope="mailbox", reason="tokens-revoked",
                meaning="m", next_step="n", answer="a", probe_after_seconds=None,
            )  # fmt: skip
            _, token = consent_links.make(
                conn, whole.vault, mailbox_id=mailbox_id, lasts=timedelta(days=1), made_by="x"
            )
        changes = {"database_url": made.url_of("consents"), "public_url": "http://localhost:8400"}
        settings = whole.settings.model_copy(update=changes)
        engine = create_engine_from(settings.sqlalchemy_url)
        context = Context(settings, engine, whole.vault, None)
        try:
            ending = await asyncio.to_thread(_consent, context, whole, token)
        finally:
            engine.dispose()

        assert isinstance(ending, Connected)
        assert whole.mailbox(mailbox_id).parked_at is None


def _consent(context: Context, whole: Whole, token: str) -> Ending:
    assert isinstance(verbs_consents.look(context, token, remember=True), Invitation)
    address = verbs_consents.start(context, token)
    assert isinstance(address, str)
    person = Person("alerts@contoso.example", whole.sandbox.ca_file)
    return verbs_consents.finish(context, person.go_through(address))


_LOOKS: tuple[Sequence[str], ...] = (
    ("status",),
    ("report",),
    ("deliveries", "list"),
    ("deliveries", "show", "{id}"),
    ("tenants", "list"),
    ("mailboxes", "list"),
    ("mailboxes", "show", "alerts@contoso.example"),
    ("apps", "list"),
    ("expiries",),
    ("dead", "list"),
    ("audit", "list", "--tenant", "contoso"),
    ("apps", "show", "contoso"),
    ("suppressions", "list"),
    ("warnings",),
    ("mailboxes", "consents"),
)


def _maybe_in_clear(settings: Settings) -> Settings:
    """Name a second host, which nobody has to ask, beyond this machine and without sslmode."""
    url = make_url(settings.database_url)
    named = url.update_query_dict({"host": f"{url.query['host']},db.example"})
    return settings.model_copy(update={"database_url": named.render_as_string(hide_password=False)})


def _start_worker(settings: Settings) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if "ALERTPOST" not in name}
    environment = kept | {
        "ALERTPOST_DATABASE_URL": settings.database_url,
        "ALERTPOST_REDIS_URL": settings.redis_url,
        "ALERTPOST_REDIS_PREFIX": settings.redis_prefix,
        "ALERTPOST_DATA_DIR": str(settings.data_dir),
        "ALERTPOST_SECRET_KEYS": settings.secret_keys[0].get_secret_value(),
        "ALERTPOST_SWEEP__INTERVAL_SECONDS": "0.2",
        "ALERTPOST_LOG__FORMAT": "json",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "workers.main"],
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


# -- what is refused -------------------------------------------------------------------------------

SEALED = {
    f'SELECT {column.name} FROM "{table.name}"': table.name
    for table in METADATA.tables.values()
    for column in table.c
    if column.name.endswith("_encrypted")
}
ELSEWHERE = (
    "UPDATE tenant SET authority = 'https://x.example'",
    "UPDATE tenant SET oidc_authority = 'https://x.example'",
    "UPDATE tenant SET smtp_host = 'x.example', smtp_port = 25",
    "UPDATE tenant SET route_encrypted = NULL",
    "UPDATE tenant SET ca_file = '/tmp/x.pem'",
    "UPDATE tenant SET app_registration_id = app_registration_id",
    "UPDATE app_registration SET client_id = 'x'",
    "UPDATE app_credential SET client_secret_encrypted = NULL",
    "UPDATE \"grant\" SET kind = 'app_only'",
    "UPDATE mailbox SET address = 'x@x.example'",
    "UPDATE mailbox SET auth_user = 'x@x.example'",
    "UPDATE mailbox SET tenant_id = tenant_id",
    "DELETE FROM tenant",
    "DELETE FROM app_credential",
)
TABLES = (
    "CREATE TABLE mine (id int)",
    "ALTER TABLE delivery ADD COLUMN mine int",
    "DROP TABLE attempt",
    "TRUNCATE delivery",
    "CREATE INDEX mine ON delivery (subject)",
    "UPDATE alembic_version SET version_num = '0001'",
)
TRAIL = ("UPDATE audit_entry SET actor = 'x'", "DELETE FROM audit_entry")
CONTENT = (
    "UPDATE delivery SET payload_encrypted = ''",
    "UPDATE delivery SET recipients = '[]'",
    "DELETE FROM delivery",
)
ANY_CHANGE = (
    *(f'UPDATE "{name}" SET {next(iter(table.c)).name} = {next(iter(table.c)).name}'
      for name, table in METADATA.tables.items()),
    *(f'DELETE FROM "{name}"' for name in METADATA.tables),
    *(f'INSERT INTO "{name}" DEFAULT VALUES' for name in METADATA.tables
      if name not in {"delivery", "content_piece"}),
)  # fmt: skip
PAGES = {"consent_link", "sign_in"}

REFUSED: dict[str, tuple[str, ...]] = {
    "admin": (*TABLES, *TRAIL),
    "worker": (
        *TABLES, *TRAIL, *ELSEWHERE, *CONTENT,
        'INSERT INTO "grant" DEFAULT VALUES', 'DELETE FROM "grant"',
        *(statement for statement, table in SEALED.items() if table in PAGES),
    ),
    "consents": (
        *TABLES, *TRAIL, *ELSEWHERE, *CONTENT,
        "SELECT subject FROM delivery",
        *(statement for statement, table in SEALED.items() if table in {"delivery", "content_piece"}),
    ),
    "door": (
        *TABLES, *TRAIL, *ELSEWHERE, *CONTENT, *SEALED, *ANY_CHANGE,
        *(f'SELECT * FROM "{name}"' for name in ("grant", "app_credential", *sorted(PAGES))),
        "SELECT subject FROM delivery",
        "SELECT recipients FROM delivery",
        "UPDATE delivery SET state = 'accepted'",
        "UPDATE mailbox SET park_reason = 'removed'",
    ),
    "reader": (
        *TABLES, *TRAIL, *ELSEWHERE, *CONTENT, *SEALED, *ANY_CHANGE,
        "INSERT INTO delivery (id) VALUES (gen_random_uuid())",
        "INSERT INTO content_piece (id) VALUES (gen_random_uuid())",
        "SELECT id FROM mailbox FOR KEY SHARE",
    ),
}  # fmt: skip


@pytest.mark.parametrize("role", REFUSED)
def test_a_role_is_refused_what_is_not_its_work(roles: Roles, role: str) -> None:
    """No secret is led elsewhere, no sealed value read, no table and no trail changed."""
    url = roles.url_of(role).replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(url, poolclass=NullPool)
    granted = []
    with engine.connect() as conn:
        for statement in dict.fromkeys(REFUSED[role]):
            try:
                with conn.begin():
                    conn.execute(text(statement))
                    granted.append(statement)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != "42501":
                    granted.append(f"{statement}: {error.orig}")

    assert granted == []


def test_who_lacks_a_right_is_told_which(roles: Roles, command: Command, tmp_path: Path) -> None:
    """A sentence names the role, what it was about to do and what to do; there is no trace."""
    settings = Settings.load(database_url=roles.url_of("door"), data_dir=tmp_path)
    code, _, err = command(settings, "mailboxes", "list")

    told = " ".join(err.split())
    assert code == EXIT_AWAY
    assert f'the PostgreSQL user "{roles.name("door")}", at SELECT, lacks a right' in told
    assert "permission denied for table" in told
    assert "deploy/rights.sql" in told


def test_doctor_tells_of_a_line_that_may_be_in_clear(
    roles: Roles, command: Command, tmp_path: Path
) -> None:
    """Without sslmode, beyond this machine; where it is said, nothing is."""
    settings = _maybe_in_clear(Settings.load(database_url=roles.url_of("admin"), data_dir=tmp_path))
    said = settings.model_copy(update={"database_url": f"{settings.database_url}&sslmode=disable"})
    found = []
    for given in (settings, said):
        _, out, _ = command(given, "doctor", "--json")
        found.append(next(check for check in json.loads(out) if check["check"] == "sql"))

    assert [check["result"] for check in found] == ["warning", "ok"]
    assert "the line to db.example may be unencrypted" in found[0]["seen"]
    assert "sslmode=verify-full" in found[0]["mend"]


# -- the probe -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "who"),
    [("owner", "worker"), ("admin", "worker"), ("worker", "worker"), ("door", "door"),
     ("reader", "reader")],
)  # fmt: skip
def test_each_role_is_probed_by_its_work(roles: Roles, role: str, who: str) -> None:
    """What a role may not do says nothing of the database; of a worker's it does."""
    settings = Settings.load(
        database_url=roles.url_of(role), secret_keys=(SecretStr(Vault.new_key()),)
    )

    looked = sql_probe.look_as_permitted(settings)
    strict = sql_probe.look(settings)

    assert (looked.trouble, looked.who) == (None, who)
    assert (looked.caveat is None) == (who == "worker")
    assert (strict is None) == (who == "worker")
    if strict is not None:
        assert f'"{roles.name(role)}"' in strict.text
        assert "the role that this is for" in strict.next_step


@pytest.mark.parametrize("role", ["door", "reader"])
def test_a_standby_refuses_a_door_and_serves_a_reader(roles: Roles, role: str) -> None:
    """A door tries to write what it writes; a reader is no worse off."""
    url = f"{roles.url_of(role)}&options=-c%20default_transaction_read_only%3Don"
    looked = sql_probe.look_as_permitted(Settings.load(database_url=url))

    if role == "reader":
        assert looked.trouble is None
    else:
        assert looked.trouble is not None
        assert "read-only" in looked.trouble.text
