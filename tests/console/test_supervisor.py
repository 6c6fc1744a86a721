import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.supervisor import Backoff

PROGRAM = """
import json, os, sys
from pathlib import Path
from console.supervisor import Backoff, Child, Supervisor
from models import logs
from models.settings import LogSettings

logs.setup(LogSettings(format="json"), process="up", stream=sys.stdout)

def child(path=None, progress=None, **spec):
    def ready():
        if Path(path).exists():
            return True
        return progress or False
    return Child(**{**spec, "argv": tuple(spec["argv"])}, ready=ready if path else None)

children = [child(**spec) for spec in json.loads(sys.argv[1])]
sys.exit(Supervisor(
    children,
    on_ready=lambda: print(json.dumps({"event": "up"}), flush=True),
    backoff=Backoff(first_seconds=0.01, longest_seconds=0.05),
).run())
"""
SLEEP = ["sleep", "600"]
STUBBORN = ["sh", "-c", "trap '' TERM; while :; do sleep 600; done"]


class Run:
    """A supervisor in a process of its own, and what it says."""

    def __init__(self, *children: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(children)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[dict[str, Any]] = []

    def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """Read on until this was said."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            line: dict[str, Any] = json.loads(text)
            self.lines.append(line)
            if line["event"] == event and fields.items() <= line.items():
                return line
        pytest.fail(f"never said {event}: {self.lines}")

    def end(self) -> int:
        """Read to the end and give the exit code."""
        assert self.process.stdout is not None
        self.lines += [json.loads(text) for text in self.process.stdout]
        return self.process.wait()

    def said(self, event: str, field: str = "child") -> list[Any]:
        return [line.get(field) for line in self.lines if line["event"] == event]

    @property
    def pids(self) -> list[int]:
        return self.said("child_start", "child_pid")


@pytest.fixture
def run() -> Iterator[Callable[..., Run]]:
    """Start supervisors; at the end none of their children may be left."""
    runs: list[Run] = []

    def begin(*children: dict[str, Any]) -> Run:
        runs.append(Run(*children))
        return runs[-1]

    yield begin
    for each in runs:
        with each.process:
            each.process.kill()
    for each in runs:
        for pid in each.pids:
            until(partial(gone, pid))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def gone(pid: int) -> bool:
    return not alive(pid)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


Begin = Callable[..., Run]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_in_order_up_and_in_reverse_down(run: Begin, tmp_path: Path, number: int) -> None:
    """Each child starts when the one before is ready; a signal stops them the other way round."""
    up = run(
        {
            "name": "redis",
            "argv": ["sh", "-c", f"touch {tmp_path}/r; exec sleep 600"],
            "path": f"{tmp_path}/r",
        },
        {"name": "worker", "argv": SLEEP},
        {"name": "web", "argv": SLEEP},
    )
    up.until("up")
    assert all(alive(pid) for pid in up.pids)
    up.process.send_signal(number)

    assert up.end() == 0
    assert up.said("child_start") == ["redis", "worker", "web"]
    assert up.said("child_ready") == ["redis", "worker", "web"]
    assert up.said("child_stop") == ["web", "worker", "redis"]
    assert not any(alive(pid) for pid in up.pids)


def test_a_crashed_child_is_restarted(run: Begin) -> None:
    """A child that was killed is started again, the others are left alone, and it is said."""
    up = run({"name": "redis", "argv": SLEEP}, {"name": "worker", "argv": SLEEP})
    up.until("up")
    os.kill(up.pids[1], signal.SIGKILL)
    ended = up.until("child_end", child="worker")
    up.until("child_ready", child="worker")

    assert ended["exit"] == "SIGKILL"
    assert ended["again_in_seconds"] == 0.01
    assert up.said("child_start") == ["redis", "worker", "worker"]
    assert [alive(pid) for pid in up.pids] == [True, False, True]


def test_restarts_go_on(run: Begin) -> None:
    """A child that keeps crashing after it was up once is given longer waits, never up."""
    up = run({"name": "worker", "argv": ["sleep", "0.2"]})
    waits = [up.until("child_end")["again_in_seconds"] for _ in range(5)]

    assert waits == [0.01, 0.02, 0.04, 0.05, 0.05]
    assert up.process.poll() is None


def test_what_a_crashed_child_leaves_is_ended(run: Begin, tmp_path: Path) -> None:
    """The children of a crashed child do not live on beside those of its successor."""
    pids = tmp_path / "pids"
    up = run({"name": "worker", "argv": ["sh", "-c", f"sleep 600 & echo $! >> {pids}; wait"]})
    up.until("up")
    until(lambda: pids.exists() and pids.read_text().endswith("\n"))
    os.kill(up.pids[0], signal.SIGKILL)
    up.until("child_ready")
    until(lambda: len(pids.read_text().splitlines()) == 2)

    assert [alive(int(pid)) for pid in pids.read_text().split()] == [False, True]
    up.process.terminate()
    assert up.end() == 0
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_the_end_of_a_child_without_restart_is_the_end(run: Begin, command: str, code: int) -> None:
    """When the child that all is for ends, everything stops, and its exit code is ours."""
    up = run(
        {"name": "redis", "argv": SLEEP},
        {"name": "demo", "argv": ["sh", "-c", f"sleep 0.3; {command}"], "restart": False},
    )

    assert up.end() == code
    assert up.said("child_stop") == ["redis"]


@pytest.mark.parametrize(
    ("argv", "exit_text"),
    [(["sh", "-c", "exit 3"], "code 3"), (["no-such-program"], "code 127")],
)
def test_a_child_that_never_starts_is_given_up(
    run: Begin, tmp_path: Path, argv: list[str], exit_text: str
) -> None:
    """What fails three times before it was ever ready will not get better: all stops."""
    up = run(
        {"name": "redis", "argv": SLEEP},
        {"name": "worker", "argv": argv, "path": str(tmp_path / "never")},
        {"name": "web", "argv": SLEEP},
    )

    assert up.end() == 1
    assert up.said("child_start") == ["redis", "worker", "worker", "worker"]
    assert up.said("child_never_ready", "exit") == [exit_text]
    assert up.said("child_stop") == ["redis"]


def test_a_child_that_is_never_ready_is_given_up(run: Begin, tmp_path: Path) -> None:
    """A child that runs but does not answer in time counts as failed."""
    up = run(
        {"name": "x", "argv": SLEEP, "path": str(tmp_path / "never"), "start_seconds": 0.1},
    )

    assert up.end() == 1
    assert up.said("child_never_ready", "exit") == ["not ready within 0.1 s"]


def test_progress_gives_more_time(run: Begin, tmp_path: Path) -> None:
    """A child that says it is getting there is waited for, and what it says is told once."""
    ready = tmp_path / "ready"
    up = run(
        {
            "name": "redis", "argv": ["sh", "-c", f"sleep 0.6; touch {ready}; exec sleep 600"],
            "path": str(ready), "progress": "reads its data", "start_seconds": 0.2,
        }
    )  # fmt: skip
    up.until("up")

    assert up.said("child_progress", "progress") == ["reads its data"]
    assert up.said("child_start") == ["redis"]


def test_a_stop_during_the_start(run: Begin, tmp_path: Path) -> None:
    """A Ctrl-C while something is still starting stops what runs and starts nothing more."""
    up = run(
        {"name": "redis", "argv": SLEEP, "path": str(tmp_path / "never")},
        {"name": "web", "argv": SLEEP},
    )
    up.until("child_start")
    up.process.send_signal(signal.SIGINT)

    assert up.end() == 0
    assert up.said("child_start") == ["redis"]


def test_a_stubborn_child_is_killed(run: Begin) -> None:
    """Who does not end in time is killed; the exit code tells that it was no clean stop."""
    up = run({"name": "worker", "argv": STUBBORN, "stop_seconds": 0.3})
    up.until("up")
    up.process.terminate()

    assert up.end() == 1
    assert up.said("child_killed") == ["worker"]


def test_a_second_signal_hurries(run: Begin) -> None:
    """The second Ctrl-C asks all at once, the third kills."""
    up = run(
        {"name": "redis", "argv": SLEEP},
        {"name": "worker", "argv": STUBBORN, "stop_seconds": 600},
    )
    up.until("up")
    started = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    up.until("child_stop", child="worker")
    up.process.send_signal(signal.SIGINT)
    until(lambda: not alive(up.pids[0]))
    assert alive(up.pids[1])
    up.process.send_signal(signal.SIGINT)

    assert up.end() == 1
    assert time.monotonic() - started < 10


def test_a_ctrl_c_in_the_terminal_reaches_the_supervisor_only(run: Begin) -> None:
    """The terminal signals a whole process group; the children are not in it."""
    up = run({"name": "worker", "argv": SLEEP})
    up.until("up")

    assert os.getpgid(up.pids[0]) == up.pids[0] != os.getpgid(up.process.pid)
    os.killpg(up.process.pid, signal.SIGINT)
    assert up.end() == 0
    assert up.said("child_stop") == ["worker"]


def test_a_killed_supervisor_leaves_no_orphan(run: Begin, tmp_path: Path) -> None:
    """After kill -9 its children end, last one first, the stubborn and grandchildren too."""
    pid_file, order = tmp_path / "pid", tmp_path / "order"
    note = "trap 'echo {} >> {}; exit' TERM; while :; do sleep 0.05; done"
    up = run(
        {"name": "redis", "argv": ["sh", "-c", note.format("redis", order)]},
        {"name": "worker", "argv": ["sh", "-c", note.format("worker", order)]},
        {"name": "x", "argv": STUBBORN, "stop_seconds": 0.2},
        {"name": "y", "argv": ["sh", "-c", f"sleep 600 & echo $! > {pid_file}; wait"]},
    )
    up.until("up")
    until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    up.process.kill()

    for pid in [*up.pids, int(pid_file.read_text())]:
        until(partial(gone, pid))
    assert order.read_text().split() == ["worker", "redis"]


def test_a_child_begins_only_when_it_is_guarded(tmp_path: Path) -> None:
    """A child whose supervisor dies while starting it never becomes a process of its own."""
    code = (
        "import os, signal\n"
        "from console.supervisor import Child, Guard, start\n"
        "class Dies(Guard):\n"
        "    def watch(self, group, *, stop_seconds):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"start(Child('x', ('touch', {str(tmp_path / 'began')!r})), Dies())\n"
    )
    # The pipe is closed when the last process that holds it has ended, the child included.
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=30, check=False
    )

    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "began").exists()


def test_a_lost_guard_is_replaced(run: Begin) -> None:
    """Whoever ends the guard does not end the promise."""
    up = run({"name": "worker", "argv": SLEEP})
    up.until("up")
    (guard,) = [
        int(pid)
        for pid in Path(f"/proc/{up.process.pid}/task/{up.process.pid}/children")
        .read_text()
        .split()
        if b"guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(guard, signal.SIGKILL)
    up.until("guard_ended")
    up.process.kill()

    until(lambda: not alive(up.pids[0]))


def test_children_get_their_variables_and_privacy(run: Begin, tmp_path: Path) -> None:
    """A child sees our environment and its own; what it writes is its owner's alone."""
    out = tmp_path / "out"
    up = run(
        {
            "name": "x", "argv": ["sh", "-c", f'echo "$MORE $HOME" > {out}'],
            "env": {"MORE": "1"}, "restart": False,
        }
    )  # fmt: skip
    up.end()

    assert out.read_text() == f"1 {os.environ['HOME']}\n"
    assert out.stat().st_mode & 0o777 == 0o600


@given(failures=st.integers(1, 10**6))
def test_waits_grow_within_bounds(failures: int) -> None:
    """A wait is never shorter than the one before, nor outside of its bounds."""
    backoff = Backoff()

    assert 0.5 <= backoff.seconds(failures) <= backoff.seconds(failures + 1) <= 30.0
