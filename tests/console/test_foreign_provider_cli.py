"""From `tenants add` to the mail at a provider and a server that are not Microsoft's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
import requests

from models.database import create_engine_from, read
from models.redis_keys import RedisKeys
from models.tables import METADATA
from sandbox.authority import throwaway_authority
from tests.console.cli_setting import Cli
from tests.fixtures.foreign_provider import ALERTS, CLIENT_ID, CLIENT_SECRET, Provider, Submission

SCOPE = "https://mail.example/send"


@pytest.fixture
def stranger(
    cli: Cli, provider: Provider, submission: Submission, redis_url: str, redis_keys: RedisKeys
) -> Cli:
    """A tenant that is nowhere at Microsoft, added by its overrides alone."""
    provider.mount = "/realms/acme"
    cli.monkeypatch.setenv("ALERTPOST_REDIS_URL", redis_url)
    cli.monkeypatch.setenv("ALERTPOST_REDIS_PREFIX", redis_keys.prefix)
    added = cli(
        "tenants", "add", "acme", "--directory-id", "acme.example",
        "--client-id", CLIENT_ID, "--client-secret-file", cli.secret_file(CLIENT_SECRET),
        "--oidc-authority", provider.issuer, "--scope", SCOPE,
        "--ca-file", str(throwaway_authority(cli.sandbox.ca_file.parent).ca_file),
        "--smtp-host", "localhost", "--smtp-port", str(submission.port),
        "--notify", "ops@acme.example",
    )  # fmt: skip
    assert added.code == 0, added.err
    assert cli("mailboxes", "add", "acme", ALERTS).code == 0
    return cli


def connect(cli: Cli) -> str:
    """Follow the printed address to the provider's consent page and back."""
    with cli.process("mailboxes", "connect", ALERTS, "--no-browser") as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with requests.Session() as browser:
            browser.trust_env = False
            browser.verify = str(cli.sandbox.ca_file)
            page = browser.get(address, timeout=20)
        assert page.status_code == 200, page.text
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, out + err
        return out


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.03)


def parked(cli: Cli) -> Any:
    with read(create_engine_from(f"sqlite:///{cli.folder / 'var' / 'alertpost.db'}")) as conn:
        return conn.execute(METADATA.tables["mailbox"].select()).one()


def test_a_strangers_provider_works_by_its_overrides(
    stranger: Cli, provider: Provider, submission: Submission
) -> None:
    """Authority, CA file, scope and host are all it takes: consent, refreshes, mails, and an end."""
    cli = stranger
    provider.lifetime = 600

    assert f"Mailbox {ALERTS} is connected" in connect(cli)
    assert SCOPE in provider.asked["scope"].split()
    tested = cli("mailboxes", "test", ALERTS, "--to", "ops@acme.example")
    assert (tested.code, "Accepted in" in tested.out) == (0, True), tested.out + tested.err

    # Each mail needs a connection of its own, and finds the token of the one before at its end.
    cli.monkeypatch.setenv("ALERTPOST_VISIT__CONNECTION_MAX_MESSAGES", "1")
    with cli.process("worker"):
        for number in range(1, 4):
            sent = cli(
                "send", "--tenant", "acme", "--to", "ops@acme.example", "--subject",
                f"Disk {number}", "--text", "full",
            )  # fmt: skip
            assert sent.code == 0
            until(lambda wanted=number: len(submission.mails) == wanted + 1)  # type: ignore[misc]
            provider.tokens.clear()
        assert provider.twice == 0
        recipients, content = submission.mails[-1]
        assert recipients == ["ops@acme.example"]
        assert b"Subject: Disk 3" in content
        # A token that ended early was refused once, and replaced without a person.
        assert [good for _, good in submission.tokens] == [True, True, False, True, False, True]

        provider.end()
        cli("send", "--tenant", "acme", "--to", "ops@acme.example", "--subject", "x", "--text", "y")
        until(lambda: parked(cli).parked_at is not None)

    box = parked(cli)
    assert (box.park_reason, box.park_scope) == ("grant-refused", "mailbox")
    assert f"`alertpost mailboxes connect {ALERTS}`" in box.park_next_step
    assert "already used" in box.park_answer
    assert "Resumed;" in connect(cli)


def test_the_doctor_finds_nothing_wrong_with_a_stranger(
    stranger: Cli, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """Opaque tokens, no directory and no PIPELINING are no illness."""
    connect(stranger)

    ran = stranger("doctor", ALERTS, "--to", "ops@acme.example", "--json")

    wrong = {check["check"]: check for check in ran.json if check["result"] == "failed"}
    assert wrong.keys() <= {"workers"}, wrong
    found = {check["check"]: check for check in ran.json}
    assert found["test_mail"]["result"] == "ok"
