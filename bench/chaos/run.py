"""
``make chaos``: rounds of a random storm over the whole path, and what became of every alert.

Prints the seed; ``--seed`` repeats the schedule. Ends with 1 if any promise was broken, and names
the directory that keeps the broken round's logs and database.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.chaos.evidence import Verdict
from bench.chaos.play import Round
from bench.chaos.schedule import Plan, draw
from bench.chaos.servers import Postgresql
from console.output import out
from models import logs
from models.settings import LogSettings

COLUMNS = (
    "round", "sql", "workers", "faults", "enqueued", "accepted", "dead", "expired", "lost",
    "dupl.", "uncertain", "violations", "frozen", "grants", "recovery", "drain", "result",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description="Break everything at random; lose nothing.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--first", type=int, default=1, help="number of the first round")
    parser.add_argument("--seed", type=int, help="repeats a schedule")
    parser.add_argument("--seconds", type=float, default=14.0, help="of trouble in each round")
    parser.add_argument("--keep", type=Path, help="where broken rounds are kept")
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    logs.setup(LogSettings(level="error"), process="chaos")
    # Told to end, it ends what it started, PostgreSQL included.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out.print(f"seed {seed}: repeat with --seed {seed}", highlight=False)
    out.print(_line(COLUMNS), highlight=False)
    keep = given.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    verdicts: list[Verdict] = []
    begun = time.monotonic()
    with ExitStack() as stack:
        postgresql: Postgresql | None = None
        for number in range(given.first, given.first + given.rounds):
            plan = draw(seed, number, seconds=given.seconds)
            if plan.database == "postgresql" and postgresql is None:
                postgresql = stack.enter_context(Postgresql())
            verdicts.append(play(plan, keep / f"{seed}-{number}", postgresql))
    broken = sum(bool(verdict.breaks) for verdict in verdicts)
    out.print(
        f"{len(verdicts)} rounds in {(time.monotonic() - begun) / 60:.0f} min, seed {seed}: "
        f"{sum(v.enqueued for v in verdicts):,} enqueued, {sum(v.lost for v in verdicts)} lost, "
        f"{sum(v.duplicates for v in verdicts)} duplicates, "
        f"{sum(v.violations for v in verdicts)} violations, {broken} rounds broken",
        highlight=False,
    )
    return 1 if broken else 0


def play(plan: Plan, directory: Path, postgresql: Postgresql | None) -> Verdict:
    """Play a round, print its line; what is broken stays in the directory."""
    directory.mkdir(mode=0o700, parents=True)
    told = "\n".join(f"{trouble.at:7.2f} {trouble}" for trouble in plan.troubles)
    (directory / "plan.txt").write_text(f"{plan.seed}\n{told}\n", encoding="utf-8")
    game = Round(plan, directory, postgresql)
    verdict = game.play()
    out.print(
        _line(
            (
                plan.number, plan.database, plan.workers, len(plan.troubles), verdict.enqueued,
                verdict.accepted, verdict.dead, verdict.expired, verdict.lost, verdict.duplicates,
                verdict.uncertain, verdict.violations, verdict.frozen_connections,
                game.grants_lost, f"{game.longest_recovery:.1f} s", f"{game.drain_seconds:.1f} s",
                "BROKEN" if verdict.breaks else "good",
            )
        ),
        highlight=False,
    )  # fmt: skip
    if verdict.breaks:
        for line in verdict.breaks[:12]:
            out.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)
        kinds = Counter(trouble.what for trouble in plan.troubles)
        out.print(f"    kept in {directory}; {dict(kinds)}", highlight=False, soft_wrap=True)
    else:
        shutil.rmtree(directory)
    return verdict


def _line(cells: Sequence[object]) -> str:
    widths = [max(len(name), 6) for name in COLUMNS]
    widths[1] = len("postgresql")
    return "  ".join(f"{cell!s:>{width}}" for cell, width in zip(cells, widths, strict=True))


if __name__ == "__main__":
    sys.exit(main())
