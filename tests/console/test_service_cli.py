"""``alertpost up``, ``worker``, ``sandbox``, ``db`` and ``keys``, as processes where they run on."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from console import key_rotation, key_users
from console.context import effective_settings, opened
from console.data_dir import DataDir
from console.processes import SandboxProcess
from models import app_registrations, rotation
from models.database import read
from models.errors import ConfigurationError, Conflict
from models.redis_keys import RedisKeys
from models.vault import Vault
from sandbox.person import Person
from tests.console.cli_setting import ALERTS, Cli

SECONDS = 40


class Running:
    """A command that runs on; what it prints is read as it comes."""

    def __init__(self, process: subprocess.Popen[str], log_file: Path) -> None:
        self.process = process
        self._log_file = log_file
        self.out = ""

    @property
    def log(self) -> list[dict[str, Any]]:
        lines = self._log_file.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def err(self) -> str:
        return self._log_file.read_text()

    def until_printed(self, text: str) -> str:
        """Wait for a text on standard output."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + SECONDS
        while text not in self.out:
            ready, _, _ = select.select([self.process.stdout], [], [], deadline - time.monotonic())
            assert ready, f"{text!r} never came:\n{self.out}\n{self.err}"
            chunk = os.read(self.process.stdout.fileno(), 65536).decode()
            assert chunk, f"it ended before {text!r}:\n{self.out}\n{self.err}"
            self.out += chunk
        return self.out

    def stop(self) -> int:
        """Press Ctrl-C and wait."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=SECONDS)

    def children(self, name: str) -> list[int]:
        """Name the processes that were started under this name, in order."""
        return [
            line["child_pid"]
            for line in self.log
            if line["event"] == "child_start" and line["child"] == name
        ]


@pytest.fixture
def run(cli: Cli) -> Callable[..., Any]:
    """Start a command that runs on."""

    @contextmanager
    def started(*arguments: str) -> Iterator[Running]:
        log_file = cli.folder / f"log-{time.monotonic_ns()}"
        with log_file.open("w") as log, cli.process(*arguments, stderr=log) as process:
            yield Running(process, log_file)

    return started


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.05)
    return found


def test_up_runs_everything_and_finds_it_again(cli: Cli, run: Callable[..., Any]) -> None:
    """One command sends mail end to end; killed workers come back; a restart finds all as it was."""
    with run("up", "--sandbox", "--processes", "2", "--concurrency", "4") as first:
        screen = first.until_printed("Ctrl-C stops it.")
        add = next(line for line in screen.splitlines() if "tenants add" in line)
        secret, command = add.strip().removeprefix("echo ").split(" | ")
        added = cli(*shlex.split(command)[1:], stdin=shlex.split(secret)[0])
        assert added.code == 0, added.err
        assert cli("mailboxes", "add", "contoso", ALERTS).code == 0

        facts = json.loads((cli.folder / "var/sandbox/ready.json").read_text())
        with cli.process("mailboxes", "connect", ALERTS) as process:
            cli.sign_in(process, Person(ALERTS, facts["ca_file"]))
            assert process.wait(timeout=SECONDS) == 0
        assert cli("mailboxes", "test", ALERTS, "--to", "ops@contoso.example").code == 0
        send(cli, "before")
        until(lambda: accepted(cli) == 1, "the first mail")

        second = cli("up")
        assert second.code == 2
        assert f"process {first.process.pid}" in second.err

        os.kill(first.children("worker-1")[0], signal.SIGKILL)
        until(lambda: len(first.children("worker-1")) == 2, "the worker's successor")
        send(cli, "after a kill")
        until(lambda: accepted(cli) == 2, "the second mail")

        assert first.stop() == 0, first.err
        keys = (cli.folder / "var/secret.key").read_text().split()
        assert not any(key in first.out + first.err for key in keys)
        assert "everything is kept" in first.err

    send(cli, "while it is down")
    with run("up", "--sandbox") as again:
        assert facts["entra_url"] in again.until_printed("Ctrl-C stops it.")
        until(lambda: accepted(cli) == 3, "what was enqueued meanwhile")
        assert again.stop() == 0, again.err


def send(cli: Cli, subject: str) -> None:
    ran = cli(
        "send", "--tenant", "contoso", "--to", "ops@contoso.example", "--subject", subject,
        "--text", "Text.",
    )  # fmt: skip
    assert ran.code == 0, ran.err


def accepted(cli: Cli) -> int:
    deliveries = cli("deliveries", "list", "--json").json
    return sum(delivery["state"] == "accepted" for delivery in deliveries)


def test_a_port_that_is_taken_is_told(cli: Cli) -> None:
    """The sandbox's ports stay the same; if somebody has one meanwhile, that is an error."""
    folder = cli.folder / "var/sandbox"
    before = SandboxProcess.prepare(folder)
    assert SandboxProcess.prepare(folder) == before

    with socket.create_server(("127.0.0.1", before.smtp_port)):
        ran = cli("up", "--sandbox")

    assert ran.code == 2
    assert f"SMTP port {before.smtp_port}" in ran.err
    assert "ports.json" in ran.err


def test_a_damaged_memory_of_ports_is_told(cli: Cli) -> None:
    """A broken file is named instead of a stack trace."""
    folder = cli.folder / "var/sandbox"
    folder.mkdir()
    (folder / "ports.json").write_text("[]")

    with pytest.raises(ConfigurationError, match=r"ports\.json is damaged"):
        SandboxProcess.prepare(folder)


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["worker"], {}, "ALERTPOST_REDIS_URL"),
        (["up"], {"ALERTPOST_SECRET_KEY": "x"}, "ALERTPOST_SECRET_KEYS"),
        (["up"], {"ALERTPOST_DATA_DIR": "/proc/none"}, "ALERTPOST_DATA_DIR"),
        (["up", "--processes", "0"], {}, "processes"),
        (["sandbox", "--entra-port", "70000"], {}, "entra-port"),
        (["keys", "rotate", "--new", "--finish"], {}, "one of"),
        (["keys", "rotate", "--new"], {"ALERTPOST_SECRET_KEYS": Vault.new_key()}, "keys new"),
        (["keys", "rotate", "--promote"], {}, "--new"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_run_says_why(
    cli: Cli, arguments: list[str], environment: dict[str, str], says: str
) -> None:
    """A wrong set-up ends at once, with a sentence that names what to change."""
    for name, value in environment.items():
        cli.monkeypatch.setenv(name, value)

    ran = cli(*arguments)

    assert ran.code in {2, 4}
    assert says in ran.err


def test_a_worker_says_when_the_embedded_redis_is_down(cli: Cli) -> None:
    """Without `up` there is no embedded Redis to work with."""
    folder = cli.folder / "var/redis"
    folder.mkdir()
    (folder / "redis.url").write_text(f"unix://{folder}/redis.sock\n")

    ran = cli("worker")

    assert ran.code == 2
    assert "alertpost up" in ran.err


def test_a_worker_runs_beside_a_redis_of_its_own(
    cli: Cli, run: Callable[..., Any], redis_url: str, redis_keys: RedisKeys
) -> None:
    """Workers run on any Redis, announce their keys, and stop cleanly."""
    cli.monkeypatch.setenv("ALERTPOST_REDIS_URL", redis_url)
    cli.monkeypatch.setenv("ALERTPOST_REDIS_PREFIX", redis_keys.prefix)
    directory = DataDir.prepare(cli.folder / "var")

    with run("worker", "--processes", "2") as running:
        until(lambda: [e for e in running.log if e["event"] == "worker_start"][1:], "two workers")
        (user,) = key_users.running(directory)
        assert user.pid == running.process.pid
        assert user.key_ids == tuple(map(key_users.key_id, directory.secret_keys()))
        assert running.stop() == 0, running.err

    assert key_users.running(directory) == []


def test_the_sandbox_runs_on_its_own(cli: Cli, run: Callable[..., Any]) -> None:
    """`alertpost sandbox` tells where it is and ends with Ctrl-C."""
    ready = cli.folder / "ready.json"
    with run("sandbox", "--tenants", "litware", "--ready-file", str(ready)) as running:
        running.until_printed("Ctrl-C")
        facts = json.loads(ready.read_text())
        assert [tenant["slug"] for tenant in facts["tenants"]] == ["litware"]
        taken = cli("sandbox", "--entra-port", facts["entra_url"].rpartition(":")[2])
        assert taken.code == 2
        assert "in use" in taken.err
        assert running.stop() == 0


def test_the_schema_is_made_and_checked(nowhere: Cli) -> None:
    """`db check` changes nothing and tells; `db upgrade` mends and may be run again."""
    cli = nowhere
    assert cli("db", "check").code == 1
    assert not (cli.folder / "var/alertpost.db").exists()

    assert "up to date now" in cli("db", "upgrade").out
    assert "was up to date" in cli("db", "upgrade").out
    assert cli("db", "check").code == 0
    assert (cli.folder / "var/secret.key").exists()


def test_another_database_is_upgraded_on_request_only(nowhere: Cli) -> None:
    """A database that was set is not migrated on the way, and no key is made for it."""
    cli = nowhere
    cli.monkeypatch.setenv("ALERTPOST_DATABASE_URL", f"sqlite:///{cli.folder}/other.db")

    refused = cli("tenants", "list")
    assert refused.code == 2
    assert "db upgrade" in refused.err
    assert cli("db", "upgrade").code == 0
    assert cli("tenants", "list").code == 0
    assert not list((cli.folder / "var").iterdir())


def opens(cli: Cli) -> bool:
    """Tell whether the app's secret opens with the present keys."""
    with opened() as context, read(context.engine) as conn:
        app = app_registrations.app(conn, "contoso")
        secret = app_registrations.open_app(conn, context.vault, app.id).credential.client_secret
        assert rotation.count_old(context.engine, context.vault)["app secrets"] == 0
    return secret is not None


def key_file(cli: Cli) -> list[str]:
    return (cli.folder / "var/secret.key").read_text().split()


def test_a_new_key_is_fit_for_the_settings(cli: Cli) -> None:
    """What `keys new` prints is a key, and nothing else is on standard output."""
    ran = cli("keys", "new")

    assert Vault([ran.out.strip()])
    assert "ALERTPOST_SECRET_KEYS" in ran.err


def test_where_nothing_runs_a_key_changes_in_two_steps(cli: Cli) -> None:
    """--new re-encrypts at once; --finish removes the old key."""
    cli.connected()
    (old,) = key_file(cli)

    added = cli("keys", "rotate", "--new")
    assert added.code == 0, added.err
    assert "1 app secrets" in added.out
    new, kept = key_file(cli)
    assert kept == old
    assert opens(cli)
    assert cli("keys", "rotate", "--new").code == 4
    assert cli("keys", "rotate", "--check").code == 0

    assert cli("keys", "rotate", "--finish").code == 0
    assert key_file(cli) == [new]
    assert opens(cli)
    assert (cli.folder / "var/secret.key").stat().st_mode & 0o077 == 0
    assert not any(key in added.out + added.err for key in (old, new))


def test_no_step_runs_ahead_of_running_processes(cli: Cli) -> None:
    """While a process runs, each step waits until it was restarted with what the step needs."""
    cli.connected()
    directory = DataDir.prepare(cli.folder / "var")
    old = directory.secret_keys()

    with key_users.using(directory, old):
        added = cli("keys", "rotate", "--new")
        assert f"restart process {os.getpid()}" in added.out
        assert directory.secret_keys()[0] == old[0]
        refused = cli("keys", "rotate", "--promote")
        assert refused.code == 4
        assert "does not know the new key" in refused.err
        assert cli("keys", "rotate", "--finish").code == 4
    with key_users.using(directory, directory.secret_keys()):
        promoted = cli("keys", "rotate", "--promote")
        assert promoted.code == 0, promoted.err
        assert f"restart process {os.getpid()}" in promoted.out
        assert directory.secret_keys()[1:] == old
        refused = cli("keys", "rotate", "--finish")
        assert refused.code == 4
        assert "still seals" in refused.err
        assert cli("keys", "rotate", "--promote").code == 4
    with key_users.using(directory, directory.secret_keys()):
        assert cli("keys", "rotate", "--finish").code == 0
    assert len(directory.secret_keys()) == 1
    assert opens(cli)


def test_keys_from_the_environment_are_rotated_in_place(cli: Cli) -> None:
    """With two keys set, everything comes under the first; then the second is not needed."""
    old, new = Vault.new_key(), Vault.new_key()
    cli.monkeypatch.setenv("ALERTPOST_SECRET_KEYS", old)
    cli.connected()
    cli.monkeypatch.setenv("ALERTPOST_SECRET_KEYS", f"{new},{old}")

    left = cli("keys", "rotate", "--check")
    assert left.code == 1
    assert "1 app secrets, 1 grants" in left.err
    assert "Nothing is left" in cli("keys", "rotate").out

    cli.monkeypatch.setenv("ALERTPOST_SECRET_KEYS", new)
    assert opens(cli)


def test_what_no_key_opens_is_told(cli: Cli) -> None:
    """A value whose key is gone is named, and the exit code is 1."""
    cli.monkeypatch.setenv("ALERTPOST_SECRET_KEYS", Vault.new_key())
    cli.connected()
    cli.monkeypatch.setenv("ALERTPOST_SECRET_KEYS", Vault.new_key())

    ran = cli("keys", "rotate")

    assert ran.code == 1
    assert "which ALERTPOST_SECRET_KEYS does not hold" in ran.err


def test_tokens_under_an_old_key_are_dropped(
    cli: Cli, redis_url: str, redis_keys: RedisKeys
) -> None:
    """Nothing in Redis stays that only the old key opens."""
    cli.monkeypatch.setenv("ALERTPOST_REDIS_URL", redis_url)
    cli.monkeypatch.setenv("ALERTPOST_REDIS_PREFIX", redis_keys.prefix)
    cli.connected()
    assert cli("mailboxes", "test", ALERTS, "--to", "ops@contoso.example").code == 0

    assert cli("keys", "rotate", "--new").code == 0
    assert cli("keys", "rotate", "--finish").code == 0

    ran = cli("mailboxes", "test", ALERTS, "--to", "ops@contoso.example")
    assert ran.code == 0, ran.out
    assert "fetched from Entra just now" in ran.out


def test_a_user_that_was_killed_is_forgotten(cli: Cli) -> None:
    """A file that no process holds counts for nothing."""
    directory = DataDir.prepare(cli.folder / "var")
    folder = directory.path / "key-users"
    folder.mkdir()
    (folder / "1").write_text("00000000")

    assert key_users.running(directory) == []
    assert list(folder.iterdir()) == []


def test_promoting_needs_a_new_key(cli: Cli) -> None:
    """Promoting twice would bring the old key back; it is refused."""
    directory = DataDir.prepare(cli.folder / "var")
    effective_settings()
    with opened() as context, pytest.raises(Conflict, match="no new key"):
        key_rotation.promote(context, directory, progress=lambda *_: None)
