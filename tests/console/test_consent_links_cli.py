"""Consent links on the command line, and the processes that serve them."""

from __future__ import annotations

import csv
import signal
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen

import pytest
import requests
from sqlalchemy import update

from console import key_users, verbs_consents
from console.context import opened
from console.data_dir import DataDir
from models import audit, lane, mailboxes
from models.database import read, write
from models.lookups import MAILBOX
from sandbox.person import Person
from tests.console.cli_setting import ALERTS, Cli
from tests.console.consent_setting import hrefs

PUBLIC = "https://consent.msp.example"
SECONDS = 60


@pytest.fixture
def asking(cli: Cli) -> Cli:
    """Two tenants with a mailbox each, and a public address."""
    cli.monkeypatch.setenv("ALERTPOST_PUBLIC_URL", PUBLIC)
    cli.sandbox.world.apps[cli.client_id].redirect_uris.append(f"{PUBLIC}/oauth/callback")
    for slug in ("contoso", "fabrikam"):
        assert cli.add_tenant(slug).code == 0
        assert cli("mailboxes", "add", slug, f"alerts@{slug}.example").code == 0
    return cli


def sheet(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_link_is_printed_alone(asking: Cli) -> None:
    """Standard output is the link; until when it holds, and how it is withdrawn, is said beside."""
    ran = asking("mailboxes", "link", ALERTS, "--days", "3", "--note", "Ticket 4711", "--as", "bob")
    (made,) = asking("audit", "list", "--limit", "1", "--json").json

    assert ran.code == 0
    assert ran.out.startswith(f"{PUBLIC}/consent/")
    assert ran.out.count("\n") == 1
    assert "mailboxes unlink" in ran.err
    assert made["action"] == "consent-link-make"
    assert "Ticket" not in ran.out


WRONG: list[tuple[list[str], dict[str, str], int, str]] = [
    (["link", ALERTS], {"ALERTPOST_PUBLIC_URL": ""}, 2, "ALERTPOST_PUBLIC_URL"),
    (["links", "--out", "x.csv"], {"ALERTPOST_PUBLIC_URL": ""}, 2, "consents serve"),
    (["link", ALERTS], {"ALERTPOST_PUBLIC_URL": "http://msp.example"}, 2, "must be https"),
    (["link", "alert@contoso.example"], {}, 3, ALERTS),
    (["link", ALERTS, "--days", "0"], {}, 2, "days"),
    (["link", ALERTS, "--days", "91"], {}, 2, "days"),
    (["link", ALERTS, "--note", "x" * 501], {}, 2, "500"),
    (["unlink", ALERTS], {}, 4, "mailboxes consents"),
    (["links", "--out", "x.csv", "--tenant", "contos"], {}, 3, "contoso"),
    (["links", "--out", "none/x.csv"], {}, 2, "none/x.csv"),
    (["consents", "--tenant", "contos"], {}, 3, "contoso"),
]


def test_what_cannot_be_says_why(asking: Cli) -> None:
    """A sentence names what to change, and no file is left behind."""
    for arguments, environment, code, says in WRONG:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            ran = asking("mailboxes", *arguments)

        assert (ran.code, says in ran.err) == (code, True), (arguments, ran.err)
        assert not list(asking.folder.glob("*.csv"))


def test_links_of_all_in_one_file(asking: Cli) -> None:
    """Who has no consent, or lost it, is in it; what holds is given again; nothing is overwritten."""
    with opened() as context:
        asking.consent(context, ALERTS)
    first = asking("mailboxes", "links", "--out", "a.csv")
    second = asking("mailboxes", "links", "--out", "a.csv")
    again = asking("mailboxes", "links", "--out", "b.csv", "--days", "30")
    anew = asking("mailboxes", "links", "--out", "c.csv", "--anew", "--tenant", "fabrikam")
    with opened() as context, write(context.engine) as conn:
        lane.park(
            conn, mailbox_id=mailboxes.mailbox(conn, ALERTS).id, scope="mailbox",
            reason="tokens-revoked", meaning="It waits.", next_step="", answer="",
            probe_after_seconds=None,
        )  # fmt: skip
    lost = asking("mailboxes", "links", "--out", "d.csv")
    a, b, c, d = (sheet(asking.folder / f"{name}.csv") for name in "abcd")

    assert [ran.code for ran in (first, second, again, anew, lost)] == [0, 4, 0, 0, 0]
    assert stat.S_IMODE((asking.folder / "a.csv").stat().st_mode) == 0o600
    assert [(row["tenant"], row["mailbox"]) for row in a] == [
        ("fabrikam", "alerts@fabrikam.example")
    ]
    assert a[0]["link"].startswith(f"{PUBLIC}/consent/")
    assert a[0]["until"].endswith("Z")
    assert b == a
    assert c[0]["link"] != a[0]["link"]
    assert [row["mailbox"] for row in d] == [ALERTS, "alerts@fabrikam.example"]
    assert d[1] == c[0]


def test_progress_is_shown(asking: Cli) -> None:
    """Each mailbox with how far it has come, and totals; the exit code is 0 all the way."""

    def progress() -> dict[str, str]:
        ran = asking("mailboxes", "consents", "--json")
        assert ran.code == 0
        return {one["mailbox"]: one["consent"] for one in ran.json["consents"]}

    fabrikam = "alerts@fabrikam.example"
    seen = [progress()]
    asking("mailboxes", "link", fabrikam)
    seen.append(progress())
    asking("mailboxes", "unlink", fabrikam)
    seen.append(progress())
    asking("mailboxes", "link", fabrikam)
    with opened() as context:
        asking.consent(context, ALERTS)
    seen.append(progress())
    table = asking("mailboxes", "consents").out
    totals = asking("mailboxes", "consents", "--json").json["totals"]

    assert [(one[ALERTS], one[fabrikam]) for one in seen] == [
        ("not asked", "not asked"),
        ("not asked", "asked"),
        ("not asked", "not asked"),
        ("consented", "asked"),
    ]
    assert "2 mailboxes: 1 asked, 1 consented." in table
    assert "mailboxes links --out FILE.csv" in table
    assert (totals["consented"], totals["asked"], totals["lost"]) == (1, 1, 0)


def test_a_consent_by_hand_ends_the_link(asking: Cli) -> None:
    """A mailbox that was connected otherwise needs its link no more."""
    asking("mailboxes", "link", ALERTS)
    with opened() as context:
        asking.consent(context, ALERTS)

    assert asking("mailboxes", "unlink", ALERTS).code == 4


def test_the_addresses_for_administrators(asking: Cli) -> None:
    """With a public address the answer comes back to it, with a state; both kinds are shown."""
    shown = asking("tenants", "show", "contoso")
    delegated = asking("tenants", "link", "contoso")
    app_only = asking("tenants", "link", "contoso", "--app-only")

    assert "for app-only" in shown.out
    assert shown.out.count("consent.msp.example%2Foauth%2Fcallback") == 2
    for ran, scope in ((delegated, "SMTP.Send"), (app_only, "outlook.office365.com%2F.default")):
        assert ran.code == 0
        assert "/v2.0/adminconsent?" in ran.out
        assert scope in ran.out
        assert "state=" in ran.out
    assert "SMTP.Send" not in app_only.out


def test_an_app_that_is_allowed_already_needs_no_address(asking: Cli) -> None:
    """What an administrator brought back, and what Entra's token shows, is said with what is next."""
    administrator = asking.person("admin@contoso.example")
    for more, known, following in (
        ([], "An administrator allowed the app on 20", f"mailboxes connect {ALERTS}`"),
        (["--app-only"], "has SMTP.SendAsApp", f"mailboxes powershell {ALERTS}`"),
    ):
        address = asking("tenants", "link", "contoso", *more).out.strip()
        back = administrator.go_through(address)
        with opened() as context:
            verbs_consents.finish(context, back)
        ran = asking("tenants", "link", "contoso", *more)
        again = asking("tenants", "link", "contoso", *more, "--again")

        assert (ran.code, ran.out) == (0, "")
        assert known in ran.err
        assert following in ran.err
        assert (
            f"`alertpost {' '.join(['tenants', 'link', 'contoso', *more, '--again'])}`" in ran.err
        )
        assert "/v2.0/adminconsent?" in again.out


def test_an_app_that_was_taken_away_again_has_its_address_back(asking: Cli) -> None:
    """A mailbox that is parked for want of a consent tells more than what was said before it."""
    address = asking("tenants", "link", "contoso").out.strip()
    back = asking.person("admin@contoso.example").go_through(address)
    with opened() as context:
        verbs_consents.finish(context, back)
        with write(context.engine) as conn:
            parked = {"park_reason": "app-unknown", "parked_at": datetime.now(UTC)}
            conn.execute(update(MAILBOX).values(**parked))

    assert "/v2.0/adminconsent?" in asking("tenants", "link", "contoso").out


# -- processes -------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def ask(method: str, address: str, **more: object) -> requests.Response:
    with requests.Session() as http:
        http.trust_env = False
        return http.request(method, address, allow_redirects=False, timeout=30, **more)  # type: ignore[arg-type]


def until_it_answers(port: int, process: Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            assert ask("GET", f"http://127.0.0.1:{port}/health").status_code == 200
        except requests.ConnectionError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


@contextmanager
def serving(cli: Cli, port: int) -> Iterator[Popen[str]]:
    """Run ``alertpost consents serve`` on a port."""
    cli.monkeypatch.setenv("ALERTPOST_CONSENTS__PORT", str(port))
    with (
        (cli.folder / f"log-{port}").open("w") as log,
        cli.process("consents", "serve", stderr=log) as process,
    ):
        yield process


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_any_process_gets_the_callback(cli: Cli, request: pytest.FixtureRequest, kind: str) -> None:
    """What one process began another one ends, on the same database; both stop cleanly."""
    one, other = free_port(), free_port()
    cli.monkeypatch.setenv("ALERTPOST_DATABASE_URL", request.getfixturevalue(f"{kind}_url"))
    cli.monkeypatch.setenv("ALERTPOST_PUBLIC_URL", f"http://localhost:{one}")
    assert cli.add_tenant().code == 0
    assert cli("mailboxes", "add", "contoso", ALERTS).code == 0
    link = cli("mailboxes", "link", ALERTS).out.strip()
    with serving(cli, one) as first, serving(cli, other) as second:
        until_it_answers(one, first)
        until_it_answers(other, second)
        taken = cli("consents", "serve")
        users = key_users.running(DataDir.prepare(cli.folder / "var"))
        begun = ask("POST", link)
        back = Person(ALERTS, cli.sandbox.ca_file).go_through(begun.headers["location"])
        done = ask("GET", f"http://127.0.0.1:{other}/oauth/callback", params=back)
        used = ask("GET", f"http://127.0.0.1:{one}/oauth/callback", params=back)
        for process in (first, second):
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=SECONDS) for process in (first, second)]
    log = (cli.folder / f"log-{one}").read_text() + (cli.folder / f"log-{other}").read_text()

    assert (begun.status_code, done.status_code, used.status_code) == (303, 200, 409)
    assert cli("mailboxes", "show", ALERTS, "--json").json["standing"] == "ready"
    assert taken.code == 2
    assert "ALERTPOST_CONSENTS__PORT" in taken.err
    # Whoever rotates the keys is told to restart them.
    assert {user.pid for user in users} == {first.pid, second.pid}
    assert codes == [0, 0]
    assert "consent_page" in log
    assert not [one for one in (link.rpartition("/")[2], back["code"], back["state"]) if one in log]


def test_up_serves_them_too(cli: Cli) -> None:
    """Where there is a public address, the pages are there as long as the rest is."""
    port = free_port()
    cli.monkeypatch.setenv("ALERTPOST_CONSENTS__PORT", str(port))
    cli.monkeypatch.setenv("ALERTPOST_PUBLIC_URL", f"http://localhost:{port}")
    with socket.create_server(("127.0.0.1", port)):
        taken = cli("up")
    with (cli.folder / "log").open("w") as log, cli.process("up", stderr=log) as up:
        until_it_answers(port, up)
        assert cli.add_tenant().code == 0
        assert cli("mailboxes", "add", "contoso", ALERTS).code == 0
        page = ask("GET", cli("mailboxes", "link", ALERTS).out.strip())
        up.send_signal(signal.SIGINT)
        code = up.wait(timeout=SECONDS)
        screen = up.stdout.read() if up.stdout else ""

    assert taken.code == 2
    assert "ALERTPOST_CONSENTS__PORT" in taken.err
    assert page.status_code == 200
    assert ALERTS in page.text
    assert any("adminconsent" in one for one in hrefs(page))
    assert code == 0
    assert f"127.0.0.1:{port}, for http://localhost:{port}" in screen
    with opened() as context, read(context.engine) as conn:
        assert "consent-link-open" in {row.entry.action for row in audit.entries(conn)}
