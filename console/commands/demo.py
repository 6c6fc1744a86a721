"""``alertpost demo``: the whole path on real input, with a bad day at Microsoft."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from console import demo as play_demo
from console import output
from console.demo import CONNECTIONS, LIMIT, SAMPLE, SPEED, WINDOW_SECONDS, Result, Screen
from console.interrupts import terminated_as_interrupted, undisturbed
from models import logs
from models.errors import ConfigurationError
from models.settings import LogSettings

_COUNTS = ("accepted", "waiting", "dead", "retried", "uncertain")


class _Live(Screen):
    """A progress bar at the bottom, what happens above it; plain lines where it is no terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def step(self, text: str) -> None:
        self._progress.console.print(f"[bold]▸ {text}[/bold]", highlight=False)

    def event(self, text: str) -> None:
        self._progress.console.print(f"  {text}", highlight=False, markup=False)

    def progress(self, states: dict[str, int], total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task("alerts", total=total)
        settled = total - states.get("queued", 0) - states.get("sending", 0)
        told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        self._progress.update(self._task, total=total, completed=settled, description=told)


def demo(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object as the last line.")
    ] = False,
    source: Annotated[
        Path,
        typer.Option(
            "--input", metavar="FILE", help="Your own alerts, JSON lines.", show_default=False
        ),
    ] = SAMPLE,
    format_name: Annotated[
        str,
        typer.Option("--format", metavar="alertmanager|alerts", help="What a line of it holds."),
    ] = "alertmanager",
    keep: Annotated[
        Path | None,
        typer.Option("--keep", metavar="DIR", help="Keep everything in this new directory."),
    ] = None,
) -> None:
    """
    Mail 459 real alerts for twelve tenants while Microsoft 365 has a bad day.

    Exits 0 only if every alert is accounted for and every limit was kept.
    """
    if format_name not in {"alertmanager", "alerts"}:
        raise ConfigurationError(f"--format {format_name}: choose alertmanager or alerts")
    logs.setup(LogSettings(level="error"), process="demo")
    with terminated_as_interrupted(), _directory(keep) as directory, _progress() as progress:
        progress.console.print(
            f"The limits' clock runs {SPEED} times faster than life: {LIMIT} mails in any "
            f"{WINDOW_SECONDS:g} s and {CONNECTIONS} connections a mailbox.",
            highlight=False,
        )
        result = play_demo.play(
            directory, source=source, format_name=format_name, screen=_Live(progress)
        )
    _tell(result)
    if as_json:
        sys.stdout.write(json.dumps(result.as_json()) + "\n")
    raise typer.Exit(0 if result.good else 1)


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        directory = Path(tempfile.mkdtemp(prefix="alertpost-demo-"))
        try:
            yield directory
        finally:
            with undisturbed():
                shutil.rmtree(directory, ignore_errors=True)
        return
    try:
        keep.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise ConfigurationError(f"{keep} exists already; name a new directory") from None
    except OSError as error:
        raise ConfigurationError(f"{keep} cannot be made: {error.strerror}") from error
    yield keep


def _progress() -> Progress:
    return Progress(
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=output.out,
        transient=True,
    )


def _tell(result: Result) -> None:
    told = result.account
    figures = result.as_json()
    output.out.print()
    output.print_table(
        ["tenant", "accepted", "waiting", "dead", "retried", "uncertain", "p50 ms", "p95 ms"],
        [
            [
                name,
                *(figures_of[key] for key in _COUNTS),
                *(_rounded(figures_of[key]) for key in ("p50_ms", "p95_ms")),
            ]
            for name, figures_of in [
                *sorted(result.report.as_json()["tenants"].items()),
                ("in all", result.report.as_json()["total"]),
            ]
        ],
        right=["accepted", "waiting", "dead", "retried", "uncertain", "p50 ms", "p95 ms"],
    )
    output.out.print()
    output.print_fields(
        {
            "enqueued": f"{told.enqueued}, accepted {figures['accepted']}, "
            f"dead {figures['dead']}, still waiting {figures['queued']}",
            "lost": figures["lost"],
            "duplicates": f"{told.duplicates}, of which SQL did not warn: {told.unmarked} "
            f"({result.kills} worker killed, {told.uncertain} mails marked uncertain)",
            "tokens": f"{result.token_requests} refreshes for {result.token_expiries} tokens "
            "that had come to their end",
            "limits": f"at most {result.max_sent_in_window} of {LIMIT} mails in any "
            f"{WINDOW_SECONDS:g} s, {result.max_connections} of {CONNECTIONS} connections; "
            f"{result.violations} violations by Exchange's count",
            "time": f"{result.seconds:.0f} s",
        }
    )
    verdict = "Every alert is accounted for." if result.good else "NOT every promise was kept."
    output.out.print(f"\n[bold]{verdict}[/bold]")


def _rounded(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:,.0f}"
