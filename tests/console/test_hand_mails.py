"""Mails that commands send count as any other: towards the window, and towards the day."""

from __future__ import annotations

import pytest
import redis

from console.context import opened
from models.redis_keys import RedisKeys
from tests.console.cli_setting import ALERTS, Cli

ADMIN = "admin@contoso.example"
SECOND = "second@contoso.example"
OPS = "ops@contoso.example"
DAY = "ALERTPOST_PACING__RECIPIENTS_PER_DAY"
RESERVE = "ALERTPOST_PACING__RECIPIENTS_CRITICAL_RESERVE"
WINDOW = "ALERTPOST_PACING__MESSAGES_PER_WINDOW"


@pytest.fixture
def connected(cli: Cli) -> Cli:
    """A tenant whose mailbox can send."""
    cli.connected()
    return cli


@pytest.fixture
def with_redis(connected: Cli, redis_url: str, redis_keys: RedisKeys) -> Cli:
    connected.monkeypatch.setenv("ALERTPOST_REDIS_URL", redis_url)
    connected.monkeypatch.setenv("ALERTPOST_REDIS_PREFIX", redis_keys.prefix)
    return connected


def test_they_count_towards_the_day(connected: Cli) -> None:
    """Two tests and one of the doctor's are three recipients, with or without Redis."""
    assert connected("mailboxes", "test", ALERTS, "--to", OPS).code == 0
    assert connected("mailboxes", "test", ALERTS, "--to", OPS).code == 0
    # No worker lives here, which the doctor finds wrong.
    connected("doctor", ALERTS, "--to", OPS)

    assert len(connected.sandbox.world.mailboxes.outbox(ALERTS).mails) == 3
    assert "3 of 10,000" in connected("mailboxes", "show", ALERTS).out


def test_a_day_that_is_full_is_told(connected: Cli) -> None:
    """Beyond the recipients of the day none goes out, and the command says why."""
    connected.monkeypatch.setenv(DAY, "2")
    connected.monkeypatch.setenv(RESERVE, "1")
    assert connected("mailboxes", "test", ALERTS, "--to", OPS).code == 0

    ran = connected("mailboxes", "test", ALERTS, "--to", OPS)

    assert ran.code != 0
    assert "recipients of the day" in ran.err
    assert len(connected.sandbox.world.mailboxes.outbox(ALERTS).mails) == 1


def test_they_count_towards_the_window_that_redis_forgot(
    with_redis: Cli, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Of three permits two were used by hand, and one is kept for criticals: none is left."""
    with_redis.monkeypatch.setenv(WINDOW, "3")
    with_redis.monkeypatch.setenv("ALERTPOST_PACING__CRITICAL_RESERVE", "1")
    for _ in range(2):
        assert with_redis("mailboxes", "test", ALERTS, "--to", OPS).code == 0
        for key in redis_client.scan_iter(f"{redis_keys.prefix}:*"):
            redis_client.delete(key)

    ran = with_redis("mailboxes", "test", ALERTS, "--to", OPS)

    assert ran.code != 0
    assert "may not send now" in ran.err
    assert len(with_redis.sandbox.world.mailboxes.outbox(ALERTS).mails) == 2


def test_they_count_for_the_account_that_signs_in(with_redis: Cli) -> None:
    """What is tested from one shared mailbox counts for the others of its account too."""
    with_redis.sandbox.world.mailboxes.get(ADMIN).send_as.update((ALERTS, SECOND))
    assert with_redis("mailboxes", "add", "contoso", SECOND, "--auth-user", ADMIN).code == 0
    assert with_redis("mailboxes", "edit", ALERTS, "--auth-user", ADMIN).code == 0
    with opened() as context:
        for address in (ALERTS, SECOND):
            with_redis.consent(context, address, account=ADMIN)
    with_redis.monkeypatch.setenv(WINDOW, "2")
    with_redis.monkeypatch.setenv("ALERTPOST_PACING__CRITICAL_RESERVE", "1")
    assert with_redis("mailboxes", "test", ALERTS, "--to", OPS).code == 0

    ran = with_redis("mailboxes", "test", SECOND, "--to", OPS)

    assert ran.code != 0
    assert "may not send now" in ran.err
    assert "1 of 10,000" in with_redis("mailboxes", "show", SECOND).out
