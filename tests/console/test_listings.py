"""Which rows a listing shows, and which come first."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from sqlalchemy import Table, select

from console.cli import command_line
from console.commands import COMMANDS, LISTINGS, load
from console.plain_help import summary
from models.database import write
from models.ids import uuid7
from models.tables import METADATA
from tests.console.cli_world import CliWorld

MAILBOX, TENANT = METADATA.tables["mailbox"], METADATA.tables["tenant"]
LINK: Table = METADATA.tables["consent_link"]


def address(number: int) -> str:
    return f"alerts@customer-{number:03}.northwind-traders.example"


def set_mailbox(customers: CliWorld, number: int, **values: object) -> None:
    with write(customers.engine) as conn:
        conn.execute(MAILBOX.update().where(MAILBOX.c.address == address(number)).values(**values))


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (("--parked",), {3, 7}),
        (("--standing", "parked"), {3, 7}),
        (("--standing", "paused", "--standing", "not-connected"), {4, 5}),
        (("--parked", "--standing", "paused"), {3, 4, 7}),
    ],
)
def test_mailboxes_by_standing(
    customers: CliWorld, options: tuple[str, ...], numbers: set[int]
) -> None:
    """Only those that stand so; the exit code is that of any listing."""
    now = datetime.now(UTC)
    set_mailbox(customers, 3, parked_at=now, park_reason="by-hand")
    set_mailbox(customers, 4, paused_until=now + timedelta(hours=1), pause_reason="throttled")
    set_mailbox(customers, 5, connected_at=None)
    with write(customers.engine) as conn:
        conn.execute(
            MAILBOX.update().values(connected_at=now).where(MAILBOX.c.address.like("backup%"))
        )

    said = customers.run("mailboxes", "list", *options, "--json")

    assert said.code == 0
    assert {one["address"] for one in said.json} == set(map(address, numbers))


def test_tenants_in_trouble_come_first(customers: CliWorld) -> None:
    """Parked mailboxes, then consents that are missing, then all others by name."""
    set_mailbox(customers, 9, parked_at=datetime.now(UTC), park_reason="by-hand")

    slugs = [one["slug"] for one in customers.run("tenants", "list", "--json").json]

    # Number 7 is parked from the start, and number 10 has a mailbox without a consent.
    assert slugs[:3] == ["customer-007", "customer-009", "customer-010"]
    assert slugs[3:] == sorted(slugs[3:])


def test_links_that_were_not_opened_or_will_end(customers: CliWorld) -> None:
    """What holds and may come to nothing, the one that ends first at the top."""
    now = datetime.now(UTC)
    with write(customers.engine) as conn:
        conn.execute(LINK.delete())
        for number, days, opened in ((1, 9, True), (2, 2, True), (3, 20, False), (4, -1, False)):
            box = conn.scalar(select(MAILBOX.c.id).where(MAILBOX.c.address == address(number)))
            conn.execute(MAILBOX.update().where(MAILBOX.c.id == box).values(connected_at=None))
            conn.execute(
                LINK.insert().values(
                    id=uuid7(), mailbox_id=box, token_encrypted=b"x", made_by="alice",
                    token_sha256=f"{number:064}", created_at=now,
                    expires_at=now + timedelta(days=days), opened_at=now if opened else None,
                )
            )  # fmt: skip

    def listed(*options: str) -> list[str]:
        found = customers.run("mailboxes", "consents", *options, "--json").json["consents"]
        return [one["mailbox"] for one in found]

    assert listed("--unopened") == [address(3)]
    assert listed("--ending", "3") == [address(2)]
    assert listed("--ending", "10") == [address(2), address(1)]
    assert listed("--unopened", "--ending", "3") == [address(2), address(3)]


@pytest.mark.parametrize("path", list(LISTINGS), ids=" ".join)
def test_a_listing_alone_is_that_of_its_group(path: tuple[str, str]) -> None:
    """What is loaded without its group is the same verb."""
    name, verb = path
    alone, whole = load(name, verb), load(name)

    def found(app: object) -> object:
        return next(
            one.callback
            for one in app.registered_commands  # type: ignore[attr-defined]
            if one.name == verb
        )

    assert found(alone) is found(whole)


@pytest.mark.parametrize(
    "words",
    [
        *map(" ".join, LISTINGS), "deliveries list", "dead list", "report", "audit list",
        "expiries", "tenants --help", "--help", "--version",
    ],
)  # fmt: skip
def test_a_listing_loads_no_more_than_it_needs(customers: CliWorld, words: str) -> None:
    """Neither the ways out nor the loggers; and what does not log cannot log past the redaction."""
    heavy = {
        "msal", "requests", "redis", "dramatiq", "structlog", "alembic", "aiosmtplib",
        "starlette", "uvicorn",
    }  # fmt: skip
    if words.endswith(("--help", "--version")):
        heavy |= {"sqlalchemy", "pydantic"}
    if words == "tenants --help":
        # It loads the group, which knows all ways.
        heavy = {"starlette"}
    code = (
        "import atexit, sys; from console.entry import main;"
        f"atexit.register(lambda: print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr));"
        "main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        env=os.environ | {"ALERTPOST_DATA_DIR": str(customers.home)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert ran.stderr.splitlines()[-1:] == ["[]"]
    assert ran.returncode in {0, 7}


def test_every_summary_is_that_of_its_command() -> None:
    """What `--help` says without loading a command is what the command says itself."""

    whole = typer.main.get_command(command_line()).commands  # type: ignore[attr-defined]
    assert {name: summary(whole[name]) for name in COMMANDS} == {
        name: place.summary for name, place in COMMANDS.items()
    }
