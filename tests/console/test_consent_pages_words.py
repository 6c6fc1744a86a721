"""Customers read what happened and whom to ask, never an operator's command or word. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from console.consent_pages.pages import Page, Pages
from console.refusals import _SAYS_ALL
from console.verbs_consents import AdminReturned, Away, Dead, Invitation, Refused
from console.verbs_mailboxes import Connected
from models.consent_links import Standing
from models.settings import ConsentsSettings
from models.sign_ins import Unusable
from workers.rule_book import every_verdict
from workers.verdict import Action

PAGES = Pages(ConsentsSettings(provider="Example Managed Services", contact="noc@msp.example"))
LINK = "https://consent.msp.example/consent/abc"
ENTRY: Any = SimpleNamespace(
    address="alerts@contoso.example", auth_user=None, park_reason=None, park_meaning=None
)
SENDER: Any = SimpleNamespace(
    address="alerts@contoso.example", auth_user="alerts@contoso.example", oidc_authority=None,
    authority_url="https://login.microsoftonline.com/x", scopes=("https://x/SMTP.Send",),
    directory_id="d", client_id="c",
)  # fmt: skip
OPERATORS = re.compile(
    r"`|alertpost [a-z]|AADSTS|\b(?:parked|resume|grant|slug|probe|dead letter|tokens?|client secret"
    r"|OAuth|XOAUTH2|OpenID|authority|redis|worker|rule|trace id|admin-consent|app registration"
    r"|SMTP AUTH|Conditional Access|Basic|[a-z]+_[a-z_]+)\b",
    re.IGNORECASE,
)
VERDICTS = every_verdict()


def _refused(**values: Any) -> Page:
    words = "An operator's words. See `alertpost status`. [AADSTS65004 (trace id x)]"
    return PAGES.refused(Refused(entry=ENTRY, words=words, detail="AADSTS", again=LINK, **values))


def _pages() -> Iterator[tuple[str, Page]]:
    for verdict in VERDICTS:
        yield f"refused {verdict.rule}", _refused(verdict=verdict, error="invalid_grant")
        returned = AdminReturned("Contoso Ltd", "An operator's words, AADSTS1", LINK, verdict)
        yield f"admin {verdict.rule}", PAGES.admin_returned(returned)
        if verdict.action is Action.PARK:
            box = SimpleNamespace(park_reason=verdict.rule, park_meaning=verdict.meaning)
            done = Connected(ENTRY.address, "a@b.example", [], cast("Any", box))
            yield f"connected {verdict.rule}", PAGES.connected(done)
    for error in _SAYS_ALL - {"wrong_account"}:
        yield error, _refused(error=error)
    yield "admin elsewhere", PAGES.admin_returned(AdminReturned("Contoso Ltd", "AADSTS1", None))
    doubtful = Connected(ENTRY.address, "a@b.example", ["x"], None, doubt="no ID token, AADSTS")
    yield "doubtful", PAGES.connected(doubtful)
    yield "allowed", PAGES.admin_returned(AdminReturned("Contoso Ltd", "", LINK))
    yield "away", PAGES.away(Away(ENTRY, LINK))
    for standing in (*Standing, None):
        yield f"dead {standing}", PAGES.dead(Dead(standing, ENTRY))
    for why in Unusable:
        yield f"unusable {why}", PAGES.unusable(why)
    link: Any = SimpleNamespace(note="", expires_at=datetime.now(UTC))
    yield "invitation", PAGES.invitation(Invitation(link, ENTRY, SENDER, "Contoso Ltd", LINK))
    for page in (PAGES.unknown_link(), PAGES.too_often(), PAGES.trouble(500), PAGES.front()):
        yield "more", page


def test_no_page_shows_an_operators_words() -> None:
    """Of every rule and every check of ours, on each page that could show it."""
    wrong = []
    for name, page in _pages():
        # What stands between code tags is Microsoft's own name of a permission, for their records.
        body = re.sub(r"(?s)<style>.*?</style>|<code>.*?</code>", "", page.html)
        text = " ".join(re.sub(r"<[^>]+>", " ", body).split())
        found = OPERATORS.findall(text)
        if found or "An operator" in text:
            wrong.append((name, found, text))

    assert wrong == []


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("smtp-auth-disabled-tenant", "A setting of your organisation"),
        ("secret-expired", "You need not do anything"),
    ],
)
def test_what_still_holds_alerts_is_said_with_whom_to_tell(rule: str, says: str) -> None:
    """The customer learns that it is not over, and who knows what is missing."""
    box: Any = SimpleNamespace(park_reason=rule, park_meaning="SMTP AUTH is switched off.")
    page = PAGES.connected(Connected(ENTRY.address, "a@b.example", [], box))

    assert says in page.html
    assert "Example Managed Services (noc@msp.example)" in page.html
    assert "SMTP AUTH" not in page.html
