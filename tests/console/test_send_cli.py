from __future__ import annotations

from pathlib import Path

import pytest

from models.alert import AlertEmail
from models.vault import Vault, delivery_context
from tests.console.cli_world import CliWorld

BASE = ("send", "--tenant", "contoso", "--to", "ops@x.example", "--subject", "Disk full")


def test_a_sent_alert_is_told_by_its_id_and_what_comes_next(world: CliWorld) -> None:
    """The id stands alone on the first line, the next step on the second."""
    said = world.run(*BASE, "--text", "body")

    first, second = said.out.splitlines()
    assert said.code == 0
    assert world.row(first).state == "queued"
    assert "alertpost mailboxes connect alerts@contoso.example" in second


def test_it_is_told_that_nobody_sends(world: CliWorld) -> None:
    """Without Redis the alert is kept, and who forgot to start the rest hears of it."""
    said = world.run(*BASE, "--text", "body")

    assert said.code == 0
    assert "no Redis answers, so nothing is sent now" in said.err


def test_every_option_reaches_the_alert(world: CliWorld, tmp_path: Path) -> None:
    """What was asked for on the command line is what the worker will open."""
    (tmp_path / "page.html").write_text("<p>grün</p>")
    (tmp_path / "log.csv").write_bytes(b"a,b\n")
    (tmp_path / "mail.eml").write_bytes(b"From: x\n")

    said = world.run(
        *BASE, "--to", "Night <night@x.example>", "--cc", "c@x.example", "--bcc", "b@x.example",
        "--reply-to", "r@x.example", "--from", "alerts@contoso.example", "--text", "body",
        "--html-file", tmp_path / "page.html", "--severity", "critical", "--key", "k",
        "--alert-id", "disk-1", "--not-before", "2040-01-01", "--expires-at", "2040-01-02T00:00Z",
        "--header", "X-Site: Hamburg", "--attach", tmp_path / "log.csv",
        "--attach", tmp_path / "mail.eml", "--metadata", "ticket=4711", "--json",
    )  # fmt: skip

    row = world.row(said.json["id"])
    vault = Vault([(world.home / "secret.key").read_text().strip()])
    alert = AlertEmail.load(vault.open(row.payload_encrypted, context=delivery_context(row.id)))
    assert [str(address) for address in alert.to] == ["ops@x.example", '"Night" <night@x.example>']
    assert alert.envelope_recipients[2:] == ("c@x.example", "b@x.example")
    assert (alert.text, alert.html) == ("body", "<p>grün</p>")
    assert (row.severity, row.idempotency_key, row.alert_id) == (0, "k", "disk-1")
    assert (row.due_at.year, row.expires_at.day) == (2040, 2)
    assert alert.headers == {"X-Site": "Hamburg"}
    assert alert.metadata == {"ticket": "4711"}
    assert [(a.name, a.content_type) for a in alert.attachments] == [
        ("log.csv", "text/csv"),
        ("mail.eml", "application/octet-stream"),
    ]


def test_a_key_is_taken_once(world: CliWorld) -> None:
    """The second call names the first delivery, and says so where the content differs."""
    first = world.send("Disk full", "--key", "k")
    same = world.run(*BASE, "--text", "SECRET-BODY", "--key", "k")
    other = world.run(*BASE, "--text", "different", "--key", "k")

    assert same.out.startswith(first)
    assert "nothing was added" in same.out
    assert other.out.startswith(first)
    assert "for a different alert" in other.err
    assert (same.code, other.code, world.count()) == (0, 0, 1)


@pytest.mark.parametrize(
    ("state", "code"),
    [("queued", 5), ("accepted", 0), ("dead", 1), ("expired", 1), ("cancelled", 1)],
)
def test_waiting_ends_with_what_became_of_it(world: CliWorld, state: str, code: int) -> None:
    """The exit code tells a script whether the mail went out."""
    world.set(world.send("Disk full", "--key", "k"), state=state)

    said = world.run(*BASE, "--text", "SECRET-BODY", "--key", "k", "--wait", "0.05", "--json")

    assert (said.code, said.json["state"]) == (code, state)
    assert said.json["why"]


BAD = [
    pytest.param(("--text", "x", "--tenant", "contosa"), 3, "no tenant 'contosa'", id="tenant"),
    pytest.param(("--text", "x", "--from", "a@b.example"), 3, "no mailbox 'a@b.example'", id="from"),
    pytest.param((), 2, "text: is missing", id="no body"),
    pytest.param(("--text", "x", "--to", "nobody"), 2, "to[1]: ", id="recipient"),
    pytest.param(("--text", "x", "--subject", "a\nBcc: b@x.example"), 2, "subject: has a line", id="injection"),
    pytest.param(("--text", "x", "--header", "Subject: y"), 2, "headers", id="header"),
    pytest.param(("--text-file", "{tmp}"), 2, "it is a directory", id="directory"),
    pytest.param(("--text-file", "{tmp}/none"), 2, "No such file", id="missing"),
    pytest.param(("--text-file", "{tmp}/latin"), 2, "not UTF-8 from octet 3", id="latin-1"),
    pytest.param(("--text", "x", "--attach", "/dev/zero"), 2, "larger than the 35 MB", id="endless"),
    pytest.param(("--text", "x", "--attach", "{tmp}/big"), 2, "attachments: make a mail", id="big"),
    pytest.param(("--text", "x", "--attach", "{tmp}/bad "), 2, "has a name that no mail", id="name"),
    pytest.param(("--text", "x", "--not-before", "3d", "--expires-in", "1h"), 2, "is not after", id="order"),
    pytest.param(("--text", "x", "--expires-at", "2020-01-01"), 2, "expires_at: is past", id="past"),
    pytest.param(("--text", "x", "--expires-in", "0s"), 2, "expires_at: is past", id="no time"),
    pytest.param(("--text", "x", "--not-before", "9999-12-31"), 2, "never be sent", id="never"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "code", "message"), BAD)
def test_bad_input_is_one_clear_line(
    world: CliWorld, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    """Nothing is enqueued, and one line names what is wrong."""
    (tmp_path / "latin").write_bytes(b"ab\xfc")
    (tmp_path / "bad ").write_bytes(b"x")
    with (tmp_path / "big").open("wb") as file:
        file.truncate(30_000_000)

    said = world.run(*BASE, *(option.replace("{tmp}", str(tmp_path)) for option in options))

    assert said.code == code
    assert message in said.err
    assert said.err.count("\n") == 1
    assert world.count() == 0


@pytest.mark.parametrize("zero", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"])
def test_a_zero_value_is_no_deadline(world: CliWorld, zero: str) -> None:
    """Scripts hand on what a program wrote for none."""
    said = world.run(*BASE, "--text", "x", "--expires-at", zero, "--not-before", zero)

    assert said.code == 0
    assert world.row(said.out.split()[0]).expires_at is None


USAGE = [
    (("--severity", "urgent"), "none of critical"),
    (("--header", "X-Foo"), "X-Name: value"),
    (("--metadata", "=x"), "name=value"),
    (("--not-before", "tomorrow"), "is not a time"),
    (("--expires-in", "99999999w"), "beyond the calendar"),
    (("--expires-in", "soon"), "length of time"),
    (("--text-file", "f"), "exclude each other"),
    (("--expires-at", "1h", "--expires-in", "1h"), "exclude each other"),
    (("--wait", "-1"), "not a number from 0 to"),
]


@pytest.mark.parametrize(("options", "message"), USAGE)
def test_wrong_options_are_usage_errors(
    world: CliWorld, options: tuple[str, ...], message: str
) -> None:
    """They exit 2 and say what would be right."""
    said = world.usage(*BASE, "--text", "x", *options)

    assert said.exit_code == 2
    # The box around it breaks lines anywhere.
    assert message.replace(" ", "") in said.output.replace("│", "").replace("\n", "").replace(
        " ", ""
    )
    assert world.count() == 0
