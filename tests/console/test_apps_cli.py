"""``alertpost apps``: credentials side by side, certificates made here, PFX files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from sqlalchemy import update

from console.context import opened
from models import audit, lane, mailboxes
from models.credential import Credential
from models.database import read, write
from models.lookups import CREDENTIAL
from sandbox.apps import AppCertificate, AppRegistration
from tests.console.cli_setting import ALERTS, Cli
from tests.console.pasted import quoted
from tests.models.directory_parts import CERTIFICATE
from tests.models.test_credential import pfx

GUID = "11111111-2222-3333-4444-555555555555"
DAY = timedelta(days=1)


def entra_app(cli: Cli) -> AppRegistration:
    return next(iter(cli.sandbox.world.apps.values()))


def new_secret(cli: Cli) -> str:
    app = entra_app(cli)
    value = app.add_secret(ends_at=cli.sandbox.world.clock() + 86400 * 100).value
    return cli.secret_file(value)


def trail(subject: str = "contoso") -> list[audit.Entry]:
    with opened() as context, read(context.engine) as conn:
        return [one.entry for one in audit.entries(conn, subject_kind="app", subject=subject)]


def test_a_secret_is_rotated_by_commands(cli: Cli) -> None:
    """Beside, checked, retired: each step says what is so and what comes next."""
    cli.connected()
    old = entra_app(cli).client_secrets[0].value

    added = cli("apps", "secret", "contoso", "--client-secret-file", new_secret(cli), "--no-check")
    assert added.code == 0, added.err
    assert "new credential, 2" in added.out
    assert "where Entra refuses it, 1 is used" in added.out
    refused = cli("apps", "retire", "contoso", "1")
    assert refused.code == 4
    assert "--force" in refused.err
    checked = cli("apps", "credentials", "contoso", "--check")
    assert checked.code == 0, checked.err
    assert "secret 1 works" in checked.out
    assert "secret 2 works" in checked.out
    assert "apps retire contoso 1" in checked.out
    first, second = cli("apps", "credentials", "contoso", "--json").json
    assert (first["state"], second["state"]) == ("standby", "in use")
    assert first["hint"] == old[:3]
    retired = cli("apps", "retire", "contoso", "1", "--as", "alice")
    assert "delete it in Entra" in retired.out

    (left,) = cli("apps", "credentials", "contoso", "--json").json
    assert (left["number"], left["state"]) == (2, "in use")
    everything = "".join(ran.out + ran.err for ran in (added, refused, checked, retired))
    assert old not in everything
    assert entra_app(cli).client_secrets[1].value not in everything
    latest = trail()[0]
    assert (latest.actor, latest.action, latest.detail["credential"]) == (
        "cli:alice",
        "app-retire",
        1,
    )


def test_a_wrong_new_secret_is_shown_everywhere(cli: Cli) -> None:
    """In the app's lines, among what ends, and by the doctor; mails go out all the same."""
    cli.connected()
    assert cli("apps", "credentials", "contoso", "--check").code == 0
    ends = datetime.now(UTC) + 20 * DAY
    with opened() as context, write(context.engine) as conn:
        conn.execute(update(CREDENTIAL).values(expires_at=ends))
    wrong = cli.secret_file("wrong~secret")
    sentence = (
        "new secret 2 is refused by Entra (AADSTS7000215): the old one, secret 1, which ends on "
        f"{ends:%Y-%m-%d}, is used"
    )

    assert cli("tenants", "edit", "contoso", "--client-secret-file", wrong).code == 0
    doctor = cli("doctor", ALERTS, "--json")
    (credential,) = [each for each in doctor.json if each["check"] == "credential"]

    broken = [each for each in doctor.json if each["result"] == "failed"]
    assert {each["subject"] for each in broken} <= {"here"}
    assert credential["result"] == "warning"
    assert sentence in credential["seen"]
    assert "apps retire contoso 2" in credential["mend"]
    assert sentence in cli("apps", "show", "contoso").out
    shown = cli("apps", "credentials", "contoso").out
    assert sentence in shown
    assert "secret-wrong" in shown
    # One of two is refused: whoever asks by a script learns it, though mails still go out.
    assert cli("apps", "credentials", "contoso", "--check").code == 1
    ahead = cli("expiries")
    assert ahead.code == 7
    assert sentence in ahead.out
    assert "client secret 1 of contoso" in ahead.out
    assert "wrong~secret" not in shown + ahead.out + doctor.out


@pytest.mark.parametrize("command", [("apps", "secret"), ("tenants", "edit")])
def test_a_new_credential_is_shown_to_entra_at_once(cli: Cli, command: tuple[str, str]) -> None:
    """Where it takes none of them nothing resumes, and the exit code says so."""
    cli.connected()
    entra_app(cli).client_secrets.clear()
    with opened() as context, write(context.engine) as conn:
        lane.park(
            conn, mailbox_id=mailboxes.mailbox(conn, ALERTS).id, scope="app", reason="secret-wrong",
            meaning="m", next_step="n", answer="a", probe_after_seconds=None,
        )  # fmt: skip
    wrong = cli.secret_file("wrong~secret")

    told = cli(*command, "contoso", "--client-secret-file", wrong, "--replace")

    assert told.code == 1, told.err
    assert "secret 2 is refused" in told.out
    assert "Resumed" not in told.out
    assert cli("mailboxes", "show", ALERTS, "--json").json["parked_at"] is not None
    again = cli(*command, "contoso", "--client-secret-file", new_secret(cli), "--replace")
    assert again.code == 0, again.err
    assert "secret 3 works" in again.out
    assert f"Mailbox: {ALERTS}." in again.out


@pytest.mark.parametrize("command", [("apps", "secret"), ("tenants", "edit")])
def test_nobody_is_asked_where_that_is_not_wanted(cli: Cli, command: tuple[str, str]) -> None:
    """--no-check leaves Entra alone, and what waits goes on."""
    cli.connected()

    told = cli(
        *command, "contoso", "--client-secret-file", cli.secret_file("wrong~one"), "--no-check"
    )

    assert told.code == 0, told.err
    assert "Asked" not in told.out
    assert "--check` asks at once" in told.out
    assert cli("apps", "credentials", "contoso", "--json").json[1]["state"] == "not tried yet"


def test_what_entra_refuses_is_green_nowhere(cli: Cli) -> None:
    """Its date is a year ahead; that Entra takes it no more is said in every list."""
    cli.connected()
    with opened() as context, write(context.engine) as conn:
        conn.execute(update(CREDENTIAL).values(expires_at=datetime.now(UTC) + 365 * DAY))
    entra_app(cli).client_secrets.clear()
    assert cli("apps", "credentials", "contoso", "--check").code == 1

    status, ends = cli("status"), cli("expiries", "--within", "60")
    lists = [cli("apps", "show", "contoso"), cli("apps", "list"), cli("tenants", "show", "contoso")]

    assert (status.code, ends.code) == (7, 7)
    assert "All is well" not in status.out
    for ran in (status, ends):
        assert "client secret of contoso is refused by Entra (AADSTS7000215)" in ran.out
        assert "alertpost apps secret contoso --client-secret-file FILE" in ran.out
    for ran in lists:
        assert "refused by Entra (AADSTS7000215)" in " ".join(ran.out.split())
    assert cli("doctor", ALERTS).code == 1


def test_the_doctor_asks_before_it_says_well(cli: Cli) -> None:
    """Nobody asked Entra since the secret was removed there; the doctor does."""
    cli.connected()
    assert cli("apps", "credentials", "contoso", "--check").code == 0
    entra_app(cli).client_secrets.clear()

    ran = cli("doctor", ALERTS, "--json")

    (credential,) = [each for each in ran.json if each["check"] == "credential"]
    assert ran.code == 1
    assert credential["result"] == "failed"
    given = [
        one for each in ran.json for one in quoted(each["mend"] or "") if "-secret-file" in one
    ]
    assert set(given) == {
        "alertpost apps secret contoso --client-secret-file FILE --secret-expires DATE --replace"
    }


def test_two_are_the_most(cli: Cli) -> None:
    """Who gives a third one is told how to make room, and --replace makes it."""
    cli.add_tenant()
    cli("apps", "secret", "contoso", "--client-secret-file", cli.secret_file("second~one"))
    third = cli.secret_file("third~one")

    full = cli("tenants", "edit", "contoso", "--client-secret-file", third)
    assert full.code == 4
    assert "apps retire contoso 1" in full.err
    assert "--replace" in full.err
    replaced = cli("tenants", "edit", "contoso", "--client-secret-file", third, "--replace")
    assert replaced.code == 0, replaced.err
    assert "took the place of 1, 2" in replaced.out
    assert [one["number"] for one in cli("apps", "credentials", "contoso", "--json").json] == [3]


def test_neither_works_and_a_good_one_resumes(cli: Cli) -> None:
    """--check says so with its exit code; what waited goes on when one works again."""
    cli.connected()
    right = entra_app(cli).client_secrets[0]
    entra_app(cli).client_secrets.clear()
    cli("apps", "secret", "contoso", "--client-secret-file", cli.secret_file("wrong~secret"))
    with opened() as context, write(context.engine) as conn:
        lane.park(
            conn, mailbox_id=mailboxes.mailbox(conn, ALERTS).id, scope="app", reason="secret-wrong",
            meaning="m", next_step="n", answer="a", probe_after_seconds=None,
        )  # fmt: skip

    none = cli("apps", "credentials", "contoso", "--check")
    assert none.code == 1
    assert none.out.count("is refused") >= 2
    (credential,) = [
        each for each in cli("doctor", ALERTS, "--json").json if each["check"] == "credential"
    ]
    assert credential["result"] == "failed"
    entra_app(cli).client_secrets.append(right)
    again = cli("apps", "credentials", "contoso", "--check")

    # The wrong one is still there beside it.
    assert again.code == 1
    assert f"whether the cause is gone. Mailbox: {ALERTS}." in again.out
    assert trail()[0].action == "app-check"


def test_a_certificate_is_made_uploaded_and_used(cli: Cli) -> None:
    """Only its public part comes out; until the upload the secret works."""
    cli.connected()
    file = cli.folder / "contoso.cer"

    made = cli("apps", "certificate", "contoso", "--days", "90", "--out", str(file))

    assert made.code == 0, made.err
    assert "Certificates & secrets" in made.out
    assert cli.client_id in made.out
    pem = file.read_text()
    assert "PRIVATE" not in pem + made.out
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert certificate.not_valid_after_utc - datetime.now(UTC) < 90 * DAY
    again = cli("apps", "certificate", "contoso", "--show")
    assert pem.strip() in again.out
    assert len(cli("apps", "credentials", "contoso", "--json").json) == 2
    before = cli("apps", "credentials", "contoso", "--check")
    assert before.code == 1
    assert "certificate 2 is refused" in before.out
    assert "--show" in before.out
    entra_app(cli).certificates.append(AppCertificate.from_pem(pem))
    after = cli("apps", "credentials", "contoso", "--check")
    assert after.code == 0
    assert "certificate 2 works" in after.out
    thumbprint = cli("apps", "credentials", "contoso", "--json").json[1]["thumbprint"]
    assert thumbprint.lower() in next(iter(entra_app(cli).certificates)).names
    assert [one.action for one in trail()] == ["app-certificate"]
    taken = cli("apps", "certificate", "contoso", "--out", str(file))
    assert taken.code == 2
    assert "exists already" in taken.err
    assert len(cli("apps", "credentials", "contoso", "--json").json) == 2


def test_a_new_registration_may_begin_with_a_certificate_made_here(cli: Cli) -> None:
    """The certificate is printed, to be uploaded before the first consent."""
    tenant = cli(
        "tenants", "add", "contoso", "--directory-id", GUID, "--client-id", GUID,
        "--generate-certificate",
    )  # fmt: skip
    app = cli("apps", "add", "msp", "--client-id", GUID, "--generate-certificate")
    both = cli(
        "apps", "add", "two", "--client-id", GUID, "--generate-certificate",
        "--client-secret-file", cli.secret_file(),
    )  # fmt: skip

    for ran, name in ((tenant, "contoso"), (app, "msp")):
        assert ran.code == 0, ran.err
        assert "-----BEGIN CERTIFICATE-----" in ran.out
        assert "PRIVATE" not in ran.out
        assert cli("apps", "show", name, "--json").json["has_certificate"]
    assert both.code == 2
    assert cli("apps", "certificate", "nobody", "--show").code == 3
    assert cli("apps", "credentials", "msp", "--check").code == 4


def test_a_pfx_file_is_taken_wherever_a_certificate_is(cli: Cli) -> None:
    """With its password from a file; the key is stored sealed, the certificate is shown."""
    file, password = cli.folder / "app.pfx", cli.folder / "password.txt"
    file.write_bytes(pfx(CERTIFICATE, first=CERTIFICATE))
    password.write_text(" pass word \n")
    given = ("--pfx-file", str(file), "--pfx-password-file", str(password))

    ran = [
        cli("tenants", "add", "contoso", "--directory-id", GUID, "--client-id", GUID, *given),
        cli("apps", "add", "msp", "--client-id", GUID, *given),
        cli("apps", "secret", "msp", *given),
        cli("tenants", "edit", "contoso", *given),
    ]

    assert [each.code for each in ran] == [0, 0, 0, 0], [each.err for each in ran]
    assert "has this credential already" in ran[2].out
    for name in ("contoso", "msp"):
        (one,) = cli("apps", "credentials", name, "--json").json
        assert one["kind"] == "certificate"
        assert one["expires_at"] == f"{CERTIFICATE.ends:%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--pfx-file", "app.pfx"], "--pfx-password-file"),
        (["--pfx-file", "app.pfx", "--pfx-password-file", "wrong.txt"], "password is wrong"),
        (["--pfx-file", "absent.pfx"], "absent.pfx"),
        (["--pfx-password-file", "wrong.txt"], "goes with --pfx-file"),
        (["--pfx-file", "app.pfx", "--client-secret-file", "wrong.txt"], "not both"),
        (["--pfx-file", "app.pfx", "--secret-expires", "2031-01-01"], "says itself"),
        (["--pfx-file", "wrong.txt"], "it is none"),
    ],
)
def test_a_pfx_file_that_does_not_do_says_why(cli: Cli, options: list[str], says: str) -> None:
    """One sentence, and nothing of the password in it."""
    Path("app.pfx").write_bytes(pfx(CERTIFICATE, first=CERTIFICATE))
    Path("wrong.txt").write_text("Wr0ng\n")

    ran = cli("apps", "add", "msp", "--client-id", GUID, *options)

    assert ran.code == 2
    assert says in ran.err
    assert "Wr0ng" not in ran.err
    assert cli("apps", "list", "--json").json == []


def test_keys_that_are_unknown_leave_the_list_readable(cli: Cli) -> None:
    """Without the key there are no hints, but what stands is shown."""
    cli.add_tenant()
    with opened() as context, write(context.engine) as conn:
        conn.execute(update(CREDENTIAL).values(client_secret_encrypted=b"\x01" + bytes(80)))

    shown = cli("apps", "credentials", "contoso")

    assert shown.code == 0
    assert "???" in shown.out


def test_replace_alone_is_nothing_to_do(cli: Cli) -> None:
    """The option says how a credential is given, so there has to be one."""
    cli.add_tenant()

    ran = cli("tenants", "edit", "contoso", "--replace", "--name", "x")

    assert ran.code == 2
    assert "goes with" in ran.err


def test_a_credential_never_shows_itself() -> None:
    """Neither secret nor key stands in what might be logged."""
    made = Credential.generated("x", days=1)

    assert "BEGIN" not in repr(made)
    assert "hunter2" not in repr(Credential.secret("hunter2"))
