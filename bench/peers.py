"""
alertpost beside what people use today: same sandbox, same mails, same run.

    a bare aiosmtplib loop        prebuilt mails over persistent connections: the mark
    alertpost                     one worker process, SQLite
    a Celery task per mail        Redis, smtplib, a connection each; Celery's own defaults
    a Dramatiq actor per mail     the same with Dramatiq's defaults
    emailproxy                    fed over SMTP, a connection each
    postfix with sasl-xoauth2     where Debian's packages are installed

CPU is that of all processes of a contender, children included; Redis, SQL servers, the sandbox and
whoever hands the mails in count for nobody.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from bench.deliveries import bare_loop, stage, whole_path
from bench.peer_emailproxy import through_emailproxy
from bench.peer_running import NotMeasured
from bench.peer_tasks import through_tasks
from bench.table import Sample, rates, show
from console.output import out

PEERS = Path(sys.prefix).with_name(f"{Path(sys.prefix).name}-bench") / "bin"
"""Where the peers are installed; ``make bench`` sees to it."""
SHARE_OF_MAILS = {"emailproxy": 60}
"""This peer is so much slower that it is given fewer mails."""


def measure(*, mails: int, runs: int) -> dict[str, Any]:
    """Measure all in turn, so many times over; a contender that fails says why and is left out."""
    samples: dict[str, list[Sample]] = {}
    absent: dict[str, str] = {}
    with stage() as given:
        whole_path(given, 1000)  # Leases are taken, caches are warm.
        contenders: dict[str, Callable[[int], Sample]] = {
            "bare_loop": lambda count: bare_loop(given, count),
            "alertpost": lambda count: whole_path(given, count),
            "celery": lambda count: through_tasks(given, PEERS, count, "bench.peer_celery"),
            "actor_per_mail": lambda count: through_tasks(given, PEERS, count, "bench.peer_actor"),
            "emailproxy": lambda count: through_emailproxy(given, PEERS, count),
            "postfix": lambda _count: _postfix(),
        }
        for number in range(runs):
            for name, contender in contenders.items():
                if name in absent:
                    continue
                try:
                    sample = contender(max(50, mails // SHARE_OF_MAILS.get(name, 1)))
                except (NotMeasured, OSError, RuntimeError, subprocess.SubprocessError) as why:
                    absent[name] = " ".join(str(why).split())[-200:]
                    out.print(f"  {name}: not measured: {absent[name]}")
                else:
                    samples.setdefault(name, []).append(sample)
                    out.print(f"  {name}, run {number + 1} of {runs}: {sample.rate:,.0f} mails/s")
    told: dict[str, Any] = {
        name: {"not_measured": absent[name]} if name in absent else rates(samples[name])
        for name in contenders
    }
    ours = median(sample.per_cpu_second for sample in samples["alertpost"])
    for name in ("celery", "actor_per_mail", "emailproxy"):
        if name not in absent:
            theirs = median(sample.per_cpu_second for sample in samples[name])
            told[f"per_cpu_second_over_{name}"] = round(ours / theirs, 2)
    show(
        f"Beside what people use today ({runs} runs of {mails:,} mails, median)",
        ["", "mails/s", "CPU s per 1,000", "peak MB", "alertpost's mails per CPU s over it"],
        [_row(label, told[name], told.get(f"per_cpu_second_over_{name}", ""))
         for name, label in LABELS.items()],
    )  # fmt: skip
    return told


LABELS = {
    "bare_loop": "bare aiosmtplib loop",
    "alertpost": "alertpost, 1 worker process",
    "celery": "Celery task per mail",
    "actor_per_mail": "Dramatiq actor per mail",
    "emailproxy": "emailproxy",
    "postfix": "postfix with sasl-xoauth2",
}


def _row(label: str, figures: Mapping[str, Any], over: object) -> list[object]:
    if "not_measured" in figures:
        return [f"{label}: {figures['not_measured'][:60]}", "-", "-", "-", "-"]
    return [
        label,
        f"{figures['mails_per_second']:,.0f}",
        f"{figures['cpu_seconds_per_1000']:.2f}",
        f"{figures['peak_mb']:,.0f}",
        over,
    ]


def _postfix() -> Sample:
    missing = [name for name in ("postfix", "sasl-xoauth2-tool") if shutil.which(name) is None]
    if missing:
        raise NotMeasured(f"{' and '.join(missing)}: not installed")
    raise NotMeasured("installed, but there is no run for it yet")
