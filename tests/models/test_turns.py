"""Writers of several processes take turns at one SQLite file."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest
from sqlalchemy import text

from models.database import create_engine_from, write
from models.errors import StoreUnavailable
from models.turns import Turns

WRITER = """
import json, sys, time
from sqlalchemy import text
from models.database import create_engine_from, write

engine = create_engine_from(sys.argv[1])
with engine.connect():
    print("ready", flush=True)
sys.stdin.readline()
spans = []
for _ in range(int(sys.argv[2])):
    asked = time.monotonic()
    with write(engine) as connection:
        spans.append((asked, time.monotonic()))
        connection.execute(text("INSERT INTO written DEFAULT VALUES"))
        time.sleep(0.003)
print(json.dumps(spans), flush=True)
"""
"""Writes as fast as it can, as a worker under load does; each wait is told by the host's clock."""

HOLDER = """
import os, sys
from models.database import create_engine_from, write

with write(create_engine_from(sys.argv[1])):
    print("holds", flush=True)
    if "fork" not in sys.argv:
        sys.stdin.readline()
    elif os.fork() == 0:
        sys.stdin.readline()
        os._exit(0)
print("done", flush=True)
"""


@contextmanager
def process(script: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said its first word."""
    command = [sys.executable, "-c", script, *args]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert pipe(running.stdout).readline()
            yield running
        finally:
            running.kill()


def pipe(given: IO[str] | None) -> IO[str]:
    """A pipe that was asked for."""
    assert given is not None
    return given


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold one of the queue's locks as another process would."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def write_once(url: str, *, busy_seconds: float) -> None:
    """Write in one transaction."""
    engine = create_engine_from(url, busy_seconds=busy_seconds)
    try:
        with write(engine) as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS written (id INTEGER PRIMARY KEY)"))
    finally:
        engine.dispose()


def test_processes_take_turns(sqlite_url: str) -> None:
    """Of processes that write as fast as they can, none is overtaken again and again."""
    write_once(sqlite_url, busy_seconds=1.0)
    with ExitStack() as stack:
        writers = [stack.enter_context(process(WRITER, sqlite_url, "60")) for _ in range(3)]
        for writer in writers:
            pipe(writer.stdin).write("go\n")
            pipe(writer.stdin).flush()
        spans = [json.loads(pipe(writer.stdout).readline()) for writer in writers]

    begins = sorted(begun for writer in spans for _, begun in writer)
    overtaken = [
        sum(asked < other < begun for other in begins)
        for writer in spans
        for asked, begun in writer
    ]
    assert len(begins) == 3 * 60
    assert max(overtaken) <= 20


def test_stopped_writer(sqlite_url: str) -> None:
    """A process that stands still in its transaction is an outage, and none once it is dead."""
    with process(HOLDER, sqlite_url) as holder:
        os.kill(holder.pid, signal.SIGSTOP)
        with pytest.raises(StoreUnavailable, match="another writer"):
            write_once(sqlite_url, busy_seconds=0.2)
        holder.kill()
        holder.wait()

        write_once(sqlite_url, busy_seconds=0.2)


def test_stopped_in_the_queue(tmp_path: Path) -> None:
    """One that stands still without writing delays a writer once, not each time."""
    turns = Turns(tmp_path / "x.db", 1.0)
    with locked(tmp_path / "x.db-next"):
        began = time.monotonic()
        with turns.turn():
            waited = time.monotonic() - began
        for _ in range(20):
            with turns.turn():
                pass
        waited_again = time.monotonic() - began - waited

    assert waited >= 0.5
    assert waited_again < 20 * 0.5
    with turns.turn(), pytest.raises(BlockingIOError), locked(tmp_path / "x.db-turn"):
        pass


def test_threads_share_a_place(tmp_path: Path) -> None:
    """A thread that waits for another of its process in vain hears that the database is busy."""
    turns = Turns(tmp_path / "x.db", 0.05)

    with turns.turn(), pytest.raises(StoreUnavailable, match="busy"), turns.turn():
        pass


def test_forked_while_writing(sqlite_url: str, tmp_path: Path) -> None:
    """A child that was forked meanwhile does not keep the turn that its parent gave back."""
    with process(HOLDER, sqlite_url, "fork") as holder:
        assert pipe(holder.stdout).readline() == "done\n"

        with locked(tmp_path / "alertpost.db-turn"), locked(tmp_path / "alertpost.db-next"):
            pass
        pipe(holder.stdin).write("end\n")


def test_writer_without_a_turn(sqlite_url: str, tmp_path: Path) -> None:
    """Another program that knows of no turns is waited for, as SQLite does."""
    other = sqlite3.connect(tmp_path / "alertpost.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="another writer"):
        write_once(sqlite_url, busy_seconds=0.1)
    other.close()

    write_once(sqlite_url, busy_seconds=0.1)


def test_files_of_the_queue(sqlite_url: str, tmp_path: Path) -> None:
    """They are empty, only for their owner, and the same ones for who comes through a link."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.db").symlink_to(tmp_path / "alertpost.db")
    write_once(f"sqlite:///{tmp_path}/elsewhere/link.db", busy_seconds=1.0)

    made = sorted(tmp_path.glob("alertpost.db-[nt]*"))
    assert [path.name for path in made] == ["alertpost.db-next", "alertpost.db-turn"]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o600}
    assert {path.stat().st_size for path in made} == {0}


def test_no_file_can_be_made(sqlite_url: str, tmp_path: Path) -> None:
    """Without its files there is no queue, and writing goes on."""
    (tmp_path / "alertpost.db-next").mkdir()

    write_once(sqlite_url, busy_seconds=1.0)
