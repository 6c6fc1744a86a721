"""No sentence of ours is garbled on its way into a log line or a mail; secrets still never pass."""

from __future__ import annotations

import ast
import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import models.redaction
from models.redaction import redact_secrets, redact_text
from workers.rule_book import every_verdict

ROOT = Path(models.redaction.__file__).parent.parent
ROOMS = ("models", "producers", "workers", "console", "sandbox")
DATA = {
    ("models/redaction.py", "[parameters: "),
    ("models/redaction.py", "[parameters: 7"),
    ("models/redaction.py", "[parameters: 7]"),
    ("models/redaction.py", r"\[parameters: [^\n]*"),
    ("models/vault.py", "app-secret:7"),
    ("console/embedded_redis.py", "redis://:7@127.0.0.1:7/0"),
    ("sandbox/entra.py", "Read: 7. Came: 7. Authorization: 7."),
}
"""What is never shown as it stands: patterns, names of ciphertexts, what holds a secret's place."""


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Give every literal but docstrings; a value that is put in is the digit 7."""
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            parts = node.values
            left_out.update(id(part) for part in parts)
            yield (
                node.lineno,
                "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "7" for part in parts
                ),
            )
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in left_out
        ):
            yield node.lineno, node.value


def _changed(room: str) -> Iterator[str]:
    for path in sorted((ROOT / room).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for line, text in _texts(ast.parse(path.read_text("utf-8"))):
            # An address alone is data; whose it is may be shortened in a log.
            address = re.fullmatch(r"(?:[\w ]+ <)?[\w.]+@[\w.]+>?", text)
            if redact_text(text) != text and not address and (name, text) not in DATA:
                yield f"{name}:{line}: {text!r} becomes {redact_text(text)!r}"


@pytest.mark.parametrize("room", ROOMS)
def test_no_literal_of_ours_is_changed(room: str) -> None:
    """Whatever we say reads the same in the log, in the operator's mail and on a terminal."""
    assert (ROOT / room).is_dir()

    assert list(_changed(room)) == []


def test_no_meaning_and_no_next_step_is_changed() -> None:
    """What a verdict tells people comes to them whole."""
    told = [
        text
        for verdict in every_verdict()
        for text in (verdict.meaning, verdict.next_step)
        if redact_text(text) != text
    ]

    assert told == []


@pytest.mark.parametrize(
    "text",
    [
        "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
        "550 5.7.30 Basic authentication is not supported for Client Submission.",
        "250-AUTH LOGIN XOAUTH2",
        "250 AUTH PLAIN LOGIN CRAM-MD5 OAUTHBEARER SCRAM-SHA-256",
        "SMTP AUTH was disabled for this mailbox",
        "SMTP AUTH IS DISABLED HERE",
        "AUTH before MAIL FROM, AUTH without STARTTLS",
        "Basic, bearer authentication.",
        "needs a new secret: `alertpost apps secret contoso --client-secret-file FILE`",
    ],
)
def test_ordinary_words_beside_a_telling_one_stay(text: str) -> None:
    """Names of mechanisms, and words that follow AUTH, Basic or Bearer, are no secrets."""
    assert redact_text(text) == text


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


JWT = ".".join(_b64(part).rstrip("=") for part in ('{"alg":"RS256"}', '{"aud":"x"}', "signed"))
PLAIN = _b64("\0alerts\0hunter2")
XOAUTH2 = _b64("user=alerts@contoso.com\x01auth=Bearer EwBAA8l6BAAU\x01\x01")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"AUTH XOAUTH2 {XOAUTH2}", XOAUTH2),
        (f"auth xoauth2 {XOAUTH2}", XOAUTH2),
        (f">>> AUTH PLAIN {PLAIN}\r\n", PLAIN),
        (f"AUTH LOGIN {_b64('alerts@contoso.com')}", _b64("alerts@contoso.com")),
        (f"AUTH X-OWN {_b64('opaque')}", _b64("opaque")),
        ("AUTH XOAUTH2 user=a@b.example\x01auth=Bearer EwBAA8l6BAAU\x01\x01", "EwBAA8l6BAAU"),
        (f"Authorization: Basic {_b64('client:hunter2')}", _b64("client:hunter2")),
        (f"sent basic {_b64('client:hunter2')}.", _b64("client:hunter2")),
        ("Bearer EwBAA8l6BAAU9k.q-R_s/T+u=", "EwBAA8l6BAAU9k"),
        ("bearer opaquetokenoflowercaseletters", "opaquetokenoflowercaseletters"),
        (f"Bearer {JWT}", JWT),
        (f"it was {JWT} all along", JWT),
        ("the secret is abc8Q~DEFghiJKLmnoPQRstuVWXyz0123456789a", "DEFghiJKLmno"),
        ("client_secret: hunter2", "hunter2"),
        ("client secret: hunter", "hunter"),
        ("secret=it", "=it"),
        ("secret: `hunter2`", "hunter2"),
        ("password: this", "this"),
        ("postgresql://user:password@host/name", "password@"),
        ("postgresql://alertpost:hunter2@db.internal/alertpost", "hunter2"),
        ("redis://:hunter2@127.0.0.1:6379/0", "hunter2"),
        ("refresh_token=0.AXoAabcdefghijklmnopqrstuvwx", "AXoA"),
        ("https://host/?code=0.AXoAabcdefghijklmnopqrstuvwx&state=x", "AXoA"),
    ],
)
def test_secrets_do_not_pass(text: str, secret: str) -> None:
    """What opens something is taken out, whatever stands around it."""
    assert secret in text

    assert secret not in redact_text(text)
    assert secret not in redact_secrets(text)
