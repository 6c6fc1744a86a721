"""``alertpost mailboxes powershell``: what an Exchange administrator is given to run."""

from __future__ import annotations

import re

import pytest

from console.exchange_powershell import (
    PLACEHOLDER,
    App,
    quoted,
    with_least_privilege,
    with_permissions,
)
from tests.console.cli_setting import ALERTS, Cli

OBJECT = "99999999-8888-7777-6666-555555555555"
KNOWN = App("11111111-2222-3333-4444-555555555555", OBJECT, "https://login.example/adminconsent")


def commands(script: str) -> list[str]:
    return [line for line in script.splitlines() if line and not line.startswith("#")]


def test_permissions_are_given_on_each_mailbox() -> None:
    """The principal once, then full access, send-as and the switch of each."""
    script = with_permissions(KNOWN, ["a@x.example", "b@x.example"])

    assert [line.split()[0] for line in commands(script)] == [
        "Connect-ExchangeOnline", "New-ServicePrincipal",
        "Add-MailboxPermission", "Add-RecipientPermission",
        "Add-MailboxPermission", "Add-RecipientPermission",
        "Set-CASMailbox", "Set-CASMailbox",
    ]  # fmt: skip
    assert f"-AppId '{KNOWN.client_id}' -ObjectId '{OBJECT}'" in script
    assert "https://login.example/adminconsent" in script
    assert PLACEHOLDER not in script


def test_the_least_privilege_is_a_scope_and_a_role() -> None:
    """No mailbox permission, and no consent to SMTP.SendAsApp, which would widen it."""
    script = with_least_privilege(KNOWN, ["a@x.example", "b@x.example"])

    assert "Add-MailboxPermission" not in script
    assert "adminconsent" not in script
    assert (
        "-RecipientRestrictionFilter 'PrimarySmtpAddress -eq ''a@x.example'' -or "
        "PrimarySmtpAddress -eq ''b@x.example'''"
    ) in script
    assert f"-App '{OBJECT}' -Role 'Application SMTP.SendAsApp'" in script
    assert script.count("Test-ServicePrincipalAuthorization") == 2


@pytest.mark.parametrize("write_down", [with_permissions, with_least_privilege])
def test_an_object_id_that_is_not_known_says_where_it_stands(write_down) -> None:
    """And which of the two object ids it is not."""
    script = write_down(App("id", None, None), ["a@x.example"])

    assert f"'{PLACEHOLDER}'" in script
    assert "Enterprise applications" in script
    assert "Not the one of App registrations" in script


def test_nothing_is_expanded_in_what_others_wrote() -> None:
    """An apostrophe in an address ends no string, and a dollar sign names no variable."""
    assert quoted("o'brien$(rm)@x.example") == "'o''brien$(rm)@x.example'"

    script = with_least_privilege(KNOWN, ["o'brien@x.example"])

    assert "-eq ''o''''brien@x.example'''" in script
    assert not [line for line in commands(script) if len(re.findall("'", line)) % 2]


def _app_only(cli: Cli) -> str:
    """Let the directory know the app; give the object id of its enterprise application."""
    cli.add_tenant()
    cli("mailboxes", "add", "contoso", ALERTS)
    app = next(iter(cli.sandbox.world.apps.values()))
    presence = cli.directory().admit(app.client_id)
    presence.roles |= app.roles
    presence.mailboxes.add(ALERTS)
    return str(presence.object_id)


@pytest.mark.parametrize("more", [[], ["--least-privilege"]])
def test_the_right_ids_are_filled_in(cli: Cli, more: list[str]) -> None:
    """The object id is read from a token that the app gets for itself: no wrong one is copied."""
    object_id = _app_only(cli)

    ran = cli("mailboxes", "powershell", ALERTS, *more)

    assert ran.code == 0, ran.err
    assert f"-AppId '{cli.client_id}' -ObjectId '{object_id}'" in ran.out
    assert ALERTS in ran.out
    assert ran.err == ""


def test_without_a_token_the_script_comes_with_a_gap(cli: Cli) -> None:
    """Why the id is not known is told apart, so that the script may go into a file."""
    cli.add_tenant()
    cli("mailboxes", "add", "contoso", ALERTS)
    cli("tenants", "edit", "contoso", "--client-secret-file", cli.secret_file("wrong~secret"))

    ran = cli("mailboxes", "powershell", ALERTS)

    assert ran.code == 0, ran.err
    assert PLACEHOLDER in ran.out
    assert "put it in by hand" in ran.err
    assert "wrong~secret" not in ran.out + ran.err
    assert (
        f"-ObjectId '{OBJECT}'" in cli("mailboxes", "powershell", ALERTS, "--object-id", OBJECT).out
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nobody@contoso.example"], 3, "nobody@contoso.example"),
        ([ALERTS, "--object-id", "the-app"], 2, "Enterprise applications"),
        ([ALERTS, "alerts@fabrikam.example"], 2, "contoso and fabrikam"),
    ],
)
def test_what_cannot_be_written_down_is_said(
    cli: Cli, arguments: list[str], code: int, says: str
) -> None:
    """An unknown mailbox, what is no object id, mailboxes of two organisations."""
    _app_only(cli)
    cli.add_tenant("fabrikam")
    cli("mailboxes", "add", "fabrikam", "alerts@fabrikam.example")

    ran = cli("mailboxes", "powershell", *arguments)

    assert ran.code == code
    assert says in ran.err
