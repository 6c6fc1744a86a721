"""What is added up row by row is what SQL adds up."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from bench.listings import seed
from models import reports
from models.database import create_engine_from, read, write
from models.tables import METADATA

_TWO = {"a@x.example": "550 5.1.1", "b@x.example": "550 5.1.1"}


@pytest.fixture
def life(tmp_path: Path, sqlite_template: Path) -> Iterator[Engine]:
    """Of eleven mailboxes and 700 alerts."""
    shutil.copyfile(sqlite_template, tmp_path / "alertpost.db")
    engine = create_engine_from(f"sqlite:///{tmp_path / 'alertpost.db'}")
    seed(engine, tenants=10, deliveries=700)
    with write(engine) as conn:
        delivery = METADATA.tables["delivery"]
        conn.execute(
            delivery.update().values(uncertain=True).where(delivery.c.subject.like("%SRV-1%"))
        )
        # Of accepted mails and of dead ones, and nobody's in most.
        for pattern, refused in (("%SRV-2%", {"a@x.example": "550"}), ("%3 %", _TWO)):
            conn.execute(
                delivery.update().values(refused=refused).where(delivery.c.subject.like(pattern))
            )
    yield engine
    engine.dispose()


def both(engine: Engine, monkeypatch: pytest.MonkeyPatch, **given: Any) -> list[reports.Report]:
    with read(engine) as conn:
        ours = reports.report(conn, **given)
        monkeypatch.setattr(reports, "_gathered", reports._asked)
        return [ours, reports.report(conn, **given)]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"tenant": "customer-003"},
        {"since": datetime.now(UTC) - timedelta(days=90)},
        {"since": datetime.now(UTC) + timedelta(days=90)},
        {"since": datetime.now(UTC) - timedelta(days=90), "tenant": "customer-003"},
    ],
    ids=["all", "tenant", "since", "nothing", "both"],
)
def test_both_ways_agree(
    life: Engine, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    """Every figure of every tenant, and of all."""
    ours, theirs = both(life, monkeypatch, **given)

    assert ours == theirs
    something = "since" not in given or given["since"] < datetime.now(UTC)
    assert (ours.total.enqueued > 0) is something
    total = ours.total
    assert (total.accepted > total.partly_accepted > 0) is something
    assert (total.recipients_refused > total.partly_accepted) is something


def test_a_mailbox_that_moved_takes_no_tries_along(
    life: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it sent for its former tenant stays that tenant's."""
    box, tenant = METADATA.tables["mailbox"], METADATA.tables["tenant"]
    delivery = METADATA.tables["delivery"]
    with write(life) as conn:
        moved = conn.scalar(select(box.c.id).where(box.c.address.like("alerts@customer-003%")))
        other = conn.scalar(select(tenant.c.id).where(tenant.c.slug == "customer-004"))
        conn.execute(
            delivery.update().values(tenant_id=other)
            .where(delivery.c.mailbox_id == moved, delivery.c.subject.like("%2 %"))
        )  # fmt: skip

    ours, theirs = both(life, monkeypatch)

    assert ours == theirs
