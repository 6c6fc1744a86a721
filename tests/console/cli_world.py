"""The command line against a data directory of the test's own, with two tenants in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from sqlalchemy import Engine, update
from typer.testing import CliRunner, Result

from console.cli import command_line, main
from console.data_dir import DataDir
from models import audit, directory
from models.database import create_engine_from, read, write
from models.moves import DELIVERY
from models.tables import METADATA
from tests.models.directory_parts import add_contoso

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class CliWorld:
    """Runs commands in this process; ``contoso`` and ``fabrikam`` are not connected yet."""

    home: Path
    engine: Engine
    capture: pytest.CaptureFixture[str]

    def run(self, *arguments: object) -> Said:
        """Run a command as the shell would, errors and exit code included."""
        self.capture.readouterr()
        argv = ["alertpost", *map(str, arguments)]
        with patch.object(sys, "argv", argv), pytest.raises(SystemExit) as ended:
            main()
        out, err = self.capture.readouterr()
        assert "Traceback" not in err
        return Said(int(ended.value.code or 0), out, err)

    def usage(self, *arguments: object) -> Result:
        """Run a command whose options are wrong."""
        words = [str(argument) for argument in arguments]
        return CliRunner().invoke(command_line(words), words)

    def command(self, *arguments: object) -> list[str]:
        """The command line of a real process."""
        return [sys.executable, "-m", "console.cli", *map(str, arguments)]

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Start a real process; it finds the same data directory."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=ROOT,
            env=os.environ | {"ALERTPOST_DATA_DIR": str(self.home)},
            text=True,
            **options,
        )

    def send(self, subject: str = "Disk full", *arguments: object, tenant: str = "contoso") -> str:
        """Send an alert; return the delivery's id."""
        said = self.run(
            "send", "--tenant", tenant, "--to", "ops@x.example", "--subject", subject,
            "--text", "SECRET-BODY", "--json", *arguments,
        )  # fmt: skip
        assert said.code == 0, said.err
        return str(said.json["id"])

    def set(self, delivery: str, **values: Any) -> None:
        """Put a delivery into a situation that workers would have brought about."""
        with write(self.engine) as conn:
            key = UUID(delivery)
            conn.execute(update(DELIVERY).where(DELIVERY.c.id == key).values(**values))

    def add_attempt(self, **values: Any) -> None:
        """Add a try."""
        with write(self.engine) as conn:
            conn.execute(METADATA.tables["attempt"].insert().values(**values))

    def row(self, delivery: str) -> Any:
        with read(self.engine) as conn:
            return conn.execute(DELIVERY.select().where(DELIVERY.c.id == UUID(delivery))).one()

    def count(self) -> int:
        with read(self.engine) as conn:
            return len(conn.execute(DELIVERY.select()).all())

    def trail(self) -> list[audit.Entry]:
        with read(self.engine) as conn:
            return [row.entry for row in audit.entries(conn)]


@contextmanager
def cli_world(
    home: Path,
    template: Path,
    monkeypatch: pytest.MonkeyPatch,
    capture: pytest.CaptureFixture[str],
) -> Iterator[CliWorld]:
    """Make the data directory and the two tenants."""
    DataDir.prepare(home).secret_keys()
    shutil.copyfile(template, home / "alertpost.db")
    for name in [name for name in os.environ if name.startswith("ALERTPOST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ALERTPOST_DATA_DIR", str(home))
    monkeypatch.setenv("USER", "alice")
    monkeypatch.delenv("SUDO_USER", raising=False)
    engine = create_engine_from(f"sqlite:///{home / 'alertpost.db'}")
    try:
        with write(engine) as conn:
            for slug in ("contoso", "fabrikam"):
                add_contoso(conn, slug=slug, notify={"default": [f"noc@{slug}.example"]})
                directory.add_mailbox(conn, tenant_slug=slug, address=f"alerts@{slug}.example")
        yield CliWorld(home, engine, capture)
    finally:
        engine.dispose()
