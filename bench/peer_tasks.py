"""A task queue's workers that send each mail as a task of its own: Celery and Dramatiq."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from bench.deliveries import alert, shared_token
from bench.peer_running import NotMeasured, peer, taken_so_far, until_taken
from bench.resources import Resources
from bench.table import Sample
from console.embedded_redis import EmbeddedRedis
from console.stage import Stage

COMMANDS = {
    "bench.peer_celery": (
        ("celery", "-A", "bench.peer_celery", "worker", "--loglevel", "INFO"),
        b"ready.",
    ),
    "bench.peer_actor": (("dramatiq", "bench.peer_actor"), b"ready for action."),
}
"""How the workers are started, with their own defaults, and what they say when they are ready."""


def through_tasks(given: Stage, peers: Path, mails: int, module: str) -> Sample:
    """
    Let a task queue's workers send so many mails.

    Raises:
        NotMeasured: It is not installed, does not start, or takes too long.
    """
    command, ready = COMMANDS[module]
    if not (peers / command[0]).exists():
        raise NotMeasured(f"{command[0]} is not installed in {peers.parent.name}")
    directory = Path(given.settings.data_dir)
    job = directory / "peer-job.json"
    job.write_text(json.dumps(_job(given)), "utf-8")
    # A Redis of its own, as persistent as the one that alertpost has.
    with EmbeddedRedis.prepare(directory / "peer-redis").running() as redis_url:
        environment = {"BENCH_JOB": str(job), "BENCH_REDIS": redis_url, "PYTHONPATH": "."}
        argv = [str(peers / command[0]), *command[1:]]
        with peer(argv, environment, directory / f"{module}.log", ready) as process:
            watched = Resources([process.pid])
            seen = taken_so_far(given)
            subprocess.run(
                [str(peers / "python"), "-m", "bench.peer_enqueue", module],
                input=json.dumps([_arguments(given, number) for number in range(mails)]),
                env=os.environ | environment,
                text=True,
                check=True,
                capture_output=True,
                timeout=120,
            )
            seconds = until_taken(given, seen, mails, watched)
            return Sample(mails, seconds, watched.look().cpu_seconds, watched.peak_mb)


def _job(given: Stage) -> dict[str, object]:
    facts = given.sandbox.facts
    return {
        "host": facts["smtp_host"],
        "port": facts["smtp_port"],
        "ca_file": facts["ca_file"],
        "tokens": {f"alerts@{slug}.example": shared_token(given, slug) for slug in given.slugs},
    }


def _arguments(given: Stage, number: int) -> list[object]:
    made = alert(number, given.slugs[number % len(given.slugs)])
    return [f"alerts@{made.tenant}.example", made.subject, made.text, made.html]
