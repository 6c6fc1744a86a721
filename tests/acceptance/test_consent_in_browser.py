"""The whole way of a consent link in a real browser: our page, Microsoft's pages, our page."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Engine

from sandbox.authority import throwaway_authority
from tests.console.cli_setting import SandboxThread
from tests.console.consent_setting import ADMIN, ALERTS, Hosted, hosted_pages
from tests.fixtures.webdriver import Browser, browser, browser_program

PHONE, DESK = (390, 844), (1100, 1300)


@pytest.fixture
def database_kind() -> str:
    """No database has a say in this."""
    return "sqlite"


@pytest.fixture
def sandbox_thread(sandbox_directory: Path) -> Iterator[SandboxThread]:
    thread = SandboxThread(sandbox_directory)
    yield thread
    thread.close()


def key_hash(certificate: Path) -> str:
    """Name a server's key as the browser's list of trusted keys does."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    octets = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(octets).digest()).decode()


@contextmanager
def tls_proxy(listener: socket.socket, to: int, context: ssl.SSLContext) -> Iterator[None]:
    """Stand before the pages as a reverse proxy does: TLS outside, plain HTTP inside."""
    listener.settimeout(0.1)
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while octets := source.recv(65536):
                target.sendall(octets)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def carry(raw: socket.socket) -> None:
        with (
            suppress(OSError),
            context.wrap_socket(raw, server_side=True) as outer,
            socket.create_connection(("127.0.0.1", to)) as inner,
        ):
            back = threading.Thread(target=pump, args=(inner, outer))
            back.start()
            pump(outer, inner)
            back.join()

    def accept() -> None:
        while not ended.is_set():
            with suppress(TimeoutError):
                raw, _ = listener.accept()
                raw.settimeout(20)
                threads.append(threading.Thread(target=carry, args=(raw,)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield
    finally:
        ended.set()
        accepting.join()
        for thread in threads:
            thread.join()


def looked_at(window: Browser, name: str) -> None:
    """See that the page fits a telephone, and keep pictures where somebody wants to look."""
    window.resize(*PHONE)
    assert window.run("return document.documentElement.scrollWidth <= window.innerWidth"), name
    pictures = os.environ.get("CONSENT_PICTURES")
    if pictures:
        window.screenshot(Path(pictures) / f"{name}-phone.png")
    window.resize(*DESK)
    if pictures:
        window.screenshot(Path(pictures) / f"{name}.png")


def sign_in(window: Browser, account: str) -> None:
    """Do at the sandbox's pages what a person does at Microsoft's."""
    window.until_title("Sign in")
    window.type("#account", account)
    window.type("#password", "sandbox")
    window.click("button.main")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("way", ["http", "https"])
def test_a_mailbox_is_connected_in_a_browser(
    engine: Engine, sandbox_thread: SandboxThread, tmp_path: Path, way: str
) -> None:
    """The wrong account first, then the right one: refused, tried again, connected."""
    browser_program()
    sandbox = sandbox_thread.server
    proxy = socket.create_server(("127.0.0.1", 0))
    behind = f"https://localhost:{proxy.getsockname()[1]}"
    authority = throwaway_authority(tmp_path / "proxy")
    if way == "https":
        next(iter(sandbox.world.apps.values())).redirect_uris.append(f"{behind}/oauth/callback")
    keys = ",".join(
        key_hash(one) for one in (sandbox.ca_file.parent / "server.pem", authority.cert_file)
    )
    public_url = behind if way == "https" else None
    with (
        hosted_pages(engine, sandbox, public_url=public_url) as hosted,
        tls_proxy(proxy, hosted.port, authority.server_context()),
        browser(tmp_path / "profile", trusted_keys=keys) as window,
    ):
        goes_through(window, hosted)
    proxy.close()


def goes_through(window: Browser, hosted: Hosted) -> None:
    link = hosted.link(note="For ticket 4711; questions to the service desk.")
    window.open(hosted.context.settings.public_url + link)
    looked_at(window, "asked")
    assert window.title == f"Allow alert e-mails from {ALERTS}"
    assert "no right to read mail" in window.text()
    window.click("form button")
    looked_at(window, "sign-in")
    sign_in(window, ADMIN)
    window.until_title("Permissions requested")
    window.click("button.main")
    window.until_title("is not connected")
    looked_at(window, "refused")
    assert f"Consent was given by {ADMIN}" in window.text()
    assert hosted.entry().connected_at is None
    window.click("a.button")
    window.until_title("Allow alert e-mails")
    window.click("form button")
    sign_in(window, ALERTS)
    window.until_title("Permissions requested")
    looked_at(window, "permissions")
    window.click("button.main")
    window.until_title("Connected")
    looked_at(window, "connected")
    assert f"{ALERTS} may send alert e-mails now" in window.text()
    assert hosted.entry().standing == "ready"
    # A policy that stands in the way of our own pages would be told here.
    assert not [said for said in window.complaints() if "Content Security Policy" in said]
    window.open(hosted.context.settings.public_url + link)
    looked_at(window, "served")
    assert "connected already" in window.text()
