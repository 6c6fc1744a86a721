"""The schema: migrated and built from the tables it is the same, and it is migrated once."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine, insert, inspect, text, update
from sqlalchemy.exc import IntegrityError

from models import directory, intake, schema
from models.credential import Credential
from models.database import create_engine_from, read, write
from models.errors import ConfigurationError, NewerSchema
from models.ids import uuid7
from models.rotation import rotate
from models.schema import is_current, upgrade
from models.tables import METADATA, UtcDateTime
from models.vault import Vault
from tests.fixtures.databases import empty_database
from tests.models.directory_parts import CERTIFICATE
from tests.models.factories import new_delivery, world_rows

OLD_APP = sa.table(
    "app_registration",
    sa.column("id", sa.Uuid()),
    sa.column("name"),
    sa.column("client_id"),
    sa.column("version"),
    sa.column("created_at", UtcDateTime()),
    sa.column("client_secret_encrypted"),
    sa.column("private_key_encrypted"),
    sa.column("certificate_pem"),
    sa.column("credential_expires_at", UtcDateTime()),
)
"""The table as it was while an app registration had one credential."""


def indexes(engine: Engine) -> set[tuple[str, tuple[str | None, ...], bool, str]]:
    """Read all indexes with their conditions, spelt alike for both databases."""
    found = set()
    for table in METADATA.tables:
        for index in inspect(engine).get_indexes(table):
            options = index.get("dialect_options", {})
            where = options.get("sqlite_where", options.get("postgresql_where", ""))
            plain = re.sub(r"::[a-z ]+|[()]", "", str(where))
            found.add((index["name"], tuple(index["column_names"]), bool(index["unique"]), plain))
    return found


def test_migrated_equals_declared(engine: Engine) -> None:
    """Alembic finds no difference between the migrated tables and the declared ones."""
    with engine.connect() as conn:
        context = MigrationContext.configure(
            conn, opts={"compare_type": True, "compare_server_default": True}
        )

        assert compare_metadata(context, METADATA) == []


def test_indexes_equal(engine: Engine, empty_url: str) -> None:
    """The indexes, their conditions included, are those that the declaration makes."""
    declared = create_engine_from(empty_url)
    try:
        with write(declared) as conn:
            METADATA.create_all(conn)

        assert indexes(engine) == indexes(declared)
    finally:
        declared.dispose()


def test_upgrade_at_once(empty_url: str) -> None:
    """Many processes may upgrade one empty database at once."""
    engines = [create_engine_from(empty_url) for _ in range(4)]
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(upgrade, engines))

        assert is_current(engines[0])
    finally:
        for engine in engines:
            engine.dispose()


def test_empty_is_not_current(empty_url: str) -> None:
    """A database without tables is not current, and a query says which command helps."""
    engine = create_engine_from(empty_url)
    try:
        assert not is_current(engine)
        with pytest.raises(ConfigurationError, match="alertpost db upgrade"), read(engine) as conn:
            conn.execute(text("SELECT count(*) FROM delivery"))
    finally:
        engine.dispose()


def test_a_newer_schema_is_told_and_left_alone(engine: Engine) -> None:
    """A program that is older than the tables says so in a sentence, and changes nothing."""
    with write(engine) as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    for look in (is_current, upgrade):
        with pytest.raises(NewerSchema, match="newer") as caught:
            look(engine)
        assert "\n" not in str(caught.value)
    with read(engine) as conn:
        assert conn.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"


def test_credentials_of_an_old_database_go_on_opening(empty_url: str) -> None:
    """What an app registration held before it could hold two is its first, under the same seal."""
    apps, key = {name: uuid7() for name in ("secret", "certificate", "bare")}, Vault.new_key()
    vault, ends = Vault([key]), datetime(2027, 3, 1, tzinfo=UTC)
    engine = create_engine_from(empty_url)
    try:
        with write(engine) as conn:
            config = schema._config()
            config.attributes["connection"] = conn
            revision = ScriptDirectory.from_config(config).get_revision("0006")
            command.upgrade(config, str(revision.down_revision))
            for name, app_id in apps.items():
                conn.execute(
                    insert(OLD_APP).values(
                        id=app_id, name=name, client_id="c", version=3, created_at=ends
                    )
                )
            conn.execute(
                update(OLD_APP)
                .where(OLD_APP.c.name == "secret")
                .values(
                    client_secret_encrypted=vault.seal(
                        b"hunter2", context=f"app-secret:{apps['secret']}"
                    ),
                    credential_expires_at=ends,
                )
            )
            conn.execute(
                update(OLD_APP)
                .where(OLD_APP.c.name == "certificate")
                .values(
                    private_key_encrypted=vault.seal(
                        b"KEY", context=f"app-key:{apps['certificate']}"
                    ),
                    certificate_pem=CERTIFICATE.pem,
                )
            )
            conn.execute(
                text(
                    "INSERT INTO tenant (id, slug, name, directory_id, app_registration_id, cloud,"
                    " notify, uncertain_policy, created_at) SELECT id, name, '', 'd', id, 'worldwide',"
                    " '{}', 'resend', created_at FROM app_registration"
                )
            )
        upgrade(engine)

        with write(engine) as conn:
            assert directory.open_app(conn, vault, apps["secret"]).credential == Credential(
                client_secret="hunter2", expires_at=ends
            )
            certificate = directory.open_app(conn, vault, apps["certificate"]).credential
            assert (certificate.private_key_pem, certificate.certificate_pem) == (
                "KEY",
                CERTIFICATE.pem,
            )
            assert directory.open_app(conn, vault, apps["bare"]).credentials == ()
            assert {app.name: app.tenants for app in directory.list_apps(conn)} == dict.fromkeys(
                apps, 1
            )
            given = directory.give_credential(
                conn, vault, name="secret", credential=Credential.secret("new")
            )
            assert (given.number, given.beside) == (2, 1)
        report = rotate(engine, Vault([Vault.new_key(), key]))
        assert report.resealed == {"app secrets": 2, "app keys": 1, "grants": 0, "consent links": 0,
                                   "deliveries": 0, "large contents": 0, "tenant addresses": 0}  # fmt: skip
        assert report.complete
    finally:
        engine.dispose()


def test_filled_tables_come_to_order_by_code_points(postgresql_server: URL) -> None:
    """A database in the order of a language is brought to it with all its rows; a later one too."""
    with empty_database(postgresql_server) as url:
        engine = create_engine_from(url)
        try:
            _upgrade_to(engine, "0006")
            _as_it_was(engine)
            world = world_rows(engine, mailboxes=3)
            keys = ["am-1", "am-1+1", "am-1,", "AM-1", "am-12", "é"]
            with write(engine) as conn:
                for number, key in enumerate(keys):
                    new = new_delivery(world, idempotency_key=key, subject=f"s{number}")
                    intake.insert(conn, [new])

            upgrade(engine)

            with read(engine) as conn:
                ordered = conn.scalars(
                    text("SELECT idempotency_key FROM delivery ORDER BY 1")
                ).all()
            assert ordered == sorted(keys)
            with pytest.raises(IntegrityError), engine.begin() as conn:
                conn.execute(text("INSERT INTO delivery SELECT * FROM delivery LIMIT 1"))
            _as_it_was(engine)
            upgrade(engine)
            with read(engine) as conn:
                assert conn.scalar(text(COLLATION)) == "C"
        finally:
            engine.dispose()


def _as_it_was(engine: Engine) -> None:
    """Give columns the order that those have which a migration made without a thought of it."""
    with engine.begin() as conn:
        for table, column, kind in (
            ("delivery", "idempotency_key", "varchar(200)"),
            ("delivery", "state", "varchar(10)"),
            ("mailbox", "address", "varchar(320)"),
        ):
            conn.execute(text(f'ALTER TABLE {table} ALTER {column} TYPE {kind} COLLATE "default"'))


COLLATION = """
SELECT collname FROM pg_attribute JOIN pg_collation ON pg_collation.oid = attcollation
WHERE attrelid = 'mailbox'::regclass AND attname = 'address'
"""


def _upgrade_to(engine: Engine, revision: str) -> None:
    with write(engine) as conn:
        config = schema._config()
        config.attributes["connection"] = conn
        command.upgrade(config, revision)
