"""Fixtures for the command line's tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from console.data_dir import DataDir
from models.redis_keys import RedisKeys
from models.vault import Vault
from tests.console.cli_setting import Cli, SandboxThread
from tests.console.cli_world import CliWorld, cli_world
from tests.console.consent_setting import ELSEWHERE, Hosted, hosted_pages
from tests.console.customers import a_dozen_customers


@pytest.fixture
def sandbox_thread(sandbox_directory: Path) -> Iterator[SandboxThread]:
    """A fresh world behind real TLS."""
    thread = SandboxThread(sandbox_directory)
    yield thread
    thread.close()


@pytest.fixture
def cli(
    sandbox_thread: SandboxThread,
    sqlite_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """The command line on a data directory of its own, without Redis."""
    data_dir = tmp_path / "var"
    DataDir.prepare(data_dir).secret_keys()
    shutil.copyfile(sqlite_template, data_dir / "alertpost.db")
    monkeypatch.setenv("ALERTPOST_DATA_DIR", str(data_dir))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return Cli(capsys, monkeypatch, tmp_path, sandbox_thread.server)


@pytest.fixture
def nowhere(cli: Cli) -> Cli:
    """The command line beside a data directory in which nothing is."""
    for path in (cli.folder / "var").iterdir():
        path.unlink()
    return cli


@pytest.fixture
def world(
    tmp_path: Path,
    sqlite_template: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[CliWorld]:
    """Two tenants that are not connected, in a data directory of the test's own."""
    with cli_world(tmp_path / "var", sqlite_template, monkeypatch, capsys) as made:
        yield made


@pytest.fixture
def customers(
    sqlite_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[CliWorld]:
    """A dozen of them, in a data directory of the test's own."""
    with a_dozen_customers(tmp_path / "var", sqlite_template, monkeypatch, capsys) as world:
        yield world


@pytest.fixture
def hosted(engine: Engine, sandbox_thread: SandboxThread) -> Iterator[Hosted]:
    """The pages on localhost; callbacks come by GET."""
    with hosted_pages(engine, sandbox_thread.server) as pages:
        yield pages


@pytest.fixture
def behind_tls(engine: Engine, sandbox_thread: SandboxThread) -> Iterator[Hosted]:
    """The pages as a proxy with TLS shows them; callbacks come by POST."""
    with hosted_pages(engine, sandbox_thread.server, public_url=ELSEWHERE) as pages:
        yield pages


@pytest.fixture
def bare(  # noqa: PLR0917 - fixtures, given by name
    engine: Engine,
    database_url: str,
    redis_url: str,
    redis_keys: RedisKeys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> CliWorld:
    """Nothing set up yet, on the test's own database and prefix."""
    monkeypatch.setenv("ALERTPOST_DATABASE_URL", database_url)
    monkeypatch.setenv("ALERTPOST_REDIS_URL", redis_url)
    monkeypatch.setenv("ALERTPOST_REDIS_PREFIX", redis_keys.prefix)
    monkeypatch.setenv("ALERTPOST_SECRET_KEYS", Vault.new_key())
    monkeypatch.setenv("ALERTPOST_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return CliWorld(tmp_path, engine, capsys)
