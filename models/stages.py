from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """Where in an attempt something happened, in order (RFC 5321 section 4.1.4)."""

    TOKEN = "token"  # noqa: S105 - a stage, no secret
    CONNECT = "connect"
    STARTTLS = "starttls"
    EHLO = "ehlo"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    """The DATA command up to its 354: nothing of the mail was sent."""
    BODY = "body"
    """After the final dot: without a reply the mail's fate is unknown."""
    QUIT = "quit"
    COMPOSE = "compose"
    """Before any network: the mail could not be built."""
