"""
emailproxy in front of the sandbox: clients sign in with a password, it speaks XOAUTH2.

It gets its tokens itself, by client credentials, and keeps them encrypted under each client's
password. Eight clients hand mails in over a connection each mail, as an engine does that knows
nothing but SMTP.
"""

from __future__ import annotations

import smtplib
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path

from bench.deliveries import alert
from bench.peer_running import READY_SECONDS, NotMeasured, peer, taken_so_far, until_taken
from bench.resources import Resources
from bench.table import Sample
from console.stage import Stage
from sandbox.worldfile import APP_ROLE

CLIENTS = 8
PASSWORD = "bench"
TIMEOUT_SECONDS = 60.0


def through_emailproxy(given: Stage, peers: Path, mails: int) -> Sample:
    """
    Send so many mails through the proxy.

    Raises:
        NotMeasured: It is not installed, does not start, or refuses.
    """
    program = peers / "emailproxy"
    if not program.exists():
        raise NotMeasured(f"emailproxy is not installed in {peers.parent.name}")
    directory = Path(given.settings.data_dir)
    _consent(given)
    port = _free_port()
    settings = directory / "emailproxy.config"
    settings.write_text(_settings(given, port), "utf-8")
    argv = [str(program), "--no-gui", "--config-file", str(settings)]
    argv += ["--log-file", str(directory / "emailproxy.out")]
    environment = {"SSL_CERT_FILE": given.sandbox.facts["ca_file"]}
    with peer(argv, environment, directory / "emailproxy.log", b"") as process:
        _wait_for(port)
        with ThreadPoolExecutor(CLIENTS) as clients:
            # Every account's first sign-in fetches its token.
            list(clients.map(lambda number: _send(given, port, number), range(len(given.slugs))))
            watched = Resources([process.pid])
            seen = taken_so_far(given)
            sending = [clients.submit(_send, given, port, number) for number in range(mails)]
            for sent in sending:
                sent.result()
                watched.look()
            seconds = until_taken(given, seen, mails, watched)
        return Sample(mails, seconds, watched.look().cpu_seconds, watched.peak_mb)


def _consent(given: Stage) -> None:
    """Allow the app to send as each mailbox by itself, without a user."""
    client_id = given.sandbox.facts["apps"][0]["client_id"]
    for slug in given.slugs:
        consent = {
            "client_id": client_id, "action": "grant", "roles": [APP_ROLE],
            "mailboxes": [f"alerts@{slug}.example"],
        }  # fmt: skip
        given.sandbox.tell("POST", f"/tenants/{slug}/consent", consent)


def _settings(given: Stage, port: int) -> str:
    facts = given.sandbox.facts
    app = facts["apps"][0]
    lines = [
        f"[SMTP-{port}]",
        "local_address = 127.0.0.1",
        f"server_address = {facts['smtp_host']}",
        f"server_port = {facts['smtp_port']}",
        "server_starttls = True",
    ]
    for slug in given.slugs:
        authority = f"{facts['entra_url']}/{given.sandbox.directory_id(slug)}"
        lines += [
            f"[alerts@{slug}.example]",
            f"token_url = {authority}/oauth2/v2.0/token",
            "oauth2_scope = https://outlook.office365.com/.default",
            "oauth2_flow = client_credentials",
            f"client_id = {app['client_id']}",
            f"client_secret = {app['secrets'][0]}",
        ]
    return "\n".join(lines) + "\n"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise NotMeasured("emailproxy does not listen") from None
            time.sleep(0.1)
        else:
            return


def _send(given: Stage, port: int, number: int) -> None:
    made = alert(number, given.slugs[number % len(given.slugs)])
    sender = f"alerts@{made.tenant}.example"
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, "ops@bench.example", made.subject
    mail["Date"], mail["Message-ID"] = formatdate(), make_msgid(domain="bench.example")
    mail.set_content(made.text)
    mail.add_alternative(made.html, subtype="html")
    with smtplib.SMTP("127.0.0.1", port, "bench.example", TIMEOUT_SECONDS) as smtp:
        smtp.login(sender, PASSWORD)
        smtp.send_message(mail)
