"""A dozen customers whose names are as long as they are in life, for what lists them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from bench.listings import seed
from console.data_dir import DataDir
from models.database import create_engine_from, write
from models.ids import uuid7
from models.tables import METADATA
from tests.console.cli_world import CliWorld

NOW = datetime(2026, 11, 30, 20, 37, 38, tzinfo=UTC)


@contextmanager
def a_dozen_customers(
    home: Path, template: Path, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
) -> Iterator[CliWorld]:
    """Make the data directory, with a life of 200 alerts in it."""
    DataDir.prepare(home).secret_keys()
    (home / "alertpost.db").write_bytes(template.read_bytes())
    for name in [name for name in os.environ if name.startswith("ALERTPOST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALERTPOST_DATA_DIR", str(home))
    engine = create_engine_from(f"sqlite:///{home / 'alertpost.db'}")
    try:
        seed(engine, tenants=12, deliveries=200)
        with write(engine) as conn:
            tables = METADATA.tables
            address = "backup-reports@customer-010.northwind-traders.example"
            box = conn.scalar(
                select(tables["mailbox"].c.id).where(tables["mailbox"].c.address == address)
            )
            conn.execute(
                insert(tables["audit_entry"]).values(
                    at=NOW, actor="maria.oberhauser@msp.northwind-traders.example",
                    action="mailbox-resume", subject_kind="mailbox", subject=address,
                    reason="the licence is back",
                )
            )  # fmt: skip
            conn.execute(
                insert(tables["told_warning"]).values(
                    kind="loss", subject=address, detail="smtp-auth-disabled-mailbox", moment=NOW,
                    cause="smtp-auth-disabled-mailbox", told_at=NOW, delivery_id=uuid7(),
                )
            )  # fmt: skip
            conn.execute(
                insert(tables["consent_link"]).values(
                    mailbox_id=box, token_encrypted=b"x", token_sha256="0" * 64, created_at=NOW,
                    made_by="maria.oberhauser@msp.northwind-traders.example",
                    expires_at=NOW + timedelta(days=3), opened_at=NOW, started_at=NOW,
                    refused_at=NOW, refusal="The user declined the consent. " * 4,
                )
            )  # fmt: skip
            conn.execute(
                tables["mailbox"].update().values(connected_at=None)
                .where(tables["mailbox"].c.address == address)
            )  # fmt: skip
            conn.execute(
                tables["app_credential"].update().values(
                    refused_at=NOW, refused_rule="secret-wrong",
                    refused_answer="AADSTS7000215: Invalid client secret provided. Trace ID: x",
                )
            )  # fmt: skip
        yield CliWorld(home, engine, capture)
    finally:
        engine.dispose()
