"""
Runs the processes of ``alertpost up``: starts them in order, restarts them, stops them.

Each child leads a session of its own, so a Ctrl-C in the terminal reaches only the supervisor,
which stops the children in reverse order. None of them outlives it: a guard process (see
``guard``) ends them should the supervisor be killed, and a child does not begin before the guard
knows of it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import structlog

from console import guard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

log = structlog.get_logger()

# The child waits for a line before it becomes what it is to be. Dies the supervisor before that,
# the input ends and so does the child.
_GATE = 'read -r go && exec "$@" </dev/null'
_PRIVATE = 0o077
_FIRST_STARTS = 3
_LEFTOVER_SECONDS = 5.0
_HURRIED_SECONDS = 2.0
_POLL_SECONDS = 0.05
_IDLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Child:
    """
    A process to keep running.

    Attributes:
        name: For the log.
        argv: The command.
        env: Variables in addition to ours.
        ready: Asked until it says True; a sentence means "not yet, but it goes on". None: ready
            as soon as it runs.
        restart: Whether to start it again when it ends. If not, its end is the end of all, and
            its exit code ours.
        start_seconds: How long it may take to become ready, counted from the last progress.
        stop_seconds: How long it may take to end after SIGTERM.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], bool | str] | None = None
    restart: bool = True
    start_seconds: float = 30.0
    stop_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a child that keeps ending waits for its next start."""

    first_seconds: float = 0.5
    longest_seconds: float = 30.0
    calm_seconds: float = 60.0
    """After running so long, earlier failures are forgotten."""

    def seconds(self, failures: int) -> float:
        """
        Tell the wait before the next start.

        Args:
            failures: Ends in a row, from 1.
        """
        return min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures - 1, 30))


class Guard:
    """Ends the process groups it watches when we are gone. A context manager."""

    def __init__(self) -> None:
        self._watched: dict[int, float] = {}
        self._process = _start_guard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def watch(self, group: int, *, stop_seconds: float) -> None:
        """Stop this group when we are gone."""
        self._watched[group] = stop_seconds
        self._tell(f"+ {group} {stop_seconds}\n")

    def forget(self, group: int) -> None:
        """Let go of a group that has ended; its id may soon be another's."""
        self._watched.pop(group, None)
        self._tell(f"- {group}\n")

    def revive(self) -> None:
        """Start the guard again if somebody ended it."""
        if self._process.poll() is None:
            return
        code = self._process.returncode
        self._process = _start_guard()
        for group, seconds in self._watched.items():
            self._tell(f"+ {group} {seconds}\n")
        log.warning("guard_ended", exit=_exit(code))

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode("ascii"))
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait()
            self.revive()


def start(child: Child, guarded_by: Guard) -> subprocess.Popen[bytes]:
    """
    Start a process that leads its own group and cannot be orphaned.

    Args:
        child: What to run. Files that it makes are its owner's alone.
        guarded_by: Is told before the command begins.
    """
    process = subprocess.Popen(  # noqa: S603 - commands of our own
        ("/bin/sh", "-c", _GATE, child.name, *child.argv),
        stdin=subprocess.PIPE,
        env={**os.environ, **child.env},
        start_new_session=True,
        umask=_PRIVATE,
    )
    guarded_by.watch(process.pid, stop_seconds=child.stop_seconds)
    assert process.stdin is not None
    # Ended already: whoever waits for it will see that.
    with suppress(BrokenPipeError), process.stdin as gate:
        gate.write(b"go\n")
    return process


class Supervisor:
    """
    Keeps children running until told to stop. To be run in the main thread.

    Args:
        children: In the order of their start; each waits for the ones before it to be ready.
        on_ready: Called once, when all are.
        backoff: How long a child that keeps ending waits.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        on_ready: Callable[[], None] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._seats = [_Seat(child) for child in children]
        self._on_ready = on_ready
        self._backoff = backoff or Backoff()
        self._asked = 0
        self._exit_code: int | None = None

    def run(self) -> int:
        """
        Start everything and return when it has stopped.

        SIGINT, SIGTERM and SIGHUP ask for a stop; a second one shortens it, a third one ends it.

        Returns:
            An exit code: 0 after a clean stop, 1 if a child never became ready or had to be
            killed, else that of the child whose end was the end of all.
        """
        with self._signals() as wake, Guard() as the_guard:
            self._wake, self._guard = wake, the_guard
            try:
                self._serve()
            finally:
                clean = self._stop_all()
        if self._exit_code is not None:
            return self._exit_code
        return 0 if clean else 1

    def _serve(self) -> None:
        for count, _ in enumerate(self._seats, 1):
            begun = self._seats[:count]
            while not begun[-1].ready:
                self._look_after(begun)
                if self._ending:
                    return
                self._pause(_POLL_SECONDS)
        if self._on_ready:
            self._on_ready()
        while not self._ending:
            self._look_after(self._seats)
            busy = any(not seat.ready for seat in self._seats)
            self._pause(_POLL_SECONDS if busy else _IDLE_SECONDS)

    @property
    def _ending(self) -> bool:
        return self._asked > 0 or self._exit_code is not None

    def _look_after(self, seats: Sequence[_Seat]) -> None:
        self._guard.revive()
        for seat in seats:
            if self._ending:
                return
            if seat.process is None:
                self._start_if_due(seat)
            elif seat.process.poll() is not None:
                self._ended(seat, _exit(seat.process.returncode))
            elif not seat.ready:
                self._ask_whether_ready(seat)

    def _start_if_due(self, seat: _Seat) -> None:
        if time.monotonic() < seat.again_at:
            return
        seat.process = start(seat.child, self._guard)
        seat.started_at = seat.progress_at = time.monotonic()
        log.info("child_start", child=seat.child.name, child_pid=seat.process.pid)

    def _ask_whether_ready(self, seat: _Seat) -> None:
        answer = seat.child.ready() if seat.child.ready else True
        now = time.monotonic()
        if answer is True:
            seat.ready = seat.was_ready = True
            took = round((now - seat.started_at) * 1000)
            log.info("child_ready", child=seat.child.name, duration_ms=took)
        elif answer:
            seat.progress_at = now
            if answer != seat.progress:
                log.info("child_progress", child=seat.child.name, progress=answer)
            seat.progress = str(answer)
        elif now - seat.progress_at > seat.child.start_seconds:
            self._ended(seat, f"not ready within {seat.child.start_seconds:g} s")

    def _ended(self, seat: _Seat, how: str) -> None:
        lived = time.monotonic() - seat.started_at
        assert seat.process is not None
        code = seat.process.poll()
        self._clear(seat)
        seat.failures = 1 if lived > self._backoff.calm_seconds else seat.failures + 1
        if not seat.child.restart and (seat.was_ready or code == 0):
            log.info("child_end", child=seat.child.name, exit=how)
            self._exit_code = code if code is not None and code >= 0 else 128 - (code or 0)
        elif not seat.was_ready and (seat.failures >= _FIRST_STARTS or not seat.child.restart):
            log.error("child_never_ready", child=seat.child.name, exit=how)
            self._exit_code = 1
        else:
            wait = self._backoff.seconds(seat.failures)
            seat.again_at = time.monotonic() + wait
            log.warning("child_end", child=seat.child.name, exit=how, again_in_seconds=wait)

    def _clear(self, seat: _Seat) -> None:
        """End what a child left behind: its own children live on when it crashes."""
        assert seat.process is not None
        group = seat.process.pid
        if seat.process.poll() is None or guard.group_lives(group):
            seconds = seat.child.stop_seconds if self._asked == 0 else _LEFTOVER_SECONDS
            self._end_group(seat.process, min(seconds, _LEFTOVER_SECONDS))
        seat.process.wait()
        self._guard.forget(group)
        seat.process, seat.ready = None, False

    def _end_group(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        _signal_group(process.pid, signal.SIGTERM)
        while process.poll() is None or guard.group_lives(process.pid):
            if time.monotonic() >= deadline:
                _signal_group(process.pid, signal.SIGKILL)
                return
            self._pause(_POLL_SECONDS)

    def _stop_all(self) -> bool:
        heard = self._asked
        clean = True
        running = [seat for seat in reversed(self._seats) if seat.process is not None]
        for seat in running:
            clean = self._stop(seat, running, heard) and clean
        log.info("supervisor_stop", clean=clean)
        return clean

    def _stop(self, seat: _Seat, running: Sequence[_Seat], heard: int) -> bool:
        assert seat.process is not None
        begun = time.monotonic()
        deadline, hurried, clean = begun + seat.child.stop_seconds, False, True
        if seat.process.poll() is None:
            log.info("child_stop", child=seat.child.name)
            seat.process.terminate()
        while seat.process.poll() is None:
            now = time.monotonic()
            if self._asked > heard and not hurried:
                # Impatience: no longer one after the other.
                hurried, deadline = True, min(deadline, now + _HURRIED_SECONDS)
                for other in running:
                    if other.process is not None:
                        other.process.terminate()
            if now >= deadline or self._asked > heard + 1:
                log.warning("child_killed", child=seat.child.name, after_seconds=round(now - begun))
                _signal_group(seat.process.pid, signal.SIGKILL)
                clean = False
                seat.process.wait()
                break
            self._pause(min(_IDLE_SECONDS, max(deadline - now, 0.0)))
        self._clear(seat)
        return clean

    @contextmanager
    def _signals(self) -> Iterator[socket.socket]:
        """Let signals wake us; restore what was before at the end."""
        wake, wakes = socket.socketpair()
        wake.setblocking(False)
        wakes.setblocking(False)
        before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
            # Started under nohup we are to outlive the terminal.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }
        fd_before = signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        try:
            yield wake
        finally:
            signal.set_wakeup_fd(fd_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            wake.close()
            wakes.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._asked += 1

    def _pause(self, seconds: float) -> None:
        """Wait for a signal, the end of a child included, but no longer than this."""
        if select.select([self._wake], [], [], seconds)[0]:
            with suppress(BlockingIOError):
                while self._wake.recv(4096):
                    pass


class _Seat:
    """A child and how it fares."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.process: subprocess.Popen[bytes] | None = None
        self.ready = False
        self.was_ready = False
        self.progress = ""
        self.failures = 0
        self.again_at = 0.0
        self.started_at = 0.0
        self.progress_at = 0.0


def _start_guard() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own program
        (sys.executable, "-I", "-S", guard.__file__),
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _exit(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"code {code}"
