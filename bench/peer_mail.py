"""
A mail as most people send it from a task: one connection for each, smtplib, XOAUTH2.

Used by the peers, in the peers' environment: it imports nothing of alertpost. The access tokens are
there already; fetching them is not what is compared.
"""

from __future__ import annotations

import json
import os
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from functools import cache
from pathlib import Path
from typing import Any


@cache
def job() -> dict[str, Any]:
    """Read where to send and with which tokens, once a process."""
    told: dict[str, Any] = json.loads(Path(os.environ["BENCH_JOB"]).read_text("utf-8"))
    return told


def send(sender: str, subject: str, text: str, html: str) -> None:
    """Send one mail over a connection of its own."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, "ops@bench.example", subject
    mail["Date"], mail["Message-ID"] = formatdate(), make_msgid(domain="bench.example")
    mail.set_content(text)
    mail.add_alternative(html, subtype="html")
    bearer = f"user={sender}\x01auth=Bearer {job()['tokens'][sender]}\x01\x01"
    with smtplib.SMTP(job()["host"], job()["port"], local_hostname="bench.example") as smtp:
        smtp.starttls(context=ssl.create_default_context(cafile=job()["ca_file"]))
        smtp.ehlo()
        smtp.auth("XOAUTH2", lambda _challenge=None: bearer)
        smtp.send_message(mail)
