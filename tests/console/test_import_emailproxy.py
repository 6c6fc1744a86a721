"""``alertpost tenants import-emailproxy``: the consents of a proxy, account by account."""

from __future__ import annotations

from pathlib import Path

import pytest

from console import verbs_mailboxes
from console.context import opened
from console.moving.emailproxy import BadAccount, ProxyFile
from console.moving.found import FoundGrant, read_endpoint
from models import grants
from models.database import read
from models.errors import ConfigurationError
from sandbox.worldfile import APP_ROLE, UserSpec, add_user
from tests.console.cli_setting import ALERTS, Cli, Ran
from tests.console.moving_parts import (
    CLIENT_ID,
    PASSWORD,
    account,
    client_secret,
    password_file,
    proxy_file,
    refresh_token,
    sealed,
    section,
)

ADMIN = "admin@contoso.example"
NIGHT = "night@contoso.example"


def bring(cli: Cli, file: Path, *more: str, password: str = PASSWORD) -> Ran:
    """Import a proxy's file; whatever is said, it is no secret, and the file stays as it is."""
    before = file.read_bytes()
    ran = cli(
        "tenants", "import-emailproxy", str(file), "--password-file",
        password_file(cli, password), *more,
    )  # fmt: skip
    assert file.read_bytes() == before
    told = ran.out + ran.err
    assert client_secret(cli) not in told
    assert password not in told
    assert "gAAAA" not in told
    assert "eyJ" not in told
    return ran


def kinds() -> dict[str, str]:
    """Give the mailboxes that are connected, each with the kind of its grant."""
    with opened() as context, read(context.engine) as conn:
        return {
            box.address: str(box.grant_kind)
            for box in verbs_mailboxes.mailboxes.list_mailboxes(conn)
            if box.grant_kind
        }


def test_accounts_are_taken_over_one_by_one(cli: Cli) -> None:
    """Good ones are connected, bad ones say why, and the same file may be given again."""
    cli.monkeypatch.setenv("ALERTPOST_CA_FILE", str(cli.sandbox.ca_file))
    add_user(cli.sandbox.world, cli.directory(), UserSpec(address=NIGHT))
    presence = cli.directory().admit(cli.client_id)
    presence.roles.add(APP_ROLE)
    presence.mailboxes.add(NIGHT)
    file = proxy_file(cli.folder,
        account(cli),
        account(cli, NIGHT, oauth2_flow="client_credentials", refresh_token=None, client_secret=None,
                permission_url=None, oauth2_scope="https://outlook.office365.com/.default"),
        account(cli, "idle@contoso.example", refresh_token=None),
        account(cli, "me@gmail.example", token_url="https://oauth2.googleapis.com/token",
                refresh_token=sealed("1//x")),
    )  # fmt: skip

    rehearsed = bring(cli, file, "--tenant", "contoso", "--dry-run", "--json")
    assert kinds() == {}
    first = bring(cli, file, "--tenant", "contoso", "--json")
    second = bring(cli, file, "--json")

    assert (rehearsed.code, first.code, second.code) == (1, 1, 1)
    fates = [one["fate"] for one in first.json["accounts"]]
    assert fates == [one["fate"] for one in rehearsed.json["accounts"]]
    assert fates == ["connected", "connected", "bad", "bad"]
    assert "app registration contoso, tenant contoso" in first.json["accounts"][0]["what"]
    assert "never signed in" in first.json["accounts"][2]["what"]
    assert "Google" in first.json["accounts"][3]["what"]
    assert kinds() == {ALERTS: "delegated", NIGHT: "app_only"}
    assert [one["fate"] for one in second.json["accounts"]][:2] == ["unchanged", "unchanged"]


def test_people_read_a_table_and_what_to_stop(cli: Cli) -> None:
    """The table names each account; at the end it is said what must be stopped."""
    assert cli.add_tenant().code == 0
    assert cli("mailboxes", "add", "contoso", ALERTS).code == 0

    ran = bring(cli, proxy_file(cli.folder, account(cli)))

    assert ran.code == 0, ran.err
    assert ALERTS in ran.out
    assert "1 connected, 0 unchanged, 0 bad." in ran.out
    assert "Now stop emailproxy" in ran.out


def test_the_wrong_password_is_told(cli: Cli) -> None:
    """It says which password is meant; nothing is stored."""
    assert cli.add_tenant().code == 0
    assert cli("mailboxes", "add", "contoso", ALERTS).code == 0

    ran = bring(cli, proxy_file(cli.folder, account(cli)), password="another")

    assert ran.code == 1
    assert "does not open" in ran.out
    assert kinds() == {}


def test_nobody_to_ask_for_a_password_is_told(cli: Cli) -> None:
    """Without a terminal and a file nothing can be opened, and the text says what is missing."""
    ran = cli("tenants", "import-emailproxy", str(proxy_file(cli.folder, account(cli))))

    assert ran.code == 1
    assert "no password was given" in ran.out


def test_a_shared_mailbox_names_its_account(cli: Cli) -> None:
    """The proxy keeps a delegate's grant under the shared address; here the delegate is named."""
    assert cli.add_tenant().code == 0
    assert cli("mailboxes", "add", "contoso", ALERTS).code == 0
    token = sealed(refresh_token(cli, ADMIN))
    file = proxy_file(cli.folder, account(cli, refresh_token=token), account(cli, ADMIN))

    unnamed = bring(cli, file, "--only", ALERTS)
    several = bring(cli, file, "--auth-user", ADMIN)
    named = bring(cli, file, "--only", ALERTS, "--auth-user", ADMIN)

    assert "--auth-user" in unnamed.out
    assert several.code == 2
    assert named.code == 0, named.out
    assert f"It signs in as {ADMIN}" in named.out


# -- the file itself ------------------------------------------------------------------------------


def found(file: ProxyFile, address: str = ALERTS, *passwords: str) -> FoundGrant | BadAccount:
    return file.find(address, lambda _: passwords or (PASSWORD,))


def test_what_is_encrypted_opens(tmp_path: Path) -> None:
    """Refresh token and client secret; of several passwords the one that fits."""
    secret = sealed("app~secret")
    text = section(refresh_token=sealed("1.Atoken"), client_secret=None,
                   client_secret_encrypted=secret)  # fmt: skip
    file = ProxyFile(str(proxy_file(tmp_path, text)))

    grant = found(file, ALERTS, PASSWORD, "another")

    assert isinstance(grant, FoundGrant)
    assert (grant.refresh_token, grant.kind) == ("1.Atoken", grants.DELEGATED)
    assert grant.credential is not None
    assert grant.credential.client_secret == "app~secret"
    assert "1.Atoken" not in repr(grant)
    assert "app~secret" not in repr(grant)


@pytest.mark.parametrize("iterations", [100_000, 1_200_000])
def test_iterations_that_were_not_written_are_found(tmp_path: Path, iterations: int) -> None:
    """Old versions wrote no number, and a rotation may have come in between."""
    text = section(refresh_token=sealed("1.Atoken", iterations=iterations), token_iterations=None)

    grant = found(ProxyFile(str(proxy_file(tmp_path, text))))

    assert isinstance(grant, FoundGrant)
    assert grant.refresh_token == "1.Atoken"


def test_catch_all_accounts_lend_what_is_missing(tmp_path: Path) -> None:
    """With the switch on, an account takes from its domain, then from all; they are none."""
    bare = f"[{ALERTS}]\nrefresh_token = {sealed('1.Atoken')}\n"
    domain = section("@contoso.example", refresh_token=None, client_id=None)
    everybody = f"[@]\nclient_id = {CLIENT_ID}\n"
    switch = "[emailproxy]\nallow_catch_all_accounts = True\n"

    file = ProxyFile(str(proxy_file(tmp_path, switch, domain, everybody, bare)))

    assert file.accounts == [ALERTS]
    grant = found(file)
    assert isinstance(grant, FoundGrant)
    assert (grant.client_id, grant.refresh_token) == (CLIENT_ID, "1.Atoken")


def test_a_cache_store_holds_the_tokens(tmp_path: Path) -> None:
    """What the proxy got may stand in a second file; other settings do not come from there."""
    main = section(refresh_token=None, token_salt=None, token_iterations=None)
    kept = section(refresh_token=sealed("1.Atoken"), client_id="another")

    alone = found(ProxyFile(str(proxy_file(tmp_path, main))))
    both = found(
        ProxyFile(
            str(proxy_file(tmp_path, main)),
            cache_store=str(proxy_file(tmp_path, kept, name="cache.config")),
        )
    )

    assert isinstance(alone, BadAccount)
    assert isinstance(both, FoundGrant)
    assert (both.client_id, both.refresh_token) == (CLIENT_ID, "1.Atoken")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"token_salt": None}, "token_salt"),
        ({"token_salt": "%%%"}, "token_salt"),
        ({"token_iterations": "many"}, "not a number"),
        ({"token_iterations": "99999999999"}, "far more"),
        ({"token_url": None}, "token_url"),
        ({"client_id": "*** your client id here ***"}, "client_id"),
        ({"oauth2_flow": "service_account"}, "Google"),
        ({"client_secret": None, "client_secret_encrypted": "gAAAAAbroken"}, "does not open"),
        (
            {
                "client_secret": None,
                "jwt_certificate_path": "/no/such.pem",
                "jwt_key_path": "/no/such.key",
            },
            "/no/such.pem",
        ),
    ],
)
def test_a_bad_account_says_why(tmp_path: Path, options: dict[str, str | None], says: str) -> None:
    """What is wrong with one account is told of that account."""
    told = found(
        ProxyFile(
            str(proxy_file(tmp_path, section(**({"refresh_token": sealed("1.Atoken")} | options))))
        )
    )

    assert isinstance(told, BadAccount)
    assert says in told.reason


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("client_secret = SECRET-1\n", "line 1"),
        ("[a@b.example]\nSECRET-1\n", "line 2"),
        ("[a@b.example]\nx = 1\nx = SECRET-1\n", "twice"),
        ("[a@b.example]\n[a@b.example]\n", "twice"),
        ("[SMTP-1587]\nserver_port = 587\n", "no account"),
        ("[emailproxy]\nallow_catch_all_accounts = SECRET-1\n[a@b.example]\n", "neither True"),
    ],
)
def test_another_file_is_told(tmp_path: Path, text: str, says: str) -> None:
    """A file that is none of the proxy's is refused without quoting it."""
    path = tmp_path / "emailproxy.config"
    path.write_text(text)

    with pytest.raises(ConfigurationError, match=says) as told:
        ProxyFile(str(path))

    assert "SECRET" not in str(told.value)


def test_a_secrets_manager_is_not_read(tmp_path: Path) -> None:
    """The text says what to do instead."""
    path = tmp_path / "emailproxy.config"
    path.write_text("[a@b.example]\n")

    with pytest.raises(ConfigurationError, match="as a file"):
        ProxyFile(str(path), cache_store="aws:secret")


@pytest.mark.parametrize(
    ("address", "authority", "directory", "cloud"),
    [
        (
            "https://login.microsoftonline.com/Contoso.onmicrosoft.com/oauth2/v2.0/token",
            "https://login.microsoftonline.com", "contoso.onmicrosoft.com", "worldwide",
        ),
        (
            "https://login.windows.net/common/oauth2/token",
            "https://login.windows.net", None, "worldwide",
        ),
        (
            "https://login.microsoftonline.us/organizations/oauth2/v2.0/token",
            "https://login.microsoftonline.us", None, "gcc-high",
        ),
        (
            "https://login.chinacloudapi.cn/abc/oauth2/v2.0/token",
            "https://login.chinacloudapi.cn", "abc", "china",
        ),
        (
            "https://127.0.0.1:8443/abc/oauth2/v2.0/token",
            "https://127.0.0.1:8443", "abc", None,
        ),
    ],
)  # fmt: skip
def test_endpoints_are_taken_apart(
    address: str, authority: str, directory: str | None, cloud: str | None
) -> None:
    """Authority, directory and cloud of a token endpoint, under whichever name it goes."""
    found_there = read_endpoint(address)

    assert found_there.authority == authority
    assert found_there.directory == directory
    assert found_there.cloud == cloud


def test_personal_accounts_are_refused() -> None:
    """They cannot submit with OAuth."""
    with pytest.raises(ConfigurationError, match="personal"):
        read_endpoint("https://login.microsoftonline.com/consumers/oauth2/v2.0/token")
