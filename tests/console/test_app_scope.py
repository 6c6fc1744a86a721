"""``alertpost doctor --check-scope``: whether an app is let in where it should not be."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.faults import PRESETS
from sandbox.worldfile import APP_ROLE
from tests.console.cli_setting import ALERTS, Cli

ADMIN = "admin@contoso.example"


@pytest.fixture
def by_role(cli: Cli) -> Cli:
    """An app-only mailbox under ``SMTP.SendAsApp`` and a permission on it alone."""
    presence = cli.directory().admit(cli.client_id)
    presence.roles.add(APP_ROLE)
    presence.mailboxes.add(ALERTS)
    return _connected(cli)


def _connected(cli: Cli) -> Cli:
    assert cli.add_tenant().code == 0
    assert cli("mailboxes", "add", "contoso", ALERTS).code == 0
    ran = cli("mailboxes", "connect", ALERTS, "--app-only")
    assert ran.code == 0, ran.err
    return cli


def scope_check(cli: Cli, other: str = ADMIN) -> dict[str, Any]:
    """Look, and give what was found of the other mailbox; no mail was sent anywhere."""
    ran = cli("doctor", ALERTS, "--check-scope", other, "--json")
    found: dict[str, Any] = next(one for one in ran.json if one["check"] == "app_scope")
    for address in (ALERTS, ADMIN):
        box = cli.sandbox.world.mailboxes.get(address)
        assert not box.outbox.mails
        assert box.connections == 0
    return found


def test_a_refusal_is_well(by_role: Cli) -> None:
    """The token that opens the one mailbox does not open the other."""
    found = scope_check(by_role)

    assert found["result"] == "ok"
    assert "535" in found["seen"]
    assert "has no right there" in found["meaning"]


def test_a_permission_too_many_is_found(by_role: Cli) -> None:
    """It says what allows it, and the commands that take it away, with the right ids."""
    presence = by_role.directory().admit(by_role.client_id)
    presence.mailboxes.add(ADMIN)

    found = scope_check(by_role)
    told = by_role("doctor", ALERTS, "--check-scope", ADMIN)

    assert found["result"] == "failed"
    assert f"can send as {ADMIN}" in found["meaning"]
    assert (
        f"Remove-MailboxPermission -Identity '{ADMIN}' -User '{presence.object_id}' "
        "-AccessRights FullAccess" in found["mend"]
    )
    assert "Remove-RecipientPermission" in found["mend"]
    assert told.code == 1


def test_an_assignment_without_scope_is_found(cli: Cli) -> None:
    """By RBAC for Applications the token has no role; there the assignment is to be narrowed."""
    cli.directory().admit(cli.client_id).scope.add("*")
    _connected(cli)

    found = scope_check(cli)

    assert found["result"] == "failed"
    assert "RBAC for Applications" in found["meaning"]
    assert "Remove-ManagementRoleAssignment" in found["mend"]
    assert f"mailboxes powershell {ALERTS} --least-privilege" in found["mend"]


def test_an_assignment_with_scope_is_well(cli: Cli) -> None:
    """The least-privilege variant lets the app in as its own mailboxes alone."""
    cli.directory().admit(cli.client_id).scope.add(ALERTS)
    _connected(cli)

    assert scope_check(cli)["result"] == "ok"


def test_a_switch_says_nothing_of_rights(by_role: Cli) -> None:
    """Where the other mailbox refuses everybody, nobody knows; that is said, and is no success."""
    by_role.directory().admit(by_role.client_id).mailboxes.add(ADMIN)
    by_role.sandbox.world.mailboxes.get(ADMIN).smtp_auth = False

    found = scope_check(by_role)

    assert found["result"] == "warning"
    assert "says nothing about them" in found["meaning"]


def test_an_app_that_is_refused_everywhere_proves_nothing(by_role: Cli) -> None:
    """Without a sign-in of its own a refusal elsewhere is no good news."""
    by_role.sandbox.world.exchange_faults.add(PRESETS["tokens_refused"])

    found = scope_check(by_role)

    assert (found["result"], found["because"]) == ("skipped", "smtp_auth")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("doctor", ALERTS, "--check-scope", ALERTS), "another mailbox"),
        (("doctor", "contoso", "--check-scope", ADMIN), "one mailbox"),
        (("doctor", ALERTS, "--check-scope", "nobody"), "@"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    by_role: Cli, arguments: tuple[str, ...], says: str
) -> None:
    """Wrong questions are input errors."""
    ran = by_role(*arguments)

    assert ran.code == 2
    assert says in ran.err


def test_a_persons_consent_has_no_scope(cli: Cli) -> None:
    """The check is for apps that act for themselves."""
    cli.connected()

    ran = cli("doctor", ALERTS, "--check-scope", ADMIN)

    assert ran.code == 2
    assert "--app-only" in ran.err
