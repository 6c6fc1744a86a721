"""``alertpost doctor`` against the sandbox: a way that is well, and each link broken once."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
import redis.asyncio
from sqlalchemy import URL, make_url, update

from console import verbs_mailboxes
from console.context import opened
from console.doctor.checks import NAMES
from models import audit, grants, lane, mailboxes
from models.database import create_engine_from, read, write
from models.lookups import CREDENTIAL
from models.redis_keys import RedisKeys
from models.vault import Vault
from sandbox.faults import PRESETS, Answer, Fault
from tests.console.cli_setting import ALERTS, CALLBACK, Cli, Ran
from tests.fixtures.databases import database_user, empty_database
from tests.fixtures.redis_server import RedisServer
from workers.lease_board import LeaseBoard
from workers.memories import SqlMemories
from workers.pacing import Pacer, PacingLimits, Party

ADMIN = "admin@contoso.example"
OPS = "ops@contoso.example"
GRAPH_SEND = "https://graph.microsoft.com/SMTP.Send"


@pytest.fixture
def with_redis(cli: Cli, redis_url: str, redis_keys: RedisKeys) -> Cli:
    cli.monkeypatch.setenv("ALERTPOST_REDIS_URL", redis_url)
    cli.monkeypatch.setenv("ALERTPOST_REDIS_PREFIX", redis_keys.prefix)
    return cli


@pytest.fixture
def connected(with_redis: Cli) -> Cli:
    """A tenant whose mailbox can send; nobody runs a worker."""
    assert with_redis.add_tenant("contoso", "--secret-expires", "2099-01-01").code == 0
    assert with_redis("mailboxes", "add", "contoso", ALERTS).code == 0
    with opened() as context:
        with_redis.consent(context, ALERTS)
    return with_redis


@pytest.fixture
def worker(connected: Cli, redis_client: redis.Redis, redis_keys: RedisKeys) -> Iterator[None]:
    """A real worker beside it."""
    with connected.process("worker") as process:
        deadline = time.monotonic() + 30
        while not redis_client.zcard(redis_keys.workers):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield


def ask(cli: Cli, *arguments: str) -> Ran:
    """Run the doctor; whatever he says, it is no secret."""
    ran = cli("doctor", *arguments)
    told = ran.out + ran.err
    app = next(iter(cli.sandbox.world.apps.values()))
    assert app.client_secrets[0].value not in told
    assert "wrong~secret" not in told
    assert "eyJ" not in told
    key = cli.folder / "var" / "secret.key"
    assert not key.exists() or key.read_text().strip() not in told
    return ran


def by_key(ran: Ran) -> dict[str, dict[str, object]]:
    return {check["check"]: check for check in ran.json}


def failing(ran: Ran) -> set[str]:
    """Name what failed; that no worker runs is so in most tests."""
    return {check["check"] for check in ran.json if check["result"] == "failed"} - {"workers"}


def forget_token(redis_client: redis.Redis, keys: RedisKeys) -> None:
    """Let the shared token be gone, so that the next one comes from Entra."""
    redis_client.delete(*redis_client.keys(f"{keys.prefix}:token:*"))


@pytest.mark.usefixtures("worker")
def test_all_is_well(connected: Cli, redis_client: redis.Redis, redis_keys: RedisKeys) -> None:
    """Every check is made once, in order; nothing is refreshed, sent or left behind."""
    cli = connected

    ran = ask(cli, ALERTS, "--json")

    assert ran.code == 0, ran.out
    keys = [check["check"] for check in ran.json]
    on_request = {"mailboxes", "test_mail", "auth_form", "app_scope"}
    assert keys == [key for key in NAMES if key not in on_request]
    found = by_key(ran)
    assert {check["result"] for check in ran.json} <= {"ok", "warning"}
    # The tests' own server keeps no file.
    assert {key for key in found if found[key]["result"] == "warning"} == {"redis_memory"}
    assert "1 process heard" in found["workers"]["seen"]
    assert "shared by the workers" in found["token"]["seen"]
    assert "Nothing was asked of Entra" in found["token"]["meaning"]
    assert "rights SMTP.Send" in found["token_claims"]["seen"]
    assert "reset (RSET)" in found["sender"]["meaning"]
    assert cli.sandbox.world.ledger.refreshes == 0
    assert not cli.sandbox.world.mailboxes.outbox(ALERTS).mails
    assert cli.sandbox.world.mailboxes.get(ALERTS).connections == 0
    slots = redis_client.hkeys(next(iter(redis_client.keys(f"{redis_keys.prefix}:slots:*"))))
    assert not [name for name in slots if name.startswith(b"s:test-")]


@pytest.mark.usefixtures("worker")
def test_a_mail_proves_it(connected: Cli) -> None:
    """With --to a mail goes out at the end, under a permit, and the audit trail knows who asked."""
    cli = connected

    ran = ask(cli, ALERTS, "--to", OPS, "--as", "alice")

    assert ran.code == 0, ran.out
    assert "Mails go out" in ran.out
    (mail,) = cli.sandbox.world.mailboxes.outbox(ALERTS).mails
    assert mail.recipients == (OPS,)
    assert cli.sandbox.world.ledger.refreshes == 0
    with opened() as context, read(context.engine) as conn:
        entry = audit.entries(conn, subject=ALERTS)[0].entry
    assert (entry.actor, entry.action) == ("cli:alice", "mailbox-test")


def _edit(*options: str) -> Callable[[Cli], object]:
    def change(cli: Cli) -> None:
        ran = cli("tenants", "edit", "contoso", "--force", *options)
        assert ran.code == 0, ran.err

    return change


def _fault(fault: Fault) -> Callable[[Cli], object]:
    return lambda cli: cli.sandbox.world.exchange_faults.add(fault)


def _wrong_authority(cli: Cli) -> None:
    wrong = cli.sandbox.ca_file.parent / "wrong" / "ca.pem"
    _edit("--ca-file", str(wrong))(cli)


def _lost_authority(cli: Cli) -> None:
    copy = cli.folder / "authority.pem"
    copy.write_bytes(cli.sandbox.ca_file.read_bytes())
    _edit("--ca-file", str(copy))(cli)
    copy.unlink()


def _wrong_secret(cli: Cli) -> None:
    wrong = cli.secret_file("wrong~secret")
    cli("tenants", "edit", "contoso", "--client-secret-file", wrong, "--replace")


def _ended_secret(cli: Cli) -> None:
    with opened() as context, write(context.engine) as conn:
        ended = datetime.now(UTC) - timedelta(days=3)
        conn.execute(update(CREDENTIAL).values(expires_at=ended))


def _graph_token(cli: Cli) -> None:
    # As an app does that asks with the bare name of the permission.
    app = next(iter(cli.sandbox.world.apps.values()))
    cli.directory().admit(app.client_id).consent([GRAPH_SEND])
    _edit("--scope", "SMTP.Send")(cli)


def _switched_off(cli: Cli) -> None:
    cli.sandbox.world.mailboxes.get(ALERTS).smtp_auth = False


def _paused(cli: Cli) -> None:
    with opened() as context, write(context.engine) as conn:
        box = mailboxes.mailbox(conn, ALERTS)
        lane.pause(conn, mailbox_ids=[box.id], seconds=60, reason="submission-rate")


SEND_AS = "554 5.2.252 SendAsDenied; {user} not allowed to send as {sender}"


@pytest.mark.parametrize(
    ("trouble", "links", "says"),
    [
        (_edit("--smtp-host", "no-such-host.invalid"), {"smtp_dns"}, "--smtp-host"),
        (
            _edit("--authority", "https://no-such-host.invalid"),
            {"sign_in_dns", "grant"},
            "--authority",
        ),
        (_edit("--smtp-port", "1"), {"smtp_connect"}, "firewall"),
        (_edit("--authority", "https://127.0.0.1:1"), {"sign_in_connect", "grant"}, "firewall"),
        (_wrong_authority, {"sign_in_tls", "smtp_tls"}, "--ca-file"),
        (_lost_authority, {"sign_in_tls", "smtp_tls"}, "ALERTPOST_CA_FILE"),
        (_fault(PRESETS["wrong_certificate"]), {"smtp_tls"}, "--ca-file"),
        (_fault(PRESETS["no_starttls"]), {"smtp_tls"}, "openssl s_client -starttls smtp"),
        (_fault(PRESETS["busy_at_connect"]), {"smtp_connect"}, "sent again"),
        (
            _edit("--directory-id", "11111111-2222-3333-4444-555555555555"),
            {"discovery", "grant"},
            "--directory-id",
        ),
        (lambda cli: cli.sandbox.world.advance(600), {"clock"}, "NTP"),
        (_ended_secret, {"credential"}, "alertpost apps secret contoso"),
        (_wrong_secret, {"credential", "token"}, "alertpost apps secret contoso --client-secret-file FILE --secret-expires DATE --replace"),
        (
            lambda cli: cli.sandbox.world.grants.revoke(tenant_id=cli.directory().tenant_id),
            {"token"},
            f"alertpost mailboxes connect {ALERTS}",
        ),
        (_graph_token, {"token_claims"}, "--reset scope"),
        (_switched_off, {"smtp_auth"}, "Set-CASMailbox"),
        (_fault(PRESETS["tokens_refused"]), {"smtp_auth"}, "consent"),
        (_fault(Fault("denied", "mail", Answer(SEND_AS))), {"sender"}, "Add-RecipientPermission"),
        (_paused, {"standing"}, "continues by itself"),
    ],
    ids=[
        "unknown SMTP host", "unknown sign-in host", "closed SMTP port", "closed sign-in port",
        "wrong CA", "CA file gone", "wrong SMTP certificate", "no STARTTLS", "421 at connect", "unknown tenant",
        "clock", "secret ended", "wrong secret", "consent revoked", "token for Graph",
        "SMTP AUTH off", "token refused", "send-as denied at MAIL", "paused",
    ],
)  # fmt: skip
def test_each_link_is_found(
    connected: Cli,
    redis_client: redis.Redis,
    redis_keys: RedisKeys,
    *,
    trouble: Callable[[Cli], object],
    links: set[str],
    says: str,
) -> None:
    """A broken link fails, says what it means and what mends it, and others are not blamed."""
    connected.monkeypatch.setenv("ALERTPOST_ALLOWED_HOSTS", "no-such-host.invalid")
    trouble(connected)
    if links & {"token", "token_claims"}:
        forget_token(redis_client, redis_keys)

    ran = ask(connected, ALERTS, "--json")

    assert ran.code == 1
    assert failing(ran) == links, ran.out
    found = by_key(ran)
    for key in links:
        assert found[key]["seen"]
        assert found[key]["meaning"]
        assert found[key]["mend"]
    assert says in " ".join(str(found[key]["mend"]) for key in links)
    skipped = {check["because"] for check in ran.json if check["result"] == "skipped"}
    assert skipped <= set(NAMES)
    assert not connected.sandbox.world.mailboxes.outbox(ALERTS).mails
    assert all(name in connected("doctor", ALERTS).out for name in (NAMES[key] for key in links))


def test_a_mail_that_would_fail_is_not_sent(connected: Cli) -> None:
    """One refused MAIL FROM is not said again, not even for --to: repeating locks out."""
    connected.sandbox.world.exchange_faults.add(Fault("denied", "mail", Answer(SEND_AS)))

    ran = ask(connected, ALERTS, "--to", OPS, "--json")

    found = by_key(ran)
    assert found["test_mail"]["result"] == "skipped"
    assert found["test_mail"]["because"] == "sender"
    assert connected.sandbox.world.exchange_faults.struck["denied"] == 1


def test_send_as_shows_only_at_data(with_redis: Cli) -> None:
    """A shared mailbox is a warning until a mail proves the right, which happens once."""
    cli = with_redis
    assert cli.add_tenant().code == 0
    assert cli("mailboxes", "add", "contoso", ALERTS, "--auth-user", ADMIN).code == 0
    with opened() as context:
        who = verbs_mailboxes.account(context, ALERTS, kind=grants.DELEGATED)
        client = verbs_mailboxes.entra(context, who.sender)
        flow = verbs_mailboxes.begin(client, who, redirect_uri=CALLBACK)
        callback = cli.person(ADMIN).go_through(flow["auth_uri"])
        verbs_mailboxes.complete(
            context, client, who, flow=flow, callback=callback, actor="cli:test"
        )

    looked = by_key(ask(cli, ALERTS, "--json"))
    assert looked["sender"]["result"] == "warning"
    assert "only after DATA" in looked["sender"]["meaning"]
    proven = by_key(ask(cli, ALERTS, "--to", OPS, "--json"))
    assert proven["test_mail"]["result"] == "failed"
    assert "send-as-denied" in proven["test_mail"]["meaning"]
    assert "SendAs" in proven["test_mail"]["mend"]
    assert not cli.sandbox.world.mailboxes.outbox(ADMIN).mails


def test_a_parked_mailbox_says_what_resumes_it(connected: Cli) -> None:
    """Why it is parked, the next step, and every way in which it goes on; the rest is looked at."""
    _park("smtp-auth-disabled-mailbox")

    ran = ask(connected, ALERTS, "--json")

    assert failing(ran) == {"standing"}
    found = by_key(ran)
    assert "smtp-auth-disabled-mailbox" in found["standing"]["seen"]
    assert "Do something." in found["standing"]["mend"]
    assert f"alertpost mailboxes resume {ALERTS}" in found["standing"]["mend"]
    assert found["sender"]["result"] == "ok"
    sent = ask(connected, ALERTS, "--to", OPS, "--json")
    assert sent.code == 1
    assert by_key(sent)["test_mail"]["result"] == "ok"


def test_a_lock_out_is_not_prolonged(connected: Cli) -> None:
    """A mailbox that is parked over a refused mail is not asked to name a sender."""
    _park("send-as-denied")
    connected.sandbox.world.exchange_faults.add(Fault("mails", "mail", Answer(SEND_AS)))

    found = by_key(ask(connected, ALERTS, "--json"))

    assert found["smtp_auth"]["result"] == "ok"
    assert (found["sender"]["result"], found["sender"]["because"]) == ("skipped", "standing")
    assert connected.sandbox.world.exchange_faults.struck["mails"] == 0


def test_a_refused_token_is_replaced_once(connected: Cli) -> None:
    """As a worker does, the doctor tries one other token, and says so."""
    refused = Fault("stale", "auth", Answer("535 5.7.3 Authentication unsuccessful"), times=1)
    connected.sandbox.world.exchange_faults.add(refused)

    found = by_key(ask(connected, ALERTS, "--json"))

    assert found["smtp_auth"]["result"] == "warning"
    assert "another token was refused" in found["smtp_auth"]["seen"]
    assert connected.sandbox.world.ledger.refreshes == 1


def test_the_mailboxs_connections_are_respected(
    connected: Cli, redis_url: str, redis_keys: RedisKeys
) -> None:
    """Where all are in use nobody signs in, and that is no failure of the mailbox."""
    connected.monkeypatch.setenv("ALERTPOST_PACING__CONNECTIONS_PER_MAILBOX", "1")
    with opened() as context:
        box = Party(ALERTS, verbs_mailboxes.account(context, ALERTS).sender.mailbox_id)
        memories = SqlMemories(create_engine_from(context.settings.sqlalchemy_url))

    async def take() -> None:
        client = redis.asyncio.Redis.from_url(redis_url)
        pacer = Pacer(client, redis_keys, memories, PacingLimits(connections=1))
        entry = await pacer.enter(box, "another", critical=False)
        await pacer.seed(box, ages_ms=[], holders=[], era=entry.era)
        assert (await pacer.enter(box, "another", critical=False)).slot
        await client.aclose()

    asyncio.run(take())

    ran = ask(connected, ALERTS, "--json")

    found = by_key(ran)
    assert failing(ran) == set()
    assert found["slot"]["result"] == "skipped"
    assert found["smtp_auth"]["because"] == "slot"
    assert connected.sandbox.world.mailboxes.get(ALERTS).max_connections == 0


@pytest.mark.parametrize("arguments", [(), ("--json",), ("--to", OPS), ("--to", OPS, "--json")])
@pytest.mark.parametrize("refused", [False, True], ids=["well", "refused"])
def test_nothing_secret_is_said(
    connected: Cli, redis_url: str, redis_keys: RedisKeys, *, arguments: tuple[str], refused: bool
) -> None:
    """Neither the tokens that are in use nor the app's secret are in any form of the answer."""
    if refused:
        connected.sandbox.world.exchange_faults.add(PRESETS["tokens_refused"])

    ran = ask(connected, ALERTS, *arguments)

    with opened() as context, read(context.engine) as conn:
        who = verbs_mailboxes.account(context, ALERTS)
        grant = grants.load_grant(conn, who.sender.mailbox_id)
        assert grant is not None
        kept = json.loads(grants.open_cache(context.vault, grant) or "")
        board = LeaseBoard(redis.asyncio.Redis.from_url(redis_url), redis_keys, context.vault)
        shared = asyncio.run(board.read(who.sender.mailbox_id)).published
    secrets = [entry["secret"] for kind in kept.values() for entry in kind.values()
               if "secret" in entry]  # fmt: skip
    assert shared is not None
    assert len(secrets) >= 3
    for secret in (*secrets, shared.token, who.credential.first.client_secret):
        assert secret
        assert secret not in ran.out + ran.err


def test_redis_is_away(cli: Cli) -> None:
    """Mails would not go out, but everything behind Redis is looked at all the same."""
    cli.connected()
    cli.monkeypatch.setenv("ALERTPOST_REDIS_URL", "redis://:hunter2@127.0.0.1:1/0")

    ran = ask(cli, ALERTS, "--json")

    assert ran.code == 1
    assert failing(ran) == {"redis"}
    found = by_key(ran)
    assert found["workers"]["because"] == "redis"
    assert found["slot"]["result"] == "warning"
    assert found["sender"]["result"] == "ok"
    assert "hunter2" not in ran.out + ran.err


def test_a_redis_cluster_is_refused(
    cli: Cli, redis_server_with: Callable[..., RedisServer]
) -> None:
    """The doctor and a worker's start name it, each in one sentence."""
    cli.connected()
    server = redis_server_with(**{"cluster-enabled": "yes"})
    cli.monkeypatch.setenv("ALERTPOST_REDIS_URL", server.url)

    link = by_key(ask(cli, ALERTS, "--json"))["redis"]

    assert link["result"] == "failed"
    assert "Redis Cluster" in link["seen"]
    for command in ("worker", "up"):
        ran = cli(command)
        assert ran.code == 2, ran
        assert "Redis Cluster" in ran.err
        assert ran.err.count("\n") == 1, ran.err


def test_no_redis_was_ever_there(cli: Cli) -> None:
    """A system where nothing was started is not green, and no token is fetched twice."""
    cli.connected()

    ran = ask(cli, ALERTS, "--to", OPS, "--json")

    assert failing(ran) == {"redis"}
    assert by_key(ran)["test_mail"]["result"] == "ok"
    assert cli.sandbox.world.ledger.refreshes == 1


def test_tables_are_missing(cli: Cli, tmp_path: Path) -> None:
    """The doctor does not migrate; he names the command that does."""
    url = f"sqlite:///{tmp_path / 'old.db'}"
    engine = create_engine_from(url)
    with read(engine):
        pass
    engine.dispose()
    cli.monkeypatch.setenv("ALERTPOST_DATABASE_URL", url)
    assert cli("keys", "new").code == 0
    cli.monkeypatch.setenv("ALERTPOST_SECRET_KEYS", cli("keys", "new").out.strip())

    ran = ask(cli, "--json")

    assert ran.code == 1
    found = by_key(ran)
    assert found["schema"]["result"] == "failed"
    assert "alertpost db upgrade" in found["schema"]["mend"]
    assert found["mailboxes"]["because"] == "schema"
    assert cli("db", "check").code == 1


@pytest.mark.parametrize(
    ("variable", "value", "link"),
    [
        ("ALERTPOST_RETRY__MAX_ATTEMPTS", "none", "settings"),
        ("ALERTPOST_DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/x", "sql"),
        ("ALERTPOST_DATA_DIR", "nowhere", "data_dir"),
    ],
)
def test_what_everything_stands_on(nowhere: Cli, variable: str, value: str, link: str) -> None:
    """Where the ground is missing, that is said, the rest is skipped, and nothing is made."""
    cli = nowhere
    cli.monkeypatch.setenv(variable, value)

    ran = ask(cli, "--json")

    assert ran.code == 1
    assert by_key(ran)[link]["result"] == "failed"
    assert by_key(ran)["mailboxes"]["result"] == "skipped"
    assert "hunter2" not in ran.out + ran.err
    assert list(cli.folder.iterdir()) == [cli.folder / "var"]
    assert not list((cli.folder / "var").iterdir())


def test_a_key_that_is_lost_is_told(connected: Cli) -> None:
    """Where no key opens the credential, the mailbox is not looked at."""
    key = connected("keys", "new").out.strip()
    connected.monkeypatch.setenv("ALERTPOST_SECRET_KEYS", key)

    ran = ask(connected, ALERTS, "--json")

    assert failing(ran) == {"credential"}
    assert "ALERTPOST_SECRET_KEYS" in by_key(ran)["credential"]["mend"]
    assert by_key(ran)["smtp_auth"]["because"] == "credential"
    assert key not in ran.out


@pytest.mark.usefixtures("worker")
def test_fresh_asks_entra_for_a_new_token(connected: Cli) -> None:
    """The present token is good; that Entra gives no other one shows only by asking."""
    assert ask(connected, ALERTS, "--json").code == 0

    ran = ask(connected, ALERTS, "--fresh", "--json")

    assert ran.code == 0, ran.out
    assert connected.sandbox.world.ledger.refreshes == 1
    assert "Nothing was asked of Entra" not in by_key(ran)["token"]["meaning"]


def test_problems_are_told_by_cause(connected: Cli) -> None:
    """Two mailboxes without a consent are one line, what is well is left out."""
    cli = connected
    for name in ("b", "c"):
        assert cli("mailboxes", "add", "contoso", f"{name}@contoso.example").code == 0

    ran = ask(cli, "contoso", "--problems")

    assert ran.code == 1
    assert ran.out.count("consent  ") == 1
    assert "2 times: b@contoso.example, c@contoso.example" in ran.out
    assert "sign-in: TLS" not in ran.out
    told = ask(cli, "contoso", "--problems", "--json").json
    assert ["b@contoso.example", "c@contoso.example"] in [one["subjects"] for one in told]


def test_several_are_looked_at(connected: Cli) -> None:
    """Tenants come in order, each before its mailboxes; one that is wrong spoils no other."""
    cli = connected
    assert cli.add_tenant("fabrikam").code == 0
    assert cli("mailboxes", "add", "fabrikam", "alerts@fabrikam.example").code == 0

    ran = ask(cli, "--json")

    subjects = list(dict.fromkeys(check["subject"] for check in ran.json))
    assert subjects == ["here", "contoso", ALERTS, "fabrikam", "alerts@fabrikam.example"]
    wrong = {check["subject"] for check in ran.json if check["result"] == "failed"}
    assert wrong == {"here", "alerts@fabrikam.example"}
    text = ask(cli, "fabrikam").out
    assert "alertpost mailboxes connect alerts@fabrikam.example" in text
    assert "Wrong at: here, alerts@fabrikam.example." in text


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["contos"], 3, "'contoso'"),
        (["alert@contoso.example"], 3, ALERTS),
        (["--to", OPS], 2, "--to needs a tenant"),
        ([ALERTS, "--to", "nobody"], 2, "to"),
    ],
)
def test_bad_input_is_told(connected: Cli, arguments: list[str], code: int, says: str) -> None:
    """Wrong input ends with the code of its kind, before anything is sent."""
    ran = ask(connected, *arguments)

    assert ran.code == code, ran.err
    assert says in ran.err
    assert not connected.sandbox.world.mailboxes.outbox(ALERTS).mails


def test_nobody_is_there_yet(with_redis: Cli) -> None:
    """An installation without a mailbox is not green."""
    assert with_redis.add_tenant().code == 0

    ran = ask(with_redis, "contoso", "--json")

    assert failing(ran) == {"mailboxes"}
    assert "alertpost mailboxes add contoso" in by_key(ran)["mailboxes"]["mend"]


def _park(reason: str) -> None:
    with opened() as context, write(context.engine) as conn:
        box = mailboxes.mailbox(conn, ALERTS)
        lane.park(
            conn, mailbox_id=box.id, scope="mailbox", reason=reason, meaning="It waits.",
            next_step="Do something.", answer="535 5.7.139", probe_after_seconds=600,
        )  # fmt: skip


@pytest.fixture
def on_postgresql(cli: Cli, postgresql_url: str, redis_url: str, redis_keys: RedisKeys) -> Cli:
    """Everything given by settings, as in production: no data directory is needed."""
    given = make_url(postgresql_url).set(password="a-password")
    cli.monkeypatch.setenv("ALERTPOST_DATABASE_URL", given.render_as_string(hide_password=False))
    cli.monkeypatch.setenv("ALERTPOST_REDIS_URL", redis_url)
    cli.monkeypatch.setenv("ALERTPOST_REDIS_PREFIX", redis_keys.prefix)
    cli.monkeypatch.setenv("ALERTPOST_SECRET_KEYS", Vault.new_key())
    cli.monkeypatch.setenv("ALERTPOST_DATA_DIR", str(cli.folder / "nowhere"))
    return cli


def test_the_doctor_looks_at_a_live_postgresql(on_postgresql: Cli) -> None:
    """A mail goes out by it, its clock is read, and where it is does not tell its password."""
    cli = on_postgresql
    cli.connected()

    ran = ask(cli, ALERTS, "--to", OPS, "--json")

    assert failing(ran) == set(), ran.out
    found = by_key(ran)
    assert {"sql", "schema", "sql_clock", "keys", "test_mail"} <= found.keys()
    assert found["sql"]["seen"].startswith("postgresql")
    assert "a-password" not in ran.out
    assert "not used" in found["data_dir"]["seen"]
    assert found["sql_clock"]["result"] == "ok"
    assert not (cli.folder / "nowhere").exists()


def test_a_postgresql_that_is_not_as_it_should_be(
    on_postgresql: Cli, postgresql_server: URL
) -> None:
    """No such database, an old schema, nobody there: each is told with what mends it."""
    cli = on_postgresql
    with database_user(postgresql_server) as (name, password):
        url = make_url(os.environ["ALERTPOST_DATABASE_URL"]).set(username=name, password=password)
        cli.monkeypatch.setenv("ALERTPOST_DATABASE_URL", url.render_as_string(hide_password=False))
        without_rights = ask(cli, "--json")
    with empty_database(postgresql_server) as empty:
        cli.monkeypatch.setenv("ALERTPOST_DATABASE_URL", empty)
        old = by_key(ask(cli, "--json"))
    gone = ask(cli, "--json")
    nobody = "postgresql://me:a-password@127.0.0.1:1/alertpost"
    cli.monkeypatch.setenv("ALERTPOST_DATABASE_URL", nobody)
    away = ask(cli, "--json")

    assert old["sql"]["result"] == "ok"
    assert (old["schema"]["result"], "alertpost db upgrade" in old["schema"]["mend"]) == (
        "failed",
        True,
    )
    assert "permission denied" in by_key(without_rights)["sql"]["seen"]
    for ran in (gone, away, without_rights):
        found = by_key(ran)
        assert found["sql"]["result"] == "failed"
        assert {found[key]["result"] for key in ("schema", "sql_clock")} == {"skipped"}
        assert found["redis"]["result"] == "ok"
        assert found["sql"]["mend"]
        assert "a-password" not in ran.out + ran.err
    assert "does not exist" in by_key(gone)["sql"]["seen"]
