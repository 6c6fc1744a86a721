"""The consent pages, served over HTTP beside a sandbox."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import requests
import uvicorn
from pydantic import SecretStr
from sqlalchemy import Engine, update

from console import verbs_consent_links
from console.consent_pages.serving import config_for
from console.context import Context
from models import app_registrations, audit, consent_links, mailboxes, tenants
from models.consent_links import LINK
from models.database import read, write
from models.redis_keys import RedisKeys
from models.settings import Settings
from models.vault import Vault
from models.waker import Waker
from sandbox.person import Person
from sandbox.server import SandboxServer

ALERTS = "alerts@contoso.example"
ADMIN = "admin@contoso.example"
PROVIDER = "Example Managed Services"
CONTACT = "noc@msp.example"
ELSEWHERE = "https://consent.msp.example"


@dataclass
class Hosted:
    """
    The pages and who uses them.

    Attributes:
        context: What the pages work with.
        sandbox: Microsoft.
        port: Where the pages are, on 127.0.0.1.
    """

    context: Context
    sandbox: SandboxServer
    port: int

    def link(self, address: str = ALERTS, *, days: float = 14, note: str = "") -> str:
        """Make a link as the command line does; give what follows the public address."""
        made = verbs_consent_links.make_link(
            self.context, address, lasts=timedelta(days=days), note_text=note, actor="cli:alice"
        )
        return self.path_of(made.link)

    def path_of(self, address: str) -> str:
        """Cut the public address off."""
        assert address.startswith(self.context.settings.public_url)
        return address.removeprefix(self.context.settings.public_url)

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        """Send a request to the pages; redirects are left alone."""
        with requests.Session() as browser:
            browser.trust_env = False
            return browser.request(
                method,
                f"http://127.0.0.1:{self.port}{path}",
                allow_redirects=False,
                timeout=30,
                **more,
            )

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.ask("GET", path, **more)

    def press(self, link: str) -> str:
        """Press the page's button; give the address of the sign-in."""
        answer = self.ask("POST", link)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    def sign_in(self, auth_uri: str, address: str = ALERTS, **person: Any) -> dict[str, str]:
        """Go through the pages of Microsoft; give what the browser is sent back with."""
        return Person(address, self.sandbox.ca_file, **person).go_through(auth_uri)

    def come_back(self, parameters: dict[str, str]) -> requests.Response:
        """Bring the callback, by GET or, behind TLS, by POST, as Microsoft's page would."""
        if self.context.settings.public_url.startswith("https:"):
            return self.ask("POST", "/oauth/callback", data=parameters)
        return self.get("/oauth/callback", params=parameters)

    def go_through(self, link: str, address: str = ALERTS, **person: Any) -> requests.Response:
        """Do it all: press, sign in, come back."""
        return self.come_back(self.sign_in(self.press(link), address, **person))

    def entry(self, address: str = ALERTS) -> mailboxes.MailboxEntry:
        with read(self.context.engine) as conn:
            return mailboxes.mailbox(conn, address)

    def progress(self, address: str = ALERTS) -> verbs_consent_links.Consent:
        found = verbs_consent_links.consents(self.context)
        return next(one for one in found if one.mailbox == address)

    def trail(self) -> list[audit.Entry]:
        """Give the audit trail, oldest first."""
        with read(self.context.engine) as conn:
            return [row.entry for row in reversed(audit.entries(conn))]

    def link_row(self, link: str) -> consent_links.Link:
        with read(self.context.engine) as conn:
            found = consent_links.find(conn, self.context.vault, link.rpartition("/")[2])
        assert found is not None
        return found

    def set_link(self, link: str, **values: Any) -> None:
        """Put a link into a situation that time would have brought about."""
        key: UUID = self.link_row(link).id
        with write(self.context.engine) as conn:
            conn.execute(update(LINK).where(LINK.c.id == key).values(**values))


def settings_for(engine: Engine, *, public_url: str, **more: Any) -> Settings:
    return Settings.load(
        database_url=engine.url.render_as_string(hide_password=False),
        secret_keys=(SecretStr(Vault.new_key()),),
        public_url=public_url,
        consents={"provider": PROVIDER, "contact": CONTACT},
        **more,
    )


def add_tenants(context: Context, sandbox: SandboxServer) -> None:
    """Add contoso and fabrikam, whose mailboxes nobody has connected, under one app."""
    app = next(iter(sandbox.world.apps.values()))
    app.redirect_uris.append(f"{ELSEWHERE}/oauth/callback")
    with write(context.engine) as conn:
        app_registrations.add_app(
            conn,
            context.vault,
            name="msp",
            client_id=app.client_id,
            credential=app_registrations.Credential.secret(app.client_secrets[0].value),
        )
        for slug in ("contoso", "fabrikam"):
            directory = sandbox.world.directory_named(slug)
            assert directory is not None
            tenants.add_tenant(
                conn,
                slug=slug,
                name=f"{slug.title()} Ltd",
                directory_id=directory.tenant_id,
                app="msp",
                authority=sandbox.entra_url,
                smtp_host=sandbox.smtp_host,
                smtp_port=sandbox.smtp_port,
                ca_file=str(sandbox.ca_file),
                notify={"default": [f"ops@{slug}.example"]},
            )
            mailboxes.add_mailbox(conn, tenant_slug=slug, address=f"alerts@{slug}.example")


@contextmanager
def served(context: Context, listener: socket.socket, **how: Any) -> Iterator[None]:
    """Serve the pages from a thread; ``how`` goes to ``config_for``."""
    server = uvicorn.Server(config_for(context, **how))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextmanager
def hosted_pages(
    engine: Engine, sandbox: SandboxServer, *, public_url: str | None = None, **settings: Any
) -> Iterator[Hosted]:
    """
    Serve pages with two tenants.

    Args:
        engine: A migrated database.
        sandbox: Microsoft.
        public_url: None: http on localhost, where callbacks come by GET.
        settings: More of them.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    given = settings_for(engine, public_url=public_url or f"http://localhost:{port}", **settings)
    vault = Vault([key.get_secret_value() for key in given.secret_keys])
    waker = Waker(given.redis_url, RedisKeys(given.redis_prefix)) if given.redis_url else None
    context = Context(given, engine, vault, waker)
    add_tenants(context, sandbox)
    try:
        with served(context, listener):
            yield Hosted(context, sandbox, port)
    finally:
        if waker is not None:
            waker.close()


def text_of(answer: requests.Response) -> str:
    """Give a page's text without its tags."""
    body = re.sub(r"<style>.*?</style>", "", answer.text, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def hrefs(answer: requests.Response) -> list[str]:
    """Give the links of a page."""
    return [one.replace("&amp;", "&") for one in re.findall(r'href="([^"]+)"', answer.text)]


def host_of(address: str) -> str:
    return urlsplit(address).netloc
