from __future__ import annotations

import os
import pty
import subprocess
from datetime import UTC, datetime

import pytest
import redis

from console import verbs_dead
from models import wakeup
from models.dead_letters import DeadFilter
from models.waker import Waker
from tests.console.cli_world import CliWorld
from workers import reasons


def die(world: CliWorld, subject: str = "s", *, tenant: str = "contoso", **values: object) -> str:
    delivery = world.send(subject, tenant=tenant)
    dead = {
        "state": "dead", "reason": "recipient-unknown", "reply_code": 550, "enhanced_code": "5.1.1",
        "reply_text": "5.1.1 no such user", "settled_at": datetime.now(UTC), "attempts": 1,
    }  # fmt: skip
    world.set(delivery, **(dead | values))
    return delivery


def test_they_are_grouped_by_what_they_died_of(world: CliWorld) -> None:
    """The most frequent first, with an example and what it means."""
    for _ in range(2):
        die(world)
    die(world, reason="mail-too-large", reply_code=552, enhanced_code="5.3.4", uncertain=True)

    said = world.run("dead", "list")
    groups = world.run("dead", "list", "--json").json

    assert [(group["reason"], group["count"]) for group in groups] == [
        ("recipient-unknown", 2), ("mail-too-large", 1),
    ]  # fmt: skip
    assert groups[1]["uncertain"] == 1
    assert "Tenant: contoso" in said.out
    assert "Example: 550 5.1.1 no such user" in said.out
    assert "1 of them may have been sent" in said.out


def test_a_group_names_whose_letters_they_are(world: CliWorld) -> None:
    """Of several tenants each with its number, the most first."""
    die(world, tenant="fabrikam")
    die(world)
    die(world)

    said = world.run("dead", "list")
    (group,) = world.run("dead", "list", "--json").json

    assert "Tenants: contoso 2, fabrikam 1" in said.out
    assert group["tenants"] == {"contoso": 2, "fabrikam": 1}


def test_every_reason_has_a_meaning() -> None:
    """What workers and the lane write down is explained."""
    from models import composing_deaths, lane_recover, lane_sweep, unsent
    from workers import conclusion, oauth_rules, reply_rules, splitting

    written = {
        lane_recover.STOPS_ITS_WORKER, lane_recover.UNCERTAIN_HELD, lane_recover.WORKER_DIED,
        composing_deaths.STOPS_UNSENT, *composing_deaths.WATCHED, conclusion.DEFERRED_RULE,
        lane_sweep.EXPIRED, "cancelled", "mailbox-removed", unsent.LEFT_BEHIND,
        splitting.SPLIT_RULE,
        *(row.verdict.rule for row in reply_rules.RULES),
        *(verdict.rule for verdict in oauth_rules.CODES.values()),
    }  # fmt: skip

    assert [reason for reason in written if reasons.meaning_of(reason) is None] == []
    assert reasons.meaning_of(None) is None


def test_each_filter_narrows(world: CliWorld) -> None:
    """Lists, replays and discards read the same filters."""
    one = die(world, "one", settled_at=datetime(2026, 1, 1, tzinfo=UTC))
    two = die(
        world, "two", tenant="fabrikam", reason="refused-at-data", reply_code=554,
        enhanced_code="5.7.0", severity=0,
    )  # fmt: skip

    def ids(*options: str) -> list[str]:
        return [row["id"] for row in world.run("dead", "list", "--each", "--json", *options).json]

    assert ids() == [two, one]
    assert ids("--tenant", "contoso") == [one]
    assert ids("--mailbox", "alerts@fabrikam.example") == [two]
    assert ids("--reason", "refused-at-data") == [two]
    assert ids("--code", "550") == ids("--code", "5.1.1") == [one]
    assert ids("--since", "1h") == ids("--severity", "critical") == ids("--limit", "1") == [two]
    assert ids(one) == [one]
    assert world.usage("dead", "list", "--code", "no").exit_code == 2


@pytest.mark.parametrize("verb", ["replay", "discard"])
def test_nothing_to_do_is_told(world: CliWorld, verb: str) -> None:
    """No match is no fault."""
    said = world.run("dead", verb, "--reason", "none")

    assert (said.code, said.err) == (0, "")
    assert "No dead letter matches" in said.out
    assert "There are no dead letters" in world.run("dead", "list").out
    assert "No dead letter matches" in world.run("dead", verb, "--limit", "3").out


def test_a_replay_goes_back_to_the_lane_and_leaves_a_trace(world: CliWorld) -> None:
    """All tries are before it again; who, when and why are kept."""
    delivery = die(world)

    said = world.run("dead", "replay", "--reason", "recipient-unknown", "--why", "address mended")

    row = world.row(delivery)
    (entry,) = world.trail()
    assert said.code == 0
    assert "30 a minute" in said.out
    assert (row.state, row.attempts, row.replayed) == ("queued", 0, 1)
    assert (entry.actor, entry.action, entry.reason) == ("cli:alice", "replay", "address mended")


@pytest.mark.parametrize(("verb", "figure"), [("replay", "replayed"), ("discard", "discarded")])
def test_a_dry_run_counts_and_changes_nothing(world: CliWorld, verb: str, figure: str) -> None:
    """Not even the audit trail."""
    letters = [die(world) for _ in range(3)]

    said = world.run("dead", verb, "--dry-run", "--limit", "2", "--json")

    assert said.json[figure] == 2
    assert {world.row(letter).state for letter in letters} == {"dead"}
    assert world.trail() == []
    assert "Dry run" in world.run("dead", verb, "--dry-run").out


@pytest.mark.parametrize(("verb", "state"), [("replay", "queued"), ("discard", "cancelled")])
def test_several_need_a_yes(world: CliWorld, verb: str, state: str) -> None:
    """Where nobody can answer nothing happens; with --yes, and with a limit, it does."""
    letters = [die(world) for _ in range(3)]

    refused = world.run("dead", verb)

    assert refused.code == 2
    assert "3 deliveries would" in refused.err
    assert {world.row(letter).state for letter in letters} == {"dead"}
    assert world.run("dead", verb, "--yes", "--limit", "2").code == 0
    assert [world.row(letter).state for letter in letters] == ["dead", state, state]
    assert len(world.trail()) == 2


@pytest.mark.parametrize(("answer", "code", "state"), [("y\n", 0, "queued"), ("n\n", 1, "dead")])
def test_somebody_at_a_terminal_is_asked(
    world: CliWorld, answer: str, code: int, state: str
) -> None:
    """The answer decides."""
    letters = [die(world) for _ in range(2)]
    ours, theirs = pty.openpty()
    try:
        process = world.start(
            "dead", "replay", stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        os.write(ours, answer.encode())
        _, err = process.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)

    assert "2 deliveries would go back into their lanes" in err
    assert process.returncode == code
    assert {world.row(letter).state for letter in letters} == {state}


def test_what_was_accepted_is_replayed_only_by_force(world: CliWorld) -> None:
    """The refusal names the way; force goes with ids alone."""
    accepted, dead = world.send("out"), die(world)
    world.set(accepted, state="accepted", settled_at=datetime.now(UTC))

    refused = world.run("dead", "replay", accepted, dead, "--yes")
    dry = world.run("dead", "replay", accepted, "--dry-run", "--force", "--json")
    forced = world.run("dead", "replay", accepted, "--force", "--json")

    assert refused.code == 4
    assert "only --force" in refused.err
    assert world.row(dead).state == "dead"
    assert dry.json["forced"] == forced.json["forced"] == 1
    assert world.row(accepted).state == "queued"
    assert world.usage("dead", "replay", "--force").exit_code == 2
    assert world.usage("dead", "replay", accepted, "--force", "--tenant", "x").exit_code == 2
    assert world.usage("dead", "replay", accepted, "--limit", "1").exit_code == 2


def test_who_replayed_or_discarded_it_and_why_is_shown(world: CliWorld) -> None:
    """The question after the fact is asked of the delivery, not of the trail."""
    delivery = die(world)
    world.run("dead", "replay", delivery, "--why", "mailbox exists again", "--as", "bob")
    world.set(delivery, state="dead", settled_at=datetime.now(UTC))
    world.run("dead", "discard", delivery, "--as", "eve")

    said = world.run("deliveries", "show", delivery)
    by_people = world.run("dead", "show", delivery, "--json").json["by_people"]

    assert "Replayed by cli:bob at " in said.out
    assert "Z: mailbox exists again" in said.out
    assert "Discarded by cli:eve at " in said.out
    assert [(done["actor"], done["action"], done["reason"]) for done in by_people] == [
        ("cli:bob", "replay", "mailbox exists again"), ("cli:eve", "discard", None),
    ]  # fmt: skip


def test_discarding_what_is_no_dead_letter_is_refused(world: CliWorld) -> None:
    """It stays as it is."""
    delivery = world.send("waits")

    said = world.run("dead", "discard", delivery)

    assert said.code == 4
    assert "waits in its lane already" in said.err


def test_unknown_names_are_told(world: CliWorld) -> None:
    """With the nearest one."""
    die(world)

    said = world.run("dead", "replay", "--tenant", "contosa")

    assert said.code == 3
    assert "the nearest is 'contoso'" in said.err


def test_a_replay_wakes_its_mailboxes(
    world: CliWorld, redis_url: str, redis_client: redis.Redis, redis_keys: object
) -> None:
    """Workers hear of it at once, after the commit."""
    die(world)
    die(world, tenant="fabrikam", severity=0)
    waker = Waker(redis_url, redis_keys)  # type: ignore[arg-type]
    try:
        chosen = verbs_dead.choose(world.engine, DeadFilter())
        assert chosen is not None
        verbs_dead.replay(world.engine, waker, chosen, actor="cli:x", reason=None)
    finally:
        waker.close()

    for queue in (wakeup.QUEUE, wakeup.CRITICAL_QUEUE):
        assert redis_client.llen(redis_keys.queue(queue)) == 1  # type: ignore[attr-defined]
