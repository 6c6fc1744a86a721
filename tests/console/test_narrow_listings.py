"""At 80 columns and at 60 no listing breaks what is copied from it: ids, addresses, slugs, times."""

from __future__ import annotations

import re

import pytest

from console import output
from models.database import write
from models.ids import uuid7
from models.tables import METADATA
from tests.console.cli_world import CliWorld
from tests.console.customers import NOW

LISTINGS = [
    "status", "tenants list", "mailboxes list", "mailboxes list --parked", "mailboxes consents",
    "apps list", "apps credentials msp", "expiries --within 365", "warnings", "deliveries list",
    "deliveries list --tenant customer-003", "dead list", "dead list --each", "audit list",
    "report",
]  # fmt: skip
KEPT = re.compile(
    r"[0-9a-f]{8}-[0-9a-f-]{27}"  # an id
    r"|[\w.-]+@[\w.-]+\w"  # an address
    r"|\bcustomer-\d{3}\b"  # a slug
    r"|\b[a-z]+(?:-[a-z]+)+\b"  # the name of a rule
    r"|\d{4}-\d\d-\d\d|\d\d:\d\d(?::\d\d)?Z"  # a date, a time
)


def shown(customers: CliWorld, listing: str, width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    with monkeypatch.context() as on_a_terminal:
        on_a_terminal.setattr(output.out, "_force_terminal", True)
        on_a_terminal.setattr(output.out, "_width", width)
        on_a_terminal.setattr(output.out, "_height", 25)
        return customers.run(*listing.split()).out


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("listing", LISTINGS)
def test_nothing_to_copy_is_broken(
    customers: CliWorld, listing: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands there without line breaks stands there with them, too."""
    wide = customers.run(*listing.split()).out
    narrow = shown(customers, listing, width, monkeypatch)
    assert KEPT.search(wide), wide

    together = re.sub(r"\s+", "", narrow)
    lost = [word for word in set(KEPT.findall(wide)) if word in together and word not in narrow]
    assert lost == [], narrow
    firsts = [word for word in KEPT.findall(wide) if "@" in word or len(word) == len(str(uuid7()))]
    if listing not in {"status", "mailboxes consents", "warnings"}:
        assert all(word in narrow for word in firsts), narrow


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("listing", ["tenants list", "deliveries list", "report", "audit list"])
def test_a_table_keeps_to_its_width(
    customers: CliWorld, listing: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that is too long would be broken by the terminal, anywhere."""
    narrow = shown(customers, listing, width, monkeypatch)

    table = narrow.partition("Why tries failed")[0]
    assert [line for line in table.splitlines() if len(line) > width] == []


def test_columns_that_tell_nothing_apart_go(
    customers: CliWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cloud is one and the same; in a file for the next program the columns stay."""
    narrow = shown(customers, "tenants list", 80, monkeypatch)

    assert "worldwide" not in narrow
    assert "customer-011" in narrow
    assert "worldwide" in customers.run("tenants", "list").out


def test_numbers_keep_their_headings_whole(
    customers: CliWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report's are eight words side by side."""
    narrow = shown(customers, "report", 80, monkeypatch)

    for heading in ("Enqueued", "Accepted", "Cancelled", "Uncertain"):
        assert heading in narrow


def test_seven_parked_mailboxes_fit_a_screen(
    customers: CliWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is named before its rule, with the command that says what to mend first."""
    boxes = METADATA.tables["mailbox"]
    rules = (
        "smtp-auth-disabled-tenant", "smtp-auth-disabled-mailbox", "send-as-denied",
        "mailbox-not-found", "licence-missing", "account-locked", "refresh-token-expired",
    )  # fmt: skip
    parked = [f"alerts@customer-{number:03}.northwind-traders.example" for number in range(7)]
    with write(customers.engine) as conn:
        conn.execute(boxes.update().values(parked_at=None, park_reason=None, connected_at=NOW))
        for address, rule in zip(parked, rules, strict=True):
            conn.execute(
                boxes.update().values(parked_at=NOW, park_reason=rule)
                .where(boxes.c.address == address)
            )  # fmt: skip
    lines = shown(customers, "status", 100, monkeypatch).splitlines()

    for address, rule in zip(parked, rules, strict=True):
        [line] = [one for one in lines if rule in one]
        assert line.index(address) < line.index(rule)
        assert sum(address in one for one in lines) == 2, lines
    assert f"alertpost mailboxes show {parked[0]}" in " ".join(lines)
    begun = next(
        number
        for number, line in enumerate(lines)
        if "needs a person" in line or "need a person" in line
    )
    ended = next(number for number, line in enumerate(lines) if line.startswith("warnings"))
    assert ended - begun < 30
