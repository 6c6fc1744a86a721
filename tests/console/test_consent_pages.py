"""A customer's administrator connects a mailbox by a link, over HTTP, against the sandbox."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import redis
from sqlalchemy import Engine, select, update

from console import verbs_consent_links
from console.verbs_consent_links import Progress
from models import consent_links, lane, mailboxes
from models.consent_links import SIGN_IN
from models.database import read, write
from models.redis_keys import RedisKeys
from models.vault import Vault
from tests.console.cli_setting import SandboxThread
from tests.console.consent_setting import (
    ADMIN,
    ALERTS,
    CONTACT,
    PROVIDER,
    Hosted,
    host_of,
    hosted_pages,
    hrefs,
    text_of,
)

SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"])
"""For what no database has a say in."""


# -- the way ---------------------------------------------------------------------------------------


@SQLITE
def test_the_page_says_who_asks_for_what(hosted: Hosted) -> None:
    """Provider, mailbox, directory, app, permission, end and note are on the page; one button."""
    link = hosted.link(note="Ticket 4711 <b>")
    page = hosted.get(link)
    told = text_of(page)

    directory = hosted.sandbox.world.directory_named("contoso")
    assert directory is not None
    assert page.status_code == 200
    for part in (
        PROVIDER, ALERTS, "Contoso Ltd", directory.tenant_id, next(iter(hosted.sandbox.world.apps)),
        "SMTP.Send", "offline_access", "no right to read mail", CONTACT, "Ticket 4711 &lt;b&gt;",
    ):  # fmt: skip
        assert part in told
    until = hosted.link_row(link).expires_at.astimezone(UTC)
    assert f"{until.day} {until:%B %Y, %H:%M} UTC" in told
    assert page.text.count("<button") == 1
    assert "<script" not in page.text


@pytest.mark.parametrize("way", ["hosted", "behind_tls"])
def test_a_mailbox_is_connected(request: pytest.FixtureRequest, engine: Engine, way: str) -> None:
    """Press, sign in, accept: connected, by GET as by form_post; the trail tells each step."""
    hosted: Hosted = request.getfixturevalue(way)
    link = hosted.link()
    hosted.get(link)
    auth_uri = hosted.press(link)
    done = hosted.come_back(hosted.sign_in(auth_uri))

    assert host_of(auth_uri) == host_of(hosted.sandbox.entra_url)
    assert ("response_mode=form_post" in auth_uri) == (way == "behind_tls")
    assert done.status_code == 200
    assert f"{ALERTS} may send alert e-mails now" in text_of(done)
    assert hosted.entry().standing == "ready"
    assert hosted.entry().account == ALERTS
    steps = [(entry.actor, entry.action) for entry in hosted.trail()]
    assert steps == [
        ("cli:alice", "consent-link-make"),
        ("web:consent-link", "consent-link-open"),
        ("web:consent-link", "consent-link-start"),
        ("web:consent-link", "mailbox-connect"),
    ]
    made = hosted.trail()[0]
    assert made.subject == ALERTS
    assert made.detail["until"].startswith(f"{hosted.link_row(link).expires_at:%Y-%m-%d}")
    assert hosted.trail()[-1].detail["account"] == ALERTS
    again = hosted.get(link)
    assert again.status_code == 410
    assert "connected already" in text_of(again)


def test_what_waited_goes_on(hosted: Hosted) -> None:
    """A mailbox that is parked for a lost consent is let go; other customers are not named."""
    hosted.go_through(hosted.link())
    for slug in ("contoso", "fabrikam"):
        with write(hosted.context.engine) as conn:
            lane.park(
                conn, mailbox_id=mailboxes.mailbox(conn, f"alerts@{slug}.example").id,
                scope="mailbox", reason="tokens-revoked", meaning="", next_step="", answer="",
                probe_after_seconds=None,
            )  # fmt: skip
    assert hosted.progress().consent is Progress.LOST
    done = hosted.go_through(hosted.link())

    assert hosted.entry().parked_at is None
    assert "on their way" in text_of(done)
    assert "fabrikam" not in done.text
    assert hosted.progress().consent is Progress.CONSENTED


@SQLITE
def test_workers_hear_of_it_at_once(
    engine: Engine, sandbox_thread: SandboxThread, redis_url: str, redis_keys: RedisKeys
) -> None:
    """The lane is woken, and the token that came with the consent is shared, sealed."""
    beside = {"redis_url": redis_url, "redis_prefix": redis_keys.prefix}
    with (
        hosted_pages(engine, sandbox_thread.server, **beside) as hosted,
        redis.Redis.from_url(redis_url) as client,
    ):
        assert hosted.go_through(hosted.link()).status_code == 200
        key = hosted.entry().id
        woken, shared = (
            client.exists(redis_keys.wake(key, critical=False)),
            client.get(redis_keys.token(key)),
        )

    assert woken
    assert isinstance(shared, bytes)
    assert b"eyJ" not in shared


# -- refusals --------------------------------------------------------------------------------------


def test_another_account_is_refused_and_the_link_stays(hosted: Hosted) -> None:
    """The administrator's own consent is not kept; the page leads back to the link, which works."""
    link = hosted.link()
    done = hosted.go_through(link, ADMIN)

    assert done.status_code == 403
    assert f"Consent was given by {ADMIN}, but the mailbox sends as {ALERTS}" in text_of(done)
    assert hosted.entry().connected_at is None
    refused = hosted.trail()[-1]
    assert refused.action == "consent-refused"
    assert ADMIN in (refused.reason or "")
    assert hosted.progress().consent is Progress.REFUSED
    (again,) = [one for one in hrefs(done) if "/consent/" in one]
    assert hosted.path_of(again) == link
    assert hosted.go_through(link).status_code == 200
    assert hosted.entry().standing == "ready"


@SQLITE
def test_another_tenant_is_refused(hosted: Hosted) -> None:
    """An account of another directory, let in by a broken sign-in service, is not kept."""
    link = hosted.link()
    theirs = hosted.press(hosted.link("alerts@fabrikam.example"))
    mine = hosted.press(link)
    callback = hosted.sign_in(theirs, "alerts@fabrikam.example")
    # The code of one sign-in with the state of another: what a mix-up attack tries.
    state = mine.split("state=")[1].split("&")[0]
    done = hosted.come_back(callback | {"state": state})

    assert done.status_code == 403
    assert hosted.entry().connected_at is None
    assert hosted.entry("alerts@fabrikam.example").connected_at is None


@SQLITE
def test_a_declined_consent_is_explained(hosted: Hosted) -> None:
    """Cancel at Microsoft's page: said in the customer's words; the operator's are in the trail."""
    link = hosted.link()
    done = hosted.go_through(link, decision="cancel")

    assert done.status_code == 403
    assert "You pressed Cancel." in text_of(done)
    assert "Nothing was changed." in text_of(done)
    assert "The user declined" not in text_of(done)
    assert "65004" not in text_of(done)
    assert "The user declined the consent." in (hosted.trail()[-1].reason or "")
    assert hosted.get(link).status_code == 200


@SQLITE
def test_where_users_may_not_consent_the_administrator_is_asked(hosted: Hosted) -> None:
    """The refusal brings the address of the whole directory's consent; after it the link works."""
    directory = hosted.sandbox.world.directory_named("contoso")
    assert directory is not None
    directory.user_consent_allowed = False
    link = hosted.link()
    refused = hosted.go_through(link)
    (admin_address,) = [one for one in hrefs(refused) if "adminconsent" in one]
    back = hosted.sign_in(admin_address, ADMIN)
    done = hosted.get("/oauth/callback", params=back)
    hosted.get("/oauth/callback", params=back)

    assert "An administrator of your organisation has to approve the app" in text_of(refused)
    assert done.status_code == 200
    assert "the app is allowed in the directory of Contoso Ltd" in text_of(done)
    assert [hosted.path_of(one) for one in hrefs(done)] == [link]
    told = [entry for entry in hosted.trail() if entry.action == "admin-consent"]
    assert len(told) == 1
    assert told[0].subject == "contoso"
    assert told[0].detail["directory"] == directory.tenant_id
    asked = hosted.get(link)
    assert "An administrator has allowed the app for your organisation already" in text_of(asked)
    assert not [one for one in hrefs(asked) if "adminconsent" in one]
    assert hosted.go_through(link).status_code == 200


@SQLITE
@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        (
            {"tenant": "11111111-2222-3333-4444-555555555555"},
            403,
            "allowed for another organisation",
        ),
        ({"admin_consent": "", "error": "access_denied"}, 403, "You pressed Cancel"),
        ({"state": "made-up"}, 400, "belongs to no sign-in"),
    ],
    ids=["another-directory", "declined", "forged-state"],
)
def test_what_an_administrator_brings_back_may_be_forged(
    hosted: Hosted, changes: dict[str, str], status: int, says: str
) -> None:
    """Nothing is believed of another directory, of a refusal, or without our state."""
    page = hosted.get(hosted.link())
    (address,) = [one for one in hrefs(page) if "adminconsent" in one]
    done = hosted.get("/oauth/callback", params=hosted.sign_in(address, ADMIN) | changes)

    assert done.status_code == status
    assert says in text_of(done)
    assert not [entry for entry in hosted.trail() if entry.action == "admin-consent"]


@SQLITE
def test_the_audit_trail_is_no_guest_book(hosted: Hosted) -> None:
    """Whoever has an address of ours may call it for ever: that writes one entry, in our words."""
    link = hosted.link()

    def call(number: int, back: dict[str, str]) -> None:
        text = {"error": f"chosen {number}", "error_description": f"chosen text {number}",
                "scope": f"chosen scope {number}", "tenant": f"chosen/{number}"}  # fmt: skip
        assert hosted.get("/oauth/callback", params=back | text).status_code == 403

    (address,) = [one for one in hrefs(hosted.get(link)) if "adminconsent" in one]
    back = hosted.sign_in(address, ADMIN)
    for number in range(5):
        call(number, back)
    once = [entry for entry in hosted.trail() if entry.action == "admin-consent-refused"]
    for number in range(12):
        (address,) = [one for one in hrefs(hosted.get(link)) if "adminconsent" in one]
        call(number, hosted.sign_in(address, ADMIN))
    often = [entry for entry in hosted.trail() if entry.action == "admin-consent-refused"]

    assert len(once) == 1
    assert len(often) == 10
    assert "chosen" not in str(often)


@SQLITE
def test_a_sign_in_service_that_is_away(hosted: Hosted, sandbox_thread: SandboxThread) -> None:
    """Nothing is begun, and the page says to come again."""
    link = hosted.link()
    sandbox_thread._run(hosted.sandbox.stop())
    done = hosted.ask("POST", link)

    assert done.status_code == 503
    assert "does not answer" in text_of(done)
    assert hosted.path_of(hrefs(done)[0]) == link
    assert hosted.link_row(link).standing is consent_links.Standing.HOLDS


# -- what is worth nothing -------------------------------------------------------------------------


def test_links_end(hosted: Hosted) -> None:
    """Ended, withdrawn, replaced, removed: each says so, starts nothing, and redeems nothing."""
    ended, began = hosted.link(), {}
    began["ended"] = hosted.sign_in(hosted.press(ended))
    hosted.set_link(ended, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    answers = {"ended": hosted.get(ended), "ended, pressed": hosted.ask("POST", ended)}
    answers["ended, back"] = hosted.come_back(began["ended"])
    replaced = hosted.link()
    withdrawn = hosted.link()
    answers["replaced"] = hosted.get(replaced)
    callback = hosted.sign_in(hosted.press(withdrawn))
    verbs_consent_links.withdraw_links(hosted.context, ALERTS, actor="cli:alice")
    answers["withdrawn"] = hosted.get(withdrawn)
    answers["withdrawn, back"] = hosted.come_back(callback)
    gone = hosted.link()
    callback = hosted.sign_in(hosted.press(gone))
    with write(hosted.context.engine) as conn:
        mailboxes.remove_mailbox(conn, ALERTS)
    answers["removed"] = hosted.get(gone)
    answers["removed, back"] = hosted.come_back(callback)
    with write(hosted.context.engine) as conn:
        mailboxes.add_mailbox(conn, tenant_slug="contoso", address=ALERTS)
    answers["added again"] = hosted.get(gone)

    assert {name: page.status_code for name, page in answers.items()} == dict.fromkeys(
        answers, 410
    ) | {"removed, back": 400}
    assert "time of this link" in text_of(answers["ended"])
    assert "replaced by a newer one" in text_of(answers["replaced"])
    assert "no longer known" in text_of(answers["removed"])
    assert all(CONTACT in page.text for page in answers.values() if page.status_code == 410)
    assert hosted.entry().connected_at is None


@SQLITE
def test_a_token_that_was_changed_opens_nothing(hosted: Hosted) -> None:
    """Whatever is changed, cut or made up is no link; tokens of other places are none either."""
    link = hosted.link()
    token = link.rpartition("/")[2]
    middle = len(token) // 2
    sealed = hosted.context.vault.seal(b"{}", context="delivery:x").hex()
    forged = [
        token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :],
        token[:-1], token + "A", token[::-1], "x", "a" * 5000, "%00", "ü", sealed,
        Vault([Vault.new_key()]).seal(b"{}", context="consent-link").hex(),
    ]  # fmt: skip

    for one in forged:
        for method in ("GET", "POST"):
            page = hosted.ask(method, f"/consent/{one}")
            assert page.status_code == 404, one
            assert "was not made here" in text_of(page)
    assert hosted.get(link).status_code == 200


def test_a_state_is_used_once(hosted: Hosted) -> None:
    """The same callback again is turned away, also where the first one was refused."""
    link = hosted.link()
    callback = hosted.sign_in(hosted.press(link), ADMIN)
    first, second = hosted.come_back(callback), hosted.come_back(callback)
    without = hosted.get("/oauth/callback", params={"code": callback["code"]})
    made_up = hosted.come_back(callback | {"state": "x" * 40})

    assert [page.status_code for page in (first, second, without, made_up)] == [403, 409, 400, 400]
    assert "counts once" in text_of(second)


def test_of_two_callbacks_at_once_one_counts(hosted: Hosted) -> None:
    """A code is redeemed once, whoever brings it how often."""
    callback = hosted.sign_in(hosted.press(hosted.link()))
    with ThreadPoolExecutor(4) as pool:
        pages = list(pool.map(hosted.come_back, [callback] * 4))

    assert sorted(page.status_code for page in pages) == [200, 409, 409, 409]
    assert [entry.action for entry in hosted.trail()].count("mailbox-connect") == 1


def test_a_sign_in_ends_after_ten_minutes(hosted: Hosted) -> None:
    """A callback that comes too late is turned away; the link begins another."""
    link = hosted.link()
    callback = hosted.sign_in(hosted.press(link))
    with write(hosted.context.engine) as conn:
        conn.execute(update(SIGN_IN).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    late = hosted.come_back(callback)

    assert late.status_code == 410
    assert "longer than ten minutes" in text_of(late)
    assert hosted.entry().connected_at is None
    assert hosted.go_through(link).status_code == 200


def test_a_link_is_pressed_a_few_times_a_minute(hosted: Hosted) -> None:
    """The seventh sign-in within a minute has to wait; yesterday's are forgotten."""
    link = hosted.link()
    for _ in range(6):
        hosted.press(link)
    seventh = hosted.ask("POST", link)
    with write(hosted.context.engine) as conn:
        yesterday = datetime.now(UTC) - timedelta(days=2)
        conn.execute(update(SIGN_IN).values(created_at=yesterday, expires_at=yesterday))
    hosted.press(link)
    with read(hosted.context.engine) as conn:
        kept = conn.execute(select(SIGN_IN.c.state_sha256)).all()

    assert seventh.status_code == 429
    assert seventh.headers["retry-after"] == "60"
    assert len(kept) == 1
