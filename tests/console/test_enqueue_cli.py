from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from console.interrupts import Interrupts
from console.line_import import LineImport
from models.alert import AlertEmail
from models.database import read, write
from models.directory import remove_tenant
from models.errors import NotFound, StoreUnavailable
from models.ids import uuid7
from models.intake import Receipt
from models.routes import Routes, routes
from producers.alert_lines import Line
from tests.console.cli_world import ROOT, CliWorld

SAMPLES = ROOT / "console" / "demo_data" / "alertmanager-webhooks.jsonl"


def line(subject: str = "s", *, tenant: str = "contoso", **more: object) -> str:
    alert = {"tenant": tenant, "to": "a@x.example", "subject": subject, "text": "t"}
    return json.dumps(alert | more)


def known(world: CliWorld) -> Routes:
    with read(world.engine) as conn:
        return routes(conn)


ALERT = AlertEmail.parse_json(line())
BAD_LINES = (
    line("one"),
    "nonsense",
    line("two", tenant="nobody"),
    "",
    line("three", mailbox="none@contoso.example"),
    line("four", tenant="fabrikam", idempotency_key="k"),
    line("four", tenant="fabrikam", idempotency_key="k"),
    line("a\r\nBcc: x@y.example"),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.jsonl"
    path.write_text("\n".join(BAD_LINES))
    return path


def test_bad_lines_are_told_and_good_ones_go_in(world: CliWorld, file: Path) -> None:
    """Each bad line is named with number and reason; the summary counts all."""
    said = world.run("enqueue", file, "--chunk", 2)

    *told, away = said.err.splitlines()
    assert "no Redis answers" in away
    assert [text.split(": ")[1] for text in told] == ["line 2", "line 3", "line 5", "line 8"]
    assert "no tenant 'nobody'" in told[1]
    assert said.out == "7 lines, 4 of them bad: 2 alerts enqueued, 1 recognised as repetitions\n"
    assert (said.code, world.count()) == (1, 2)


def test_json_lists_the_bad_lines(world: CliWorld, file: Path) -> None:
    """A script learns number, field and reason without reading what is meant for people."""
    for options in ((), ("--strict",), ("--dry-run",)):
        said = world.run("enqueue", file, "--json", *options)

        told = said.json["bad_lines"]
        assert [(bad["number"], bad["field"]) for bad in told] == [
            (2, "body"), (3, "tenant"), (5, "mailbox"), (8, "subject")
        ]  # fmt: skip
        assert "no tenant 'nobody'" in told[1]["reason"]
        assert said.json["bad"] == len(told)


def test_strict_enqueues_nothing_if_a_line_is_bad(world: CliWorld, file: Path) -> None:
    """One bad line refuses the whole file."""
    said = world.run("enqueue", file, "--strict", "--json")

    assert said.json["bad"] == 4
    assert said.json["committed"] is False
    assert (said.code, world.count()) == (1, 0)


def test_strict_reads_a_pipe_twice(world: CliWorld) -> None:
    """A good stream that cannot be rewound goes in as a whole."""
    process = world.start("enqueue", "-", "--strict", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, _ = process.communicate("\n".join(line(str(number)) for number in range(5)))

    assert out.startswith("5 lines: 5 alerts enqueued")
    assert (process.returncode, world.count()) == (0, 5)


def test_a_dry_run_changes_nothing(world: CliWorld, tmp_path: Path) -> None:
    """It says what is good."""
    path = tmp_path / "good"
    path.write_text(line())

    said = world.run("enqueue", path, "--dry-run")

    assert "1 line with 1 alert, all good; nothing was enqueued" in said.out
    assert (said.code, world.count()) == (0, 0)


def test_webhooks_are_told_apart_from_their_repetitions(world: CliWorld, tmp_path: Path) -> None:
    """The same file again adds nothing."""
    path = tmp_path / "webhooks"
    with SAMPLES.open() as samples:
        path.write_text("".join(next(samples) for _ in range(20)))
    options = (
        "enqueue", path, "--format", "alertmanager", "--tenant-label", "customer-of-ours",
        "--default-tenant", "contoso", "--json",
    )  # fmt: skip

    first, second = world.run(*options), world.run(*options)

    assert (first.code, second.code) == (0, 0)
    assert first.json["enqueued"] == world.count() > 0
    assert second.json["enqueued"] == 0
    assert second.json["repeated"] == second.json["alerts"]


def test_another_content_under_a_known_key_is_told(world: CliWorld, tmp_path: Path) -> None:
    """It is not taken, and not kept quiet."""
    path = tmp_path / "two"
    path.write_text(line("a", idempotency_key="k") + "\n" + line("b", idempotency_key="k"))

    said = world.run("enqueue", path)

    assert "another content" in said.err
    assert world.count() == 1


UNREADABLE = [
    ("{tmp}", 2, "is a directory"),
    ("{tmp}/none", 2, "No such file"),
    ("", 2, "names no file"),
    ("{tmp}/latin", 1, "not UTF-8 from octet 1"),
    ("{tmp}/long", 1, "is longer than 50000000 octets"),
    ("{tmp}/pretty", 1, "one whole JSON object"),
]


@pytest.mark.parametrize(("name", "code", "message"), UNREADABLE)
def test_what_cannot_be_read_is_told(
    world: CliWorld, tmp_path: Path, name: str, code: int, message: str
) -> None:
    """Each kind has its own clear message."""
    (tmp_path / "latin").write_bytes(b"\xfc\n")
    (tmp_path / "pretty").write_text(json.dumps(json.loads(line()), indent=2))
    with (tmp_path / "long").open("wb") as file:
        file.truncate(50_000_010)

    said = world.run("enqueue", name.replace("{tmp}", str(tmp_path)))

    assert said.code == code
    assert message in said.err
    assert "line: " not in said.err


def test_an_empty_file_is_told(world: CliWorld, tmp_path: Path) -> None:
    """There was nothing to do, which is no fault."""
    (tmp_path / "empty").touch()

    said = world.run("enqueue", tmp_path / "empty")

    assert "is empty" in said.out
    assert said.code == 0


def test_a_stream_that_pauses_is_committed_and_can_be_stopped(world: CliWorld) -> None:
    """What was read is not held back for more to come; Ctrl-C tells how much went in."""
    process = world.start("enqueue", "-", stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(line("a") + "\n" + line("b") + "\n" + '{"tenant"')
    process.stdin.flush()
    deadline = time.monotonic() + 30
    while world.count() < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()

    assert process.returncode == 130
    assert "stopped: 2 alerts were committed" in err
    assert "Traceback" not in err
    assert world.count() == 2


def test_a_tenant_removed_meanwhile_makes_its_lines_bad(world: CliWorld) -> None:
    """The other lines of the chunk go in all the same."""
    seen: list[Routes] = []
    bad: list[int] = []

    def read_routes() -> Routes:
        seen.append(known(world))
        return seen[-1]

    taken: list[str] = []

    def enqueue(alerts: Sequence[AlertEmail]) -> list[Receipt]:
        if len(seen) == 1:
            with write(world.engine) as conn:
                remove_tenant(conn, "fabrikam", force=True)
            raise NotFound("there is no tenant 'fabrikam'")
        taken.extend(alert.tenant for alert in alerts)
        return []

    work = LineImport(enqueue, read_routes, on_bad=lambda line: bad.append(line.number))
    tally = work.take_all(
        Line(number, (AlertEmail.parse_json(line(tenant=slug)),))
        for number, slug in enumerate(["contoso", "fabrikam", "contoso"], 1)
    )

    assert taken == ["contoso", "contoso"]
    assert bad == [2]
    assert (tally.alerts, tally.bad) == (2, 1)


def test_what_was_committed_before_an_outage_is_counted(world: CliWorld) -> None:
    """The chunk that failed is not, and the error goes on to the caller."""
    chunks: list[int] = []

    def enqueue(alerts: Sequence[AlertEmail]) -> list[Receipt]:
        if chunks:
            raise StoreUnavailable("away")
        chunks.append(len(alerts))
        return [Receipt(uuid7(), uuid7(), True, True, "queued", 2) for _ in alerts]

    work = LineImport(enqueue, lambda: known(world), on_bad=lambda _: None, chunk=2)
    with pytest.raises(StoreUnavailable):
        work.take_all(Line(number, (ALERT,)) for number in range(1, 6))

    assert chunks == [2]
    assert (work.tally.enqueued, work.tally.lines) == (2, 4)


def test_large_alerts_make_small_chunks(world: CliWorld) -> None:
    """Attachments count, so that a chunk fits into memory."""
    chunks: list[int] = []
    large = ALERT.model_copy(update={"text": "x" * 20_000_000})

    def enqueue(alerts: Sequence[AlertEmail]) -> list[Receipt]:
        chunks.append(len(alerts))
        return []

    work = LineImport(enqueue, lambda: known(world), on_bad=lambda _: None)
    work.take_all(Line(number, (large,)) for number in range(1, 6))

    assert max(chunks) <= 2


def test_an_interrupt_waits_for_the_end_of_a_commit() -> None:
    """Within the block Ctrl-C is remembered, after it is heard; outside it is heard at once."""
    done: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with Interrupts().watched() as interrupts:

        def commit() -> None:
            with interrupts.shielded():
                signal.raise_signal(signal.SIGINT)
                done.append("committed")

        with pytest.raises(KeyboardInterrupt):
            commit()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    assert done == ["committed"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_terminal_sees_how_far_it_is(world: CliWorld, tmp_path: Path) -> None:
    """A bar by octets of the file, and the summary."""
    (tmp_path / "lines").write_text("\n".join(line(str(number)) for number in range(100)))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        world.command("enqueue", tmp_path / "lines"), cwd=ROOT, stdin=theirs, stdout=theirs,
        stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        # Linux ends a terminal whose last writer has gone with an error.
        with contextlib.suppress(OSError):
            while octets := os.read(ours, 4096):
                shown += octets
    os.close(ours)

    assert process.returncode == 0
    assert b"enqueuing" in shown
    assert b"100 alerts enqueued" in shown


PAST, AHEAD = "2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"
DEADLINES = (
    line("one", expires_at=PAST),
    line("two", expires_at="0001-01-01T00:00:00Z", not_before="0001-01-01T00:00:00Z"),
    line("three", expires_at=AHEAD),
    line("four", expires_at=PAST, tenant="fabrikam"),
    line("five"),
)


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_past_deadlines_are_bad_lines(world: CliWorld, tmp_path: Path, chunk: int) -> None:
    """They are told with number and reason, and stop no other, however lines fall into chunks."""
    file = tmp_path / "deadlines.jsonl"
    file.write_text("\n".join(DEADLINES))

    said = world.run("enqueue", file, "--chunk", chunk, "--json")

    assert said.code == 1
    assert (said.json["enqueued"], said.json["bad"], said.json["alerts"]) == (3, 2, 3)
    assert [(bad["number"], bad["field"]) for bad in said.json["bad_lines"]] == [
        (1, "expires_at"), (4, "expires_at"),
    ]  # fmt: skip
    assert all("is past: 2020-01-01T00:00:00Z" in bad["reason"] for bad in said.json["bad_lines"])
    assert world.count() == 3


@pytest.mark.parametrize("option", ["--strict", "--dry-run"])
def test_past_deadlines_are_seen_before_anything_is_enqueued(
    world: CliWorld, tmp_path: Path, option: str
) -> None:
    """Where lines are checked first, so are their deadlines."""
    file = tmp_path / "deadlines.jsonl"
    file.write_text("\n".join(DEADLINES))

    said = world.run("enqueue", file, option, "--json")

    assert (said.code, said.json["bad"], world.count()) == (1, 2, 0)


def test_a_file_can_be_enqueued_again_after_its_deadlines(world: CliWorld, tmp_path: Path) -> None:
    """What was accepted in time under its key is a repetition then, not a bad line."""
    file = tmp_path / "again.jsonl"
    file.write_text(line("one", expires_at=AHEAD, idempotency_key="k"))
    assert world.run("enqueue", file).code == 0
    file.write_text(line("one", expires_at=PAST, idempotency_key="k"))

    said = world.run("enqueue", file, "--strict", "--json")

    assert (said.code, said.json["repeated"], said.json["bad"]) == (0, 1, 0)
