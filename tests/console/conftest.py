"""Fixtures for the command line's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.console.cli_setting import Cli, SandboxThread


@pytest.fixture
def sandbox_thread(sandbox_directory: Path) -> Iterator[SandboxThread]:
    """A fresh world behind real TLS."""
    thread = SandboxThread(sandbox_directory)
    yield thread
    thread.close()


@pytest.fixture
def cli(
    sandbox_thread: SandboxThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """The command line on a data directory of its own, without Redis."""
    data_dir = tmp_path / "var"
    data_dir.mkdir(mode=0o700)
    monkeypatch.setenv("ALERTPOST_DATA_DIR", str(data_dir))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return Cli(capsys, monkeypatch, tmp_path, sandbox_thread.server)
