"""Promise 9: secrets planted in every input are in no log, no answer, and no store in clear."""

from __future__ import annotations

import base64
import datetime as dt
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from sqlalchemy import Engine, func, make_url, select

from models.database import create_engine_from, read, write
from models.moves import DELIVERY
from models.tables import METADATA
from models.vault import Vault
from sandbox.apps import AppCertificate
from sandbox.entra_faults import EntraFault, EntraFaultKind
from sandbox.faults import Answer, Fault
from sandbox.token_endpoint import TokenEndpoint, TokenRequest
from tests.console.cli_setting import ALERTS, Cli, Ran
from tests.fixtures.leak_watch import LeakWatch
from tests.fixtures.redis_server import RedisServer

MAILBOX = METADATA.tables["mailbox"]
ROOT = Path(__file__).parents[2]

_POSTED = ("client_secret", "refresh_token", "code", "code_verifier", "client_assertion")
_GIVEN = ("access_token", "refresh_token", "id_token")


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> LeakWatch:
    """A watch that knows all that a token endpoint hears and says."""
    watch = LeakWatch()
    answer = TokenEndpoint.answer

    def heard(endpoint: TokenEndpoint, request: TokenRequest) -> dict[str, object]:
        for name in _POSTED:
            watch.guard(name, request.form.get(name, ""))
        said = answer(endpoint, request)
        for name in _GIVEN:
            watch.guard(name, str(said.get(name, "")))
        return said

    monkeypatch.setattr(TokenEndpoint, "answer", heard)
    return watch


@pytest.fixture
def redis_with_password(redis_server_with: Callable[..., RedisServer], watch: LeakWatch) -> str:
    """A server that asks for a password and writes down every command."""
    options = {
        "requirepass": watch.guard("redis password", _planted("redis")),
        "appendonly": "yes",
        # Else what is stored is packed, and would not be found.
        "rdbcompression": "no",
        "aof-use-rdb-preamble": "no",
    }
    return redis_server_with(**options).url


def _planted(kind: str) -> str:
    # With what is written otherwise in addresses and in JSON.
    return f"{kind}+{secrets.token_hex(12)}/{secrets.token_hex(4)}=q"


class Busy:
    """Everything that the tenant contoso goes through, with a worker's eyes on it."""

    def __init__(self, cli: Cli, watch: LeakWatch, engine: Engine, redis_url: str) -> None:
        self.cli = cli
        self.redis_url = redis_url
        self.watch = watch
        self.engine = engine
        self.world = cli.sandbox.world
        self.certificate, self.private_key = _certificate(cli.folder)
        self.body = watch.guard("body", _planted("body"))
        self.html = watch.guard("html body", _planted("html"))
        self.subject = f"subject {secrets.token_hex(8)}"
        self.recipient = f"r{secrets.token_hex(8)}@contoso.example"

    def run(self, *arguments: str, stdin: str | None = None, code: int | None = 0) -> Ran:
        """Run a command in this process and look at what it says."""
        ran = self.cli(*arguments, stdin=stdin)
        assert code is None or ran.code == code, (arguments, ran.out, ran.err)
        self.watch.saw(f"alertpost {' '.join(arguments[:2])}", ran.out + ran.err)
        return ran

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.03)

    def log(self) -> str:
        """Give the end of what the workers wrote, for whoever looks at a failure."""
        return (self.cli.folder / "worker.log").read_text()[-3000:]

    def count(self, state: str) -> int:
        with read(self.engine) as conn:
            counted = select(func.count()).select_from(DELIVERY).where(DELIVERY.c.state == state)
            return int(conn.execute(counted).scalar_one())

    def parked(self) -> str | None:
        with read(self.engine) as conn:
            found: str | None = conn.execute(select(MAILBOX.c.park_reason)).scalar_one()
            return found

    def paused(self) -> bool:
        with read(self.engine) as conn:
            return conn.execute(select(MAILBOX.c.paused_until)).scalar_one() is not None

    def send(self) -> None:
        html = self.cli.folder / "body.html"
        html.write_text(f"<p>{self.html}</p>")
        self.run(
            "send", "--tenant", "contoso", "--to", self.recipient, "--subject", self.subject,
            "--text", self.body, "--html-file", str(html), "--json",
        )  # fmt: skip

    def recall_tokens(self) -> None:
        _, user = self.world.account(ALERTS)
        user.recalls += 1
        self.cli.sandbox.exchange.inject(
            # Whoever is still signed in has to do it anew.
            Fault("again", "mail", Answer("not_authenticated"), times=1)
        )

    def echo(self, grant_type: str, code: int, **options: Any) -> None:
        """Let Entra refuse, and say the whole request back."""
        fault = EntraFault(
            EntraFaultKind.AADSTS, code=code, grant_type=grant_type, echo=True, **options
        )
        self.world.entra_faults.add(fault)

    def heal(self) -> None:
        self.world.entra_faults.clear()
        self.cli.sandbox.exchange.faults.clear()

    def look(self) -> None:
        """Ask for all that can be shown, as text and for scripts."""
        for words in (
            ["status"], ["doctor"], ["mailboxes", "list"], ["mailboxes", "show", ALERTS],
            ["tenants", "list"], ["tenants", "show", "contoso"], ["apps", "list"],
            ["apps", "show", "contoso"], ["deliveries", "list"], ["dead", "list"], ["audit", "list"],
            ["expiries"], ["report"],
        ):  # fmt: skip
            self.run(*words, code=None)
            as_json = ["--format", "json"] if words == ["report"] else ["--json"]
            self.run(*words, *as_json, code=None)
        with read(self.engine) as conn:
            latest = conn.execute(select(DELIVERY.c.id)).scalars().first()
        for more in ([], ["--json"]):
            self.run("deliveries", "show", str(latest), *more)
            self.run("mailboxes", "test", ALERTS, "--to", self.recipient, *more, code=None)

    def resume(self) -> None:
        self.heal()
        if self.parked():
            self.run("mailboxes", "resume", ALERTS, code=None)
        with write(self.engine) as conn:
            conn.execute(MAILBOX.update().values(paused_until=None))
        with redis.Redis.from_url(self.redis_url) as client:
            for what in ("pause", "refresh-failure"):
                for key in client.scan_iter(f"*:{what}:*"):
                    client.delete(key)
        self.until(lambda: not self.count("queued") + self.count("sending"))


def test_planted_secrets_are_nowhere(
    cli: Cli,
    watch: LeakWatch,
    database_url: str,
    redis_with_password: str,
    tmp_path: Path,
) -> None:
    """Through consents, mails, refusals that quote the request, and wrong settings: nowhere."""
    if database_url.startswith("postgresql"):
        password = watch.guard("database password", _planted("sql"))
        database_url = (
            make_url(database_url).set(password=password).render_as_string(hide_password=False)
        )
    key = watch.guard("secret key", Vault.new_key())
    watch.guard("secret key, raw", base64.b64decode(key, altchars=b"-_").hex())
    environment = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_with_password,
        "SECRET_KEYS": key,
        "LOG__LEVEL": "debug",
        "LOG__FORMAT": "json",
        "SWEEP__INTERVAL_SECONDS": "0.2",
        "RETRY__SOON_SECONDS": "0.05",
        "PACING__MESSAGES_PER_WINDOW": "1000",
    }
    for name, value in environment.items():
        cli.monkeypatch.setenv(f"ALERTPOST_{name}", value)
    engine = create_engine_from(database_url)
    busy = Busy(cli, watch, engine, redis_with_password)

    _set_up(busy)
    _consent(busy)
    with _worker(watch, tmp_path):
        _send(busy)
        _refused_by_entra(busy)
        _refused_by_exchange(busy)
    if database_url.startswith("sqlite"):
        # It is about what stands in a variable, not about what is behind it.
        _wrong_settings(busy, environment)

    _look_into_sql(watch, engine)
    _look_into_redis(watch, redis_with_password)
    engine.dispose()
    assert {*_POSTED, *_GIVEN} <= watch.secrets.keys()
    # Each place was looked into, and has what such a place holds.
    assert b"delivery_attempt" in watch.places["worker"]
    assert b"mailbox_parked" in watch.places["worker"]
    assert b"request-malformed" in watch.places["sql"]
    assert busy.subject.encode() in watch.places["sql"]
    assert b":token:" in watch.places["redis"]
    assert b"Not connected" in watch.places["callback page"]
    assert not watch.leaks(), "\n".join(watch.leaks())
    # Whose mail it is, and what about, is for SQL and for those who ask, not for logs.
    assert busy.subject.encode() not in watch.places["worker"]
    assert busy.recipient.encode() not in watch.places["worker"]


def test_the_watch_sees_every_form() -> None:
    """What would be a leak is found: as it is, escaped, encoded, within something else, cut."""
    secret = _planted("secret") * 4
    payload = base64.b64encode(f"user=a@b.example\x01auth=Bearer {secret}\x01\x01".encode())
    for content in (
        secret, json.dumps({"a": secret}), f"x={secret.replace('+', '%2B')}", payload,
        payload[:-30], secret.encode().hex(), f"cut {secret[30:80]}", secret[-25:],
    ):  # fmt: skip
        watch = LeakWatch()
        watch.guard("secret", secret)
        watch.saw("here", content)
        watch.saw("there", "nothing")
        assert watch.leaks() == ["secret in here"]


# -- the scenes -------------------------------------------------------------------------------------


def _set_up(busy: Busy) -> None:
    cli, run = busy.cli, busy.run
    app = next(iter(busy.world.apps.values()))
    secret = busy.watch.guard("client secret", _planted("client"))
    app.client_secrets[:] = [app.add_secret(ends_at=busy.world.clock() + 1e7, value=secret)]
    added = cli.add_tenant()
    assert added.code == 0
    busy.watch.saw("alertpost tenants add", added.out + added.err + cli.add_tenant().err)
    certificate, private_key = busy.certificate, busy.private_key
    app.certificates.append(AppCertificate.from_pem(certificate.read_text()))
    # The first lines hold what is public, the certificate has it too; the last may be short enough
    # to stand anywhere by chance.
    for line in private_key.read_text().splitlines()[10:-2]:
        busy.watch.guard("private key", line)
    run("apps", "add", "signed", "--client-id", cli.client_id, "--certificate-file",
        str(certificate), "--private-key-file", str(private_key))  # fmt: skip
    # The two files in the wrong order, and one that is none.
    run("apps", "secret", "signed", "--certificate-file", str(private_key), "--private-key-file",
        str(certificate), code=None)  # fmt: skip
    run("apps", "secret", "signed", "--certificate-file", cli.secret_file(), "--private-key-file",
        cli.secret_file(), code=None)  # fmt: skip
    run("mailboxes", "add", "contoso", ALERTS)


def _consent(busy: Busy) -> None:
    cli, watch = busy.cli, busy.watch
    for refused in (501481, None):
        if refused:
            busy.echo("authorization_code", refused)
        with cli.process("mailboxes", "connect", ALERTS, "--no-browser") as process:
            assert process.stdout is not None
            address = process.stdout.readline()
            asked = dict(parse_qsl(urlsplit(address).query))
            parameters = cli.person().go_through(address.strip())
            watch.guard("code", parameters["code"])
            # The link holds them, and nothing else.
            for name in ("state", "nonce"):
                watch.guard(name, asked[name])
            page = _call_back(asked["redirect_uri"], parameters)
            watch.saw("callback page", page)
            out, err = process.communicate(timeout=30)
            watch.saw("alertpost mailboxes connect", out + err)
        busy.world.entra_faults.clear()
    # An answer that belongs to nothing, pasted.
    busy.run(
        "mailboxes", "connect", ALERTS, "--paste", code=None,
        stdin=f"http://localhost:8400/oauth/callback?state=x&code={parameters['code']}\n",
    )  # fmt: skip


def _call_back(uri: str, parameters: dict[str, str]) -> str:
    import requests

    with requests.Session() as browser:
        browser.trust_env = False
        # First one that is not of this sign-in.
        wrong = browser.get(uri, params={**parameters, "state": "another"}, timeout=20)
        return wrong.text + browser.get(uri, params=parameters, timeout=20).text


def _send(busy: Busy) -> None:
    busy.send()
    alert = {"tenant": "contoso", "to": [busy.recipient], "subject": busy.subject}
    lines = [
        alert | {"text": busy.body},
        alert | {"text": busy.body, "to": busy.body},
        alert | {"text": {"not": busy.body}},
        alert | {"text": busy.body, "severity": busy.body},
        alert | {"text": busy.body, "attachments": [{"name": "a", "content": busy.body}]},
    ]
    text = "\n".join([*map(json.dumps, lines), busy.body, '{"text": "' + busy.body])
    path = busy.cli.folder / "alerts.jsonl"
    path.write_text(text)
    for more in ([], ["--json"]):
        ran = busy.run("enqueue", str(path), *more, code=None)
        assert "line 2" in ran.err or more, ran.err
    busy.until(lambda: busy.count("accepted") == 3)


def _refused_by_entra(busy: Busy) -> None:
    for code in (7000215, 9002313, 90033):
        busy.echo("refresh_token", code)
        busy.recall_tokens()
        busy.send()
        busy.until(lambda: bool(busy.parked()) or busy.paused())
        busy.run("mailboxes", "show", ALERTS)
        if code == 9002313:
            busy.look()
        busy.resume()
    # The same with an assertion that the private key signed.
    busy.run("apps", "secret", "contoso", "--certificate-file", str(busy.certificate),
             "--private-key-file", str(busy.private_key))  # fmt: skip
    busy.echo("refresh_token", 700027)
    busy.recall_tokens()
    busy.send()
    busy.until(lambda: bool(busy.parked()))
    busy.run("mailboxes", "show", ALERTS)
    busy.resume()
    for kind in (EntraFaultKind.NOT_JSON, EntraFaultKind.CUT_AFTER):
        busy.world.entra_faults.add(EntraFault(kind, grant_type="refresh_token"))
        busy.recall_tokens()
        busy.send()
        busy.until(busy.paused)
        busy.resume()


def _refused_by_exchange(busy: Busy) -> None:
    for reply in (
        "535 5.7.3 Not this: {line} [{trace}]",
        "454 4.7.0 Temporary authentication failure: {line}",
    ):
        busy.recall_tokens()
        busy.cli.sandbox.exchange.inject(Fault("echo", "auth", Answer(reply)))
        busy.send()
        busy.until(lambda: bool(busy.parked()) or busy.paused())
        busy.run("mailboxes", "test", ALERTS, "--to", busy.recipient, code=None)
        busy.run("mailboxes", "show", ALERTS)
        busy.resume()


def _wrong_settings(busy: Busy, environment: dict[str, str]) -> None:
    def wrong(kind: str) -> str:
        return busy.watch.guard(f"wrong {kind}", _planted("wrong"))

    # The last of each kind is one with which no process can start.
    settings = {
        "DATABASE_URL": [
            f"postgresql://me:{wrong('password')}@127.0.0.1:1/none",
            f"oracle://me:{wrong('password')}@127.0.0.1/none",
        ],
        "REDIS_URL": [
            f"redis://:{wrong('password')}@127.0.0.1:1/0",
            environment["REDIS_URL"].replace("redis%2B", "no"),
            f"redis://:{wrong('password')}@127.0.0.1:port/0",
        ],
        "SECRET_KEYS": [
            Vault.new_key(),
            f"{Vault.new_key()},{wrong('key')}",
        ],
    }
    for name, values in settings.items():
        for value in values:
            busy.cli.monkeypatch.setenv(f"ALERTPOST_{name}", value)
            for words in (["status"], ["doctor", "--json"]):
                busy.run(*words, code=None)
        busy.run(
            "send", "--tenant", "contoso", "--to", busy.recipient, "--subject", "s", "--text",
            busy.body, code=None,
        )  # fmt: skip
        module = "workers.health" if name == "REDIS_URL" else "workers.main"
        ended = subprocess.run(
            [sys.executable, "-m", module], cwd=ROOT, capture_output=True, timeout=90, check=False
        )
        assert ended.returncode
        busy.watch.saw(f"{module} with a wrong {name}", ended.stdout + ended.stderr)
        busy.cli.monkeypatch.setenv(f"ALERTPOST_{name}", environment[name])


# -- where it is looked for -------------------------------------------------------------------------


@contextmanager
def _worker(watch: LeakWatch, folder: Path) -> Iterator[None]:
    log = folder / "worker.log"
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-m", "workers.main"], cwd=ROOT, stderr=stream)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=40)
            watch.saw("worker", log.read_bytes())


def _look_into_sql(watch: LeakWatch, engine: Engine) -> None:
    with read(engine) as conn:
        for table in METADATA.sorted_tables:
            for row in conn.execute(table.select()):
                for value in row:
                    watch.saw("sql", value if isinstance(value, bytes) else repr(value))
                    if not isinstance(value, bytes):
                        watch.saw("sql", json.dumps(value, default=str, ensure_ascii=False))
    if engine.dialect.name == "sqlite":
        file = Path(engine.url.database or "")
        for path in file.parent.glob(f"{file.name}*"):
            watch.saw("the files of SQLite", path.read_bytes())


def _look_into_redis(watch: LeakWatch, url: str) -> None:
    with redis.Redis.from_url(url) as client:
        reads: dict[bytes, Callable[[bytes], object]] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        }
        for key in client.scan_iter(count=1000):
            value = reads[client.type(key)](key)
            watch.saw("redis", key)
            watch.saw("redis", value if isinstance(value, bytes) else repr(value))
        folder = client.config_get("dir")["dir"]
    for path in Path(folder).rglob("*.aof"):
        watch.saw("the file of Redis", path.read_bytes())


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alertpost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=90))
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "private.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file
