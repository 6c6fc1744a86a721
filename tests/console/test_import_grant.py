"""``alertpost mailboxes import-grant``: a consent of Postfix' sasl-xoauth2, taken over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from console import verbs_mailboxes
from console.context import opened
from console.moving.sasl_xoauth2 import read_token_file
from models import audit, grants, tenants
from models.database import read
from models.errors import ConfigurationError
from sandbox.grants import CodeRequest
from sandbox.world import SMTP_PERMISSION
from sandbox.worldfile import APP_ROLE
from tests.console.cli_setting import ALERTS, Cli, Ran
from tests.console.moving_parts import (
    CLIENT_ID,
    ENDPOINT,
    client_secret,
    endpoint,
    refresh_token,
    sasl_files,
)

ADMIN = "admin@contoso.example"


@pytest.fixture
def moving(cli: Cli, engine: Engine) -> Cli:
    """The command line on either database."""
    url = engine.url.render_as_string(hide_password=False)
    cli.monkeypatch.setenv("ALERTPOST_DATABASE_URL", url)
    cli.monkeypatch.setenv("ALERTPOST_CA_FILE", str(cli.sandbox.ca_file))
    return cli


def prepared(cli: Cli, address: str = ALERTS, *more: str) -> None:
    assert cli.add_tenant().code == 0
    assert cli("mailboxes", "add", "contoso", address, *more).code == 0


def take_over(cli: Cli, *more: str, address: str = ALERTS, **tokens: Any) -> Ran:
    """Import a token file; whatever is said, it is no secret, and no file changes."""
    token_file, configuration = sasl_files(cli, **tokens)
    before = token_file.read_bytes()
    ran = cli(
        "mailboxes", "import-grant", address,
        "--sasl-xoauth2", str(token_file), "--sasl-config", str(configuration), *more,
    )  # fmt: skip
    assert token_file.read_bytes() == before
    told = ran.out + ran.err
    assert client_secret(cli) not in told
    assert str(json.loads(before).get("refresh_token") or "no such") not in told
    assert "eyJ" not in told
    return ran


def stored(address: str = ALERTS) -> tuple[grants.StoredGrant | None, str]:
    """Give a mailbox's grant, and its cache in clear."""
    with opened() as context, read(context.engine) as conn:
        who = verbs_mailboxes.account(context, address)
        grant = grants.load_grant(conn, who.sender.mailbox_id)
        return grant, (grants.open_cache(context.vault, grant) or "") if grant else ""


def test_a_grant_is_taken_over(moving: Cli) -> None:
    """Without a browser the mailbox is connected; what is stored is what Entra gave for it."""
    prepared(moving)
    old = refresh_token(moving)

    ran = take_over(moving, "--as", "alice", refresh_token=old)

    assert ran.code == 0, ran.err
    assert f"connected, by {ALERTS}" in ran.out
    assert f"Now stop sasl-xoauth2 for {ALERTS}" in ran.out
    assert moving.sandbox.world.ledger.refreshes == 1
    grant, cache = stored()
    assert grant is not None
    assert (grant.kind, grant.account) == (grants.DELEGATED, ALERTS)
    assert grant.tenant_claim == moving.directory().tenant_id
    assert old not in cache
    with opened() as context, read(context.engine) as conn:
        entry = audit.entries(conn, subject=ALERTS)[0].entry
    assert (entry.actor, entry.action) == ("cli:alice", "mailbox-connect")
    assert entry.detail["imported_from"] == "sasl-xoauth2"
    sent = moving("mailboxes", "test", ALERTS, "--to", "ops@contoso.example")
    assert sent.code == 0, sent.out
    assert moving.sandbox.world.ledger.refreshes == 2


def test_what_is_missing_is_made_from_the_file(moving: Cli) -> None:
    """Tenant, app registration and mailbox come from the file, in one go with the grant."""
    ran = take_over(moving, "--tenant", "contoso", "--as", "alice")

    assert ran.code == 0, ran.err
    assert "Made: app registration contoso, tenant contoso, mailbox." in ran.out
    assert stored()[0] is not None
    shown = moving("tenants", "show", "contoso", "--json").json
    assert shown["directory_id"] == moving.directory().tenant_id
    assert shown["client_id"] == moving.client_id
    with opened() as context, read(context.engine) as conn:
        actions = {row.entry.action for row in audit.entries(conn)}
        actors = {row.entry.actor for row in audit.entries(conn)}
    assert {"tenant-add", "mailbox-add", "mailbox-connect"} <= actions
    assert actors == {"cli:alice"}


def test_a_shared_endpoint_needs_the_directory(moving: Cli) -> None:
    """``common`` names no customer, so a new tenant needs the directory's id."""
    more = {"token_endpoint": endpoint(moving, "common")}

    unnamed = take_over(moving, "--tenant", "contoso", **more)
    directory_id = moving.directory().tenant_id
    named = take_over(moving, "--tenant", "contoso", "--directory-id", directory_id, **more)

    assert unnamed.code == 2
    assert "--directory-id" in unnamed.err
    assert named.code == 0, named.err


def test_a_rehearsal_changes_and_asks_nothing(moving: Cli) -> None:
    """--dry-run says what would be made; Entra is not asked and nothing is stored."""
    ran = take_over(moving, "--tenant", "contoso", "--dry-run")

    assert ran.code == 0, ran.err
    assert "app registration contoso, tenant contoso, mailbox made" in ran.out
    assert moving.sandbox.world.ledger.refreshes == 0
    with opened() as context, read(context.engine) as conn:
        assert tenants.list_tenants(conn) == []
        assert audit.entries(conn) == []


def _revoked(cli: Cli) -> dict[str, Any]:
    token = refresh_token(cli)
    cli.sandbox.world.revoke_grants(ALERTS, recall_access_tokens=False)
    return {"refresh_token": token}


def _unused_for_90_days(cli: Cli) -> dict[str, Any]:
    token = refresh_token(cli)
    cli.sandbox.world.advance(91 * 86_400)
    return {"refresh_token": token}


def _for_reading_mail(cli: Cli) -> dict[str, Any]:
    imap = "https://outlook.office.com/IMAP.AccessAsUser.All"
    return {"refresh_token": refresh_token(cli, permissions=(imap,))}


def _wrong_secret(cli: Cli) -> dict[str, Any]:
    cli(
        "tenants",
        "edit",
        "contoso",
        "--client-secret-file",
        cli.secret_file("wrong~secret"),
        "--replace",
    )
    return {}


def _other_directory(cli: Cli) -> dict[str, Any]:
    return {"token_endpoint": endpoint(cli, cli.directory("fabrikam").tenant_id)}


@pytest.mark.parametrize(
    ("trouble", "code", "says"),
    [
        (_revoked, 6, ["AADSTS50173", f"`alertpost mailboxes connect {ALERTS}`"]),
        (_unused_for_90_days, 6, ["AADSTS700082", f"`alertpost mailboxes connect {ALERTS}`"]),
        (_for_reading_mail, 6, ["AADSTS65001", "covers too little"]),
        (_wrong_secret, 6, ["AADSTS7000215", "`alertpost apps secret contoso --client-secret"]),
        (lambda _: {"refresh_token": "1.Aunknown"}, 6, ["AADSTS70000", "app registration"]),
        (lambda cli: {"refresh_token": refresh_token(cli, ADMIN)}, 6, [ADMIN, "--auth-user"]),
        (lambda _: {"client_id": CLIENT_ID}, 2, [CLIENT_ID, "apps add", "tenants edit contoso"]),
        (_other_directory, 2, ["another customer's"]),
        (
            lambda _: {"token_endpoint": "https://login.microsoftonline.us/x/oauth2/v2.0/token"},
            2, ["another cloud", "--cloud"],
        ),
    ],
    ids=[
        "revoked", "expired", "scope", "secret", "unknown token", "account", "app", "directory",
        "cloud",
    ],
)  # fmt: skip
def test_a_grant_that_cannot_be_taken_over_is_explained(
    cli: Cli, trouble: Callable[[Cli], dict[str, Any]], code: int, says: list[str]
) -> None:
    """Each says what is wrong and what to do; nothing is stored."""
    prepared(cli)
    tokens = trouble(cli)

    ran = take_over(cli, **tokens)

    assert ran.code == code, ran.err
    for text in says:
        assert text in ran.err
    assert stored()[0] is None


def test_nothing_is_left_of_a_grant_that_is_refused(moving: Cli) -> None:
    """Also what would have been made beside it is not."""
    ran = take_over(moving, "--tenant", "contoso", **_revoked(moving))

    assert ran.code == 6
    assert "Nothing was stored" in ran.err
    with opened() as context, read(context.engine) as conn:
        assert tenants.list_tenants(conn) == []


def test_entra_away_is_told(cli: Cli) -> None:
    """Where nobody answers it can be tried again later."""
    closed = "https://127.0.0.1:1"
    prepared(cli)
    cli("tenants", "edit", "contoso", "--authority", closed)

    ran = take_over(cli, token_endpoint=f"{closed}/{cli.directory().tenant_id}/oauth2/v2.0/token")

    assert ran.code == 5
    assert stored()[0] is None


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ({"token_endpoint": "https://accounts.google.com/o/oauth2/token"}, "Google"),
        ({"token_endpoint": ""}, "Google"),
        ({"token_endpoint": "https://id.example/token"}, "id.example.* Entra"),
        ({"refresh_token": ""}, "no refresh_token.* asks for consent"),
        ({"refresh_token": "", "manage_token_externally": "yes"}, "another program keeps"),
        ({"refresh_token": {"nested": "SECRET-1"}}, "not text"),
        ({"client_id": ""}, "--sasl-config"),
        ({"client_secret": CLIENT_ID}, "Secret ID"),
    ],
)
def test_a_file_without_a_grant_says_why(tmp_path: Path, tokens: dict[str, Any], says: str) -> None:
    """What is missing is named, with what to do."""
    given = {"refresh_token": "SECRET-1", "client_id": CLIENT_ID, "token_endpoint": ENDPOINT}
    path = tmp_path / "token.json"
    path.write_text(json.dumps(given | tokens))

    with pytest.raises(ConfigurationError, match=says) as told:
        read_token_file(str(path), configuration=None, address=ALERTS)

    assert "SECRET" not in str(told.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"refresh_token": "SECRET-1"', r"not JSON \(line 1\)"),
        (b'["SECRET-1"]', "not a JSON object"),
        (b"\xff\xfeSECRET-1", "UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (None, "No such file"),
    ],
    ids=["cut off", "list", "octets", "deep", "missing"],
)
def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    """The text says what it is not, and quotes nothing of it."""
    path = tmp_path / "token.json"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=says) as told:
        read_token_file(str(path), configuration=None, address=ALERTS)

    assert "SECRET" not in str(told.value)


def test_who_is_connected_stays_so(cli: Cli) -> None:
    """A mailbox that sends is left alone, unless somebody says --again."""
    address = cli.connected()
    before, _ = stored()

    kept = take_over(cli)
    replaced = take_over(cli, "--again")

    assert kept.code == 4
    assert "--again" in kept.err
    assert replaced.code == 0, replaced.err
    after, _ = stored(address)
    assert before is not None
    assert after is not None
    assert after.version > before.version


def test_another_account_has_to_be_named(cli: Cli) -> None:
    """Only an account that is named may consent for a mailbox; then it is stored as such."""
    prepared(cli)
    shared = cli.sandbox.world.mailboxes.get(ALERTS)
    shared.full_access.add(ADMIN)

    ran = take_over(cli, "--auth-user", ADMIN, refresh_token=refresh_token(cli, ADMIN))

    assert ran.code == 0, ran.err
    assert f"connected, by {ADMIN}" in ran.out
    assert f"It signs in as {ALERTS}, with the token of {ADMIN}" in ran.out
    shown = cli("mailboxes", "show", ALERTS, "--json").json
    assert (shown["auth_user"], shown["auth_form"]) == (ADMIN, "mailbox")


def test_an_app_that_acts_for_itself_is_taken_over(cli: Cli) -> None:
    """With ``use_client_credentials`` there is no refresh token: the app proves itself."""
    prepared(cli)
    presence = cli.directory().admit(cli.client_id)
    presence.roles.add(APP_ROLE)
    presence.mailboxes.add(ALERTS)

    ran = take_over(cli, refresh_token=None, use_client_credentials="yes")

    assert ran.code == 0, ran.err
    grant, _ = stored()
    assert grant is not None
    assert (grant.kind, grant.account) == (grants.APP_ONLY, cli.client_id)
    assert cli("mailboxes", "test", ALERTS, "--to", "ops@contoso.example").code == 0


def test_without_an_id_token_the_doubt_is_told(cli: Cli) -> None:
    """A grant without ``openid`` names nobody: it is stored, and what was not checked is said."""
    prepared(cli)
    world, directory = cli.sandbox.world, cli.directory()
    directory.admit(cli.client_id).consent((SMTP_PERMISSION,))
    grant = world.grants.begin(
        CodeRequest(
            tenant_id=directory.tenant_id,
            client_id=cli.client_id,
            object_id=directory.user(ALERTS).object_id,
            redirect_uri="",
            oidc=frozenset({"offline_access"}),
            permissions=(SMTP_PERMISSION,),
        )
    )

    ran = take_over(cli, refresh_token=world.grants.issue_refresh_token(grant))

    assert ran.code == 0, ran.err
    assert "Not checked" in ran.out
    assert ALERTS in ran.out
    assert cli("mailboxes", "test", ALERTS, "--to", "ops@contoso.example").code == 0
