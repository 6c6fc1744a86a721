"""What needs a person, and what goes on by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from console.attention import Matter, concerns
from console.live import Live
from models.backlog import WaitingLane
from models.expiries import CredentialRow, expiries
from models.overview import Dead, Overview
from models.presence import Presence
from models.standings import MailboxRow, standings
from models.unrecorded import Unrecorded

NOW = datetime(2027, 3, 2, 8, tzinfo=UTC)
READY = MailboxRow("contoso", "a@contoso.example", connected_at=NOW)
WORKER = Live(workers=(Presence("one", "host", 1, "0.1.0", NOW, 8),))
NOBODY = Live()
AWAY = Live(away="Connection refused")


def parked(reason: str) -> MailboxRow:
    return MailboxRow("contoso", "a@contoso.example", NOW, NOW, reason, "It is so.", "Do it.")


def lane(standing: str = "ready", *, due: int = 3) -> WaitingLane:
    return WaitingLane(uuid4(), "a@contoso.example", "contoso", standing, 3, due, 0, NOW, NOW)


def secret(days: float, mailbox: str | None = "a@contoso.example") -> Any:
    return expiries(
        [CredentialRow("main", False, NOW + timedelta(days=days), "contoso", mailbox)], NOW
    )


def seen(*mailboxes: MailboxRow, **changes: Any) -> Overview:
    nothing: dict[str, Any] = {
        "lanes": (), "in_hand": 0, "dead": (), "budgets": (), "expiries": (),
    }  # fmt: skip
    return Overview(now=NOW, standings=standings(mailboxes or (READY,)), **(nothing | changes))


@pytest.mark.parametrize(
    ("overview", "live"),
    [
        (seen(), WORKER),
        (seen(), NOBODY),
        (seen(), AWAY),
        (seen(lanes=(lane(),)), WORKER),
        (seen(lanes=(lane(due=0),)), NOBODY),
        (seen(lanes=(lane("paused"),)), NOBODY),
        (seen(MailboxRow("contoso", "a@contoso.example")), NOBODY),
        (seen(parked("by-hand"), lanes=(lane("parked"),)), NOBODY),
        (seen(expiries=secret(7.1)), WORKER),
        (seen(expiries=secret(-1, mailbox=None)), WORKER),
    ],
    ids=[
        "well", "nobody-and-nothing-to-do", "redis-away-and-nothing-to-do", "backlog",
        "not-due-yet", "paused", "being-set-up", "parked-by-hand", "ends-later", "not-needed",
    ],
)  # fmt: skip
def test_what_needs_nobody(overview: Overview, live: Live) -> None:
    """What solves itself, or was somebody's will, wakes nobody at night."""
    assert concerns(overview, live) == []


@pytest.mark.parametrize(
    ("overview", "live", "matter", "text", "command"),
    [
        (seen(lanes=(lane(),)), NOBODY, "no-worker", "3 deliveries could go, but no worker lives",
         "alertpost up"),
        (seen(lanes=(lane(due=1),)), AWAY, "no-worker",
         "1 delivery could go, but Redis does not answer: Connection refused", None),
        (seen(parked("smtp-auth-disabled-tenant")), WORKER, "parked",
         "1 mailbox is parked: smtp-auth-disabled-tenant",
         "alertpost mailboxes resume a@contoso.example"),
        (seen(parked("refresh-token-expired")), WORKER, "parked",
         "1 mailbox is parked: refresh-token-expired",
         "alertpost mailboxes connect a@contoso.example"),
        (seen(parked("of-another-version")), WORKER, "parked",
         "1 mailbox is parked: of-another-version",
         "alertpost mailboxes show a@contoso.example"),
        (seen(MailboxRow("contoso", "a@contoso.example"), lanes=(lane("not connected"),)), WORKER,
         "not-connected", "mail waits at 1 mailbox that is not connected",
         "alertpost mailboxes connect a@contoso.example"),
        (seen(expiries=secret(6.5)), WORKER, "expiry",
         "the client secret of main ends in 7 days, on 2027-03-08",
         "alertpost apps secret main --client-secret-file FILE --secret-expires DATE"),
        (seen(expiries=secret(0.5)), WORKER, "expiry",
         "the client secret of main ends in less than a day, on 2027-03-02",
         "alertpost apps secret main --client-secret-file FILE --secret-expires DATE"),
        (seen(expiries=secret(-3)), WORKER, "expiry",
         "the client secret of main ended on 2027-02-27",
         "alertpost apps secret main --client-secret-file FILE --secret-expires DATE"),
        (seen(dead=(Dead("a", 2), Dead(None, 1))), WORKER, "dead-letters",
         "3 dead letters: replay or discard", "alertpost dead list"),
    ],
    ids=[
        "no-worker", "redis-away", "parked", "consent-ended", "unknown-reason", "not-connected",
        "ends", "ends-today", "ended", "dead",
    ],
)  # fmt: skip
def test_what_needs_a_person(
    overview: Overview, live: Live, matter: str, text: str, command: str | None
) -> None:
    """Each is one sentence, with the command that helps where there is one."""
    [concern] = concerns(overview, live)

    assert (concern.matter, concern.text, concern.command) == (Matter(matter), text, command)


def test_outcomes_that_cannot_be_recorded() -> None:
    """What is out and not in SQL needs a person, with what SQL says."""
    live = Live(
        workers=WORKER.workers, unrecorded=(Unrecorded(3, 130.0, "IntegrityError: no", "one"),)
    )

    (found,) = concerns(seen(), live)

    assert found.matter is Matter.NOT_RECORDED
    assert "3 outcomes" in found.text
    assert "IntegrityError: no" in found.text
