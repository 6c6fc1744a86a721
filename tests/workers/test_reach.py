"""
Every rule of every table is reached: by a real session, and through to what it does.

A table that is complete proves nothing while no session can produce what it asks for. So each rule
is met here by a dialogue with the sandbox, and its effect is read from the delivery and its
mailbox. What parks or pauses at the sign-in has its own tests beside this one
(``test_each_park``), which also end it; the list at the end counts both.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from sqlalchemy import select

from console import verbs_tenants
from models.database import read
from models.tables import METADATA
from models.vault import delivery_context
from sandbox.faults import (
    Answer,
    Behaviour,
    Close,
    CutAfterDot,
    Fault,
    NoStartTLS,
    Say,
    WrongCertificate,
)
from tests.fixtures.whole import DELIVERY, MAILBOX
from tests.workers import test_each_park
from tests.workers.park_field import ParkField, age, park_field
from tests.workers.visit_parts import change, send, visit
from workers import conclusion
from workers.rule_book import UNREACHED, every_verdict
from workers.verdict import Action, Scope, Verdict

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOOK = {verdict.rule: verdict for verdict in every_verdict()}
TENANT = METADATA.tables["tenant"]
DAY = timedelta(hours=25)
UNHURRIED = {"soon_seconds": 300.0, "first_seconds": 300.0, "jitter_share": 0.0}
SESSION_PHASES = {"connect", "banner", "ehlo", "starttls", "auth"}

ELSEWHERE = {
    "signed-in-as-mailbox": "test_shared_mailboxes",
    "no-answer": "test_visit_faults",
    "send-as-denied-once": "test_send_as_itself",
    "send-as-denied": "test_send_as_itself",
    "mail-parameters-refused": "test_one_mail",
    "mail-refused-alone": "test_one_mail",
}
"""Met in tests that have what it takes: a shared mailbox, or a clock that runs out."""


@dataclass(frozen=True)
class Reach:
    """
    How a rule is met.

    Attributes:
        phase: Of the dialogue.
        behaviour: What the server does there; a text is its reply.
        tries: So often in a row.
        later: So much time between the tries.
        before: Done to the delivery before the first try.
    """

    rule: str
    phase: Any = "body"
    behaviour: str | Behaviour | None = None
    tries: int = 1
    later: timedelta = timedelta(0)
    before: Callable[[ParkField, UUID], object] | None = None


def _garble(field: ParkField, delivery_id: UUID) -> None:
    sealed = field.whole.vault.seal(b"no alert", context=delivery_context(delivery_id))
    change(field.whole, DELIVERY, payload_encrypted=sealed)


def _closed_port(field: ParkField, _delivery_id: UUID) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    _edit(field, smtp_port=port)


def _unknown_host(field: ParkField, _delivery_id: UUID) -> None:
    _edit(field, smtp_host="no-such-host.invalid")


def _edit(field: ParkField, **changes: Any) -> None:
    verbs_tenants.edit(
        field.context, actor="test", slug="contoso", changes=changes, credential=None, force=False
    )


REACHES = [
    # Connection and sign-in, where it goes on by itself
    Reach("front-end-busy", "banner", "service_not_available"),
    Reach("host-connections", "banner", "too_many_connections"),
    Reach("submission-rate", "mail", "submission_rate"),
    Reach("concurrent-connections", "data", "concurrent_connections"),
    Reach("front-end-closing", "mail", "421 4.3.2 System going down"),
    Reach("session-ended", "mail", "connection_timed_out"),
    Reach("proxy-to-mailbox-failed", "auth", "temporary_server_error"),
    Reach("policy-deferral", "rcpt", "policy_deferral"),
    Reach("authentication-unavailable", "auth", "temporary_authentication_failure"),
    Reach("not-authenticated", "rcpt", "not_authenticated"),
    Reach("credentials-incorrect", "auth", "credentials_incorrect"),
    Reach("token-refused", "auth", "authentication_unsuccessful"),
    Reach("auth-refused", "auth", "535 5.7.9 New words"),
    Reach("federated-sign-in-unreachable", "auth", "federation_unreachable"),
    Reach("protocol-error", "mail", "unrecognized_command"),
    Reach("connection-lost", "data", Close()),
    Reach("connection-refused", "connect", before=_closed_port),
    Reach("host-not-found", "connect", before=_unknown_host),
    Reach("tls-failed", "starttls", Say("220 2.0.0 go")),
    Reach("certificate-invalid", "starttls", WrongCertificate()),
    Reach("no-starttls", "ehlo", NoStartTLS()),
    Reach("unexpected-reply", "mail", "354 go on"),
    Reach("unknown-at-connect", "banner", "554 5.3.2 Not for you"),
    Reach("wrong-protocol", "banner", Say("HTTP/1.1 400 Bad Request")),
    # Sender, mail, quotas
    Reach("locked-out-mailbox-full", "mail", "locked_mailbox_full"),
    Reach("locked-out-send-as", "body", "locked_send_as_denied"),
    Reach("locked-out-licence", "body", "locked_invalid_license"),
    Reach("locked-out-too-many-recipients", "rcpt", "locked_too_many_recipients"),
    Reach("locked-out-invalid-recipients", "mail", "locked_invalid_recipients"),
    Reach("licence-invalid", "body", "invalid_license"),
    Reach("submission-quota", "body", "submission_quota"),
    Reach("submission-quota-stuck", "body", "submission_quota", tries=2, later=DAY),
    Reach("sender-mailbox-full", "body", "mailbox_full"),
    Reach("outbound-spam", "body", "outbound_spam"),
    Reach("mail-too-large", "mail", "552 5.3.4 Message size exceeds fixed maximum message size"),
    Reach("store-refused", "body", "store_refused"),
    Reach("store-refused-again", "body", "store_refused", tries=4),
    Reach("sender-restricted", "body", "bad_outbound_sender"),
    Reach("banned-address", "mail", "banned_ip"),
    Reach("sender-banned", "mail", "spam_abuse"),
    Reach("ipv6-range-limit", "mail", "ipv6_range_limit"),
    Reach("sender-or-address-banned", "mail", "550 5.7.511 Access denied"),
    Reach("from-header-invalid", "body", "from_header_not_compliant"),
    Reach("tenant-block-list", "body", "tenant_block_list"),
    Reach("tenant-threshold", "body", "tenant_threshold"),
    Reach("tenant-traffic-refused", "body", "low_reputation_ip"),
    Reach("domain-unregistered", "mail", "550 5.7.750 unregistered domain(s)"),
    Reach("tenant-external-recipients", "body", "550 5.7.233 exceeded"),
    Reach("onmicrosoft-recipients", "rcpt", "onmicrosoft_limit"),
    Reach("server-resources", "body", "452 4.3.1 Insufficient system resources"),
    Reach("server-internal", "body", "not_redundant"),
    Reach("new-pattern-restricted", "mail", "451 4.7.500 Server busy"),
    Reach("new-pattern-refused", "mail", "451 4.7.500 Server busy", tries=2, later=DAY),
    Reach("address-under-evaluation", "mail", "451 4.7.850 Access denied"),
    Reach("sender-address-invalid", "mail", "550 5.1.7 Invalid address"),
    Reach("bare-line-feeds", "body", "bare_line_feeds"),
    Reach("transport-rule", "body", "tenant_rule"),
    # Recipients
    Reach("too-many-recipients", "rcpt", "too_many_recipients"),
    Reach("recipient-address-invalid", "rcpt", "invalid_address"),
    Reach("recipient-domain-reserved", "rcpt", "reserved_address"),
    Reach("recipient-unknown", "rcpt", "no_such_recipient"),
    Reach("recipient-restricted", "rcpt", "sender_outside_group"),
    Reach("recipient-flooded", "rcpt", "recipient_flooded"),
    Reach("recipient-flooded-all-day", "rcpt", "recipient_flooded", tries=2, later=DAY),
    Reach("recipient-mailbox-full", "rcpt", "552 5.2.2 over quota"),
    Reach("recipient-mailbox-full-all-day", "rcpt", "552 5.2.2 over quota", tries=2, later=DAY),
    Reach("too-large-for-recipient", "body", "550 5.2.3 too large for this recipient"),
    Reach("domain-not-authenticated", "rcpt", "dmarc_failed"),
    Reach("recipient-unreachable", "rcpt", "message_expired_remote"),
    Reach("recipient-unreachable-now", "rcpt", "connection_refused_remote"),
    # Words
    Reach("address-blocked", "rcpt", "client_host_blocked"),
    Reach("content-refused", "body", "content_blocked"),
    Reach("limit-reached", "rcpt", "550 5.7.237 You have exceeded a new limit"),
    Reach("limit-reached-all-day", "mail", "550 5.7.237 exceeded a limit", tries=2, later=DAY),
    Reach("sender-blocked", "rcpt", "550 5.7.890 Your account is blocked"),
    Reach("refused-for-now", "rcpt", "550 5.9.9 Transient failure"),
    Reach("refused-as-blocked", "rcpt", "550 5.9.9 Blocked"),
    Reach("refused-as-blocked-all-day", "body", "550 5.9.9 Blocked", tries=2, later=DAY),
    # Where nothing fits
    Reach("refused-at-mail", "mail", "550 5.9.9 No"),
    Reach("refused-at-rcpt", "rcpt", "550 5.9.9 No"),
    Reach("refused-at-data", "data", "554 5.9.9 No"),
    Reach("unknown-transient", "rcpt", "450 4.9.9 Not now"),
    Reach("unreadable-after-dot", "body", "354 go on"),
    Reach("lost-after-dot", "body", CutAfterDot(taken=True)),
    Reach("mail-not-built", before=_garble),
    Reach("accepted"),
]

ODD_ANSWERS = [
    *(
        (phase, said)
        for phase in ("mail", "rcpt", "data", "body")
        for said in ("150 wait", "220 2.0.0 hello", "399 what", "650 too much", "2500 ok", "yes")
    ),
    # Good for one command, and no answer to another.
    *(("mail", said) for said in ("251 2.1.5 forwarded", "252 2.0.0 perhaps", "354 go on")),
    *(("rcpt", said) for said in ("354 go on", "235 2.7.0 Authentication successful")),
    ("data", "250 2.0.0 OK"),
    *(
        ("body", said)
        for said in ("354 go on", "251 2.1.5 ok", "221 2.0.0 Bye", "250-half\r\n354 b")
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def field(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ParkField]:
    # A visit that met a refusal must not meet it again by itself.
    changes = {"retry": UNHURRIED, "allowed_hosts": ("no-such-host.invalid",)}
    async with park_field(request, "sqlite", tmp_path_factory, **changes) as made:
        yield made


@pytest.mark.parametrize("reach", REACHES, ids=lambda reach: reach.rule)
async def test_each_rule_is_reached_and_does_what_it_says(field: ParkField, reach: Reach) -> None:
    """A dialogue leads to the rule, and the rule to its effect on delivery and mailbox."""
    await _begin(field)
    verdict = BOOK[reach.rule]
    if verdict.action is Action.REAUTH:
        # Only a token that was not issued just now is replaced.
        await visit(field.whole, send(field.whole).mailbox_id)
        await field.whole.services.connections.close()
    refreshes = field.whole.sandbox.world.ledger.refreshes
    if reach.behaviour is not None:
        behaviour = Answer(reach.behaviour) if isinstance(reach.behaviour, str) else reach.behaviour
        once = 1 if verdict.action is Action.REAUTH else None
        field.whole.sandbox.exchange.inject(Fault("reach", reach.phase, behaviour, times=once))
    delivery_id = send(field.whole).delivery_id
    if reach.before is not None:
        reach.before(field, delivery_id)

    for number in range(reach.tries):
        if number:
            field.pass_time()
            age(field.whole, reach.later)
        await visit(field.whole, field.mailbox_id)

    if verdict.action is Action.REAUTH:
        # Another token is fetched and tried within the same attempt.
        assert field.whole.sandbox.exchange.faults.struck["reach"] == 1
        assert field.whole.sandbox.world.ledger.refreshes == refreshes + 1
        assert field.whole.row(delivery_id).state == "accepted"
        return
    last = field.whole.attempts(delivery_id)[-1]
    assert last.rule == reach.rule
    if verdict.action is not Action.SPLIT:
        in_session = reach.phase in SESSION_PHASES
        assert last.counted == (verdict.counts and not in_session)
    assert field.whole.row(delivery_id).uncertain == verdict.uncertain
    await _see_effect(field, reach, verdict, delivery_id)


async def _begin(field: ParkField) -> None:
    await field.begin()
    sandbox = field.whole.sandbox
    with read(field.whole.engine) as connection:
        tenants = connection.execute(select(TENANT).where(TENANT.c.slug == "contoso"))
        there = tenants.mappings().one()
    right = {"smtp_host": sandbox.smtp_host, "smtp_port": sandbox.smtp_port}
    if any(there[name] != value for name, value in right.items()):
        _edit(field, **right)


async def _see_effect(field: ParkField, reach: Reach, verdict: Verdict, delivery_id: UUID) -> None:
    row, mailbox = field.whole.row(delivery_id), field.whole.mailbox(field.mailbox_id)
    match verdict.action:
        case Action.ACCEPTED:
            assert row.state == "accepted"
        case Action.DEAD | Action.RECIPIENT_REJECTED:
            assert (row.state, row.reason) == ("dead", reach.rule)
        case Action.PARK:
            assert verdict.scope is not None
            assert (row.state, row.attempts) == ("queued", 0)
            assert (mailbox.park_reason, mailbox.park_scope) == (reach.rule, verdict.scope.value)
            assert mailbox.probe_at is not None
        case Action.THROTTLE_MAILBOX | Action.THROTTLE_TENANT:
            assert (row.state, row.attempts) == ("queued", 0)
            assert mailbox.pause_reason == reach.rule
            paused = 2 if verdict.scope is Scope.TENANT else 1
            assert len(field.waiting(MAILBOX.c.paused_until)) == paused
        case Action.STOP_WORKER:
            assert (row.state, row.attempts) == ("queued", 0)
            calls = field.calls()
            await visit(field.whole, field.mailbox_id)
            assert field.calls() == calls
        case Action.SPLIT:
            assert row.state == "queued"
        case _:
            assert (row.state, mailbox.park_reason) == ("queued", None)
            in_session = reach.phase in SESSION_PHASES
            assert (mailbox.pause_reason == reach.rule) == in_session


@pytest.mark.parametrize(("phase", "said"), ODD_ANSWERS)
async def test_only_the_right_answer_is_a_success(field: ParkField, phase: Any, said: str) -> None:
    """What is no answer to its command accepts nothing, and the mail goes out all the same."""
    await _begin(field)
    before = len(field.whole.outbox())
    field.whole.sandbox.exchange.inject(Fault("odd", phase, Say(said), times=1))
    delivery_id = send(field.whole).delivery_id

    await visit(field.whole, field.mailbox_id)

    (attempt,) = field.whole.attempts(delivery_id)
    row = field.whole.row(delivery_id)
    assert row.state == "queued"
    assert len(field.whole.outbox()) == before
    assert row.uncertain == (phase == "body")
    assert attempt.stage == phase
    assert attempt.rule == ("unreadable-after-dot" if phase == "body" else "unexpected-reply")

    field.pass_time()
    await visit(field.whole, field.mailbox_id)

    assert field.whole.row(delivery_id).state == "accepted"
    assert len(field.whole.outbox()) == before + 1


@pytest.mark.parametrize("said", ["251 2.1.5 User not local; will forward", "252 2.1.5 Will try"])
async def test_a_recipient_that_is_forwarded_is_served(field: ParkField, said: str) -> None:
    """RFC 5321 has two more answers to RCPT that take the recipient."""
    await _begin(field)
    field.whole.sandbox.exchange.inject(Fault("other", "rcpt", Answer(said), times=1))
    delivery_id = send(field.whole, to=["a@contoso.example", "b@contoso.example"]).delivery_id

    await visit(field.whole, field.mailbox_id)

    assert field.whole.row(delivery_id).state == "accepted"
    assert len(field.whole.attempts(delivery_id)) == 1


async def test_a_probe_asks_entra_again(field: ParkField) -> None:
    """A grant that was refused once and is good a moment later ends its park by itself."""
    await _begin(field)
    test_each_park.answers("aadsts", code=70000, remaining=1)(field)
    delivery_id = send(field.whole).delivery_id
    await visit(field.whole, field.mailbox_id)
    assert field.whole.mailbox(field.mailbox_id).park_reason == "refresh-token-refused"
    assert field.whole.row(delivery_id).state == "queued"

    field.pass_time()
    await visit(field.whole, field.mailbox_id)

    assert field.whole.row(delivery_id).state == "accepted"
    assert field.whole.mailbox(field.mailbox_id).parked_at is None


async def test_no_rule_is_beyond_reach() -> None:
    """Each is met by a dialogue, here or at the sign-in, or the table says why none leads to it."""
    at_sign_in = {case.rule for case in test_each_park.ENTRA + test_each_park.EXCHANGE}
    met = {reach.rule for reach in REACHES} | at_sign_in | ELSEWHERE.keys()

    assert met | UNREACHED.keys() == BOOK.keys()
    assert not met & UNREACHED.keys()
    assert conclusion.ACCEPTED_RULE in met
