"""
Each answer that stops a mailbox before a mail: what it parks, and how that ends.

Real parts throughout: Entra's answers come over TLS through MSAL and the lease, Exchange's through a
dialogue; the alert that waits is a row, and what ends the wait is what the command line does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from models.stages import Stage
from sandbox.entra_faults import EntraFault, EntraFaultKind
from sandbox.faults import Answer, Behaviour, Fault, NoStartTLS, Say, WrongCertificate
from tests.workers.oauth_rows import BY_CODE, BY_ERROR, PARK, Row
from tests.workers.park_field import Case, ParkField, cure_for, park_field, play
from workers import oauth_rules, reply_rules
from workers.reply_rules_session import SESSION_RULES
from workers.verdict import Action, Scope, Verdict

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN = 59999
"""A code that our tables do not have."""

NEW_SIGN_IN = {"callback-registered-as-spa"}
"""What is mended in the portal, and then needs a consent besides."""


def answers(kind: str, **options: Any) -> Callable[[ParkField], object]:
    """Give what makes Entra answer every refresh so."""
    fault = {"kind": EntraFaultKind(kind), "grant_type": "refresh_token"} | options

    def strike(field: ParkField) -> None:
        field.whole.sandbox.world.entra_faults.add(EntraFault(**fault))

    return strike


def by_row(row: Row) -> Case:
    # Which error a code comes with is the sandbox's to know; without one the error is the row.
    if row.codes:
        strike = answers("aadsts", code=row.codes[0])
    else:
        strike = answers("oauth", error=row.error, text="No.")
    traced = bool(row.codes)
    if row.action is not PARK:
        scope = Scope.TENANT if row.action is Action.THROTTLE_TENANT else Scope.MAILBOX
        return Case(row.rule, strike, pauses=scope, traced=traced)
    assert row.scope is not None
    cure = "consent" if row.rule in NEW_SIGN_IN else cure_for(row.remedy, row.scope)
    return Case(row.rule, strike, parks=row.scope, cure=cure, traced=traced)


def unknown(error: str, text: str = "New.", code: int = UNKNOWN) -> Callable[[ParkField], object]:
    return answers("aadsts", code=code, error=error, text=text)


ENTRA = [
    *(by_row(row) for row in BY_CODE if row.codes != (70003,)),
    *map(by_row, BY_ERROR),
    # The same answer once too often.
    Case("account-stays-locked", answers("aadsts", code=50053), Scope.MAILBOX, cure="probe", tries=4),
    Case("directory-failing", answers("aadsts", code=90036), Scope.TENANT, cure="probe", tries=4),
    Case("clock-still-wrong", answers("aadsts", code=700024), Scope.MAILBOX, cure="probe", tries=4),
    Case(
        "customer-sign-in-broken", answers("aadsts", code=20001), Scope.MAILBOX, cure="probe",
        tries=21,
    ),
    Case(
        "sign-in-stays-broken", answers("aadsts", code=50000), Scope.MAILBOX, cure="probe",
        tries=21,
    ),
    # A number that nobody knows.
    Case("sign-in-unknown-error", unknown("brand_new")),
    Case("sign-in-unknown-error-again", unknown("brand_new"), Scope.MAILBOX, cure="resume", tries=4),
    Case("client-refused-unknown-code", unknown("invalid_client"), Scope.MAILBOX, cure="probe"),
    Case("request-refused-unknown-code", unknown("invalid_scope"), Scope.MAILBOX, cure="probe"),
    Case("sign-in-refused-for-now", unknown("invalid_grant", "Try again later.")),
    Case(
        "sign-in-refused-still", unknown("invalid_grant", "Try again later."), Scope.MAILBOX,
        cure="probe", tries=21,
    ),
    # No answer of Entra's at all.
    Case("sign-in-busy", answers("unavailable"), traced=False),
    Case("sign-in-not-json", answers("not_json"), traced=False),
    Case("sign-in-unreachable", answers("cut"), traced=False),
]  # fmt: skip


def replies(phase: Any, behaviour: str | Behaviour) -> Callable[[ParkField], object]:
    """Give what makes Exchange answer so, always."""
    if isinstance(behaviour, str):
        behaviour = Answer(behaviour)
    fault = Fault("row", phase, behaviour)
    return lambda field: field.whole.sandbox.exchange.inject(fault)


def at_auth(rule: str, reply: str, scope: Scope, cure: str, **more: Any) -> Case:
    return Case(rule, replies("auth", reply), scope, cure=cure, **more)


MAILBOX, TENANT = Scope.MAILBOX, Scope.TENANT
BARE: dict[str, Any] = {"traced": False}

EXCHANGE = [
    at_auth("auth-payload-invalid", "invalid_xoauth2", MAILBOX, "resume", **BARE),
    at_auth("auth-mechanism-missing", "unrecognized_authentication", MAILBOX, "settings", **BARE),
    at_auth("token-refused-again", "authentication_unsuccessful", MAILBOX, "probe"),
    at_auth("auth-refused-again", "535 5.7.999 New words [{trace}]", MAILBOX, "probe"),
    at_auth("credentials-incorrect-again", "credentials_incorrect", MAILBOX, "consent"),
    at_auth("smtp-auth-disabled-tenant", "smtp_auth_disabled_tenant", TENANT, "probe"),
    at_auth("smtp-auth-disabled-mailbox", "smtp_auth_disabled_mailbox", MAILBOX, "probe"),
    at_auth("security-defaults", "security_defaults", MAILBOX, "settings"),
    at_auth("conditional-access-smtp", "criteria_not_met", TENANT, "probe"),
    at_auth("basic-authentication-disabled", "basic_authentication_disabled", MAILBOX, "settings"),
    at_auth(
        "basic-authentication-retired", "basic_authentication_retired", MAILBOX, "settings", **BARE
    ),
    at_auth("federated-sign-in-failing", "federation_unreachable", TENANT, "probe", tries=2),
    at_auth(
        "proxy-to-mailbox-failing",
        "temporary_server_error",
        MAILBOX,
        "probe",
        tries=2,
        later=timedelta(hours=7),
    ),
    Case("not-authenticated-again", replies("mail", "not_authenticated"), MAILBOX, cure="resume",
         tries=2, **BARE),
    Case("ehlo-name-refused", replies("ehlo", "invalid_domain_name"), MAILBOX, cure="probe", **BARE),
    Case("protocol-error-again", replies("ehlo", "hello_first"), MAILBOX, cure="resume", tries=2,
         **BARE),
    Case("certificate-invalid-again", replies("starttls", WrongCertificate()), MAILBOX,
         cure="settings", tries=4, **BARE),
    Case("no-starttls-again", replies("ehlo", NoStartTLS()), MAILBOX, cure="settings", tries=4,
         **BARE),
    Case("refused-at-connect", replies("banner", "554 5.3.2 Not for you"), MAILBOX,
         cure="settings", tries=4, **BARE),
    Case("wrong-protocol-again", replies("banner", Say("HTTP/1.1 400 Bad Request")), MAILBOX,
         cure="settings", tries=4, **BARE),
    Case("unexpected-reply-again", replies("banner", "354 Go on"), MAILBOX, cure="settings",
         tries=4, **BARE),
]  # fmt: skip

SAMPLE = [
    "tokens-revoked", "secret-expired", "conditional-access", "exchange-permission-missing",
    "scope-invalid", "sign-in-throttled", "directory-failing", "token-refused-again",
    "proxy-to-mailbox-failing",
]  # fmt: skip
"""One of each scope, cure and pause: parking is SQL's, what an answer means is not."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on_sqlite(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ParkField]:
    async with park_field(request, "sqlite", tmp_path_factory) as field:
        yield field


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on_postgresql(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ParkField]:
    async with park_field(request, "postgresql", tmp_path_factory) as field:
        yield field


@pytest.mark.parametrize("case", ENTRA + EXCHANGE, ids=lambda case: case.rule)
async def test_each_answer_parks_what_it_concerns_until_its_cause_is_gone(
    on_sqlite: ParkField, case: Case
) -> None:
    """Reason, scope, sentence, step and answer are kept; nothing is asked; it ends by the cure."""
    await play(on_sqlite, case)


@pytest.mark.parametrize("rule", SAMPLE)
async def test_it_is_the_same_on_postgresql(on_postgresql: ParkField, rule: str) -> None:
    """A sample of each scope and cure."""
    await play(on_postgresql, next(c for c in ENTRA + EXCHANGE if c.rule == rule))


async def test_no_rule_is_without_a_case() -> None:
    """All that the tables can say of a token endpoint, or to a sign-in, has been met."""
    entra = {verdict.rule for verdict in oauth_rules.every_verdict()}
    exchange = {verdict.rule for verdict in _of_sign_in() if verdict.action is PARK}

    assert sorted(case.rule for case in ENTRA) == sorted(entra)
    assert sorted(case.rule for case in EXCHANGE) == sorted(exchange)


def _of_sign_in() -> Iterator[Verdict]:
    rows = [verdict for row in SESSION_RULES for verdict in (row.verdict, row.with_fresh_token)]
    rows += [*reply_rules.FAILURES.values(), reply_rules.UNKNOWN_AT_CONNECT]
    rows += [reply_rules.UNEXPECTED, reply_rules.WRONG_PROTOCOL]
    rows += [*reply_rules.REFUSED_BY_STAGE[Stage.AUTH]]
    for first in rows:
        verdict = first
        while verdict is not None:
            yield verdict
            verdict = verdict.limit.then if verdict.limit else None
