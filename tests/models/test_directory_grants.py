from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import directory
from models.database import read, write
from models.errors import ConfigurationError, NotFound, VaultError
from models.ids import uuid7
from models.vault import grant_context
from tests.models.directory_parts import VAULT, add_contoso, connect

ALERTS = "alerts@contoso.example"


@pytest.fixture
def mailbox_id(engine):
    with write(engine) as conn:
        add_contoso(conn)
        return directory.add_mailbox(conn, tenant_slug="contoso", address=ALERTS).id


def refreshed(conn, grant, cache):
    return directory.update_grant(
        conn,
        grant_id=grant.id,
        expected_version=grant.version,
        cache_encrypted=VAULT.seal(cache.encode(), context=grant_context(grant.id)),
    )


def test_a_consent_connects_the_mailbox(engine, mailbox_id):
    """What a consent gave comes back to whoever has the key, and to nobody else."""
    with write(engine) as conn:
        assert directory.load_grant(conn, mailbox_id) is None
        grant = connect(conn, ALERTS, cache='{"RefreshToken": "secret"}')

        assert directory.load_grant(conn, mailbox_id) == grant
        assert (grant.version, grant.account, grant.refreshed_at) == (1, ALERTS, None)
        assert b"secret" not in grant.cache_encrypted
        assert directory.open_cache(VAULT, grant) == '{"RefreshToken": "secret"}'
        assert directory.sender(conn, mailbox_id).connected


def test_of_two_refreshes_one_is_kept(engine, mailbox_id):
    """A late holder of the lock loses instead of overwriting the newer tokens."""
    with write(engine) as conn:
        grant = connect(conn, ALERTS)
        assert refreshed(conn, grant, "first")
        assert not refreshed(conn, grant, "late")

        stored = directory.load_grant(conn, mailbox_id)
        assert (stored.version, directory.open_cache(VAULT, stored)) == (2, "first")
        assert stored.refreshed_at is not None


def test_a_new_consent_wins_against_a_refresh_under_way(engine, mailbox_id):
    """Whoever still refreshes under the old grant cannot touch the new one."""
    with write(engine) as conn:
        old = connect(conn, ALERTS, cache="old")
        new = connect(conn, ALERTS, cache="new")
        assert not refreshed(conn, old, "late")

        assert new.version > old.version
        assert directory.open_cache(VAULT, directory.load_grant(conn, mailbox_id)) == "new"


def test_a_cache_opens_only_under_its_own_grant(engine, mailbox_id):
    """A cache copied to another grant's row is worthless there."""
    with write(engine) as conn:
        other = VAULT.seal(b"cache", context=grant_context(uuid7()))
        stored = directory.store_grant(
            conn, mailbox_id=mailbox_id, kind="delegated", cache_encrypted=other, grant_id=uuid7()
        )
        with pytest.raises(VaultError):
            directory.open_cache(VAULT, stored)


def test_an_app_only_grant_has_no_cache(engine, mailbox_id):
    """With application permissions there is nothing to keep, and yet the mailbox is connected."""
    with write(engine) as conn:
        grant = directory.connect_mailbox(
            conn, VAULT, mailbox_id=mailbox_id, kind=directory.APP_ONLY, cache=None
        )

        assert directory.open_cache(VAULT, grant) is None
        assert directory.sender(conn, mailbox_id).grant_kind == directory.APP_ONLY


@pytest.mark.parametrize(
    ("grant", "part"),
    [
        (("implicit", b"x", uuid7()), "choose 'delegated'"),
        (("delegated", None, uuid7()), "has a token cache"),
        (("app_only", b"x", uuid7()), "has none"),
        (("delegated", b"x", None), "grant id"),
    ],
)
def test_what_does_not_belong_together_is_refused(engine, mailbox_id, grant, part):
    """A grant that nobody could use is not stored."""
    kind, cache, grant_id = grant
    with write(engine) as conn, pytest.raises(ConfigurationError, match=part):
        directory.store_grant(
            conn, mailbox_id=mailbox_id, kind=kind, cache_encrypted=cache, grant_id=grant_id
        )


def test_a_consent_for_a_vanished_mailbox_is_refused(engine):
    """Whoever consents after the mailbox was deleted is told so."""
    with write(engine) as conn, pytest.raises(NotFound, match="removed meanwhile"):
        directory.connect_mailbox(
            conn, VAULT, mailbox_id=uuid7(), kind=directory.APP_ONLY, cache=None
        )


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(st.sampled_from(["refresh", "late refresh", "consent", "withdraw"])))
def test_versions_only_grow(engine, mailbox_id, steps):
    """Whatever happens to a mailbox's grant, a version seen by a worker never means other tokens."""
    with write(engine) as conn:
        directory.withdraw(conn, [mailbox_id])
        seen = {}
        for number, step in enumerate(["consent", *steps]):
            before = directory.load_grant(conn, mailbox_id)
            if step == "consent":
                connect(conn, ALERTS, cache=f"cache {number}")
            elif step == "withdraw":
                directory.withdraw(conn, [mailbox_id])
            elif before is not None:
                refreshed(conn, before, f"cache {number}")
                if step == "late refresh":
                    assert not refreshed(conn, before, "never")
            grant = directory.load_grant(conn, mailbox_id)
            if grant is not None:
                cache = directory.open_cache(VAULT, grant)
                assert seen.setdefault((grant.id, grant.version), cache) == cache


def test_withdrawing_disconnects(engine, mailbox_id):
    """Without its grant a mailbox waits to be connected."""
    with write(engine) as conn:
        connect(conn, ALERTS)
        assert directory.withdraw(conn, [mailbox_id]) == 1
    with read(engine) as conn:
        assert directory.mailbox(conn, ALERTS).standing == "not connected"
        assert not directory.sender(conn, mailbox_id).connected
