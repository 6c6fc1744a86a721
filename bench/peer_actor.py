"""A Dramatiq actor per mail; run as ``dramatiq bench.peer_actor``."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.peer_mail import send

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_REDIS"]))


@dramatiq.actor(max_retries=8)
def send_alert(sender: str, subject: str, text: str, html: str) -> None:
    """Send one alert."""
    send(sender, subject, text, html)
