from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import serialization
from sqlalchemy import text

from models import directory
from models.database import read, write
from models.directory import Credential
from models.errors import ConfigurationError, Conflict, NotFound, VaultError
from models.vault import Vault
from tests.models.directory_parts import CERTIFICATE, VAULT, add_contoso, make_certificate

SECRET = Credential.secret("hunter2", expires_at=datetime(2027, 3, 1, tzinfo=UTC))


def add(conn, name="main", credential=SECRET):
    return directory.add_app(conn, VAULT, name=name, client_id="client", credential=credential)


def test_a_secret_comes_back_only_with_the_vault(engine):
    """The stored row holds no clear secret, and whoever has the key reads it again."""
    with write(engine) as conn:
        app = add(conn)
    with read(engine) as conn:
        stored = conn.execute(text("SELECT * FROM app_registration")).one()
        opened = directory.open_app(conn, VAULT, app.id)

        assert b"hunter2" not in repr(stored).encode()
        assert opened.credential == SECRET
        assert (opened.client_id, opened.version) == ("client", 1)
        assert "hunter2" not in repr(opened)
        with pytest.raises(VaultError):
            directory.open_app(conn, Vault([Vault.new_key()]), app.id)


def test_a_new_credential_grows_the_version(engine):
    """Workers see that they must rebuild their client, and the old credential is gone."""
    certificate = Credential.certificate(
        certificate_pem=CERTIFICATE.pem, private_key_pem=CERTIFICATE.key_pem
    )
    with write(engine) as conn:
        before = add(conn)
        after = directory.renew_credential(conn, VAULT, name="main", credential=certificate)

        assert (before.version, after.version) == (1, 2)
        assert (after.has_secret, after.has_certificate) == (False, True)
        assert after.credential_expires_at == CERTIFICATE.ends
        assert directory.open_app(conn, VAULT, after.id).credential == certificate


def test_a_name_is_taken_once(engine):
    """A second app registration of the same name is refused, with the way out."""
    with write(engine) as conn:
        add(conn)
        with pytest.raises(Conflict, match="apps secret"):
            add(conn)

        assert [app.name for app in directory.list_apps(conn)] == ["main"]


def test_an_app_in_use_stays(engine):
    """An app registration is removed only when no tenant needs it any more."""
    with write(engine) as conn:
        add_contoso(conn)
        with pytest.raises(Conflict, match="serves 1 tenant"):
            directory.remove_app(conn, "main")
        directory.remove_tenant(conn, "contoso")
        directory.remove_app(conn, "main")

        assert directory.list_apps(conn) == []


def test_an_unknown_app_names_the_nearest(engine):
    """Whoever misspells a name reads the right one."""
    with write(engine) as conn:
        app = add(conn)
        with pytest.raises(NotFound, match="nearest is 'main'"):
            directory.app(conn, "mian")
        directory.remove_app(conn, "main")
        with pytest.raises(NotFound, match="removed"):
            directory.open_app(conn, VAULT, app.id)


ENDED = make_certificate(days=-1)
PROTECTED = (
    serialization.load_pem_private_key(CERTIFICATE.key_pem.encode(), None)
    .private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    .decode()
)


@pytest.mark.parametrize(
    ("pem", "key_pem", "part"),
    [
        ("nonsense", CERTIFICATE.key_pem, "certificate: it is not readable"),
        (CERTIFICATE.pem, "nonsense", "private key: it is not readable"),
        (CERTIFICATE.pem, PROTECTED, "passphrase"),
        (CERTIFICATE.pem, make_certificate().key_pem, "different private key"),
        (ENDED.pem, ENDED.key_pem, "it ended on"),
    ],
    ids=["certificate", "key", "passphrase", "pair", "ended"],
)
def test_a_certificate_that_could_not_work_is_refused(pem, key_pem, part):
    """What Entra would refuse later is refused when it is given."""
    with pytest.raises(ConfigurationError, match=part):
        Credential.certificate(certificate_pem=pem, private_key_pem=key_pem)


@pytest.mark.parametrize(
    ("value", "part"),
    [(" ", "empty"), ("8f2e1d3c-0000-4000-8000-00000000abcd", "Secret ID")],
    ids=["empty", "id instead of value"],
)
def test_a_secret_that_could_not_work_is_refused(value, part):
    """The usual slip, the secret's id instead of its value, is named."""
    with pytest.raises(ConfigurationError, match=part):
        Credential.secret(value)


def test_an_end_without_a_zone_is_refused():
    """A date that does not say which moment it is cannot warn in time."""
    with pytest.raises(ConfigurationError, match="time zone"):
        Credential.secret("x", expires_at=datetime(2027, 3, 1))  # noqa: DTZ001
