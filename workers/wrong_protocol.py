"""Who answers in place of a mail server, by the first line that it says. Pure."""

from __future__ import annotations

import re

_SPEAKERS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"HTTP/[0-9]|<!doctype|<html", re.IGNORECASE), "a web server (HTTP)"),
    (re.compile(r"\* (?:OK|PREAUTH|BYE)\b"), "a mailbox server (IMAP)"),
    (re.compile(r"[+-](?:OK|ERR)\b"), "a mailbox server (POP3)"),
    (re.compile(r"SSH-[0-9]"), "an SSH server"),
    (re.compile(r"RFB [0-9]"), "a remote desktop (VNC)"),
    (re.compile(r"[\x14-\x17]\x03"), "a server that wants TLS from the first octet on"),
)

_SHOWN = 80


def not_smtp(line: str) -> str:
    """
    Say in words that a line is no SMTP reply, and whose it seems to be.

    Args:
        line: What the server said.
    """
    line = line.strip("\r\n ")
    speaker = next((name for pattern, name in _SPEAKERS if pattern.match(line)), None)
    shown = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
    shown = "".join(letter if letter.isprintable() else "�" for letter in shown)
    said = f"it said '{shown}', which is not an SMTP reply"
    return f"{said} but that of {speaker}" if speaker else said
