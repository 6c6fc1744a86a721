"""What commands print for incidents is typed as it stands, and accepted."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from console.context import Context, opened
from models import mailboxes, senders
from models.database import write
from models.lookups import CREDENTIAL
from models.moves import DELIVERY
from tests.console.cli_setting import Cli
from tests.console.pasted import fault, printed
from tests.models.directory_parts import connect
from workers.conclusion import misconfigured
from workers.parking import park_unless_renewed
from workers.rule_book import every_verdict
from workers.verdict import Action, Scope, Verdict

ODD = "o'neil@contoso.example"
"""An address of which a shell would make something else."""

APP = "our app"
_LEFT = re.compile(r"<[a-z ]+>|…`|`[^`]*\b(?:SLUG|ACCOUNT|APP|NAME)\b[^`]*`")


@pytest.fixture
def incidents(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """An app whose name has a space, and a mailbox whose address has an apostrophe."""
    monkeypatch.setenv("COLUMNS", "2000")
    given = ["--client-id", cli.client_id, "--client-secret-file", cli.secret_file()]
    assert cli("apps", "add", APP, *given).code == 0
    tenant = ["--directory-id", cli.directory().tenant_id, "--app", APP, *cli.places()]
    assert cli("tenants", "add", "contoso", *tenant).code == 0
    assert cli("mailboxes", "add", "contoso", ODD).code == 0
    with opened() as context, write(context.engine) as conn:
        connect(conn, ODD)
    return cli


def _park(context: Context, verdict: Verdict) -> None:
    with write(context.engine) as conn:
        sender = senders.sender(conn, mailboxes.mailbox(conn, ODD).id)
        assert sender is not None
        park_unless_renewed(
            conn,
            tried=sender,
            verdict=verdict,
            scope=verdict.scope or Scope.MAILBOX,
            answer="said so",
            probe_after_seconds=None,
            over_credential=False,
        )


def _type(cli: Cli, command: str) -> None:
    """Run a command; what only the reader knows is put where it says so, and nothing else."""
    assert fault(command) is None, command
    known = {"FILE": cli.secret_file(), "DATE": "2030-01-01", "ADDRESS": "ops@x.example"}
    words = [known.get(word, word) for word in shlex.split(command)[1:]]
    assert not [word for word in words if word.isupper() and word.isalpha()], command
    if words[:1] in (["up"], ["worker"]):
        return  # they run until they are stopped
    if words[:2] == ["mailboxes", "connect"]:
        # It waits for a browser, whose address it prints first.
        with cli.process(*words, "--no-browser") as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("https://"), command
        return
    ran = cli(*words)
    assert ran.code in {0, 1, 5}, (command, ran)
    assert not re.search(r"(?i)no such|there is no|usage:", ran.err), (command, ran)


def _texts(cli: Cli, *more: list[str]) -> str:
    shown = [["status"], ["mailboxes", "show", ODD], *more]
    return "\n".join(cli(*words).out for words in shown)


def test_what_a_parked_mailbox_says_can_be_typed(incidents: Cli) -> None:
    """Of each remedy one rule that parks, and each rule with a command of its own."""
    typed: set[str] = set()
    parks = [one for one in every_verdict() if one.action is Action.PARK]
    chosen = {one.remedy: one for one in parks}
    own = [one for one in parks if "`" in one.next_step and one not in chosen.values()]
    for verdict in [*chosen.values(), *own, misconfigured("no key")]:
        if verdict.rule == "certificate-refused":
            assert incidents("apps", "certificate", APP).code == 0
        with opened() as context:
            _park(context, verdict)
        text = _texts(incidents)
        assert verdict.rule in text
        assert not _LEFT.search(text), (verdict.rule, text)
        for command in printed(text):
            if command not in typed:
                typed.add(command)
                _type(incidents, command)
        incidents("mailboxes", "resume", ODD)

    assert {" ".join(shlex.split(one)[1:3]) for one in typed} >= {
        "mailboxes connect", "mailboxes resume", "apps secret", "apps credentials", "tenants link",
    }  # fmt: skip


def test_what_else_is_wrong_can_be_typed(incidents: Cli) -> None:
    """Secrets that end or are refused, dead letters: by status, doctor, dead list and expiries."""
    for subject in ("one", "two"):
        mail = ["--to", "a@x.example", "--subject", subject, "--text", "x"]
        assert incidents("send", "--tenant", "contoso", *mail).code == 0
    now = datetime.now(UTC)
    with opened() as context, write(context.engine) as conn:
        dead = {"state": "dead", "reason": "recipient-unknown", "settled_at": now, "attempts": 1}
        conn.execute(update(DELIVERY).values(**dead))
        conn.execute(update(CREDENTIAL).values(expires_at=now + timedelta(days=3)))
    refused = {"refused_rule": "secret-wrong", "refused_at": now, "refused_answer": "AADSTS7000215"}
    for situation in ({}, refused):
        if situation:
            with opened() as context, write(context.engine) as conn:
                conn.execute(update(CREDENTIAL).values(worked_at=None, **situation))
        text = _texts(
            incidents, ["expiries", "--within", "60"], ["doctor", ODD], ["dead", "list"],
            ["apps", "credentials", APP],
        )  # fmt: skip
        assert not _LEFT.search(text), text
        commands = printed(text)
        assert any("apps secret" in one for one in commands), text
        for command in dict.fromkeys(commands):
            _type(incidents, command)
