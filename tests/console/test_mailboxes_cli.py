"""``alertpost mailboxes`` against the sandbox: consents, the test dialogue, parking."""

from __future__ import annotations

import signal
from dataclasses import replace
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests

from console.consent import CALLBACK_PATH, Redirect, pasted_parameters
from console.context import opened
from models import audit, host_holds, lane, mailboxes
from models.database import read, write
from models.errors import ConfigurationError
from models.redis_keys import RedisKeys
from sandbox.faults import PRESETS, Answer, Fault
from tests.console.cli_setting import ALERTS, Cli
from tests.models.passing_time import pass_time

SHARED = "shared@contoso.example"
ADMIN = "admin@contoso.example"
OPS = "ops@contoso.example"


def prepared(cli: Cli) -> None:
    assert cli.add_tenant().code == 0
    assert cli("mailboxes", "add", "contoso", ALERTS).code == 0


def shown(cli: Cli, address: str = ALERTS) -> dict[str, object]:
    return cli("mailboxes", "show", address, "--json").json


def park(reason: str, scope: lane.Scope = "mailbox", address: str = ALERTS) -> None:
    with opened() as context, write(context.engine) as conn:
        box = mailboxes.mailbox(conn, address)
        lane.park(
            conn, mailbox_id=box.id, scope=scope, reason=reason, meaning="It waits.",
            next_step="Do something.", answer="a", probe_after_seconds=None,
        )  # fmt: skip


def test_a_mailbox_is_connected_by_the_callback(cli: Cli) -> None:
    """The printed address leads to a consent, the callback to a stored grant and a page."""
    prepared(cli)
    park("grant-refused")

    with cli.process("mailboxes", "connect", ALERTS, "--as", "alice") as process:
        page = cli.sign_in(process)
        out, err = process.communicate(timeout=20)

    assert process.returncode == 0, err
    assert page.status_code == 200
    assert ALERTS in page.text
    assert page.headers["Cache-Control"] == "no-store"
    assert f"connected, by {ALERTS}" in out
    assert f"Resumed; the next mail shows whether the cause is gone. Mailbox: {ALERTS}." in out
    box = shown(cli)
    assert (box["standing"], box["grant_kind"], box["account"]) == ("ready", "delegated", ALERTS)
    with opened() as context, read(context.engine) as conn:
        entry = audit.entries(conn, subject=ALERTS)[0].entry
    assert (entry.actor, entry.action) == ("cli:alice", "mailbox-connect")


@pytest.mark.parametrize(
    ("person", "decision", "says"),
    [(ADMIN, "accept", "sign in as"), (ALERTS, "cancel", "declined")],
    ids=["wrong account", "declined"],
)
def test_a_consent_that_is_none_is_explained(
    cli: Cli, person: str, decision: str, says: str
) -> None:
    """The person at the browser and the one at the terminal read the same plain reason."""
    prepared(cli)

    with cli.process("mailboxes", "connect", ALERTS) as process:
        page = cli.sign_in(process, cli.person(person, decision=decision))
        _, err = process.communicate(timeout=20)

    assert process.returncode == 6
    assert page.status_code == 403
    assert says in page.text
    assert says in err
    assert "Traceback" not in err
    assert shown(cli)["standing"] == "not connected"


def test_a_wrong_secret_is_explained(cli: Cli) -> None:
    """A secret that Entra refuses shows when the callback is redeemed."""
    prepared(cli)
    wrong = cli.secret_file("wrong~secret")
    cli("tenants", "edit", "contoso", "--client-secret-file", wrong, "--replace")

    with cli.process("mailboxes", "connect", ALERTS) as process:
        cli.sign_in(process)
        _, err = process.communicate(timeout=20)

    assert process.returncode == 6
    assert "secret" in err
    assert "AADSTS7000215" in err
    assert (
        "`alertpost apps secret contoso --client-secret-file FILE --secret-expires DATE --replace`"
        in err
    )
    assert "wrong~secret" not in err


def test_an_unknown_directory_is_explained(cli: Cli) -> None:
    """A directory that the sign-in service does not know is told before anybody signs in."""
    prepared(cli)
    unknown = "11111111-2222-3333-4444-555555555555"
    cli("tenants", "edit", "contoso", "--directory-id", unknown)

    ran = cli("mailboxes", "connect", ALERTS, "--no-browser")

    assert ran.code == 6
    assert unknown in ran.err


def test_an_unreachable_sign_in_service_is_explained(cli: Cli) -> None:
    """Where nothing answers, the text says so and the exit code says to try again."""
    prepared(cli)
    cli("tenants", "edit", "contoso", "--authority", "https://127.0.0.1:1")

    ran = cli("mailboxes", "connect", ALERTS)

    assert ran.code == 5
    assert "cannot be reached" in ran.err


def test_only_the_sign_in_that_is_waited_for_counts(cli: Cli) -> None:
    """Requests without this sign-in's state change nothing, and the wait goes on."""
    prepared(cli)

    with cli.process("mailboxes", "connect", ALERTS) as process:
        address = process.stdout.readline().strip()
        uri = parse_qs(urlsplit(address).query)["redirect_uri"][0]
        base = uri.removesuffix(CALLBACK_PATH)
        with requests.Session() as browser:
            browser.trust_env = False
            assert browser.get(f"{base}/favicon.ico", timeout=5).status_code == 404
            forged = browser.get(uri, params={"state": "x", "code": "y"}, timeout=5)
            assert forged.status_code == 400
            parameters = cli.person().go_through(address)
            assert browser.post(uri, data=parameters, timeout=20).status_code == 200
        _, err = process.communicate(timeout=20)

    assert process.returncode == 0, err


def test_nobody_comes_in_time(cli: Cli) -> None:
    """A sign-in that nobody finishes ends by itself, with a sentence."""
    prepared(cli)

    ran = cli("mailboxes", "connect", ALERTS, "--wait", "1")

    assert ran.code == 5
    assert "nobody finished the sign-in within 1 seconds" in ran.err


def test_an_interrupted_sign_in_changes_nothing(cli: Cli) -> None:
    """Ctrl-C ends the wait at once, without a stack trace."""
    prepared(cli)

    with cli.process("mailboxes", "connect", ALERTS) as process:
        assert process.stdout.readline().startswith("https://")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)

    assert process.returncode == 130
    assert "Traceback" not in err
    assert shown(cli)["standing"] == "not connected"


def test_a_pasted_callback_connects(cli: Cli) -> None:
    """On a machine that no browser reaches, the callback's address is pasted instead."""
    prepared(cli)

    with cli.process("mailboxes", "connect", ALERTS, "--paste") as process:
        address = process.stdout.readline().strip()
        parameters = cli.person().go_through(address)
        pasted = f"http://localhost{CALLBACK_PATH}?{urlencode(parameters)}\n"
        _, err = process.communicate(pasted, timeout=20)

    assert process.returncode == 0, err
    assert shown(cli)["standing"] == "ready"


@pytest.mark.parametrize(
    "text", ["", "https://example.com/", "http://localhost/oauth/callback?code=x"]
)
def test_what_is_no_callback_is_refused(text: str) -> None:
    """A pasted line without code and state is not sent to Entra."""
    with pytest.raises(ConfigurationError, match="address bar"):
        pasted_parameters(text)


@pytest.mark.parametrize(
    ("uri", "port", "pasted", "expected"),
    [
        (None, None, False, (None, CALLBACK_PATH, 0)),
        (None, 8400, False, (None, CALLBACK_PATH, 8400)),
        ("http://localhost:8401/cb", None, False, ("http://localhost:8401/cb", "/cb", 8401)),
        ("https://alerts.example/cb", 8402, False, ("https://alerts.example/cb", "/cb", 8402)),
        ("http://localhost/cb", None, True, ("http://localhost/cb", "/cb", 0)),
    ],
)
def test_the_callback_is_awaited_where_it_arrives(
    uri: str | None, port: int | None, pasted: bool, expected: tuple[str | None, str, int]
) -> None:
    """Without --port a local redirect address says where to listen."""
    assert Redirect.choose(uri, port, pasted=pasted) == Redirect(*expected)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["connect", ALERTS, "--redirect-uri", "http://example.com/cb"], 2, "localhost"),
        (["connect", ALERTS, "--redirect-uri", "https://example.com/cb"], 2, "--port"),
        (["connect", ALERTS, "--redirect-uri", "https://example.com/cb", "--paste"], 2, "--paste"),
        (["connect", ALERTS, "--redirect-uri", "localhost"], 2, "--redirect-uri"),
        (["connect", "alert@contoso.example"], 3, ALERTS),
        (["add", "contoso", ALERTS], 4, "exists already"),
        (["add", "contos", "x@contoso.example"], 3, "'contoso'"),
        (["add", "contoso", "x@outlook.com"], 2, "personal"),
        (["add", "contoso", "x"], 2, "mailbox"),
        (["edit", ALERTS], 2, "nothing to change"),
        (["resume", ALERTS], 4, "not parked"),
        (["test", ALERTS, "--to", OPS], 4, "mailboxes connect"),
        (["test", ALERTS, "--to", "nobody"], 2, "to"),
        (["test", ALERTS], 2, "--to"),
        (["list", "--tenant", "nobody"], 3, "nobody"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_told_in_one_sentence(
    cli: Cli, arguments: list[str], code: int, says: str
) -> None:
    """Wrong input ends with the code of its kind and a text that says what would be right."""
    prepared(cli)

    ran = cli("mailboxes", *arguments)

    assert ran.code == code, ran.err
    assert says in ran.err


def test_a_taken_port_is_told(cli: Cli) -> None:
    """A port that something else has is named, with what to do."""
    prepared(cli)

    ran = cli("mailboxes", "connect", ALERTS, "--port", str(cli.sandbox.smtp_port))

    assert ran.code == 2
    assert "--port" in ran.err


def test_a_mailbox_connects_under_the_apps_own_permission(cli: Cli) -> None:
    """--app-only stores a grant without a person, once Entra has given the app a token."""
    prepared(cli)
    app = next(iter(cli.sandbox.world.apps.values()))
    presence = cli.directory().admit(app.client_id)
    presence.roles |= app.roles
    presence.mailboxes.add(ALERTS)

    ran = cli("mailboxes", "connect", ALERTS, "--app-only")
    assert ran.code == 0, ran.err
    assert shown(cli)["grant_kind"] == "app_only"
    tried = cli("mailboxes", "test", ALERTS, "--to", OPS)
    assert tried.code == 0, tried.out + tried.err


def test_app_only_wants_a_secret_that_works(cli: Cli) -> None:
    """Without a token nothing is stored."""
    prepared(cli)
    cli("tenants", "edit", "contoso", "--client-secret-file", cli.secret_file("wrong~secret"))

    ran = cli("mailboxes", "connect", ALERTS, "--app-only")

    assert ran.code == 6
    assert shown(cli)["standing"] == "not connected"


def test_a_consent_ends_only_what_it_cures(cli: Cli) -> None:
    """A mailbox that waits for another cause stays parked, and the command says for which."""
    prepared(cli)
    park("smtp-auth-disabled-mailbox")

    with cli.process("mailboxes", "connect", ALERTS) as process:
        cli.sign_in(process)
        out, _ = process.communicate(timeout=20)

    assert "still parked (smtp-auth-disabled-mailbox): It waits. Do something." in out
    assert shown(cli)["standing"] == "parked"


def test_the_test_shows_every_step(cli: Cli) -> None:
    """One mail goes out; token, pacing, connection, TLS and each command are told with times."""
    cli.connected()

    ran = cli("mailboxes", "test", ALERTS, "--to", OPS, "--json")

    assert ran.code == 0, ran.out
    told = ran.json
    assert told["accepted"] is True
    stages = [step["stage"] for step in told["steps"]]
    assert stages == [
        "pacing", "token", "connect", "ehlo", "starttls", "ehlo", "auth", "mail", "rcpt", "data",
        "body",
    ]  # fmt: skip
    assert all(step["seconds"] >= 0 for step in told["steps"])
    assert "TLS" in told["steps"][4]["detail"]
    assert "AUTH" in told["steps"][5]["received"]
    assert told["reply"].startswith("250 2.0.0 OK")
    (mail,) = cli.sandbox.world.mailboxes.outbox(ALERTS).mails
    assert mail.recipients == (OPS,)
    text = cli("mailboxes", "test", ALERTS, "--to", OPS)
    assert "not asked" in text.out
    assert "Accepted in" in text.out
    assert "Bearer" not in text.out


def test_a_refresh_of_the_test_is_kept(cli: Cli) -> None:
    """The grant that the test rotated is the one in SQL."""
    cli.connected()
    cli.directory().strict_rotation = True

    for _ in range(2):
        assert cli("mailboxes", "test", ALERTS, "--to", OPS).code == 0


@pytest.mark.parametrize(
    ("trouble", "rule", "step"),
    [
        ("revoked", "tokens-revoked", f"command        alertpost mailboxes connect {ALERTS}"),
        ("switched off", "smtp-auth-disabled-mailbox", "what to do"),
        ("recipient", "recipient", "what to do"),
        ("no route", "connection-refused", "for alerts"),
        ("wrong certificate", "certificate-invalid", "for alerts"),
        ("cut after the dot", "lost-after-dot", "It is not known whether it was sent"),
    ],
)
def test_a_failure_is_explained(cli: Cli, trouble: str, rule: str, step: str) -> None:
    """What went wrong is told with its meaning and what to do, and the exit code is 1."""
    cli.connected()
    world = cli.sandbox.world
    match trouble:
        case "revoked":
            world.grants.revoke(tenant_id=cli.directory().tenant_id)
        case "switched off":
            world.mailboxes.get(ALERTS).smtp_auth = False
        case "recipient":
            world.exchange_faults.add(
                Fault("gone", "rcpt", Answer("550 5.1.10 RESOLVER.ADR.RecipientNotFound"))
            )
        case "cut after the dot":
            world.exchange_faults.add(replace(PRESETS["cut_after_dot_taken"], times=None))
        case "no route":
            cli("tenants", "edit", "contoso", "--smtp-port", "1")
        case _:
            world.exchange_faults.add(PRESETS["wrong_certificate"])

    ran = cli("mailboxes", "test", ALERTS, "--to", OPS)
    told = cli("mailboxes", "test", ALERTS, "--to", OPS, "--json")

    assert ran.code == told.code == 1
    assert "what it means" in ran.out
    # This mail is not tried again; what happens by itself happens to alerts.
    assert step in ran.out
    assert rule in told.json["rule"]
    assert told.json["next_step"]
    assert shown(cli)["standing"] == "ready"


def test_a_parked_mailbox_that_works_may_go_on(cli: Cli) -> None:
    """A mail that goes through disproves a cause; what a person wanted it leaves, but for --resume."""
    cli.connected()
    park("smtp-auth-disabled-mailbox")

    done = cli("mailboxes", "test", ALERTS, "--to", OPS)
    assert f"Sends again: {ALERTS}" in done.out
    assert shown(cli)["standing"] == "ready"

    cli("mailboxes", "park", ALERTS)
    offered = cli("mailboxes", "test", ALERTS, "--to", OPS)
    assert f"parked by hand but works: `alertpost mailboxes resume {ALERTS}`" in offered.out
    assert shown(cli)["standing"] == "parked"

    done = cli("mailboxes", "test", ALERTS, "--to", OPS, "--resume")
    assert f"Sends again: {ALERTS}" in done.out
    assert shown(cli)["standing"] == "ready"


def test_a_mailbox_behind_a_held_host_is_not_called_ready(cli: Cli) -> None:
    """Lists, show and doctor's words say by which server it is held, and until when."""
    cli.connected()
    assert shown(cli)["standing"] == "ready"
    host = cli.sandbox.smtp_host
    with opened() as context, write(context.engine) as conn:
        host_holds.hold(
            conn, smtp_host=host, sends_from="msp-1", rule="address-banned", answer="550 banned",
            pause_seconds=(600.0, 3600.0), probing=False,
        )  # fmt: skip
        [hold] = host_holds.all_holds(conn)

    until = f"{hold.probe_at:%Y-%m-%d %H:%M:%S}Z"
    listed = cli("mailboxes", "list")
    assert f"address-banned at {host}, until {until}" in listed.out
    assert ALERTS in cli("mailboxes", "list", "--standing", "held").out
    assert "No mailbox stands so" in cli("mailboxes", "list", "--standing", "ready").out
    told = cli("mailboxes", "show", ALERTS).out
    assert f"{host}, which refuses msp-1 (address-banned)" in told
    assert until in told
    assert (shown(cli)["standing"], shown(cli)["held_by"]) == ("held", host)


@pytest.fixture
def with_redis(cli: Cli, redis_url: str, redis_keys: RedisKeys) -> Cli:
    cli.monkeypatch.setenv("ALERTPOST_REDIS_URL", redis_url)
    cli.monkeypatch.setenv("ALERTPOST_REDIS_PREFIX", redis_keys.prefix)
    return cli


def test_the_test_stays_within_the_mailboxs_limits(with_redis: Cli) -> None:
    """Tests take permits as mails do: where none is left, none is sent and exit code 5 says when."""
    cli = with_redis
    cli.monkeypatch.setenv("ALERTPOST_PACING__MESSAGES_PER_WINDOW", "3")
    cli.monkeypatch.setenv("ALERTPOST_PACING__CRITICAL_RESERVE", "1")
    cli.connected()

    told = [cli("mailboxes", "test", ALERTS, "--to", OPS) for _ in range(3)]

    assert [ran.code for ran in told] == [0, 0, 5]
    assert "granted" in told[0].out
    assert "used up" in told[2].err
    assert len(cli.sandbox.world.mailboxes.outbox(ALERTS).mails) == 2


def test_the_test_uses_the_workers_token(with_redis: Cli) -> None:
    """The consent's token is shared through Redis: a test needs no further refresh."""
    cli = with_redis
    cli.connected()

    told = cli("mailboxes", "test", ALERTS, "--to", OPS)

    assert "shared by the workers" in told.out
    assert cli.sandbox.world.ledger.refreshes == 0


def test_logs_keep_out_of_the_answer(with_redis: Cli) -> None:
    """Standard output holds the JSON and nothing else, also where a token is refreshed."""
    cli = with_redis
    cli.connected()

    assert cli("mailboxes", "test", ALERTS, "--to", OPS, "--json").json["accepted"] is True


def test_a_stale_token_is_replaced_once(with_redis: Cli) -> None:
    """A token that the server refuses is replaced by a new one, as a worker does it."""
    cli = with_redis
    cli.connected()
    assert cli("mailboxes", "test", ALERTS, "--to", OPS).code == 0
    cli.sandbox.world.exchange_faults.add(
        Fault("stale", "auth", Answer("535 5.7.3 Authentication unsuccessful"), times=1)
    )

    ran = cli("mailboxes", "test", ALERTS, "--to", OPS)

    assert ran.code == 0, ran.out
    assert "shared by the workers" in ran.out
    assert "fetched from Entra just now" in ran.out


def test_a_paused_mailbox_is_left_alone(cli: Cli) -> None:
    """While Exchange asks for patience nothing is sent, also without Redis."""
    cli.connected()
    with opened() as context, write(context.engine) as conn:
        box = mailboxes.mailbox(conn, ALERTS)
        lane.pause(conn, mailbox_ids=[box.id], seconds=60, reason="throttled")

    ran = cli("mailboxes", "test", ALERTS, "--to", OPS)

    assert ran.code == 5
    assert "pauses" in ran.err
    assert "throttled" in cli("mailboxes", "show", ALERTS).out
    assert "continues by itself" in cli("mailboxes", "resume", ALERTS).err


def swept(*, hours: float) -> list[str]:
    """Let time pass, sweep, and return who was resumed."""
    with opened() as context:
        pass_time(context.engine, hours=hours)
        with write(context.engine) as conn:
            return [str(key) for key in lane.sweep(conn).resumed]


def test_a_maintenance_window_of_a_tenant_ends_by_itself(cli: Cli) -> None:
    """All its mailboxes wait; the sweep lets them go on when the time is over, and not before."""
    prepared(cli)
    cli("mailboxes", "add", "contoso", SHARED)
    park("grant-refused", address=SHARED)
    parked = cli("mailboxes", "park", "--tenant", "contoso", "--for", "2h", "--why", "Moving.")
    box = shown(cli)

    assert (parked.code, box["park_reason"], box["park_meaning"]) == (0, "by-hand", "Moving.")
    assert "is parked until 20" in parked.out
    assert f"{SHARED} is parked already (grant-refused)" in parked.err
    assert "sends again" in cli("mailboxes", "show", ALERTS).out
    assert swept(hours=1) == []
    assert cli("mailboxes", "park", ALERTS, "--for", "3h").code == 0
    assert swept(hours=2) == []
    assert swept(hours=2) == [shown(cli)["id"]]
    assert shown(cli)["parked_at"] is None
    assert shown(cli, SHARED)["park_reason"] == "grant-refused"


def test_parking_needs_to_know_which(cli: Cli) -> None:
    """Nothing given does not mean everything."""
    assert cli("mailboxes", "park").code == 2


def test_parking_and_resuming_by_hand(cli: Cli) -> None:
    """A person's park has that person's words, and only a person ends it."""
    prepared(cli)

    parked = cli("mailboxes", "park", ALERTS, "--why", "Domain moves on Friday.")
    assert parked.code == 0
    box = shown(cli)
    assert (box["park_reason"], box["park_meaning"]) == ("by-hand", "Domain moves on Friday.")
    assert cli("mailboxes", "park", ALERTS).code == 4
    assert "by-hand" in cli("mailboxes", "list").out
    assert "answer" not in cli("mailboxes", "show", ALERTS).out
    resumed = cli("mailboxes", "resume", ALERTS)
    assert "Resumed" not in resumed.out
    assert f"not connected: `alertpost mailboxes connect {ALERTS}`" in resumed.out
    assert shown(cli)["parked_at"] is None


def test_resuming_several_asks_first(cli: Cli) -> None:
    """What waits for one cause resumes together, after a question."""
    prepared(cli)
    cli("mailboxes", "add", "contoso", ADMIN)
    park("smtp-auth-disabled-tenant", "tenant")

    refused = cli("mailboxes", "resume", ALERTS)
    assert refused.code == 2
    assert "2 mailboxes" in refused.err
    done = cli("mailboxes", "resume", ALERTS, "--yes")
    assert f"not connected: `alertpost mailboxes connect {ALERTS}`" in done.out
    assert shown(cli)["parked_at"] is None


def test_nobody_says_that_it_sends_before_a_mail_went(cli: Cli) -> None:
    """The cause may still be there, so it is said that the next mail shows it."""
    cli.connected()
    park("not-licensed")

    done = cli("mailboxes", "resume", ALERTS)

    assert done.code == 0, done.err
    assert "Sends again" not in done.out
    assert f"Resumed; the next mail shows whether the cause is gone. Mailbox: {ALERTS}." in done.out


def test_mailboxes_are_edited_and_removed(cli: Cli) -> None:
    """Names change, the default moves, a removed mailbox is gone from the list."""
    prepared(cli)
    cli("mailboxes", "add", "contoso", ADMIN)

    moved = cli("mailboxes", "edit", ADMIN, "--display-name", "Admin", "--default")
    assert moved.code == 0
    assert f"go out from {ADMIN} now" in moved.out
    assert f"mailboxes connect {ADMIN}" in moved.err
    assert shown(cli, ADMIN)["is_default"] is True
    assert shown(cli)["is_default"] is False
    assert cli("mailboxes", "remove", ADMIN).code == 2
    removed = cli("mailboxes", "remove", ADMIN, "--yes")
    assert removed.code == 0
    assert f"go out from {ALERTS} now" in removed.out
    assert [box["address"] for box in cli("mailboxes", "list", "--json").json] == [ALERTS]


def test_an_empty_list_says_what_to_do(cli: Cli) -> None:
    """Whoever starts learns the first command."""
    assert "mailboxes add" in cli("mailboxes", "list").out
