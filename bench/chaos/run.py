"""
``make chaos``: rounds of a random storm over the whole path, and what became of every alert.

Prints the seed; ``--seed`` repeats the schedule. Each round is a process of its own, with servers
of its own, so nothing that happens in one ends the run; one that the harness itself spoiled is
told and played again. Ends with 1 if any promise was broken, and names the directory that keeps
the broken round's logs and database.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.chaos.outage import redis_away, sql_away
from bench.chaos.schedule import draw
from bench.chaos.shim import compiler
from bench.chaos.steps import crash_at_each_step
from bench.chaos.stopping import roll_under_load, stop_with_visits_open
from console.output import out
from models import logs
from models.settings import LogSettings

COLUMNS = (
    "round", "sql", "workers", "faults", "enqueued", "accepted", "dead", "expired", "lost",
    "dupl.", "uncertain", "violations", "frozen", "clock", "grants", "recovery", "stop", "drain",
    "took", "result",
)  # fmt: skip
LONGEST_ROUND_SECONDS = 300.0
TRIES = 3
"""How often a round is played that the harness spoils."""

Figures = dict[str, Any]


@dataclass(slots=True)
class Run:
    """A run of many rounds."""

    seed: int
    seconds: float
    keep: Path
    spoiled: list[str] = field(default_factory=list)
    _playing: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _ended: threading.Event = field(default_factory=threading.Event)

    def play(self, number: int) -> Figures | None:
        """Play a round until it says something; None where the harness spoils it each time."""
        for attempt in range(1, TRIES + 1):
            directory = self.keep / f"{self.seed}-{number}-{attempt}"
            figures, why = self._play_once(number, directory)
            if figures is not None and not figures["spoils"]:
                self._tell(number, figures, directory)
                return figures
            if self._ended.is_set():
                return None
            why = why or "; ".join(figures["spoils"] if figures else ())
            self.spoiled.append(f"round {number}: {why}")
            out.print(
                f"    round {number} was spoiled by the harness and is played again: {why}; "
                f"kept in {directory}",
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip
        return None

    def end(self) -> None:
        """End what is being played."""
        self._ended.set()
        for process in list(self._playing):
            process.terminate()

    def _play_once(self, number: int, directory: Path) -> tuple[Figures | None, str]:
        directory.mkdir(mode=0o700, parents=True)
        plan = draw(self.seed, number, seconds=self.seconds)
        told = "\n".join(f"{trouble.at:7.2f} {trouble}" for trouble in plan.troubles)
        (directory / "plan.txt").write_text(f"{plan.seed}\n{told}\n", encoding="utf-8")
        job = {
            "seed": self.seed, "number": number, "seconds": self.seconds,
            "directory": str(directory),
        }  # fmt: skip
        log = directory / "round.log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                (sys.executable, "-m", "bench.chaos.play", json.dumps(job)),
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip
        self._playing.add(process)
        try:
            process.wait(LONGEST_ROUND_SECONDS)
        except subprocess.TimeoutExpired:
            # Its guards end what it started.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None, f"it took longer than {LONGEST_ROUND_SECONDS:.0f} s"
        finally:
            self._playing.discard(process)
        with suppress(OSError, ValueError):
            figures: Figures = json.loads((directory / "figures.json").read_text("utf-8"))
            return figures, ""
        last = log.read_text("utf-8", "replace").strip().splitlines()[-1:]
        return None, f"it ended with {process.returncode}: {''.join(last)[:300]}"

    def _tell(self, number: int, figures: Figures, directory: Path) -> None:
        """Print a round's line; what is broken stays in the directory."""
        plan = draw(self.seed, number, seconds=self.seconds)
        verdict = figures["verdict"]
        figures |= {"round": number, "sql": plan.database, "faults": len(plan.troubles)}
        out.print(
            _line(
                (
                    number, plan.database, plan.workers, len(plan.troubles), verdict["enqueued"],
                    verdict["accepted"], verdict["dead"], verdict["expired"], verdict["lost"],
                    verdict["duplicates"], verdict["uncertain"], verdict["violations"],
                    verdict["frozen_connections"], verdict["unremembered"], figures["grants_lost"],
                    *(f"{figures[name]:.1f} s" for name in (
                        "recovery_seconds", "stop_seconds", "drain_seconds", "seconds")),
                    "BROKEN" if verdict["breaks"] else "good",
                )
            ),
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        if verdict["breaks"]:
            for line in verdict["breaks"][:12]:
                out.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)
            kinds = Counter(trouble.what for trouble in plan.troubles)
            out.print(f"    kept in {directory}; {dict(kinds)}", highlight=False, soft_wrap=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def summary(seed: int, played: Sequence[Figures], spoiled: Sequence[str]) -> dict[str, Any]:
    """Sum a run up."""
    verdicts = [figures["verdict"] for figures in played]

    def total(name: str) -> int:
        return sum(verdict[name] for verdict in verdicts)

    def longest(name: str) -> float:
        return round(max((figures[name] for figures in played), default=0.0), 1)

    return {
        "seed": seed,
        "rounds": len(played),
        "broken_rounds": sorted(f["round"] for f in played if f["verdict"]["breaks"]),
        "spoiled": list(spoiled),
        "enqueued": total("enqueued"),
        "accepted": total("accepted"),
        "dead": total("dead"),
        "expired": total("expired"),
        "lost": total("lost"),
        "duplicates": total("duplicates"),
        "uncertain": total("uncertain"),
        "violations": total("violations"),
        "frozen_connections": total("frozen_connections"),
        "unremembered": total("unremembered"),
        "grants_lost": sum(figures["grants_lost"] for figures in played),
        "troubles": sum(figures["faults"] for figures in played),
        "troubles_left_out": sum(figures["left_out"] for figures in played),
        "longest_recovery_seconds": longest("recovery_seconds"),
        "longest_stop_seconds": longest("stop_seconds"),
        "longest_drain_seconds": longest("drain_seconds"),
        "each_round": sorted(played, key=lambda figures: int(figures["round"])),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description="Break everything at random; lose nothing.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--first", type=int, default=1, help="number of the first round")
    parser.add_argument("--seed", type=int, help="repeats a schedule")
    parser.add_argument("--seconds", type=float, default=14.0, help="of trouble in each round")
    parser.add_argument("--beside", type=int, default=1, help="rounds at once")
    parser.add_argument("--keep", type=Path, help="where broken rounds are kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    trials = parser.add_argument_group("instead of the storm, with the default settings")
    trials.add_argument("--outage", choices=("redis", "sql"), help="for --seconds")
    trials.add_argument("--steps", action="store_true", help="a crash at each step of a delivery")
    trials.add_argument("--stop", action="store_true", help="SIGTERM with 500 visits open")
    trials.add_argument("--roll", action="store_true", help="rolling restarts under load")
    trials.add_argument("--sql", choices=("sqlite", "postgresql"), help="only there")
    given = parser.parse_args(arguments)
    if given.outage or given.steps or given.stop or given.roll:
        return _trials(given)
    return _storm(given)


def _trials(given: argparse.Namespace) -> int:
    logs.setup(LogSettings(level="error"), process="chaos")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    good = True
    for database in (given.sql,) if given.sql else ("sqlite", "postgresql"):
        if given.outage == "redis":
            good = redis_away(database, given.seconds) and good
        if given.outage == "sql":
            good = sql_away(database, given.seconds) and good
        if given.steps:
            good = crash_at_each_step(database) and good
        if given.stop:
            for silent in (False, True):
                good = stop_with_visits_open(database, silent=silent) and good
        if given.roll:
            good = roll_under_load(database) and good
    return 0 if good else 1


def _storm(given: argparse.Namespace) -> int:
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    keep = given.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    run = Run(seed, given.seconds, keep)
    # Told to end, it ends what it started, PostgreSQL included.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out.print(f"seed {seed}: repeat with --seed {seed}", highlight=False)
    if compiler() is None:
        out.print("no C compiler: clocks are not stepped and no disk is full", highlight=False)
    out.print(_line(COLUMNS), highlight=False, soft_wrap=True)
    begun = time.monotonic()
    played: list[Figures] = []
    with ThreadPoolExecutor(given.beside) as threads:
        try:
            numbers = range(given.first, given.first + given.rounds)
            for one in as_completed([threads.submit(run.play, number) for number in numbers]):
                if (figures := one.result()) is not None:
                    played.append(figures)
                    if given.json is not None:
                        given.json.write_text(
                            json.dumps(summary(seed, played, run.spoiled), indent=1), "utf-8"
                        )
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            run.end()
            raise
    sums = summary(seed, played, run.spoiled)
    out.print(
        f"{sums['rounds']} rounds in {(time.monotonic() - begun) / 60:.0f} min, seed {seed}: "
        f"{sums['enqueued']:,} enqueued, {sums['lost']} lost, {sums['duplicates']} duplicates, "
        f"{sums['violations']} violations, {len(sums['broken_rounds'])} rounds broken, "
        f"{len(run.spoiled)} spoiled and repeated",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 1 if sums["broken_rounds"] or len(played) < given.rounds else 0


def _line(cells: Sequence[object]) -> str:
    widths = [max(len(name), 6) for name in COLUMNS]
    widths[1] = len("postgresql")
    return "  ".join(f"{cell!s:>{width}}" for cell, width in zip(cells, widths, strict=True))


if __name__ == "__main__":
    sys.exit(main())
