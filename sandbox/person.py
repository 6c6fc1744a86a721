"""A person with a browser, played by a program: signs in, approves, consents."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urljoin, urlsplit

import requests

if TYPE_CHECKING:
    from pathlib import Path

_STEPS = 6
_TIMEOUT_SECONDS = 30.0


class StoppedAtPage(Exception):  # noqa: N818 - reads as what it is
    """
    The way to the app ended at a page of Entra.

    Attributes:
        text: The page's text.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@dataclass(slots=True)
class _Form(HTMLParser):
    """The first form of a page, its fields, and the page's text."""

    action: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        HTMLParser.__init__(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = given.get("action", "")
        elif tag == "input":
            self.fields[given["name"]] = given.get("value", "")
        elif tag == "button" and "name" in given:
            self.fields.setdefault(given["name"], "")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())


@dataclass(frozen=True, slots=True)
class Person:
    """
    Someone who signs in.

    Attributes:
        address: The account.
        ca_file: The sandbox's certificate.
        password: The account's.
        decision: What to press on the consent page, ``accept`` or ``cancel``.
    """

    address: str
    ca_file: Path
    password: str = "sandbox"  # noqa: S105 - the sandbox's default
    decision: str = "accept"

    def go_through(self, url: str) -> dict[str, str]:
        """
        Follow an authorization URL until Entra sends the browser back to the app.

        Args:
            url: From MSAL's ``initiate_auth_code_flow`` or an admin consent link.

        Returns:
            What the app gets: the parameters of its callback. The callback itself is not called.

        Raises:
            StoppedAtPage: A page of Entra says why it goes no further.
        """
        with requests.Session() as browser:
            # The environment's own CA bundle must not win over the sandbox's.
            browser.trust_env = False
            browser.verify = str(self.ca_file)
            entra = urlsplit(url).netloc
            answer = browser.get(url, allow_redirects=False, timeout=_TIMEOUT_SECONDS)
            for _ in range(_STEPS):
                if answer.is_redirect:
                    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))
                page = _Form()
                page.feed(answer.text)
                target = urljoin(answer.url, page.action)
                if urlsplit(target).netloc != entra:
                    return page.fields
                if not page.action or 'class="error"' in answer.text:
                    break
                answer = browser.post(
                    target,
                    data=self._filled(page.fields),
                    allow_redirects=False,
                    timeout=_TIMEOUT_SECONDS,
                )
            raise StoppedAtPage(" ".join(page.text))

    def _filled(self, fields: dict[str, str]) -> dict[str, str]:
        mine = {
            "account": self.address,
            "password": self.password,
            "decision": self.decision,
            "approved": "yes",
        }
        return {name: mine.get(name, value) for name, value in fields.items()}
