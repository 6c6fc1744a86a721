"""
``make proofs``: promises at their stated size, in real processes, with a table at the end.

Ends with 1 if any of them does not hold. ``--seed`` repeats what is drawn by chance.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.chaos.servers import Postgresql
from bench.proofs import lease, limits, schedules
from bench.proofs.told import Claim
from console.output import out
from models import logs
from models.settings import LogSettings


def _one_request(given: argparse.Namespace) -> Iterator[Claim]:
    return lease.one_request(callers=given.scaled(1_000))


def _ahead(given: argparse.Namespace) -> Iterator[Claim]:
    return lease.refresh_ahead(seconds=max(12.0, 40.0 * given.scale))


def _rotation(given: argparse.Namespace) -> Iterator[Claim]:
    return lease.strict_rotation(refreshes=given.scaled(500), seed=given.seed)


def _limits(given: argparse.Namespace) -> Iterator[Claim]:
    return limits.never_above(seconds=max(20.0, 150.0 * given.scale), seed=given.seed)


def _schedules(given: argparse.Namespace) -> Iterator[Claim]:
    with Postgresql() as server:
        yield from schedules.schedules(
            database_url=server.database(),
            deliveries=given.scaled(100_000),
            # So that each mailbox has as much to send in a second, whatever the size.
            mailboxes=round(100 * given.scale**0.5),
            # At a pace that two cores keep up with: who waits for a busy machine waits for no
            # idle worker. A mailbox in a storm gets somewhat more than it may send.
            seconds=600.0 * given.scale**0.5,
            window=6.5,
            seed=given.seed,
        )


PROOFS: dict[str, Callable[[argparse.Namespace], Iterator[Claim]]] = {
    "one-request": _one_request,
    "refresh-ahead": _ahead,
    "rotation": _rotation,
    "limits": _limits,
    "schedules": _schedules,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description="Prove the promises at their stated size.")
    parser.add_argument("--only", nargs="+", choices=PROOFS, default=list(PROOFS))
    parser.add_argument("--seed", type=int, help="repeats what is drawn by chance")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the stated size")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    given = parser.parse_args(arguments)
    if given.seed is None:
        given.seed = random.SystemRandom().randrange(1_000_000)
    given.scaled = lambda size: max(4, round(size * given.scale))
    logs.setup(LogSettings(level="error"), process="proofs")
    # Told to end, it ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out.print(f"seed {given.seed}: repeat with --seed {given.seed}", highlight=False)
    claims = []
    for name in given.only:
        begun = time.monotonic()
        for claim in PROOFS[name](given):
            claims.append(claim)
            _show(claim)
        out.print(f"    {name} took {time.monotonic() - begun:.0f} s", highlight=False)
    if given.json is not None:
        told = [{"claim": c.name, "bound": c.bound, "holds": c.holds} | c.figures for c in claims]
        given.json.write_text(json.dumps({"seed": given.seed, "claims": told}, indent=2) + "\n")
    broken = sum(not claim.holds for claim in claims)
    out.print(f"{len(claims)} claims, {broken} broken, seed {given.seed}", highlight=False)
    return 1 if broken else 0


def _show(claim: Claim) -> None:
    figures = ", ".join(f"{name} {value}" for name, value in claim.figures.items())
    out.print(
        f"{'holds ' if claim.holds else 'BROKEN'}  {claim.name}\n"
        f"        bound: {claim.bound}\n        {figures}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
