"""The processes that ``up`` and ``worker`` supervise: commands, environments, readiness."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console.consent_pages.listening import listen
from console.data_dir import DataDir
from console.embedded_redis import EmbeddedRedis
from console.supervisor import Child
from models.errors import ConfigurationError
from models.settings import Settings
from sandbox.defaults import DEFAULT_TENANTS

LOOPBACK = "127.0.0.1"
_STOP_SECONDS = 30.0
_ANSWER_SECONDS = 1.0
# ``-P``: a folder called "workers" where the command is run must not be taken for ours.
_MODULE = (sys.executable, "-P", "-m")


def workers(
    given: Settings, settings: Settings, *, processes: int | None, concurrency: int | None
) -> list[Child]:
    """
    Describe worker processes.

    Args:
        given: Settings as the environment gives them; the children read that too.
        settings: The same with the data directory's key and Redis filled in.
        processes: How many; None as the settings say.
        concurrency: Visits at once in each; None as the settings say.
    """
    environment = _filled_in(given, settings)
    if concurrency is not None:
        environment["ALERTPOST_WORKER__CONCURRENCY"] = str(concurrency)
    return [
        Child(
            f"worker-{number}",
            (*_MODULE, "workers.main"),
            env=environment,
            stop_seconds=_STOP_SECONDS,
        )
        for number in range(1, (processes or settings.worker.processes) + 1)
    ]


def consents(given: Settings, settings: Settings) -> Child:
    """
    Describe the process that serves the consent pages.

    Raises:
        ConfigurationError: Something else listens where it should.
    """
    # Here rather than in the child, which would be started again and again.
    listen(settings.consents.host, settings.consents.port).close()
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(settings.consents.host, settings.consents.host)  # noqa: S104 - asked, not bound

    def ready() -> bool:
        try:
            address = (host, settings.consents.port)
            socket.create_connection(address, timeout=_ANSWER_SECONDS).close()
        except OSError:
            return False
        return True

    return Child(
        "consents",
        (*_MODULE, "console.cli", "consents", "serve"),
        env=_filled_in(given, settings),
        ready=ready,
        stop_seconds=_STOP_SECONDS,
    )


def embedded_redis(server: EmbeddedRedis) -> Child:
    """Describe the server of the data directory."""
    return Child("redis", server.argv, ready=server.readiness)


@dataclass(frozen=True, slots=True)
class SandboxProcess:
    """
    Microsoft 365 in a box, with ports that stay the same from start to start.

    Attributes:
        directory: Where its keys, ports and log are.
        entra_port: HTTPS.
        smtp_port: Submission.
    """

    directory: Path
    entra_port: int
    smtp_port: int

    @classmethod
    def prepare(cls, directory: Path) -> SandboxProcess:
        """
        Find the ports of the last time, or choose some that are free, and remember them.

        Raises:
            ConfigurationError: The directory cannot be used, or a port was taken meanwhile.
        """
        memory = directory / "ports.json"
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            (directory / "ready.json").unlink(missing_ok=True)
            if memory.exists():
                ports = json.loads(memory.read_text("utf-8"))
                known = cls(directory, int(ports["entra"]), int(ports["smtp"]))
                known.check()
                return known
            entra, smtp = _free_ports()
            memory.write_text(json.dumps({"entra": entra, "smtp": smtp}) + "\n", "utf-8")
        except OSError as error:
            raise ConfigurationError(f"{directory} cannot be used: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{memory} is damaged; remove it to have other ports chosen"
            ) from error
        return cls(directory, entra, smtp)

    def check(self) -> None:
        """
        See that both ports can be had.

        Raises:
            ConfigurationError: Something else listens there.
        """
        for what, port in (("Entra", self.entra_port), ("SMTP", self.smtp_port)):
            try:
                socket.create_server((LOOPBACK, port)).close()
            except OSError as error:
                raise ConfigurationError(
                    f"the sandbox's {what} port {port} cannot be used: {error.strerror}; stop what "
                    f"listens there, or remove {self.directory / 'ports.json'} to have others "
                    "chosen (tenants that were set up for it must then be edited)"
                ) from error

    @property
    def ready_file(self) -> Path:
        """What the sandbox writes when it listens."""
        return self.directory / "ready.json"

    @property
    def log_file(self) -> Path:
        """What the sandbox prints."""
        return self.directory / "sandbox.log"

    def child(self) -> Child:
        """Describe the process."""
        argv = (
            *_MODULE, "sandbox", "--dir", str(self.directory),
            "--entra-port", str(self.entra_port), "--smtp-port", str(self.smtp_port),
            "--tenants", ",".join(DEFAULT_TENANTS), "--ready-file", str(self.ready_file),
        )  # fmt: skip
        # Into a file: what it prints at its start would drown what ``up`` says.
        shell = ("/bin/sh", "-c", 'log=$1; shift; exec "$@" >"$log" 2>&1', "sandbox")
        return Child("sandbox", (*shell, str(self.log_file), *argv), ready=self.readiness)

    def readiness(self) -> bool:
        """Ask whether it listens; a file that an earlier one left behind is not enough."""
        if not self.ready_file.exists():
            return False
        try:
            address = (LOOPBACK, self.entra_port)
            socket.create_connection(address, timeout=_ANSWER_SECONDS).close()
        except OSError:
            return False
        return True

    def facts(self) -> dict[str, Any]:
        """Read where everything is and who lives there."""
        facts: dict[str, Any] = json.loads(self.ready_file.read_text("utf-8"))
        return facts

    def last_words(self) -> str:
        """Give the end of its log, for the error when it does not start."""
        try:
            lines = self.log_file.read_text("utf-8", "replace").splitlines()
        except OSError:
            return "it left no log"
        return lines[-1] if lines else "it left an empty log"


def _filled_in(given: Settings, settings: Settings) -> dict[str, str]:
    """Tell a child what only the data directory knows."""
    environment: dict[str, str] = {}
    # Only what the environment lacks: a variable beside its _FILE twin would be an error.
    if not given.redis_url:
        environment["ALERTPOST_REDIS_URL"] = settings.redis_url
    if not given.secret_keys:
        # The file and not the key: an environment is shown to whoever may look at the process,
        # ends in crash reports, and is inherited by all that it starts.
        key_file = DataDir(settings.data_dir).key_file
        environment["ALERTPOST_SECRET_KEYS_FILE"] = str(key_file.absolute())
    return environment


def _free_ports() -> tuple[int, int]:
    with socket.create_server((LOOPBACK, 0)) as one, socket.create_server((LOOPBACK, 0)) as other:
        return int(one.getsockname()[1]), int(other.getsockname()[1])
