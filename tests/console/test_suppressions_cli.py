"""``alertpost suppressions``: what is not used again, and how that ends."""

from __future__ import annotations

import json

from models import suppressions
from models.database import write
from models.lookups import tenant_id
from models.suppressions import Refusal
from tests.console.cli_world import CliWorld

BAD = "bad@contoso.example"


def _suppress(world: CliWorld, address: str = BAD, *, tenant: str = "contoso") -> None:
    refusal = Refusal(address, "recipient-address-invalid", "501 5.1.3 Invalid address", 1)
    with write(world.engine) as conn:
        suppressions.note(conn, tenant_id(conn, tenant), [refusal])


def test_nothing_is_suppressed_at_first(world: CliWorld) -> None:
    """An empty list says so."""
    assert "No address is suppressed." in world.run("suppressions", "list").out


def test_the_list_says_who_why_and_since_when(world: CliWorld) -> None:
    """Of all tenants, or of one; JSON has the same."""
    _suppress(world)
    _suppress(world, "other@fabrikam.example", tenant="fabrikam")

    said = world.run("suppressions", "list", "--tenant", "contoso")

    assert BAD in said.out
    assert "501 5.1.3" in said.out
    assert "fabrikam" not in said.out
    rows = json.loads(world.run("suppressions", "list", "--json").out)
    assert [(row["tenant"], row["rule"], row["refusals"]) for row in rows] == [
        ("contoso", "recipient-address-invalid", 1),
        ("fabrikam", "recipient-address-invalid", 1),
    ]


def test_status_and_report_count_them(world: CliWorld) -> None:
    """Whoever looks at the whole sees that some addresses are left out."""
    _suppress(world)

    assert json.loads(world.run("status", "--json").out)["suppressed"] == 1
    assert "suppressions list" in world.run("status").out
    assert json.loads(world.run("report", "--json").out)["suppressed"] == 1


def test_an_address_is_taken_off_with_a_note_in_the_audit_trail(world: CliWorld) -> None:
    """In any spelling; who, why and of which tenant are kept."""
    _suppress(world)
    _suppress(world, tenant="fabrikam")

    said = world.run(
        "suppressions", "remove", BAD.upper(), "--tenant", "contoso", "--why", "mended"
    )

    assert said.code == 0
    assert "is used again" in said.out
    rows = json.loads(world.run("suppressions", "list", "--json").out)
    assert [row["tenant"] for row in rows] == ["fabrikam"]
    (entry,) = json.loads(world.run("audit", "list", "--json").out)
    assert (entry["action"], entry["subject"], entry["reason"]) == (
        "suppression-remove",
        BAD,
        "mended",
    )
    assert entry["detail"]["tenant"] == "contoso"


def test_an_address_that_is_not_suppressed_is_told_so(world: CliWorld) -> None:
    """Exit code 3, as for anything that is not there."""
    said = world.run("suppressions", "remove", BAD)

    assert said.code == 3
    assert "is not suppressed" in said.err
