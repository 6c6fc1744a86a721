"""What a person is told to do can be done as it stands."""

from __future__ import annotations

import re

import pytest

from workers.conclusion import misconfigured
from workers.cures import filled, with_command
from workers.rule_book import every_verdict
from workers.verdict import Action

PARKS = [verdict for verdict in every_verdict() if verdict.action is Action.PARK]
POWERSHELL = re.compile(r"\b(?:Set|Add|Get|New|Remove|Enable)-[A-Z]\w+ -?\S+")


@pytest.mark.parametrize("verdict", [*PARKS, misconfigured("no key")], ids=lambda v: v.rule)
def test_a_next_step_can_be_done_as_it_stands(verdict):
    """No placeholder where the value is known, and each command alone between its backticks."""
    step = with_command(
        verdict.next_step,
        verdict.rule,
        address="alerts@contoso.example",
        tenant="contoso",
        account="service@contoso.example",
        app="all customers",
    )

    assert not re.search(r"<[a-z ]+>|\b(?:ADDRESS|ACCOUNT|SLUG|APP|NAME)\b|app all customers", step)
    assert step.count("`") % 2 == 0
    quoted, outside = step.split("`")[1::2], " ".join(step.split("`")[::2])
    assert not POWERSHELL.search(outside)
    for command in quoted:
        assert len(POWERSHELL.findall(command)) <= 1
        assert not command.endswith((".", ",", ";"))


def test_who_signs_in_is_named_beside_the_mailbox():
    """Send As is given to the account for the mailbox, not to a pair of angle brackets."""
    text = "Grant it: `Add-RecipientPermission ADDRESS -Trustee ACCOUNT -AccessRights SendAs`."

    shared = filled(text, address="shared@contoso.example", account="service@contoso.example")
    own = filled(text, address="alerts@contoso.example")

    assert "Permission shared@contoso.example -Trustee service@contoso.example " in shared
    assert "Permission alerts@contoso.example -Trustee alerts@contoso.example " in own


def test_what_is_filled_in_is_quoted_for_where_it_is_typed():
    """An apostrophe is a shell's quote, and PowerShell's, each with a way of its own."""
    text = "`alertpost mailboxes resume ADDRESS`, or `Set-CASMailbox -Identity ADDRESS`."

    assert filled(text, address="o'neil@contoso.example") == (
        "`alertpost mailboxes resume 'o'\"'\"'neil@contoso.example'`, or "
        "`Set-CASMailbox -Identity 'o''neil@contoso.example'`."
    )
