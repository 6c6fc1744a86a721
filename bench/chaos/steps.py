"""How long it takes until a crash at each step is mended, with the default settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from bench.chaos.crashing import STEPS
from bench.chaos.trial import alert, copies, ground, states, uncertain, wait_until
from console.output import out
from console.stage import Stage

LONGEST_RECOVERY_SECONDS = 40.0
PATIENCE_SECONDS = 120.0


def crash_at_each_step(database: str) -> bool:
    """
    Let a process die at each step in turn; a worker that is started then mends it.

    In life others run already: the second that one takes to start is part of what is measured.
    """
    good = True
    with ground(database, tenants=len(STEPS)) as given:
        stage = given.stage
        for slug, step in zip(stage.slugs, STEPS, strict=True):
            took = _crash(stage, slug, step)
            good = good and took <= LONGEST_RECOVERY_SECONDS
            out.print(f"{database}, {step}: all accepted after {took:.1f} s", highlight=False)
        (taken, twice), doubtful, found = copies(stage), uncertain(stage), states(stage)
    good = good and found["accepted"] == found.total()
    out.print(
        f"{database}: {found.total()} alerts, {taken} taken by Exchange, {twice} twice, {doubtful} "
        f"marked in doubt: {'good' if good else 'BROKEN'}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return good


def _crash(stage: Stage, slug: str, step: str) -> float:
    fault = {"name": "late", "phase": "body", "behaviour": "slow", "seconds": 0.5, "times": 1}
    stage.sandbox.tell("POST", "/faults/exchange", fault)
    before = states(stage)["accepted"]
    mails = [alert(slug, number) for number in range(2)]
    given = ""
    if step == "after-the-row":
        given, mails = mails[0].model_dump_json(exclude_none=True), mails[:1]
    else:
        stage.producer.enqueue_many(mails)
    env = os.environ | stage.worker_environment()
    process = subprocess.run(
        (sys.executable, "-m", "bench.chaos.crashing", step),
        input=given.encode(), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    if process.returncode != -9:
        raise RuntimeError(f"nobody died at {step}: {json.dumps(process.returncode)}")
    died = time.monotonic()
    stage.sandbox.tell("DELETE", "/faults/exchange")
    stage.start_worker(0)
    wait_until(lambda: states(stage)["accepted"] == before + len(mails), seconds=PATIENCE_SECONDS)
    took = time.monotonic() - died
    stage.stop_workers()
    return took
