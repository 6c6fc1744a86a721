"""A Celery task per mail; run as ``celery -A bench.peer_celery worker``."""

from __future__ import annotations

import os

from celery import Celery

from bench.peer_mail import send

# Celery has a name of its own for a Redis that listens on a socket.
app = Celery("bench", broker=os.environ["BENCH_REDIS"].replace("unix://", "redis+socket://", 1))
app.conf.task_ignore_result = True


@app.task(autoretry_for=(OSError,), retry_backoff=True, max_retries=8)
def send_alert(sender: str, subject: str, text: str, html: str) -> None:
    """Send one alert."""
    send(sender, subject, text, html)
