"""Whatever the server does to a mail: what is recorded of it, and that the next one goes through."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest

from models.tables import METADATA
from sandbox.faults import (
    Answer,
    Behaviour,
    Close,
    CutAfterDot,
    CutInside,
    Fault,
    NoStartTLS,
    Phase,
    Stall,
    WrongCertificate,
)
from tests.fixtures.whole import Whole
from tests.workers.visit_parts import IMPATIENT, QUICK_TO_GIVE_UP, change, drain, send, visit
from workers.visit import VisitEnd

SILENCE = Stall(5)
BUSY = Answer("service_not_available")


class Case(NamedTuple):
    phase: Phase
    behaviour: Behaviour
    stage: str
    rule: str
    reply_code: int | None = None


BEFORE_A_MAIL = [
    Case("connect", Close(), "connect", "connection-lost"),
    Case("banner", SILENCE, "connect", "no-answer"),
    Case("banner", BUSY, "connect", "front-end-busy", 421),
    Case("banner", Answer("554 5.3.2 Go away"), "connect", "unknown-at-connect", 554),
    Case("ehlo", Close(), "ehlo", "connection-lost"),
    Case("ehlo", SILENCE, "ehlo", "no-answer"),
    Case("ehlo", BUSY, "ehlo", "front-end-busy", 421),
    Case("starttls", Close(), "starttls", "connection-lost"),
    Case("starttls", SILENCE, "starttls", "no-answer"),
    Case("starttls", Answer("454 4.7.0 No TLS now"), "starttls", "unknown-transient", 454),
    Case("auth", Close(), "auth", "connection-lost"),
    Case("auth", SILENCE, "auth", "no-answer"),
    Case("auth", Answer("temporary_server_error"), "auth", "proxy-to-mailbox-failed", 451),
]

IN_A_MAIL = [
    Case("mail", Close(), "mail", "connection-lost"),
    Case("mail", SILENCE, "mail", "no-answer"),
    Case("mail", Answer("not_redundant"), "mail", "server-internal", 451),
    Case("mail", BUSY, "mail", "front-end-busy", 421),
    Case("rcpt", Close(), "rcpt", "connection-lost"),
    Case("rcpt", SILENCE, "rcpt", "no-answer"),
    Case("rcpt", Answer("not_redundant"), "rcpt", "server-internal", 451),
    Case("rcpt", BUSY, "rcpt", "front-end-busy", 421),
    Case("data", Close(), "data", "connection-lost"),
    Case("data", SILENCE, "data", "no-answer"),
    Case("data", Answer("not_redundant"), "data", "server-internal", 451),
    Case("data", BUSY, "data", "front-end-busy", 421),
    Case("body", Answer("not_redundant"), "body", "server-internal", 451),
    Case("body", BUSY, "body", "front-end-busy", 421),
]

AFTER_THE_DOT = [
    Case("data", CutInside(100), "body", "lost-after-dot"),
    Case("body", SILENCE, "body", "lost-after-dot"),
    Case("body", CutAfterDot(taken=False), "body", "lost-after-dot"),
    Case("body", CutAfterDot(taken=True), "body", "lost-after-dot"),
]

FINAL = [
    Case("rcpt", Answer("no_such_recipient"), "rcpt", "recipient-unknown", 550),
    Case("data", Answer("554 5.6.0 Not this one"), "data", "refused-at-data", 554),
    Case("body", Answer("tenant_rule"), "body", "transport-rule", 550),
]


def _id(case: Case) -> str:
    return f"{case.phase}-{type(case.behaviour).__name__}-{case.reply_code or ''}"


@pytest.fixture
def settings_changes(request: pytest.FixtureRequest) -> dict[str, Any]:
    case = request.node.callspec.params.get("case")
    return QUICK_TO_GIVE_UP if case and case.behaviour is SILENCE else IMPATIENT


def _strike(whole: Whole, case: Case, *, times: int | None = 1) -> None:
    whole.sandbox.exchange.inject(Fault("fault", case.phase, case.behaviour, times=times))


@pytest.mark.parametrize("case", BEFORE_A_MAIL, ids=_id)
async def test_a_failure_before_a_mail_pauses_the_mailbox_and_costs_no_attempt(
    whole: Whole, case: Case
) -> None:
    """What goes wrong before MAIL is no mail's fault: the lane waits, then all goes through."""
    _strike(whole, case)
    receipt = send(whole)

    end = await visit(whole, receipt.mailbox_id)

    assert end is VisitEnd.HALTED
    row, mailbox = whole.row(receipt.delivery_id), whole.mailbox(receipt.mailbox_id)
    (attempt,) = whole.attempts(receipt.delivery_id)
    assert (row.state, row.attempts, row.uncertain) == ("queued", 0, False)
    assert (attempt.stage, attempt.rule, attempt.reply_code) == (
        case.stage,
        case.rule,
        case.reply_code,
    )
    assert (attempt.counted, attempt.took_permit, attempt.outcome) == (False, False, "queued")
    assert (mailbox.pause_reason, mailbox.pause_count) == (case.rule, 1)

    later = send(whole)
    await drain(whole, receipt.mailbox_id)

    assert whole.row(receipt.delivery_id).state == whole.row(later.delivery_id).state == "accepted"
    assert whole.mailbox(receipt.mailbox_id).pause_count == 0


@pytest.mark.parametrize("case", IN_A_MAIL, ids=_id)
async def test_a_failure_in_a_mail_costs_it_an_attempt(whole: Whole, case: Case) -> None:
    """A mail that was certainly not taken is tried again, and the next one does not wait for it."""
    _strike(whole, case)
    receipt, later = send(whole), send(whole, severity="low")

    end = await visit(whole, receipt.mailbox_id)

    assert end is VisitEnd.LANE_EMPTY
    assert whole.row(later.delivery_id).state == "accepted"
    row = whole.row(receipt.delivery_id)
    attempt = whole.attempts(receipt.delivery_id)[0]
    assert row.uncertain is False
    assert (attempt.stage, attempt.rule, attempt.reply_code) == (
        case.stage,
        case.rule,
        case.reply_code,
    )
    assert (attempt.counted, attempt.took_permit, attempt.outcome) == (True, True, "queued")

    await drain(whole, receipt.mailbox_id)

    assert (whole.row(receipt.delivery_id).state, len(whole.outbox())) == ("accepted", 2)
    assert whole.mailbox(receipt.mailbox_id).paused_until is None


@pytest.mark.parametrize("case", AFTER_THE_DOT, ids=_id)
async def test_a_mail_whose_fate_is_unknown_is_marked_and_sent_again(
    whole: Whole, case: Case
) -> None:
    """Without a reply after the content a mail is uncertain, and its copy has its Message-ID."""
    _strike(whole, case)
    receipt = send(whole)

    await visit(whole, receipt.mailbox_id)

    first = whole.attempts(receipt.delivery_id)[0]
    assert (first.stage, first.rule, first.uncertain) == ("body", case.rule, True)
    assert whole.row(receipt.delivery_id).uncertain is True

    await drain(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.uncertain, row.attempts) == ("accepted", True, 2)
    assert {mail.message_id for mail in whole.outbox()} == {row.message_id}


@pytest.mark.parametrize("taken", [True, False])
async def test_a_tenant_that_wants_no_copies_gets_a_dead_letter(whole: Whole, taken: bool) -> None:
    """Under ``hold`` a mail whose fate is unknown waits for somebody to look."""
    change(whole, METADATA.tables["tenant"], uncertain_policy="hold")
    _strike(whole, Case("body", CutAfterDot(taken=taken), "", ""))
    receipt, later = send(whole), send(whole, severity="low")

    await visit(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.uncertain, row.reason) == ("dead", True, "lost-after-dot")
    assert whole.row(later.delivery_id).state == "accepted"
    assert len(whole.outbox()) == 1 + taken


@pytest.mark.parametrize("case", FINAL, ids=_id)
async def test_a_final_refusal_is_a_dead_letter(whole: Whole, case: Case) -> None:
    """A mail that will never be taken dies at once with its reason, and its lane goes on."""
    _strike(whole, case)
    receipt, later = send(whole), send(whole, severity="low")

    await visit(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.reason, row.reply_code) == ("dead", case.rule, case.reply_code)
    assert row.attempts == 1
    assert whole.row(later.delivery_id).state == "accepted"


async def test_the_last_attempt_is_a_dead_letter(whole: Whole) -> None:
    """A mail that is put off every time is given up after the attempts allowed."""
    _strike(whole, Case("body", Answer("not_redundant"), "", ""), times=None)
    receipt = send(whole)

    await drain(whole, receipt.mailbox_id)

    row = whole.row(receipt.delivery_id)
    assert (row.state, row.reason, row.attempts) == ("dead", "server-internal", 4)
    assert [attempt.number for attempt in whole.attempts(receipt.delivery_id)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        (Fault("unsafe", "ehlo", NoStartTLS()), "no-starttls"),
        (Fault("unsafe", "starttls", WrongCertificate()), "certificate-invalid"),
    ],
    ids=["no-starttls", "wrong-certificate"],
)
async def test_nothing_goes_out_without_verified_tls(whole: Whole, fault: Fault, rule: str) -> None:
    """No token and no mail without the right certificate; after some tries a person is asked."""
    whole.sandbox.exchange.inject(fault)
    auth = Fault("auth", "auth", Close())
    whole.sandbox.exchange.inject(auth)
    receipt = send(whole)

    async with asyncio.timeout(10):
        while whole.mailbox(receipt.mailbox_id).parked_at is None:
            await visit(whole, receipt.mailbox_id)
            await asyncio.sleep(0.01)

    mailbox = whole.mailbox(receipt.mailbox_id)
    rules = [attempt.rule for attempt in whole.attempts(receipt.delivery_id)]
    assert rules == [rule, rule, rule, f"{rule}-again"]
    assert mailbox.park_reason == f"{rule}-again"
    assert mailbox.probe_at is not None
    assert "TLS" in mailbox.park_next_step
    assert whole.row(receipt.delivery_id).attempts == 0
    assert whole.sandbox.exchange.faults.struck["auth"] == 0
    assert not whole.outbox()
