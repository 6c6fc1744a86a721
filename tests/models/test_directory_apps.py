from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import serialization
from sqlalchemy import text, update

from models import app_credentials, directory
from models.database import read, write
from models.directory import Credential
from models.errors import ConfigurationError, Conflict, NotFound, VaultError
from models.lookups import CREDENTIAL
from models.vault import Vault
from tests.models.directory_parts import CERTIFICATE, VAULT, add_contoso, make_certificate

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
SECRET = Credential.secret("hunter2", expires_at=datetime(2027, 3, 1, tzinfo=UTC))


def add(conn, name="main", credential=SECRET):
    return directory.add_app(conn, VAULT, name=name, client_id="client", credential=credential)


def test_a_secret_comes_back_only_with_the_vault(engine):
    """The stored row holds no clear secret, and whoever has the key reads it again."""
    with write(engine) as conn:
        app = add(conn)
    with read(engine) as conn:
        stored = conn.execute(text("SELECT * FROM app_credential")).one()
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


# -- two credentials side by side -----------------------------------------------------------------


def give(conn, value, **more):
    credential = Credential.secret(value, expires_at=more.pop("expires_at", None))
    return directory.give_credential(conn, VAULT, name="main", credential=credential, **more)


def numbers(conn):
    return [one.number for one in directory.app(conn, "main").credentials]


def set_standing(conn, number, **values):
    if values:
        conn.execute(update(CREDENTIAL).where(CREDENTIAL.c.number == number).values(**values))


def test_a_new_credential_stands_beside_the_old_one_and_goes_first(engine):
    """Both are kept, the newest is tried first, and workers see a grown version."""
    with write(engine) as conn:
        app = add(conn)
        given = give(conn, "hunter3")
        opened = directory.open_app(conn, VAULT, app.id)

    assert (given.number, given.beside, given.known, given.dropped) == (2, 1, False, ())
    assert [one.credential.client_secret for one in opened.credentials] == ["hunter3", "hunter2"]
    assert opened.version == app.version + 1
    assert "hunter" not in repr(opened)


def test_there_is_no_third_one(engine):
    """Who has two is told what stands and which command makes room."""
    with write(engine) as conn:
        add(conn)
        give(conn, "hunter3")
        set_standing(conn, 1, worked_at=datetime.now(UTC))
        set_standing(conn, 2, refused_rule="secret-wrong", refused_at=datetime.now(UTC))
        with pytest.raises(Conflict, match=r"apps retire main 2`.*--replace"):
            give(conn, "hunter4")

        given = give(conn, "hunter4", alone=True)
        assert (given.number, given.dropped, given.beside) == (3, (1, 2), None)
        assert numbers(conn) == [3]


def test_what_has_ended_makes_way(engine):
    """Nothing is lost with it, so nobody has to take it away first."""
    with write(engine) as conn:
        add(conn)
        give(conn, "hunter3")
        set_standing(conn, 1, expires_at=datetime(2020, 1, 1, tzinfo=UTC))
        given = give(conn, "hunter4")

        assert (given.dropped, given.beside) == ((1,), 2)
        assert numbers(conn) == [2, 3]


def test_what_a_newer_one_has_followed_makes_way(engine):
    """So next year's rotation needs no step more than this year's."""
    with write(engine) as conn:
        add(conn)
        give(conn, "hunter3")
        set_standing(conn, 1, refused_rule="secret-wrong", refused_at=datetime.now(UTC))
        set_standing(conn, 2, worked_at=datetime.now(UTC))
        given = give(conn, "hunter4")

        assert (given.dropped, given.beside) == ((1,), 2)
        assert numbers(conn) == [2, 3]


def test_the_same_secret_again_tells_its_end(engine):
    """Whoever learns the date later gives the secret once more; no second one is made of it."""
    ends = datetime(2031, 3, 1, tzinfo=UTC)
    with write(engine) as conn:
        add(conn, credential=Credential.secret("hunter2"))
        given = give(conn, "hunter2", expires_at=ends)

        assert (given.number, given.known) == (1, True)
        assert directory.app(conn, "main").credential_expires_at == ends
        assert give(conn, "hunter2", alone=True).dropped == ()
        assert numbers(conn) == [1]


@pytest.mark.parametrize(
    ("old", "new", "number", "refused"),
    [
        ({"worked_at": LONG_AGO}, {"worked_at": LONG_AGO}, 1, False),
        ({"worked_at": LONG_AGO}, {"worked_at": LONG_AGO}, 2, False),
        ({"worked_at": LONG_AGO}, {}, 1, True),
        ({"worked_at": LONG_AGO}, {"refused_rule": "secret-wrong"}, 1, True),
        ({"worked_at": LONG_AGO}, {"refused_rule": "secret-wrong"}, 2, False),
        ({"worked_at": LONG_AGO, "expires_at": LONG_AGO}, {}, 1, False),
        ({}, {}, 1, True),
        ({"refused_rule": "secret-wrong"}, {}, 1, False),
    ],
)
def test_the_last_one_that_works_is_not_retired(engine, old, new, number, refused):
    """Without --force something that is known to work is left, unless it never did."""
    with write(engine) as conn:
        add_contoso(conn)
        give(conn, "hunter3")
        set_standing(conn, 1, **old)
        set_standing(conn, 2, **new)
        if refused:
            with pytest.raises(Conflict, match=r"no other .* is known to work.*--check.*--force"):
                directory.retire_credential(conn, name="main", number=number)
        gone = directory.retire_credential(conn, name="main", number=number, force=refused)

        assert gone.number == number
        assert numbers(conn) == [3 - number]


def test_the_only_one_is_retired_by_force_only(engine):
    """What is left then is an app without any, which is listed all the same."""
    with write(engine) as conn:
        app = add(conn)
        with pytest.raises(Conflict, match="the only one"):
            directory.retire_credential(conn, name="main", number=1)
        with pytest.raises(NotFound, match="no credential 7; it has 1"):
            directory.retire_credential(conn, name="main", number=7)
        directory.retire_credential(conn, name="main", number=1, force=True)

        assert directory.open_app(conn, VAULT, app.id).credential == Credential()
        entry = directory.app(conn, "main")
        assert (entry.has_secret, entry.has_certificate, entry.credentials) == (False, False, ())


def test_a_refusal_is_news_once_and_void_once_it_works(engine):
    """Of all who learn it only one tells it; a success clears it."""
    with write(engine) as conn:
        app = add(conn)
        (held,) = directory.open_app(conn, VAULT, app.id).credentials
        said = app_credentials.Refused(held.standing.id, "secret-wrong", "AADSTS7000215")
        assert app_credentials.note_refused(conn, said)
        assert not app_credentials.note_refused(conn, said)
        (refused,) = directory.app(conn, "main").credentials
        app_credentials.note_worked(conn, held.standing.id)
        (works,) = directory.app(conn, "main").credentials

    assert (refused.refused_rule, refused.refused_code) == ("secret-wrong", "AADSTS7000215")
    assert (works.refused_rule, works.refused_at) == (None, None)
    assert works.worked_at is not None


def test_one_that_no_key_opens_stops_nothing(engine):
    """After a lost key a new secret is enough, beside what cannot be opened or in its place."""
    with write(engine) as conn:
        app = add(conn)
        set_standing(conn, 1, client_secret_encrypted=b"\x01" + bytes(80))
        with pytest.raises(VaultError):
            directory.open_app(conn, VAULT, app.id)
        give(conn, "hunter3")
        opened = directory.open_app(conn, VAULT, app.id)
        given = give(conn, "hunter4", alone=True)

    assert [one.credential.client_secret for one in opened.credentials] == ["hunter3"]
    assert given.dropped == (1, 2)
