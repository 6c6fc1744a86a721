"""The expiry radar: what ends when, who needs it, what to do."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, event, update

from models import directory
from models.database import read, write
from models.expiries import (
    GRANT_IDLE,
    STEPS,
    CredentialRow,
    Expiry,
    Kind,
    Level,
    credential_rows,
    days_left,
    expiries,
    level_of,
)
from models.grants import GRANT
from models.lookups import CREDENTIAL
from tests.models.directory_parts import CERTIFICATE, VAULT, add_contoso, connect

NOW = datetime(2027, 3, 2, 8, tzinfo=UTC)
DAY = timedelta(days=1)
ROW = CredentialRow(
    app="main",
    has_certificate=False,
    credential_expires_at=NOW + 10 * DAY,
    tenant="contoso",
    mailbox="alerts@contoso.example",
    grant_kind="delegated",
    grant_used_at=NOW - 80 * DAY,
)


def _secret(row: CredentialRow) -> Expiry:
    return next(one for one in expiries([row], NOW) if one.kind is not Kind.GRANT)


def _grant(row: CredentialRow) -> Expiry:
    return next(one for one in expiries([row], NOW) if one.kind is Kind.GRANT)


# -- levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "level"),
    [
        (None, "unknown"),
        (-400 * DAY, "ended"),
        (timedelta(0), "ended"),
        (timedelta(seconds=1), "1d"),
        (DAY, "1d"),
        (DAY + timedelta(seconds=1), "7d"),
        (7 * DAY, "7d"),
        (14 * DAY, "14d"),
        (30 * DAY, "30d"),
        (60 * DAY, "60d"),
        (60 * DAY + timedelta(seconds=1), "later"),
    ],
)
def test_levels(left: timedelta | None, level: str) -> None:
    """Each step includes its own last moment."""
    assert level_of(left) == level


@given(st.timedeltas(), st.timedeltas())
def test_less_left_is_never_less_urgent(one: timedelta, other: timedelta) -> None:
    """Time that passes only ever leads from one step to the next."""
    order = [*(level for _, level in STEPS), Level.LATER]
    less, more = sorted((one, other))

    assert order.index(level_of(less)) <= order.index(level_of(more))


# -- secrets and certificates ---------------------------------------------------------------------


def test_a_secret_tells_what_depends_on_it() -> None:
    """All tenants of the app and all of their mailboxes, each once."""
    others = [
        replace(ROW, mailbox="noc@contoso.example"),
        replace(ROW, tenant="fabrikam", mailbox="alerts@fabrikam.example"),
        replace(ROW, tenant="new", mailbox=None, grant_kind=None, grant_used_at=None),
    ]

    secret = next(one for one in expiries([ROW, *others], NOW) if one.kind is Kind.CLIENT_SECRET)

    assert (secret.name, secret.level, secret.days) == ("main", "14d", 10)
    assert secret.tenants == ("contoso", "fabrikam")
    assert secret.mailboxes == (
        "alerts@contoso.example", "noc@contoso.example", "alerts@fabrikam.example",
    )  # fmt: skip
    assert secret.command == (
        "alertpost apps secret main --client-secret-file FILE --secret-expires DATE"
    )


def test_an_ended_secret_says_so() -> None:
    """Days count below nought, and the sentence is another one."""
    ended = _secret(replace(ROW, credential_expires_at=NOW - timedelta(hours=1)))

    assert (ended.level, ended.days) == ("ended", -1)
    assert ended.next_step.startswith("It has ended: make a new client secret")


def test_a_secret_of_which_nobody_said_when_it_ends() -> None:
    """It is told how to tell it; it is never due."""
    unknown = _secret(replace(ROW, credential_expires_at=None))

    assert (unknown.level, unknown.days, unknown.ends_at) == ("unknown", None, None)
    assert "End date unknown" in unknown.next_step
    assert "--secret-expires DATE" in unknown.command
    assert not unknown.is_due(NOW, within=3650 * DAY)


def test_a_certificate_is_renewed_as_one() -> None:
    """The command takes a certificate and its key, and a name with a space is quoted."""
    certificate = _secret(replace(ROW, has_certificate=True, app="all customers"))

    assert certificate.kind == "certificate"
    assert certificate.command == (
        "alertpost apps secret 'all customers' --certificate-file FILE --private-key-file FILE"
    )


def test_what_no_mailbox_needs_is_not_due() -> None:
    """An app that nobody uses, or whose tenants have no mailbox, holds nothing up."""
    ended = NOW - DAY
    for tenant in (None, "retired"):
        alone = CredentialRow("old", False, ended, tenant)

        [one] = expiries([alone], NOW)
        assert (one.level, one.tenants, one.mailboxes) == ("ended", (), ())
        assert not one.is_due(NOW, within=DAY)


@pytest.mark.parametrize(("within", "due"), [(9, False), (10, True), (11, True)])
def test_due_within(within: int, due: bool) -> None:
    """What ends in exactly so many days is due within them."""
    assert _secret(ROW).is_due(NOW, within=within * DAY) is due


# -- two credentials of one app -------------------------------------------------------------------


def _two(old: dict[str, Any], new: dict[str, Any]) -> list[Expiry]:
    """Both in one list, the app's users beside each, as they are read."""
    users = [ROW, replace(ROW, mailbox="noc@contoso.example")]
    return expiries(
        [
            replace(row, number=number, **changes)
            for number, changes in enumerate((old, new), 1)
            for row in users
        ],
        NOW,
    )


def test_a_credential_that_a_newer_one_has_followed_is_quiet() -> None:
    """Nobody needs it, whenever it ends; grants are told once all the same."""
    ends = NOW + timedelta(hours=1)
    found = _two(
        {"worked_at": NOW, "credential_expires_at": ends},
        {"worked_at": NOW, "credential_expires_at": NOW + 300 * DAY},
    )
    old, new = (next(one for one in found if one.credential == number) for number in (1, 2))

    assert [one.kind.value for one in found].count("grant") == 2
    assert (old.level, old.mailboxes, old.state) == ("later", (), "standby")
    assert old.command == "alertpost apps retire main 1"
    assert not old.is_due(NOW, within=30 * DAY)
    assert len(new.mailboxes) == 2


@pytest.mark.parametrize("new", [{}, {"refused_rule": "secret-wrong", "refused_answer": "AADSTS7"}])
def test_what_works_is_needed_until_the_newer_one_works(new: dict[str, Any]) -> None:
    """A new one that was not tried, or is refused, makes the end of the old one no less alarming."""
    found = _two({"worked_at": NOW}, new | {"credential_expires_at": NOW + 300 * DAY})
    old, other = (next(one for one in found if one.credential == number) for number in (1, 2))

    assert (old.level, len(old.mailboxes)) == ("14d", 2)
    assert old.is_due(NOW, within=30 * DAY)
    assert ("AADSTS7" in old.note) is bool(new)
    assert ("apps credentials main --check" in old.command) is bool(new)
    assert (other.level, other.mailboxes) == ("later", ())


def test_an_app_without_a_credential_has_nothing_that_ends() -> None:
    """Somebody took it away by force; its mailboxes are parked, which says so."""
    none = replace(ROW, number=None, credential_expires_at=None)

    assert [one.kind.value for one in expiries([none], NOW)] == ["grant"]


# -- grants ---------------------------------------------------------------------------------------


def test_a_grant_ends_ninety_days_after_its_last_use() -> None:
    """One mail makes it last, and that is what is asked for."""
    grant = _grant(ROW)

    assert grant.ends_at == NOW + 10 * DAY
    assert (grant.name, grant.level) == ("alerts@contoso.example", "14d")
    assert grant.mailboxes == ("alerts@contoso.example",)
    assert grant.command == (
        "alertpost mailboxes test alerts@contoso.example --to alerts@contoso.example"
    )


def test_a_grant_that_gets_old_says_why_that_is_odd() -> None:
    """Workers refresh it about weekly, so something is wrong; one in use asks for nothing."""
    old = _grant(ROW)
    used = _grant(replace(ROW, grant_used_at=NOW - 8 * DAY))

    for words in ("ALERTPOST_LEASE__KEEP_WARM_DAYS", "no worker runs", "Entra refuses"):
        assert words in old.next_step
    assert used.level is Level.LATER
    assert used.next_step.startswith("Nothing to do")


def test_an_ended_grant_needs_a_sign_in() -> None:
    """No mail can make it last any more."""
    ended = _grant(replace(ROW, grant_used_at=NOW - GRANT_IDLE))

    assert ended.level == "ended"
    assert ended.command == "alertpost mailboxes connect alerts@contoso.example"


@pytest.mark.parametrize("kind", [None, "app_only"])
def test_without_a_sign_in_there_is_no_grant_that_ends(kind: str | None) -> None:
    """The app's own permission lasts as long as its credential."""
    [only] = expiries([replace(ROW, grant_kind=kind)], NOW)

    assert only.kind is Kind.CLIENT_SECRET


def test_the_first_to_end_comes_first() -> None:
    """What nobody knows the end of comes last."""
    rows = [
        replace(ROW, app="a", credential_expires_at=None, grant_used_at=NOW - 85 * DAY),
        replace(ROW, app="b", mailbox="b@contoso.example", grant_used_at=NOW),
    ]

    names = [(one.kind.value, one.name) for one in expiries(rows, NOW)]
    assert names == [
        ("grant", "alerts@contoso.example"),
        ("client secret", "b"),
        ("grant", "b@contoso.example"),
        ("client secret", "a"),
    ]


# -- the query ------------------------------------------------------------------------------------


def test_rows_come_from_one_query_and_tell_no_secret(engine: Engine) -> None:
    """Everything about apps, tenants, mailboxes and grants, but nothing that is sealed."""
    certificate = directory.Credential.certificate(
        certificate_pem=CERTIFICATE.pem, private_key_pem=CERTIFICATE.key_pem
    )
    with write(engine) as conn:
        directory.add_app(
            conn, VAULT, name="idle", client_id="22222222-2222-4333-8444-555555555555",
            credential=certificate,
        )  # fmt: skip
        directory.add_app(
            conn, VAULT, name="main", client_id="11111111-2222-4333-8444-555555555555",
            credential=directory.Credential.secret("hunter2", expires_at=NOW),
        )  # fmt: skip
        for slug in ("contoso", "fabrikam"):
            add_contoso(conn, slug=slug)
            directory.add_mailbox(conn, tenant_slug=slug, address=f"alerts@{slug}.example")
        directory.add_mailbox(conn, tenant_slug="contoso", address="gone@contoso.example")
        directory.remove_mailbox(conn, "gone@contoso.example")
        connect(conn, "alerts@contoso.example")
        given_at = conn.execute(GRANT.select()).one().granted_at
    statements: list[str] = []
    with read(engine) as conn:
        event.listen(conn, "before_cursor_execute", lambda *a: statements.append(a[2]))
        rows = credential_rows(conn)

    assert len(statements) == 1
    assert [row.app for row in rows] == ["idle", "main", "main"]
    idle, contoso, fabrikam = rows
    assert (idle.has_certificate, idle.tenant, idle.mailbox) == (True, None, None)
    assert idle.credential_expires_at == CERTIFICATE.ends
    assert contoso == CredentialRow(
        "main", False, NOW, "contoso", "alerts@contoso.example", "delegated", given_at,
        contoso.credential_id, 1, contoso.added_at,
    )  # fmt: skip
    assert (fabrikam.mailbox, fabrikam.grant_kind) == ("alerts@fabrikam.example", None)
    told = repr([asdict(one) for one in expiries(rows, NOW)])
    assert "hunter2" not in told
    assert "PRIVATE" not in told


def test_the_last_refresh_counts(engine: Engine) -> None:
    """A grant that was used lasts from then on, not from when it was given."""
    used_at = NOW - 3 * DAY
    with write(engine) as conn:
        add_contoso(conn)
        directory.add_mailbox(conn, tenant_slug="contoso", address="alerts@contoso.example")
        stored = connect(conn, "alerts@contoso.example")
        conn.execute(update(GRANT).values(granted_at=NOW - 300 * DAY))
        assert directory.update_grant(
            conn, grant_id=stored.id, expected_version=stored.version, cache_encrypted=b"sealed"
        )
        refreshed_at = conn.execute(GRANT.select()).one().refreshed_at
        assert credential_rows(conn)[0].grant_used_at == refreshed_at
        conn.execute(update(GRANT).values(refreshed_at=used_at))
        conn.execute(update(CREDENTIAL).values(expires_at=None))
    with read(engine) as conn:
        grant, secret = expiries(credential_rows(conn), NOW)

    assert grant.ends_at == used_at + GRANT_IDLE
    assert secret.level is Level.UNKNOWN


# -- refused --------------------------------------------------------------------------------------


def _refused(row: CredentialRow) -> CredentialRow:
    return replace(
        row,
        worked_at=NOW - 9 * DAY,
        refused_at=NOW - DAY,
        refused_rule="secret-expired",
        refused_answer="AADSTS7000222 trace",
    )


@pytest.mark.parametrize("ends_at", [None, NOW + 365 * DAY, NOW + 4 * DAY])
def test_a_refused_credential_needs_a_person_whatever_its_date(ends_at: datetime | None) -> None:
    """No other one works, so nothing is sent soon; it comes first, and says who refused it."""
    one = expiries([_refused(replace(ROW, credential_expires_at=ends_at))], NOW)[0]

    assert one.kind is Kind.CLIENT_SECRET
    assert one.is_due(NOW, within=timedelta(0))
    assert (one.level, one.refused) == (Level.REFUSED, "AADSTS7000222")
    assert one.command.startswith("alertpost apps secret main --client-secret-file FILE")


def test_a_refused_credential_beside_one_that_works_alarms_nobody() -> None:
    """Mailboxes go by the other one."""
    works = replace(ROW, credential_expires_at=NOW + 365 * DAY, worked_at=NOW - DAY)
    newer = replace(_refused(works), number=2)

    found = [one for one in expiries([works, newer], NOW) if one.kind is not Kind.GRANT]

    assert not [one for one in found if one.refused or one.is_due(NOW, within=30 * DAY)]


@pytest.mark.parametrize(
    ("left", "days"),
    [
        (timedelta(seconds=1), 1),
        (DAY, 1),
        (2 * DAY + timedelta(hours=3, minutes=13), 3),
        (7 * DAY, 7),
        (timedelta(0), 0),
        (-timedelta(seconds=1), -1),
        (-2 * DAY, -2),
    ],
)
def test_days_are_counted_one_way(left: timedelta, days: int) -> None:
    """A day that has begun counts whole, in every list, line and mail."""
    assert days_left(left) == days
    assert _secret(replace(ROW, credential_expires_at=NOW + left)).days == days
