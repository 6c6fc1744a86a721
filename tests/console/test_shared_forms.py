"""Shared mailboxes: both ways to sign in are tried, and the one that worked is kept."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from console import verbs_mailboxes
from console.commands.moving import tell_forms
from console.context import opened
from console.shared_forms import Tried, choose
from models import audit, grants, lane, mailboxes
from models.auth_forms import AuthForm
from models.database import read, write
from tests.console.cli_setting import ALERTS, CALLBACK, Cli, Ran

ADMIN = "admin@contoso.example"
OPS = "ops@contoso.example"
MAILBOX, DELEGATE = AuthForm.MAILBOX, AuthForm.DELEGATE


@pytest.fixture
def shared(cli: Cli, engine: Engine) -> Cli:
    """A shared mailbox for which another account is to consent, on either database."""
    url = engine.url.render_as_string(hide_password=False)
    cli.monkeypatch.setenv("ALERTPOST_DATABASE_URL", url)
    assert cli.add_tenant().code == 0
    assert cli("mailboxes", "add", "contoso", ALERTS, "--auth-user", ADMIN).code == 0
    return cli


def connect(cli: Cli) -> str:
    """Do what ``mailboxes connect`` does, without the loopback callback; give what it tells."""
    cli.capsys.readouterr()
    with opened() as context:
        who = verbs_mailboxes.account(context, ALERTS, kind=grants.DELEGATED)
        client = verbs_mailboxes.entra(context, who.sender)
        flow = verbs_mailboxes.begin(client, who, redirect_uri=CALLBACK)
        callback = cli.person(ADMIN).go_through(flow["auth_uri"])
        verbs_mailboxes.complete(
            context, client, who, flow=flow, callback=callback, actor="cli:alice"
        )
        tell_forms(context, ALERTS, actor="cli:alice")
    return str(cli.capsys.readouterr().out)


def kept(cli: Cli) -> object:
    return cli("mailboxes", "show", ALERTS, "--json").json["auth_form"]


def form_check(ran: Ran) -> dict[str, str]:
    return next(one for one in ran.json if one["check"] == "auth_form")


def full_access(cli: Cli) -> None:
    cli.sandbox.world.mailboxes.get(ALERTS).full_access.add(ADMIN)


def send_as(cli: Cli) -> None:
    cli.sandbox.world.mailboxes.get(ADMIN).send_as.add(ALERTS)


def test_full_access_signs_in_as_the_mailbox(shared: Cli) -> None:
    """Where Exchange takes the delegate's token for the mailbox, that way is kept and sends."""
    full_access(shared)

    out = connect(shared)

    assert f"It signs in as {ALERTS}, with the token of {ADMIN}" in out
    assert kept(shared) == "mailbox"
    assert f"{ADMIN}, signing in as {ALERTS}" in shared("mailboxes", "show", ALERTS).out
    assert shared("mailboxes", "test", ALERTS, "--to", OPS).code == 0
    assert len(shared.sandbox.world.mailboxes.outbox(ALERTS).mails) == 1
    with opened() as context, read(context.engine) as conn:
        entries = [row.entry for row in audit.entries(conn, subject=ALERTS)]
    (entry,) = [entry for entry in entries if entry.action == "mailbox-auth-form"]
    assert (entry.actor, entry.detail["auth_form"]) == ("cli:alice", "mailbox")


def test_connecting_tries_both_ways(cli: Cli) -> None:
    """The command itself does so, and says what came of it."""
    assert cli.add_tenant().code == 0
    assert cli("mailboxes", "add", "contoso", ALERTS, "--auth-user", ADMIN).code == 0
    full_access(cli)

    with cli.process("mailboxes", "connect", ALERTS) as process:
        cli.sign_in(process, cli.person(ADMIN))
        out, err = process.communicate(timeout=40)

    assert process.returncode == 0, err
    assert f"It signs in as {ALERTS}, with the token of {ADMIN}" in out


def test_send_as_signs_in_as_the_delegate(shared: Cli) -> None:
    """Where it does not, the delegate's own name is kept, and a mail proves Send As."""
    send_as(shared)

    out = connect(shared)

    assert f"It signs in as {ADMIN}" in out
    assert f"`alertpost doctor {ALERTS} --to ADDRESS`" in out
    assert kept(shared) == "delegate"
    assert not shared.sandbox.world.mailboxes.outbox(ADMIN).mails
    assert shared("mailboxes", "test", ALERTS, "--to", OPS).code == 0
    (mail,) = shared.sandbox.world.mailboxes.outbox(ADMIN).mails
    assert mail.sender == ALERTS


def test_the_doctor_tries_both_ways(shared: Cli) -> None:
    """What was given since is found; a way that works is not left for another."""
    connect(shared)
    assert kept(shared) == "delegate"
    full_access(shared)

    stays = form_check(shared("doctor", ALERTS, "--json"))
    with opened() as context, write(context.engine) as conn:
        box = mailboxes.mailbox(conn, ALERTS)
        lane.park(
            conn, mailbox_id=box.id, scope="mailbox", reason="send-as-denied", meaning="It waits.",
            next_step="Do something.", answer="a", probe_after_seconds=None,
        )  # fmt: skip
    changes = form_check(shared("doctor", ALERTS, "--json"))

    assert stays["result"] == "ok"
    assert f"Signing in as {ADMIN} is kept" in stays["meaning"]
    assert (
        f"Signing in as {ALERTS} with the token of {ADMIN} is kept from now on"
        in (changes["meaning"])
    )
    assert f"alertpost mailboxes resume {ALERTS}" in changes["meaning"]
    assert kept(shared) == "mailbox"


def test_a_right_that_was_taken_away_shows(shared: Cli) -> None:
    """Without Full Access the doctor goes back to the delegate's own name."""
    full_access(shared)
    connect(shared)
    shared.sandbox.world.mailboxes.get(ALERTS).full_access.clear()

    ran = shared("doctor", ALERTS, "--json")

    assert kept(shared) == "delegate"
    assert next(one for one in ran.json if one["check"] == "smtp_auth")["result"] == "ok"
    sender = next(one for one in ran.json if one["check"] == "sender")
    assert sender["result"] == "warning"


def test_neither_way_open_says_which_rights(shared: Cli) -> None:
    """Both commands are named, ready to be run."""
    connect(shared)
    shared.sandbox.world.mailboxes.get(ADMIN).smtp_auth = False

    ran = shared("doctor", ALERTS, "--json")

    found = form_check(ran)
    assert ran.code == 1
    assert found["result"] == "failed"
    assert (
        f"Add-MailboxPermission '{ALERTS}' -User '{ADMIN}' -AccessRights FullAccess"
        in (found["mend"])
    )
    assert f"Add-RecipientPermission '{ALERTS}' -Trustee '{ADMIN}'" in found["mend"]


def test_another_account_begins_anew(shared: Cli) -> None:
    """What worked for one account is forgotten when another one authenticates."""
    full_access(shared)
    connect(shared)

    assert shared("mailboxes", "edit", ALERTS, "--auth-user", OPS).code == 0

    assert kept(shared) is None


def _tried(delegate: bool | None, mailbox: bool | None) -> list[Tried]:
    return [Tried(DELEGATE, "", delegate, ""), Tried(MAILBOX, "", mailbox, "")]


@pytest.mark.parametrize(
    ("worked", "stored", "first", "denied", "chosen"),
    [
        ((True, True), None, MAILBOX, False, MAILBOX),
        ((True, True), None, DELEGATE, False, DELEGATE),
        ((True, True), DELEGATE, MAILBOX, False, DELEGATE),
        ((True, True), DELEGATE, MAILBOX, True, MAILBOX),
        ((True, True), MAILBOX, DELEGATE, False, MAILBOX),
        ((True, False), MAILBOX, MAILBOX, False, DELEGATE),
        ((True, False), DELEGATE, MAILBOX, True, DELEGATE),
        ((False, True), DELEGATE, DELEGATE, False, MAILBOX),
        ((False, False), DELEGATE, MAILBOX, False, None),
        ((True, None), None, MAILBOX, False, None),
        ((None, True), DELEGATE, MAILBOX, True, None),
    ],
)
def test_the_way_is_chosen(
    worked: tuple[bool | None, bool | None],
    stored: AuthForm | None,
    first: AuthForm,
    denied: bool,
    chosen: AuthForm | None,
) -> None:
    """What is kept stays while it works; a missing answer decides nothing."""
    assert choose(_tried(*worked), stored=stored, first=first, send_as_denied=denied) is chosen
