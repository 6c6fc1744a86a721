"""``alertpost tenants`` and ``alertpost apps`` against a real database."""

from __future__ import annotations

import pytest

from console import park_causes
from console.context import opened
from console.verbs_tenants import notification_lists
from models import audit, lane, mailboxes
from models.database import read, write
from sandbox.person import Person
from tests.console.cli_setting import ALERTS, Cli
from workers import oauth_rules, reply_rules

GUID = "11111111-2222-3333-4444-555555555555"


@pytest.mark.parametrize(
    ("entries", "lists"),
    [
        (["a@x.example"], {"default": ["a@x.example"]}),
        (["critical=a@x.example", "b@x.example"], {"critical": ["a@x.example"], "default": ["b@x.example"]}),
        (["Low = a@x.example", "low=b@x.example"], {"low": ["a@x.example", "b@x.example"]}),
        # An equals sign may stand in an address; only a list's name before it counts.
        (["id=7@x.example"], {"default": ["id=7@x.example"]}),
        ([], {}),
    ],
)  # fmt: skip
def test_addresses_go_to_the_list_that_they_name(
    entries: list[str], lists: dict[str, list[str]]
) -> None:
    """An entry without a severity belongs to the default list."""
    assert notification_lists(entries) == lists


def test_a_tenant_is_added_with_an_app_of_its_own(cli: Cli) -> None:
    """Adding makes the app registration and the tenant, and tells what comes next."""
    ran = cli.add_tenant(
        "contoso", "--notify", "critical=boss@contoso.example", "--name", "Contoso Ltd"
    )

    assert ran.code == 0, ran.err
    assert "mailboxes add contoso" in ran.out
    (listed,) = cli("tenants", "list", "--json").json
    assert listed["slug"] == "contoso"
    assert listed["app"] == "contoso"
    assert listed["notify"] == {
        "default": ["ops@contoso.example"],
        "critical": ["boss@contoso.example"],
    }
    shown = cli("tenants", "show", "contoso")
    assert "Contoso Ltd" in shown.out
    assert cli.sandbox.entra_url in shown.out


def test_licences_limit_external_recipients(cli: Cli) -> None:
    """The limit that follows from the licences, or from a trial, is shown and can be taken back."""
    cli.add_tenant("contoso", "--licences", "100", "--accepted-domain", "@Contoso.COM")

    shown = cli("tenants", "show", "contoso", "--json").json
    told = cli("tenants", "show", "contoso").out
    bad = cli("tenants", "edit", "contoso", "--licences", "0")
    cli("tenants", "edit", "contoso", "--trial", "--reset", "licences")
    trial = cli("tenants", "show", "contoso", "--json").json
    cli("tenants", "edit", "contoso", "--no-trial", "--reset", "accepted-domains")
    none = cli("tenants", "show", "contoso", "--json").json

    assert shown["in_force"]["external_recipients_per_day"] == 22_059
    assert shown["accepted_domains"] == ["contoso.com"]
    assert "22,059" in told
    assert bad.code == 2
    assert trial["in_force"]["external_recipients_per_day"] == 5_000
    assert none["in_force"]["external_recipients_per_day"] is None
    assert none["accepted_domains"] is None


def test_an_administrator_can_allow_the_app_for_all(cli: Cli) -> None:
    """The link that is shown leads through the page of admin consent to the app's address."""
    cli.add_tenant()
    link = cli("tenants", "show", "contoso", "--json").json["in_force"]["admin_consent"]
    assert link in cli("tenants", "show", "contoso").out

    administrator = Person("admin@contoso.example", cli.sandbox.ca_file)
    back = administrator.go_through(link)

    assert back["admin_consent"] == "True"
    assert "SMTP.Send" in back["scope"]


def test_no_secret_is_ever_printed(cli: Cli) -> None:
    """What lists show of an app says that there is a secret, never which."""
    secret = next(iter(cli.sandbox.world.apps.values())).client_secrets[0].value
    printed = [
        cli.add_tenant(),
        cli("tenants", "show", "contoso", "--json"),
        cli("tenants", "list", "--json"),
        cli("apps", "show", "contoso", "--json"),
        cli("apps", "list"),
    ]

    assert all(ran.code == 0 for ran in printed)
    assert not any(secret in ran.out + ran.err for ran in printed)


def test_tenants_share_an_app(cli: Cli) -> None:
    """A second tenant with --app brings no secret of its own."""
    cli.add_tenant()

    ran = cli(
        "tenants", "add", "fabrikam", "--directory-id", cli.directory("fabrikam").tenant_id,
        "--app", "contoso", "--notify", "ops@fabrikam.example", "--client-id", "x",
    )  # fmt: skip
    assert ran.code == 2
    assert "apps secret" in ran.err

    ran = cli(
        "tenants", "add", "fabrikam", "--directory-id", cli.directory("fabrikam").tenant_id,
        "--app", "contoso",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "no notification list" in ran.out
    (app,) = cli("apps", "list", "--json").json
    assert app["tenants"] == 2


def test_the_secret_may_come_from_standard_input(cli: Cli) -> None:
    """A dash reads the secret from stdin, so that it need not lie in a file."""
    ran = cli(
        "tenants", "add", "contoso", "--directory-id", GUID, "--client-id", GUID,
        "--client-secret-file", "-", "--secret-expires", "2031-03-01", stdin="abc~secret\n",
    )  # fmt: skip

    assert ran.code == 0, ran.err
    assert (
        cli("apps", "show", "contoso", "--json").json["credential_expires_at"]
        == "2031-03-01T00:00:00Z"
    )


ADD = ["tenants", "add", "contoso", "--directory-id", GUID, "--client-id", GUID]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (ADD, 2, "--client-secret-file"),
        ([*ADD, "--client-secret-file", "absent.txt"], 2, "absent.txt"),
        ([*ADD, "--client-secret-file", "."], 2, "directory"),
        ([*ADD, "--client-secret-file", "id.txt"], 2, "'Value'"),
        ([*ADD, "--client-secret-file", "binary"], 2, "not text"),
        ([*ADD, "--client-secret-file", "s.txt", "--secret-expires", "soon"], 2, "2027-03-01"),
        ([*ADD, "--client-secret-file", "s.txt", "--secret-expires", "2020-01-01"], 2, "is past"),
        ([*ADD, "--client-secret-file", "s.txt", "--certificate-file", "s.txt"], 2, "not both"),
        ([*ADD, "--certificate-file", "s.txt"], 2, "belong together"),
        ([*ADD, "--certificate-file", "s.txt", "--private-key-file", "s.txt"], 2, "PEM"),
        ([*ADD, "--client-secret-file", "s.txt", "--cloud", "moon"], 2, "gcc-high"),
        ([*ADD, "--client-secret-file", "s.txt", "--authority", "http://x"], 2, "https://"),
        ([*ADD, "--client-secret-file", "s.txt", "--notify", "nobody"], 2, "notification list"),
        ([*ADD, "--client-secret-file", "s.txt", "--smtp-port", "99999"], 2, "65535"),
        ([*ADD, "--client-secret-file", "s.txt", "--ca-file", "absent.pem"], 2, "absent.pem"),
        ([*ADD, "--client-secret-file", "s.txt", "--uncertain", "maybe"], 2, "resend"),
        (["tenants", "add", "Con toso", "--directory-id", GUID, "--app", "x"], 2, "lower-case"),
        (["tenants", "add", "contoso", "--directory-id", "common", "--app", "x"], 2, "directory"),
        (["tenants", "add", "contoso", "--directory-id", GUID, "--app", "x"], 3, "apps add"),
        (["tenants", "add", "contoso"], 2, "--directory-id"),
        (["tenants", "show", "nobody"], 3, "nobody"),
        (["tenants", "edit", "nobody", "--name", "x"], 3, "nobody"),
        (["tenants", "edit", "nobody"], 2, "nothing to change"),
        (["tenants", "edit", "nobody", "--reset", "colour"], 2, "smtp-host"),
        (["tenants", "remove", "nobody", "--yes"], 3, "nobody"),
        (["apps", "secret", "nobody", "--client-secret-file", "s.txt"], 3, "nobody"),
        (["apps", "add", "x", "--client-id", "y"], 2, "--client-secret-file"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else str(value),
)  # fmt: skip
def test_bad_input_is_told_in_one_sentence(
    cli: Cli, arguments: list[str], code: int, says: str
) -> None:
    """Wrong input ends with the code of its kind and a text that says what would be right."""
    (cli.folder / "s.txt").write_text("top~secret~value")
    (cli.folder / "id.txt").write_text(GUID)
    (cli.folder / "binary").write_bytes(b"\xff\xfe\xfa")

    ran = cli(*arguments)

    assert ran.code == code, ran.err
    assert says in ran.err
    assert "top~secret" not in ran.out + ran.err
    assert cli("tenants", "list", "--json").json == []


def test_what_exists_is_not_added_twice(cli: Cli) -> None:
    """The second tenant of a name is refused, and nothing of it stays."""
    cli.add_tenant()

    ran = cli.add_tenant()

    assert ran.code == 4
    assert len(cli("apps", "list", "--json").json) == 1


def park(reason: str, scope: lane.Scope) -> None:
    with opened() as context, write(context.engine) as conn:
        box = mailboxes.mailbox(conn, ALERTS)
        lane.park(
            conn, mailbox_id=box.id, scope=scope, reason=reason, meaning="m", next_step="n",
            answer="a", probe_after_seconds=None,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "scope", "goes_on"),
    [
        ("secret-expired", "app", True),
        ("secret-wrong", "app", True),
        ("certificate-refused", "app", True),
        ("misconfigured", "mailbox", True),
        ("smtp-auth-disabled-tenant", "tenant", False),
        ("by-hand", "mailbox", False),
    ],
)
def test_a_new_secret_resumes_what_waited_for_it(
    cli: Cli, reason: str, scope: lane.Scope, goes_on: bool
) -> None:
    """A new secret ends parks of the old one and no others."""
    cli.connected()
    park(reason, scope)
    # The same secret under another number would be known; Entra has a second one for the app.
    registration = next(iter(cli.sandbox.world.apps.values()))
    new = registration.add_secret(ends_at=cli.sandbox.world.clock() + 1e6).value

    ran = cli("tenants", "edit", "contoso", "--client-secret-file", cli.secret_file(new))

    assert ran.code == 0, ran.err
    assert (f"whether the cause is gone. Mailbox: {ALERTS}" in ran.out) is goes_on
    parked = cli("mailboxes", "show", ALERTS, "--json").json["parked_at"]
    assert (parked is None) is goes_on


def test_a_new_secret_of_a_shared_app_resumes_every_tenant(cli: Cli) -> None:
    """Whoever shares the app goes on too; who was never connected sends nothing, so not named."""
    cli.add_tenant()
    cli("tenants", "add", "fabrikam", "--directory-id", GUID, "--app", "contoso")
    cli("mailboxes", "add", "contoso", ALERTS)
    cli("mailboxes", "add", "fabrikam", "alerts@fabrikam.example")
    park("secret-expired", "app")

    ran = cli("apps", "secret", "contoso", "--client-secret-file", cli.secret_file("new~one"))

    assert "Resumed" not in ran.out
    for address in (ALERTS, "alerts@fabrikam.example"):
        assert cli("mailboxes", "show", address, "--json").json["parked_at"] is None


def test_other_settings_resume_what_could_not_connect(cli: Cli) -> None:
    """After a change of where to connect, the mailbox tries again."""
    cli.add_tenant()
    cli("mailboxes", "add", "contoso", ALERTS)
    park("tenant-unknown", "tenant")

    assert "Resumed" not in cli("tenants", "edit", "contoso", "--name", "Contoso").out
    ran = cli("tenants", "edit", "contoso", "--reset", "authority", "--smtp-port", "2525")

    assert ran.code == 0, ran.err
    assert cli("mailboxes", "show", ALERTS, "--json").json["parked_at"] is None
    shown = cli("tenants", "show", "contoso", "--json").json
    assert shown["authority"] is None
    assert shown["in_force"]["authority"].startswith("https://login.microsoftonline.com/")
    assert shown["in_force"]["smtp_port"] == 2525


def test_a_change_that_ends_consents_wants_force(cli: Cli) -> None:
    """Without --force a connected tenant keeps its directory."""
    cli.connected()

    ran = cli("tenants", "edit", "contoso", "--directory-id", GUID)
    assert ran.code == 4
    assert "--force" in ran.err

    assert cli("tenants", "edit", "contoso", "--directory-id", GUID, "--force").code == 0
    assert cli("mailboxes", "show", ALERTS, "--json").json["standing"] == "not connected"


def test_removing_asks_and_says_what_goes(cli: Cli) -> None:
    """One yes is enough, and --yes where nobody can answer; --force alone is none."""
    cli.connected()

    unanswered = cli("tenants", "remove", "contoso", "--force", stdin="")
    assert unanswered.code == 2
    assert "1 consent be deleted" in unanswered.err
    removed = cli("tenants", "remove", "contoso", "--yes", "--as", "alice")
    assert removed.code == 0, removed.err
    assert "1 consents deleted" in removed.out
    assert cli("tenants", "list", "--json").json == []
    assert cli("apps", "list", "--json").json == []
    with opened() as context, read(context.engine) as conn:
        latest = audit.entries(conn, subject_kind="tenant")[0].entry
    assert (latest.actor, latest.action, latest.subject) == (
        "cli:alice",
        "tenant-remove",
        "contoso",
    )


def test_empty_lists_say_what_to_do(cli: Cli) -> None:
    """Whoever starts learns the first command."""
    assert "tenants add" in cli("tenants", "list").out
    assert "tenants add" in cli("apps", "list").out


def test_an_app_in_use_is_not_removed(cli: Cli) -> None:
    """An app registration goes only when no tenant uses it."""
    cli.add_tenant()
    cli("apps", "add", "shared", "--client-id", GUID, "--client-secret-file", cli.secret_file())

    assert cli("apps", "remove", "contoso", "--yes").code == 4
    assert cli("apps", "remove", "shared", "--yes").code == 0
    assert [app["name"] for app in cli("apps", "list", "--json").json] == ["contoso"]


def test_causes_are_rules_that_exist() -> None:
    """A reason that is resumed is one that some verdict gives."""
    known = {"misconfigured"} | park_causes._rules(
        [*park_causes._oauth_verdicts(), *park_causes._reply_verdicts()]
    )

    assert park_causes.cured_by_consent() <= known
    assert park_causes.cured_by_credential() <= known
    assert park_causes.cured_by_settings() <= known
    assert oauth_rules.GRANT_REFUSED.rule in park_causes.cured_by_consent()
    assert {rule.verdict.rule for rule in reply_rules.RULES} & park_causes.cured_by_settings()


def test_a_foreign_host_needs_leave_in_the_settings(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The door says which host and which setting; with leave it is sealed and taken."""
    cli.add_tenant()
    refused = cli("tenants", "edit", "contoso", "--smtp-host", "mail.example")
    monkeypatch.setenv("ALERTPOST_ALLOWED_HOSTS", "id.example, Mail.Example")
    taken = cli("tenants", "edit", "contoso", "--smtp-host", "mail.example")
    monkeypatch.setenv("ALERTPOST_ALLOWED_HOSTS", "https://id.example")
    misspelt = cli("status")

    assert refused.code == 2
    assert "'mail.example'" in refused.err
    assert "ALERTPOST_ALLOWED_HOSTS" in refused.err
    assert taken.code == 0, taken.err
    assert misspelt.code == 2
    assert "without https://" in misspelt.err
