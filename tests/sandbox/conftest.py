"""Fixtures for the Entra half of the sandbox."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import requests

from sandbox.tokens import TokenSigner
from tests.sandbox.entra_setting import SandboxThread, Setting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def signer() -> TokenSigner:
    """One key for all tests; making one takes a while."""
    return TokenSigner()


@pytest.fixture(scope="session")
def sandbox_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One certificate authority for all tests."""
    return tmp_path_factory.mktemp("sandbox")


@contextmanager
def running(signer: TokenSigner, sandbox_dir: Path) -> Iterator[Setting]:
    thread = SandboxThread(sandbox_dir, signer)
    try:
        with requests.Session() as http:
            http.trust_env = False
            http.verify = str(thread.server.ca_file)
            yield Setting(thread.server, thread.clock, http)
    finally:
        thread.close()


@pytest.fixture
def setting(signer: TokenSigner, sandbox_dir: Path) -> Iterator[Setting]:
    """A fresh world behind real TLS."""
    with running(signer, sandbox_dir) as one:
        yield one


@pytest.fixture(scope="module")
def shared_setting(signer: TokenSigner, sandbox_dir: Path) -> Iterator[Setting]:
    """A world for tests that leave it as it was."""
    with running(signer, sandbox_dir) as one:
        yield one
