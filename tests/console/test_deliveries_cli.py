from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from console import verbs_cancel
from models.deliveries import DeliveryFilter
from models.ids import uuid7
from tests.console.cli_world import CliWorld


def add_try(world: CliWorld, delivery: str, number: int = 1, **values: object) -> None:
    began = datetime(2026, 11, 1, 10, tzinfo=UTC)
    world.add_attempt(
        **{
            "id": uuid7(), "delivery_id": UUID(delivery), "mailbox_id": world.row(delivery).mailbox_id,
            "number": number, "counted": True, "stage": "rcpt", "rule": "recipient-unknown",
            "outcome": "dead", "reply_code": 550, "enhanced_code": "5.1.1",
            "reply_text": "5.1.1 no such user\x1b[2J\nsecond line", "smtp_host": "smtp.example",
            "worker": "w1", "started_at": began, "finished_at": began + timedelta(milliseconds=120),
            "took_permit": True, "recipients": 0, "uncertain": False, "refused": None,
        } | values,
    )  # fmt: skip


def test_lists_are_filtered(world: CliWorld) -> None:
    """Each filter leaves out what it should."""
    one = world.send("one", "--severity", "critical", "--alert-id", "a")
    two = world.send("two", tenant="fabrikam")
    world.set(two, state="accepted", enqueued_at=datetime(2026, 1, 1, tzinfo=UTC))

    def ids(*options: str) -> list[str]:
        return [row["id"] for row in world.run("deliveries", "list", "--json", *options).json]

    assert ids() == [two, one]
    assert ids("--state", "queued") == [one]
    assert ids("--tenant", "fabrikam") == [two]
    assert ids("--mailbox", "alerts@contoso.example") == [one]
    assert ids("--severity", "critical") == [one]
    assert ids("--since", "1h") == [one]
    assert ids("--since", "2025-12-31") == [two, one]
    assert ids("--alert-id", "a") == [one]
    assert ids("--limit", "1") == [two]


def test_a_list_is_a_table_with_subjects_as_they_are(world: CliWorld) -> None:
    """Brackets are text, not mark-up."""
    delivery = world.send("[bold]FIRING[/bold] x")

    said = world.run("deliveries", "list")

    assert "[bold]FIRING[/bold] x" in said.out
    assert delivery in said.out


def test_an_empty_list_says_what_to_do(world: CliWorld) -> None:
    """Nothing there and nothing matching are told apart."""
    assert "alertpost send" in world.run("deliveries", "list").out
    assert "leave a filter out" in world.run("deliveries", "list", "--state", "dead").out


def test_show_tells_all_but_the_body(world: CliWorld) -> None:
    """Why it is there, what the reason means, full replies that cannot drive the terminal."""
    delivery = world.send("Disk full")
    add_try(world, delivery, refused={"ops@x.example": "550 5.1.1 no such user"})
    world.set(
        delivery, state="dead", reason="recipient-unknown", reply_code=550, attempts=1,
        settled_at=datetime.now(UTC), refused={"ops@x.example": "550 5.1.1 no such user"},
        reply_text="5.1.1 no such user",
    )  # fmt: skip

    said = world.run("deliveries", "show", delivery[:18])
    data = world.run("deliveries", "show", delivery, "--json").json

    assert said.code == 0
    assert said.out.startswith("Died")
    for text in ("Disk full", "Try 1  2026-11-01 10:00:00.000Z, 120 ms", "rcpt: recipient-unknown",
                 "550 5.1.1 no such user\\x1b[2J", "second line", "refused  ops@x.example"):  # fmt: skip
        assert text in said.out
    assert data["tries"][0]["duration_ms"] == 120
    assert data["refused"] == {"ops@x.example": "550 5.1.1 no such user"}
    assert "SECRET-BODY" not in said.out + str(data)


def test_recipients_who_were_refused_in_accepted_mails_are_told(world: CliWorld) -> None:
    """In the list, of one delivery, in the report and in status; others' refusals are not."""
    refused = {"bad@x.example": "550 5.1.1 no such user"}
    partly = world.send("Disk full", "--to", "bad@x.example")
    settled = datetime.now(UTC)
    world.set(partly, state="accepted", settled_at=settled, refused=refused)
    add_try(world, partly, outcome="accepted", refused=refused, finished_at=settled)
    world.set(world.send("all of it"), state="accepted", settled_at=settled)
    world.set(world.send("none of it"), state="dead", settled_at=settled, refused=refused)

    listed = world.run("deliveries", "list", "--refused")
    [found] = world.run("deliveries", "list", "--refused", "--json").json
    shown = world.run("deliveries", "show", partly)
    report = world.run("report", "--tenant", "contoso")
    status = world.run("status")

    assert (found["id"], found["refused"]) == (partly, refused)
    assert "1 of 2: bad@x.example" in listed.out
    assert "of it" not in listed.out
    assert "1 of 2 recipients was refused" in shown.out
    assert "refused  bad@x.example: 550 5.1.1 no such user" in shown.out
    command = "`alertpost deliveries list --refused --tenant contoso`"
    assert f"1 recipient was refused in 1 accepted mail: {command}." in report.out
    assert "1 recipient of 1 accepted mail within 24 hours: `alertpost deliveries" in status.out
    assert world.run("status", "--json").json["refused"] == {"recipients": 1, "mails": 1}
    assert world.usage("deliveries", "list", "--refused", "--state", "dead").exit_code == 2


@pytest.mark.parametrize("verb", [("deliveries", "show"), ("dead", "show"), ("cancel",)])
@pytest.mark.parametrize(
    ("name", "message"),
    [("nonsense", "is not a delivery id"), ("00000000", "no delivery '00000000'"), ("", "not a delivery id")],
)  # fmt: skip
def test_ids_that_name_nothing(
    world: CliWorld, verb: tuple[str, ...], name: str, message: str
) -> None:
    """The message says so; scripts see 3."""
    said = world.run(*verb, name)

    assert (said.code, said.out) == (3, "")
    assert message in said.err


def test_cancel_takes_back_what_waits_and_says_what_it_could_not(world: CliWorld) -> None:
    """Others stay as they are, with the reason; each cancellation leaves a trace."""
    one, two = world.send("one"), world.send("two")
    world.set(two, state="accepted", settled_at=datetime.now(UTC))

    said = world.run("cancel", one, two, "--yes", "--why", "false alarm", "--as", "bob")

    assert said.out == "1 cancelled\n"
    assert f"{two} cannot be cancelled: Accepted" in said.err
    assert said.code == 4
    assert (world.row(one).state, world.row(two).state) == ("cancelled", "accepted")
    (entry,) = world.trail()
    assert (entry.actor, entry.action, entry.subject, entry.reason) == (
        "cli:bob", "cancel", one, "false alarm",
    )  # fmt: skip


def test_cancelling_several_needs_a_yes(world: CliWorld) -> None:
    """Where nobody can answer, nothing happens; one alone needs no question."""
    one, two = world.send("one"), world.send("two")

    said = world.run("cancel", one, two)

    assert said.code == 2
    assert "2 deliveries would be cancelled" in said.err
    assert "--yes" in said.err
    assert world.row(one).state == "queued"
    assert world.run("cancel", one).code == 0


def test_all_that_a_filter_matches_is_cancelled(
    world: CliWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In portions, and only what waits; a dry run counts; each has its trace."""
    monkeypatch.setattr(verbs_cancel, "PORTION", 2)
    waiting = [world.send("Backup failed") for _ in range(5)]
    sent = world.send("Backup failed")
    world.set(sent, state="accepted", settled_at=datetime.now(UTC))
    other, foreign = world.send("Disk full"), world.send("Backup failed", tenant="fabrikam")

    tried = world.run("cancel", "--tenant", "contoso", "--subject", "backup", "--dry-run")
    asked = world.run("cancel", "--tenant", "contoso", "--subject", "backup")
    said = world.run("cancel", "--tenant", "contoso", "--subject", "backup", "--yes", "--why", "w")

    assert "5 deliveries would be cancelled" in tried.out
    assert (asked.code, "5 deliveries would be cancelled" in asked.err) == (2, True)
    assert said.out == "5 deliveries cancelled\n"
    assert {world.row(key).state for key in waiting} == {"cancelled"}
    assert [world.row(key).state for key in (sent, other, foreign)] == [
        "accepted", "queued", "queued",
    ]  # fmt: skip
    assert sorted(entry.subject for entry in world.trail()) == sorted(waiting)
    assert "Nothing that waits matches" in world.run("cancel", "--to", "nobody@x.example").out


def test_what_comes_in_later_is_not_cancelled(world: CliWorld) -> None:
    """What was counted is what goes, though alerts of the same kind keep coming."""
    world.send("one")
    fixed, size = verbs_cancel.waiting(world.engine, DeliveryFilter(tenant="contoso"))
    late = world.send("one")

    done = verbs_cancel.cancel_waiting(world.engine, fixed, actor="cli:bob")

    assert (size, done, world.row(late).state) == (1, 1, "queued")


def test_a_cancellation_needs_to_know_of_what(world: CliWorld) -> None:
    """Nothing given does not mean everything, and ids do not narrow a filter."""
    one = world.send("one")

    assert "--tenant" in world.usage("cancel").output
    assert world.usage("cancel").exit_code == 2
    assert world.usage("cancel", one, "--tenant", "contoso").exit_code == 2
    assert "1 delivery would be cancelled" in world.run("cancel", one, "--dry-run").out
    assert world.row(one).state == "queued"


def test_who_got_it_can_be_asked(world: CliWorld) -> None:
    """By recipient, by a part of the subject, by the reason, and before a moment."""
    one, two = world.send("Disk full"), world.send("Backup failed", "--to", "smith@x.example")
    world.set(one, reason="recipient-unknown")

    def ids(*options: str) -> list[str]:
        return [row["id"] for row in world.run("deliveries", "list", "--json", *options).json]

    assert ids("--to", "Smith@X.example") == [two]
    assert ids("--subject", "disk") == ids("--reason", "recipient-unknown") == [one]
    assert ids("--until", "1h") == []


def test_the_audit_trail_is_filtered(world: CliWorld) -> None:
    """By tenant, by whom and what, with one line for what one command did."""
    for number in range(3):
        world.send(f"s{number}")
    world.run("cancel", "--tenant", "contoso", "--yes", "--as", "bob", "--why", "moved")
    world.run("cancel", world.send("s", tenant="fabrikam"), "--as", "eve")

    said = world.run("audit", "list", "--tenant", "contoso", "--what", "cancel")

    assert "3 deliveries" in said.out
    assert "eve" not in said.out
    assert len(world.run("audit", "list", "--who", "BOB", "--json").json) == 3
    assert "leave a filter out" in world.run("audit", "list", "--who", "nobody").out
    assert world.run("audit", "list", "--tenant", "contosso").code == 3


def test_the_audit_trail_is_listed(world: CliWorld) -> None:
    """Who, what, when and why, the latest first."""
    assert "Nothing was recorded" in world.run("audit", "list").out
    for subject in ("one", "two"):
        world.run("cancel", world.send(subject), "--why", subject)

    rows = world.run("audit", "list", "--json", "--since", "1h").json

    assert [row["reason"] for row in rows] == ["two", "one"]
    assert {row["actor"] for row in rows} == {"cli:alice"}
    assert rows[0]["at"].endswith("Z")
    assert "cli:alice" in world.run("audit", "list").out
