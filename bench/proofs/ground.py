"""What the proofs of the lease stand on: a stage with one mailbox, processes that want tokens."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from console.stage import Stage

SLUG = "contoso"
PATIENCE_SECONDS = 150.0


@contextmanager
def ground(*, database_url: str = "", lease: Mapping[str, Any] | None = None) -> Iterator[Stage]:
    """Set a stage with one connected mailbox."""
    with tempfile.TemporaryDirectory(prefix="alertpost-proof-") as directory:
        settings = {"lease": dict(lease or {})}
        given = Stage(Path(directory), [SLUG], database_url=database_url, settings=settings)
        with given:
            given.add_tenants()
            for _ in given.connect_all():
                pass
            given.sandbox.tell("POST", "/reset")
            yield given


class Askers:
    """
    Processes that want tokens. A context manager.

    Args:
        stage: Where.
        number: How many.
    """

    def __init__(self, stage: Stage, number: int) -> None:
        self._stage = stage
        self.all = [Process(stage) for _ in range(number)]

    def __enter__(self) -> Self:
        for one in self.all:
            one.start()
        for one in self.all:
            one.wait_for("ready")
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.all:
            one.end()

    def tell_all(self, **order: Any) -> list[dict[str, Any]]:
        """Give all the same order at once; gives what each says when it is done."""
        for one in self.all:
            one.tell(**order)
        return [one.wait_for(order["do"]) for one in self.all]


class Process:
    """One of them."""

    def __init__(self, stage: Stage) -> None:
        settings = stage.settings
        self._given = {
            "database": settings.sqlalchemy_url.replace("+psycopg", ""),
            "redis": settings.redis_url,
            "folder": str(settings.data_dir),
            "key": settings.secret_keys[0].get_secret_value(),
            "mailbox": str(stage.mailbox_id(SLUG)),
            "lease": settings.lease.model_dump(),
            "ca_file": str(stage.sandbox.ca_file),
        }
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        self.asking = False
        """Its last word on a refresh was that it asks."""
        self.ready = False
        self.save_ms: list[float] = []
        self.refused = 0

    def start(self) -> None:
        """Start it."""
        argv = (sys.executable, "-m", "bench.proofs.asking", json.dumps(self._given))
        self.asking = self.ready = False
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            match said.get("at"):
                case "asking":
                    self.asking = True
                case "saved":
                    self.asking = False
                    self.save_ms.append(said["save_ms"])
                case "refused":
                    self.asking = False
                    self.refused += 1
                case None:
                    self.ready = True
                    self._said.put(said)

    def tell(self, **order: Any) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def wait_for(self, what: str) -> dict[str, Any]:
        """Wait until it says that something is done."""
        while True:
            said = self._said.get(timeout=PATIENCE_SECONDS)
            if said["done"] == what:
                return said

    def kill(self) -> bool:
        """End it as a power cut would; says whether that was between asking and having saved."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        # What it had said is still in the pipe.
        self._reader.join()
        return self.asking

    def freeze(self) -> None:
        """Stop it where it is."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
