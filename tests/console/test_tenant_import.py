"""``alertpost tenants import``: a provider's customers from one sheet, again and again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from console import park_causes
from console.context import opened
from models import audit, lane, mailboxes
from models.database import read, write
from tests.console.cli_setting import Cli, Ran
from tests.console.pasted import printed

HEAD = "slug,name,directory_id,mailbox,notify,licences"
SHEET = f"""{HEAD}
contoso,Contoso Ltd,contoso.example,alerts@contoso.example,ops@contoso.example,100
contoso,,,second@contoso.example,,
fabrikam,Fabrikam,fabrikam.example,alerts@fabrikam.example,ops@fabrikam.example,
"""


@pytest.fixture
def provider(cli: Cli) -> Cli:
    """A provider that has an app registration for everybody."""
    added = cli(
        "apps", "add", "msp", "--client-id", cli.client_id,
        "--client-secret-file", cli.secret_file(),
    )  # fmt: skip
    assert added.code == 0, added.err
    return cli


def bring(cli: Cli, sheet: str, *more: str) -> Ran:
    path = cli.folder / "customers.csv"
    path.write_text(sheet, "utf-8")
    return cli("tenants", "import", str(path), "--app", "msp", *more)


def fates(ran: Ran) -> list[tuple[int, str]]:
    return [(line["number"], line["fate"]) for line in ran.json["lines"]]


def listed(cli: Cli) -> dict[str, Any]:
    return {entry["slug"]: entry for entry in cli("tenants", "list", "--json").json}


def test_a_sheet_becomes_tenants_and_mailboxes(provider: Cli) -> None:
    """Each line a tenant, or one more mailbox of it; what comes next is said."""
    ran = bring(provider, SHEET)

    assert ran.code == 0, ran.err
    assert "3 added" in ran.out
    assert "mailboxes connect" in ran.out
    tenants = listed(provider)
    assert {slug: entry["mailboxes"] for slug, entry in tenants.items()} == {
        "contoso": 2,
        "fabrikam": 1,
    }
    assert tenants["contoso"]["licences"] == 100
    assert tenants["fabrikam"]["notify"] == {"default": ["ops@fabrikam.example"]}
    assert {entry["app"] for entry in tenants.values()} == {"msp"}


def test_the_same_sheet_again_changes_nothing(provider: Cli) -> None:
    """It may be given as often as one likes; the audit trail stays as it was."""
    bring(provider, SHEET)
    before = listed(provider)
    written = _audited()

    ran = bring(provider, SHEET)

    assert ran.code == 0
    assert "Everything is as the sheet says." in ran.out
    assert "3 unchanged" in ran.out
    assert listed(provider) == before
    assert _audited() == written


def test_what_differs_is_changed_and_what_is_not_said_stays(provider: Cli) -> None:
    """A mended cell changes that one value; an empty cell and a missing line change nothing."""
    bring(provider, SHEET)

    ran = bring(provider, f"{HEAD}\ncontoso,Contoso AG,,,,200\n", "--json")

    assert fates(ran) == [(2, "changed")]
    assert ran.json["lines"][0]["what"] == "name, licences"
    tenants = listed(provider)
    assert tenants["contoso"]["name"] == "Contoso AG"
    assert tenants["contoso"]["licences"] == 200
    assert tenants["contoso"]["notify"] == {"default": ["ops@contoso.example"]}
    assert "fabrikam" in tenants
    assert _audited()[0] == ("tenant-edit", "contoso")


BAD = f"""{HEAD}
contoso,,contoso.example,alerts@contoso.example,,
Big Letters,,x.example,,,
nowhere,,,,,
fabrikam,,fabrikam.example,no address,,
contoso,,,alerts@contoso.example,,many
litware,,litware.example,alerts@contoso.example,,
northwind,,northwind.example,alerts@northwind.example,,
"""
BAD_REASONS = {
    3: "lower-case letters",
    4: "is new and needs a directory_id",
    5: "the address has no @",
    6: "is not a number",
    7: "at tenant 'contoso'",
}


def test_bad_lines_are_told_and_stop_no_other(provider: Cli) -> None:
    """Each with its number and its reason; of a bad line nothing is kept."""
    ran = bring(provider, BAD, "--json")

    assert ran.code == 1
    bad = {line["number"]: line["what"] for line in ran.json["lines"] if line["fate"] == "bad"}
    assert bad.keys() == BAD_REASONS.keys()
    for number, reason in BAD_REASONS.items():
        assert reason in bad[number]
    assert ran.json["added"] == 2
    assert listed(provider).keys() == {"contoso", "northwind"}


def test_strict_does_nothing_where_a_line_is_bad(provider: Cli) -> None:
    """All or nothing, for those who would rather mend the sheet first."""
    ran = bring(provider, BAD, "--strict")

    assert ran.code == 1
    assert "Nothing was done" in ran.out
    assert "needs a directory_id" in ran.out
    assert listed(provider) == {}


def test_strict_brings_in_a_good_sheet(provider: Cli) -> None:
    """Where every line is good it is brought in."""
    assert bring(provider, SHEET, "--strict").code == 0
    assert listed(provider).keys() == {"contoso", "fabrikam"}


def test_a_dry_run_tells_the_same_and_does_nothing(provider: Cli) -> None:
    """Later lines see what earlier ones would do: the second mailbox's tenant is there."""
    rehearsed = bring(provider, BAD, "--dry-run", "--json")
    written, tenants = _audited(), listed(provider)
    real = bring(provider, BAD, "--json")

    assert tenants == {}
    assert [action for action, _ in written] == ["app-add"]
    assert rehearsed.json["lines"] == real.json["lines"]
    assert (rehearsed.json["dry_run"], real.json["dry_run"]) == (True, False)
    assert (rehearsed.code, real.code) == (1, 1)


def test_an_app_that_is_not_there_is_one_refusal(cli: Cli) -> None:
    """Without an app registration no tenant can be; the command that makes one is named, once."""
    ran = bring(cli, SHEET)

    assert ran.code == 2
    assert ran.err.count("'msp'") == 1
    assert "alertpost apps add" in ran.err
    assert listed(cli) == {}


def test_a_change_that_costs_consents_is_refused(cli: Cli) -> None:
    """Another directory makes a consent worthless: that is no matter for a sheet."""
    cli.connected()
    path = cli.folder / "customers.csv"
    path.write_text("slug,directory_id\ncontoso,other.example\n")

    ran = cli("tenants", "import", str(path))

    (command,) = printed(ran.out)
    assert ran.code == 1
    assert command == "alertpost tenants edit contoso --directory-id other.example --force"
    assert listed(cli)["contoso"]["connected"] == 1
    assert cli(*shlex.split(command)[1:]).code == 0
    assert listed(cli)["contoso"]["directory_id"] == "other.example"


def test_what_waited_for_a_change_goes_on(cli: Cli) -> None:
    """A mailbox that was parked because its server's name was wrong is resumed by the sheet."""
    address = cli.connected()
    with opened() as context, write(context.engine) as conn:
        lane.park(
            conn, mailbox_id=mailboxes.mailbox(conn, address).id, scope="mailbox",
            reason=min(park_causes.cured_by_settings()), meaning="m", next_step="n", answer="a",
            probe_after_seconds=None,
        )  # fmt: skip
    path = cli.folder / "customers.csv"
    path.write_text("slug,smtp_host\ncontoso,localhost\n")

    assert cli("tenants", "import", str(path)).code == 0

    (box,) = cli("mailboxes", "list", "--json").json
    assert box["parked_at"] is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read"), (b"slug,mailbx\n", "did you mean"), (b"\xff\xfe", "UTF-8")],
)
def test_what_is_no_sheet_is_an_error_of_its_own(
    provider: Cli, content: bytes | None, reason: str
) -> None:
    """One line on the standard error stream, and the exit code of a wrong call."""
    path = Path(provider.folder) / "customers.csv"
    if content is not None:
        path.write_bytes(content)

    ran = provider("tenants", "import", str(path))

    assert ran.code == 2
    assert reason in ran.err


def _audited() -> list[tuple[str, str]]:
    with opened() as context, read(context.engine) as conn:
        return [(recorded.entry.action, recorded.entry.subject) for recorded in audit.entries(conn)]
