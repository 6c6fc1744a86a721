"""From what the doctor sees to what it means: tables, without any network."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.doctor import access_meaning, ground_meaning, places_meaning, sign_in_meaning
from console.doctor.access_meaning import parked_over_a_mail
from console.doctor.checks import Chain, Finding, Result, exit_code, failed, ok, skipped, warning
from console.doctor.claims import judge_claims
from console.doctor.ground_meaning import Reading
from console.doctor.places import Greeting, Place, Seen
from console.doctor.sign_in import Discovery, configuration_url, sign_in_place
from console.token_claims import read_claims
from console.verbs_mailboxes import Account
from models.app_registrations import Credential
from models.auth_forms import AuthForm
from models.credential_standing import Kind, Standing
from models.errors import SubmissionFailed
from models.grants import APP_ONLY, DELEGATED
from models.mailboxes import MailboxEntry
from models.redis_routes import exposure
from models.senders import Sender
from models.stages import Stage
from workers.smtp_session import Features, Offered, Step

DIRECTORY = "11111111-2222-3333-4444-555555555555"
OTHER = "99999999-2222-3333-4444-555555555555"
NOW = datetime(2026, 11, 27, tzinfo=UTC)
LOGIN = "https://login.microsoftonline.com"
OUTLOOK = "https://outlook.office.com"

SENDER = Sender(
    mailbox_id=UUID(int=1), tenant_id=UUID(int=2), tenant_slug="contoso",
    address="alerts@contoso.com", display_name=None, auth_user="alerts@contoso.com",
    app_id=UUID(int=3), client_id=OTHER, app_version=1, directory_id=DIRECTORY,
    authority_url=f"{LOGIN}/{DIRECTORY}", oidc_authority=None, smtp_host="smtp.office365.com",
    smtp_port=587, ca_file=None, scopes=(f"{OUTLOOK}/SMTP.Send",), uncertain_policy="resend",
    max_message_bytes=None, connected=True, parked_at=None, park_reason=None, park_scope=None,
    park_count=0, resume_count=0, probe_at=None, paused_until=None, pause_reason=None,
    pause_count=0, external_limit=None, grant_id=UUID(int=4), grant_kind=DELEGATED,
    grant_version=1,
)  # fmt: skip
FOREIGN = replace(SENDER, authority_url=None, oidc_authority="https://id.example/realm/")


def token(**claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


GOOD: dict[str, Any] = {
    "aud": OUTLOOK, "scp": "SMTP.Send", "tid": DIRECTORY, "upn": "alerts@contoso.com",
    "exp": 1_800_000_000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("sender", "claims", "result", "says"),
    [
        (SENDER, {}, Result.OK, ""),
        (SENDER, {"aud": "00000002-0000-0ff1-ce00-000000000000"}, Result.OK, ""),
        (SENDER, {"aud": [OUTLOOK, "x"]}, Result.OK, ""),
        (SENDER, {"aud": "https://graph.microsoft.com"}, Result.FAILED, "535 5.7.3"),
        (SENDER, {"aud": "00000003-0000-0000-c000-000000000000"}, Result.FAILED, "Graph"),
        (SENDER, {"aud": "https://vault.azure.net"}, Result.WARNING, "none that we know"),
        (SENDER, {"scp": "IMAP.AccessAsUser.All"}, Result.FAILED, "SMTP.Send"),
        (SENDER, {"tid": OTHER}, Result.FAILED, OTHER),
        (SENDER, {"upn": "admin@contoso.com"}, Result.WARNING, "admin@contoso.com"),
        (SENDER, {"upn": "Alerts@Contoso.com"}, Result.OK, ""),
        (
            replace(SENDER, grant_kind=APP_ONLY),
            {"scp": "", "upn": "", "roles": ["SMTP.SendAsApp"]},
            Result.OK,
            "",
        ),
        # RBAC for Applications works without the role.
        (replace(SENDER, grant_kind=APP_ONLY), {"scp": "", "upn": ""}, Result.WARNING, "RBAC"),
        (FOREIGN, {"aud": "mail", "scp": "smtp", "tid": ""}, Result.WARNING, "audience mail"),
    ],
)
def test_tokens_are_judged(
    sender: Sender, claims: dict[str, Any], result: Result, says: str
) -> None:
    """Audience, rights, directory and user each have their own sentence."""
    found = judge_claims(sender, read_claims(token(**GOOD | claims)))

    assert found.result is result
    assert says in found.meaning
    assert bool(found.mend) == (result is not Result.OK)


@given(st.one_of(st.text(), st.from_regex(r"[\w.=-]{0,60}\.[\w.=-]{0,60}\.[\w.=-]{0,60}")))
def test_whatever_a_token_is_it_is_judged(text: str) -> None:
    """What cannot be read is a warning, never an error; the token itself is not repeated."""
    found = judge_claims(SENDER, read_claims(text))

    assert isinstance(found, Finding)
    assert len(text) < 20 or text not in found.seen + found.meaning + found.mend


@pytest.mark.parametrize(
    "claims", [{"exp": "soon"}, {"exp": 1e300}, {"aud": 5}, {"aud": []}, {"roles": "x"}, {"scp": 7}]
)
def test_odd_claims_are_judged(claims: dict[str, Any]) -> None:
    """A claim of another kind than it should be is no fault of ours."""
    assert judge_claims(SENDER, read_claims(token(**GOOD | claims))).seen


@pytest.mark.parametrize(
    ("ahead", "result"),
    [
        (None, Result.WARNING), (0.4, Result.OK), (-40.0, Result.OK), (90.0, Result.WARNING),
        (-200.0, Result.WARNING), (301.0, Result.FAILED), (-3600.0, Result.FAILED),
    ],
)  # fmt: skip
def test_the_clock_is_judged(ahead: float | None, result: Result) -> None:
    """Five minutes break sign-ins; one is worth a word."""
    found = sign_in_meaning.clock(Discovery(200, {}, clock_ahead_seconds=ahead))

    assert found.result is result
    if ahead is not None and abs(ahead) > 2:
        assert ("behind" in found.seen) == (ahead > 0)


@pytest.mark.parametrize(
    ("sender", "found", "result", "says"),
    [
        (SENDER, Discovery(200, {"issuer": f"{LOGIN}/{DIRECTORY}/v2.0"}), Result.OK, ""),
        (
            replace(SENDER, directory_id="contoso.com"),
            Discovery(200, {"issuer": f"{LOGIN}/{DIRECTORY}/v2.0"}),
            Result.OK,
            "",
        ),
        (SENDER, Discovery(200, {"issuer": f"{LOGIN}/{OTHER}/v2.0"}), Result.FAILED, OTHER),
        (
            SENDER,
            Discovery(200, {"issuer": "https://login.microsoftonline.us/x/v2.0"}),
            Result.WARNING,
            "another cloud",
        ),
        (
            SENDER,
            Discovery(400, {"error": "invalid_tenant", "error_codes": [90002]}),
            Result.FAILED,
            "no such tenant",
        ),
        (
            SENDER,
            Discovery(400, {"error": "invalid_request", "error_codes": [900432]}),
            Result.FAILED,
            "national cloud",
        ),
        (SENDER, Discovery(404, {}), Result.FAILED, "not in our tables"),
        (SENDER, Discovery(None, {}, "HTTP 503"), Result.FAILED, "no token"),
        (FOREIGN, Discovery(200, {"issuer": "https://id.example/realm"}), Result.OK, ""),
        (FOREIGN, Discovery(200, {"issuer": "https://x.example"}), Result.FAILED, "issuer"),
        (FOREIGN, Discovery(200, {}), Result.FAILED, "issuer"),
    ],
)
def test_a_tenant_is_judged(sender: Sender, found: Discovery, result: Result, says: str) -> None:
    """Unknown tenants and other clouds are told by the words of the OAuth tables."""
    judged = sign_in_meaning.discovery(sender, found)

    assert judged.result is result
    assert says in judged.meaning
    assert bool(judged.mend) == (result is not Result.OK)


def test_the_configuration_is_where_msal_looks() -> None:
    """Entra's version 2 has a part of its own in the path, other providers have not."""
    assert configuration_url(SENDER) == (
        f"{LOGIN}/{DIRECTORY}/v2.0/.well-known/openid-configuration"
    )
    assert configuration_url(FOREIGN) == (
        "https://id.example/realm/.well-known/openid-configuration"
    )
    assert sign_in_place(FOREIGN).port == 443


@pytest.mark.parametrize(
    ("days", "result"),
    [(None, Result.WARNING), (-1, Result.FAILED), (7, Result.WARNING), (90, Result.OK)],
)
def test_a_credential_is_judged(days: int | None, result: Result) -> None:
    """A secret that ends stops every tenant of its app, so its end is told a month before."""
    ends = None if days is None else NOW + timedelta(days=days)
    given_secret = Credential(client_secret="S3cr3t-Value", expires_at=ends)

    found = sign_in_meaning.credential(SENDER, given_secret, "contoso", NOW)

    assert found.result is result
    assert "S3cr3t-Value" not in found.seen + found.meaning + found.mend


def test_a_certificate_is_renewed_as_one() -> None:
    """Whoever uses a certificate is not told to make a secret; who has neither is."""
    certificate = Credential(private_key_pem="KEY", certificate_pem="C", expires_at=NOW)

    found = sign_in_meaning.credential(SENDER, certificate, "contoso", NOW)

    assert "--certificate-file" in found.mend
    assert sign_in_meaning.credential(SENDER, Credential(), "a", NOW).result is Result.FAILED


def _standing(number: int, kind: Kind, **changes: Any) -> Standing:
    new = Standing(UUID(int=number), number, kind, None, NOW + timedelta(days=90), NOW)
    return replace(new, **changes)


REFUSED = {"refused_rule": "secret-wrong", "refused_answer": "AADSTS7000215 (trace id x)"}


@pytest.mark.parametrize(
    ("known", "result", "seen", "mend"),
    [
        (
            [_standing(1, Kind.SECRET, worked_at=NOW), _standing(2, Kind.SECRET, worked_at=NOW)],
            Result.OK, "secret 1 standby, secret 2 in use", "",
        ),
        (
            [_standing(1, Kind.SECRET, worked_at=NOW), _standing(2, Kind.SECRET, **REFUSED)],
            Result.WARNING, "the new secret 2 is refused by Entra (AADSTS7000215)", "retire main 2",
        ),
        (
            [_standing(1, Kind.SECRET, worked_at=NOW), _standing(2, Kind.CERTIFICATE, **REFUSED)],
            Result.WARNING, "the new certificate 2 is refused", "certificate main --show",
        ),
        (
            [_standing(1, Kind.SECRET, **REFUSED), _standing(2, Kind.SECRET, **REFUSED)],
            Result.FAILED, "secret 1 refused (AADSTS7000215), secret 2 refused", "--replace",
        ),
        (
            [_standing(1, Kind.CERTIFICATE, **REFUSED)],
            Result.FAILED, "certificate 1 refused", "certificate main --show",
        ),
        (
            [
                _standing(1, Kind.SECRET, expires_at=NOW - timedelta(days=1)),
                _standing(2, Kind.SECRET, expires_at=NOW - timedelta(days=1)),
            ],
            Result.FAILED, "secret 1 ended, secret 2 ended", "--replace",
        ),
        (
            [
                _standing(1, Kind.SECRET, worked_at=NOW, expires_at=NOW + timedelta(days=7)),
                _standing(2, Kind.SECRET),
            ],
            Result.WARNING, "(7 days); secret 1 in use, secret 2 not tried yet", "apps secret main",
        ),
    ],
)  # fmt: skip
def test_credentials_side_by_side_are_judged(
    known: list[Standing], result: Result, seen: str, mend: str
) -> None:
    """Green only where one works and is good for long; else what it is and which command helps."""
    found = sign_in_meaning.credentials(SENDER, known, "main", NOW)

    assert found.result is result
    assert seen in found.seen
    assert mend in found.mend


@pytest.mark.parametrize(
    ("info", "result", "says"),
    [
        ({"maxmemory_policy": "noeviction", "aof_enabled": 1}, Result.OK, ""),
        ({"maxmemory_policy": "allkeys-lru", "aof_enabled": 1}, Result.WARNING, "throws keys away"),
        ({"maxmemory_policy": "noeviction", "aof_enabled": 0}, Result.WARNING, "restart forgets"),
        ({}, Result.WARNING, "throws keys away"),
    ],
)
def test_the_memory_of_redis_is_judged(info: dict[str, Any], result: Result, says: str) -> None:
    """What loses keys is told; mails go out all the same."""
    found = ground_meaning.redis_memory(info)

    assert found.result is result
    assert says in found.meaning


@pytest.mark.parametrize(
    ("info", "result"),
    [
        ({"redis_version": "5.0.7"}, Result.FAILED), ({"redis_version": "6.2.0"}, Result.OK),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.0"}, Result.OK), ({}, Result.OK),
    ],
)  # fmt: skip
def test_the_version_of_redis_is_judged(info: dict[str, Any], result: Result) -> None:
    """Workers cannot wait on a server that is too old."""
    assert ground_meaning.redis_here("redis://x", info).result is result


def test_a_redis_that_others_can_read_is_a_warning() -> None:
    """What goes over the network in clear, or to whoever asks, is said with what to do."""
    found = ground_meaning.redis_here(
        "redis://redis.example",
        {"redis_version": "7.2.4"},
        open_way=exposure("redis://redis.example"),
    )

    assert found.result is Result.WARNING
    assert "without TLS and without a password" in found.meaning
    assert "rediss://" in found.mend


@pytest.mark.parametrize(
    ("reading", "result"),
    [
        (Reading(0.0, 0.01), Result.OK), (Reading(29.0, 0.01), Result.OK),
        (Reading(-31.0, 0.5), Result.WARNING), (Reading(31.0, 2.0), Result.OK),
    ],
)  # fmt: skip
def test_clocks_of_stores_are_judged(reading: Reading, result: Result) -> None:
    """What may be the network's delay is not held against a clock."""
    assert ground_meaning.clock("SQL", reading).result is result


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([], 0),
        ([ok("a"), warning("b", "c", "d")], 0),
        ([ok("a"), skipped("slot")], 5),
        ([skipped("slot"), failed("a", "b", "c")], 1),
    ],
)
def test_nothing_but_good_is_green(findings: list[Finding], code: int) -> None:
    """0 only where nothing failed and nothing was left out."""
    chain = Chain("x")
    for finding in findings:
        chain.add("sql", finding)

    assert exit_code(chain.checks) == code


PLACE = Place("smtp.office365.com", 587)
STEPS = (
    Step(Stage.CONNECT, PLACE.host, "220 ready", 0.1),
    Step(Stage.EHLO, "EHLO", "250 hello", 0.1),
)
SECURED = (*STEPS, Step(Stage.STARTTLS, "STARTTLS", "220 go", 0.1, "TLSv1.3"))
FEATURES = Features(pipelining=True, smtputf8=False, eight_bit=True, size_limit=100)


def cut(stage: Stage, failure: str, text: str = "") -> SubmissionFailed:
    return SubmissionFailed(stage=stage, failure=failure, reply_text=text)


@pytest.mark.parametrize(
    ("greeting", "results", "says"),
    [
        (Greeting(SECURED, Offered(("login", "xoauth2"), FEATURES)), "ok ok ok", ""),
        (Greeting(SECURED, Offered(("login",), FEATURES)), "ok ok failed", "XOAUTH2"),
        (Greeting(SECURED, None, cut(Stage.EHLO, "timeout")), "ok ok failed", "after STARTTLS"),
        (Greeting(STEPS, None, cut(Stage.STARTTLS, "tls")), "ok failed", "tls-failed"),
        (
            Greeting(STEPS, None, cut(Stage.STARTTLS, "certificate", "Hostname mismatch, …")),
            "ok failed",
            "another name",
        ),
        (
            Greeting(STEPS, None, cut(Stage.STARTTLS, "certificate", "certificate has expired")),
            "ok failed",
            "its time is over",
        ),
        (Greeting(STEPS[:1], None, cut(Stage.EHLO, "disconnected")), "failed", "connection-lost"),
        (Greeting(STEPS[:1], None, cut(Stage.CONNECT, "timeout")), "failed", "firewall"),
        (Greeting((), None, cut(Stage.STARTTLS, "certificate")), "skipped failed", "not trusted"),
    ],
)
def test_a_greeting_is_judged(greeting: Greeting, results: str, says: str) -> None:
    """The failure is put down to the step in which it happened, and to no other."""
    judged = [places_meaning.greeted(PLACE, "contoso", greeting)]
    greeted, secured = places_meaning.after_greeting(greeting)
    if greeted:
        judged.append(places_meaning.secured(PLACE, "contoso", "ca.pem", greeting))
    if secured:
        judged.append(places_meaning.offered(PLACE, "contoso", greeting))

    assert [finding.result.value for finding in judged] == results.split()
    assert says in judged[-1].meaning
    assert all(finding.mend for finding in judged if finding.result is Result.FAILED)


@pytest.mark.parametrize("kind", ["dns", "refused", "timeout", "network"])
def test_what_cannot_be_reached_is_judged(kind: str) -> None:
    """Every kind of failure names the place to allow, and how to name another."""
    seen = Seen(error="it failed", kind=kind)

    found = places_meaning.connection(PLACE, places_meaning.SMTP, "contoso", seen)

    assert found.result is Result.FAILED
    assert str(PLACE) in found.mend
    assert "alertpost tenants edit contoso --smtp-host" in found.mend


def test_a_chain_remembers_the_one_before() -> None:
    """A mailbox' checks depend on those of its tenant."""
    before = Chain("contoso")
    before.add("smtp_tls", failed("a", "b", "c"))
    chain = Chain("alerts@contoso.com", before)
    chain.add("grant", ok("a"))

    assert chain.missing("grant", "smtp_dns", "smtp_tls") == "smtp_tls"
    assert chain.missing("grant") is None


def test_reasons_that_a_refusal_makes_worse_are_known() -> None:
    """Those of the continuous errors and of the sender are among them, those of AUTH are not."""
    assert {"send-as-denied", "locked-out-send-as", "licence-invalid"} <= parked_over_a_mail()
    assert not {"auth-refused-again", "smtp-auth-disabled-mailbox"} & parked_over_a_mail()


@pytest.mark.parametrize("form", AuthForm)
def test_the_sender_of_a_shared_mailbox_is_never_proven_by_mail_from(form: AuthForm) -> None:
    """Whichever way it signs in: Send As is judged after DATA, so a taken MAIL FROM is no green."""
    shared = replace(SENDER, auth_user="admin@contoso.com", auth_form=form)

    own = access_meaning.sender_taken(_account(SENDER), "250 2.1.0 Sender OK")
    others = access_meaning.sender_taken(_account(shared), "250 2.1.0 Sender OK")

    assert own.result is Result.OK
    assert others.result is Result.WARNING
    assert shared.signs_in_as in others.seen
    assert "-Trustee 'admin@contoso.com'" in others.mend


def _account(sender: Sender) -> Account:
    return Account(cast("MailboxEntry", None), sender, Credential.secret("app~secret"))
