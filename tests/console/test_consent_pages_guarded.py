"""What the consent pages keep to themselves, and what they do not let through."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, select, text, update
from structlog.testing import capture_logs

from console.verbs_consent_links import Progress
from models import consent_links, grants
from models.consent_links import SIGN_IN
from models.database import read, write
from models.rotation import rotate
from models.vault import Vault, sign_in_context
from tests.console.cli_setting import SandboxThread
from tests.console.consent_setting import ELSEWHERE, Hosted, hosted_pages, text_of

SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"])
"""For what no database has a say in."""


# -- keys, secrets, logs ---------------------------------------------------------------------------


def test_links_outlive_their_key(hosted: Hosted) -> None:
    """A link opens while its key is known, and through a whole rotation, when the old one is gone."""
    link = hosted.link()
    token = link.rpartition("/")[2]
    (old,) = [key.get_secret_value() for key in hosted.context.settings.secret_keys]
    new = Vault.new_key()
    both, after = Vault([new, old]), Vault([new])
    found = []
    with read(hosted.context.engine) as conn:
        found.append(consent_links.find(conn, both, token))
    report = rotate(hosted.context.engine, both)
    with read(hosted.context.engine) as conn:
        found.append(consent_links.find(conn, after, token))
        assert consent_links.token_of(conn, after, hosted.link_row(link).id) == token

    assert report.resealed["consent links"] == 1
    assert report.complete
    assert found == [hosted.link_row(link)] * 2


def test_nothing_secret_is_stored_or_logged(hosted: Hosted) -> None:
    """Token, state, verifier, nonce, code and tokens are nowhere in clear: tables, trail, log."""
    with capture_logs() as logs:
        link = hosted.link()
        hosted.get(link)
        auth_uri = hosted.press(link)
        with read(hosted.context.engine) as conn:
            before = _dump(conn)
        callback = hosted.sign_in(auth_uri)
        done = hosted.come_back(callback)
        hosted.get(f"{link}x?code=planted")
    with read(hosted.context.engine) as conn:
        dump = before + _dump(conn)
        grant = grants.load_grant(conn, hosted.entry().id)
        assert grant is not None
        cache = grants.open_cache(hosted.context.vault, grant)
    nonce = auth_uri.split("nonce=")[1].split("&")[0]
    secrets = [link.rpartition("/")[2], callback["state"], callback["code"], nonce, "planted"]

    assert cache is not None
    assert done.status_code == 200
    for secret in secrets:
        assert secret not in dump
        assert secret not in str(logs)
        assert secret not in done.text
    told = [line for line in logs if line["event"] == "consent_page"]
    assert [(line["method"], line["page"], line["status"]) for line in told] == [
        ("GET", "link", 200), ("POST", "link", 303), ("GET", "callback", 200), ("GET", "link", 404),
    ]  # fmt: skip


def _dump(conn: Any) -> str:
    """Read all that is stored, bytes as what they look like."""
    tables = ("consent_link", "sign_in", "audit_entry", "mailbox", "grant")
    return "\n".join(
        str([bytes(cell) if isinstance(cell, memoryview) else cell for cell in row])
        for table in tables
        for row in conn.execute(text(f'SELECT * FROM "{table}"'))
    )


# -- HTTP ------------------------------------------------------------------------------------------


@SQLITE
def test_headers_of_every_page(hosted: Hosted) -> None:
    """No page may be stored, framed, referred from, or run a script; errors included."""
    pages = [
        hosted.get(hosted.link()), hosted.get("/consent/x"), hosted.get("/"), hosted.get("/health"),
        hosted.get("/oauth/callback"), hosted.ask("PUT", "/oauth/callback"),
    ]  # fmt: skip

    assert [page.status_code for page in pages] == [200, 404, 404, 200, 400, 405]
    for page in pages:
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script" not in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "server" not in page.headers


@SQLITE
def test_opening_a_link_starts_nothing(hosted: Hosted) -> None:
    """A scanner's HEAD leaves no trace, its GET is "opened"; neither begins a sign-in."""
    link = hosted.link()
    head = hosted.ask("HEAD", link)
    untouched = hosted.progress()
    for _ in range(2):
        hosted.get(link)
    with read(hosted.context.engine) as conn:
        begun = conn.execute(select(SIGN_IN)).all()

    assert head.status_code == 200
    assert untouched.consent is Progress.ASKED
    assert hosted.progress().consent is Progress.OPENED
    assert [entry.action for entry in hosted.trail()].count("consent-link-open") == 1
    assert begun == []


@SQLITE
def test_too_much_is_not_read(hosted: Hosted) -> None:
    """Bodies and queries have a limit, and what is no form does no harm."""
    big = "x" * 40_000
    answers = [
        hosted.ask("POST", "/oauth/callback", data={"state": big}),
        hosted.get("/oauth/callback", params={"state": big}),
        hosted.ask("POST", hosted.link(), data=big),
        hosted.ask("POST", "/oauth/callback", data=b"\xff\xfe\x00"),
        hosted.ask("POST", "/oauth/callback", files={"state": b"x"}),
    ]

    assert [answer.status_code for answer in answers] == [413, 413, 413, 400, 400]


def test_faults_of_ours_tell_nothing(hosted: Hosted) -> None:
    """Where the tables are gone the page apologises, and names neither table nor database."""
    link = hosted.link()
    with write(hosted.context.engine) as conn:
        conn.execute(text("DROP TABLE sign_in"))
        conn.execute(text("DROP TABLE consent_link"))
    with capture_logs() as logs:
        page = hosted.get(link)

    assert [line["event"] for line in logs] == ["consent_page_failed", "consent_page"]
    assert page.status_code in {500, 503}
    assert "wrong on our side" in text_of(page)
    assert "consent_link" not in page.text
    assert "Traceback" not in page.text


@SQLITE
def test_what_nobody_thought_of_tells_nothing(hosted: Hosted) -> None:
    """A sign-in that cannot be read is a fault of ours: apologised for, and logged."""
    callback = hosted.sign_in(hosted.press(hosted.link()))
    with write(hosted.context.engine) as conn:
        (key,) = conn.execute(select(SIGN_IN.c.state_sha256)).scalars()
        damaged = hosted.context.vault.seal(b"no JSON", context=sign_in_context(key))
        conn.execute(update(SIGN_IN).values(flow_encrypted=damaged))
    with capture_logs() as logs:
        page = hosted.come_back(callback)
        hosted.get("/health")

    assert page.status_code == 500
    assert "wrong on our side" in text_of(page)
    assert "JSON" not in page.text
    assert page.headers["cache-control"] == "no-store"
    assert "consent_page_failed" in [line["event"] for line in logs]


@SQLITE
def test_pages_below_a_path(engine: Engine, sandbox_thread: SandboxThread) -> None:
    """A public address with a path has its pages below that path."""
    below = f"{ELSEWHERE}/alerts"
    with hosted_pages(engine, sandbox_thread.server, public_url=below) as hosted:
        link = hosted.link()

        assert hosted.get(f"/alerts{link}").status_code == 200
        assert hosted.get(link).status_code == 404
        assert hosted.get("/alerts/oauth/callback").status_code == 400
        assert hosted.get("/health").status_code == 200
