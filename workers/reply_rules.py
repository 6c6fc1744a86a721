"""All reply rows in the order in which they are asked, and what holds where none of them fits."""

from __future__ import annotations

from enum import StrEnum

from models.stages import Stage
from workers.reply_rules_mail import MAIL_RULES, SEND_AS_DENIED
from workers.reply_rules_recipient import RECIPIENT_RULES
from workers.reply_rules_session import AUTH_REFUSED, AUTH_REFUSED_AGAIN, SESSION_RULES
from workers.verdict import (
    Action,
    Limit,
    Remedy,
    Scope,
    Verdict,
    dead,
    park,
    rejected,
    retry_backoff,
    retry_soon,
)

RULES = SESSION_RULES + MAIL_RULES + RECIPIENT_RULES


class Failure(StrEnum):
    """What ends a dialogue without a reply."""

    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    TLS = "tls"
    """The handshake failed for another reason than the certificate."""
    DNS = "dns"
    REFUSED = "refused"
    CERTIFICATE = "certificate"
    NO_STARTTLS = "no-starttls"
    GARBAGE = "garbage"
    """What came in place of a reply is none of SMTP."""


ACCEPTED = Verdict(
    rule="accepted",
    action=Action.ACCEPTED,
    meaning="Exchange took responsibility for the mail.",
    next_step="Nothing to do.",
    counts=True,
)

# --- where no row fits ----------------------------------------------------------------------------

UNKNOWN_TRANSIENT = retry_backoff(
    "unknown-transient", "The server asks to try later, for a reason that is not in our tables."
)
UNKNOWN_AT_CONNECT = retry_backoff(
    "unknown-at-connect",
    "The server refuses to talk, for a reason that is not in our tables.",
    limit=Limit(
        times=3,
        then=park(
            "refused-at-connect",
            Scope.MAILBOX,
            Remedy.FIX_CONFIGURATION,
            "The server refuses to talk to us again and again.",
            "Read the raw reply; check host, port and the network address that we send from.",
        ),
    ),
)
UNKNOWN_AT_MAIL = park(
    "refused-at-mail",
    Scope.MAILBOX,
    Remedy.ADMIN_SETTING,
    "The server refuses this sender for a reason that is not in our tables.",
    "Read the raw reply and act on it; repeating it could lock the mailbox out, so it is probed"
    " rarely.",
)
UNKNOWN_AT_RCPT = rejected(
    "refused-at-rcpt",
    "The server refuses this recipient for a reason that is not in our tables.",
    "Read the raw reply and correct the recipient.",
    suppress_after=3,
)
UNKNOWN_AT_DATA = dead(
    "refused-at-data",
    Remedy.REPORT_BUG,
    "The server refuses this mail for a reason that is not in our tables.",
    "Read the raw reply; replay the mail once its cause is gone.",
)
UNEXPECTED = retry_backoff(
    "unexpected-reply",
    "The server's answer fits no command of ours.",
    limit=Limit(
        times=3,
        then=park(
            "unexpected-reply-again",
            Scope.MAILBOX,
            Remedy.FIX_CONFIGURATION,
            "What answers at this address does not speak SMTP as expected.",
            "Check host and port, and look for a device on the way that rewrites SMTP.",
        ),
    ),
)
UNREADABLE_AFTER_DOT = retry_backoff(
    "unreadable-after-dot",
    "The answer to the mail could not be understood, so it may have been taken.",
    "Look for its Message-ID in Sent Items if a second copy would matter.",
    uncertain=True,
)
_WRONG_SERVER_STEP = (
    "Check host and port of the mailbox's cloud (worldwide: smtp.office365.com, port 587), and"
    " look for a proxy that answers in its place."
)
WRONG_PROTOCOL = retry_backoff(
    "wrong-protocol",
    "What answers at this host and port is not a mail server.",
    _WRONG_SERVER_STEP,
    remedy=Remedy.FIX_CONFIGURATION,
    limit=Limit(
        times=3,
        then=park(
            "wrong-protocol-again",
            Scope.MAILBOX,
            Remedy.FIX_CONFIGURATION,
            "What keeps answering at this host and port is not a mail server.",
            _WRONG_SERVER_STEP,
        ),
    ),
)
NO_MAIL_IN_HAND = retry_soon(
    "after-the-mail",
    "Closing the connection went wrong; the mail before it has its own outcome.",
    "Nothing to do.",
)
COMPOSE_FAILED = dead(
    "mail-not-built",
    Remedy.REPORT_BUG,
    "The mail could not be built from what was handed in.",
    "Correct the alert e-mail or report this as a bug, then replay it.",
)

SIGNED_IN_AS_MAILBOX = retry_soon(
    "signed-in-as-mailbox",
    "The account that signs in may not send as this shared mailbox, but may sign in as the mailbox"
    " itself.",
    "Nothing to do; the mail is sent again that way. Send As for that account opens both ways.",
    limit=Limit(times=1, then=SEND_AS_DENIED),
)

REFUSED_BY_STAGE = {
    Stage.AUTH: (AUTH_REFUSED, AUTH_REFUSED_AGAIN),
    Stage.MAIL: (UNKNOWN_AT_MAIL, UNKNOWN_AT_MAIL),
    Stage.RCPT: (UNKNOWN_AT_RCPT, UNKNOWN_AT_RCPT),
    Stage.DATA: (UNKNOWN_AT_DATA, UNKNOWN_AT_DATA),
    Stage.BODY: (UNKNOWN_AT_DATA, UNKNOWN_AT_DATA),
}
"""An unknown 5xx, with a token that is old or fresh; other stages: ``UNKNOWN_AT_CONNECT``."""

# --- without a reply ------------------------------------------------------------------------------

LOST_AFTER_DOT = retry_backoff(
    "lost-after-dot",
    "The connection ended after the mail and before the answer, so it may have been taken.",
    "Look for its Message-ID in Sent Items if a second copy would matter.",
    uncertain=True,
)
_LOST = retry_soon("connection-lost", "The connection ended before the mail was sent.")
_SILENT = retry_backoff("no-answer", "The server did not answer in time; the mail was not sent.")
_UNREACHABLE_STEP = (
    "Nothing to do for one mailbox; if all tenants show it, check our network and firewall."
)
_UNSAFE_STEP = (
    "Look for a proxy or firewall that intercepts TLS on this path, and check host, port and"
    " CA file of the mailbox's cloud. Nothing is sent without verified TLS."
)

FAILURES = {
    Failure.TIMEOUT: _SILENT,
    Failure.DISCONNECTED: _LOST,
    Failure.TLS: retry_backoff("tls-failed", "TLS could not be agreed upon.", _UNREACHABLE_STEP),
    Failure.DNS: retry_backoff(
        "host-not-found", "The server's name could not be resolved.", _UNREACHABLE_STEP
    ),
    Failure.REFUSED: retry_backoff(
        "connection-refused", "The server's port could not be reached.", _UNREACHABLE_STEP
    ),
    Failure.CERTIFICATE: retry_backoff(
        "certificate-invalid",
        "The server's certificate is not the one it should be; the token was not sent.",
        _UNSAFE_STEP,
        remedy=Remedy.FIX_CONFIGURATION,
        limit=Limit(
            times=3,
            then=park(
                "certificate-invalid-again",
                Scope.MAILBOX,
                Remedy.FIX_CONFIGURATION,
                "The server keeps showing a certificate that is not the one it should be.",
                _UNSAFE_STEP,
            ),
        ),
    ),
    Failure.NO_STARTTLS: retry_backoff(
        "no-starttls",
        "The server offers no encryption; the token was not sent.",
        _UNSAFE_STEP,
        remedy=Remedy.FIX_CONFIGURATION,
        limit=Limit(
            times=3,
            then=park(
                "no-starttls-again",
                Scope.MAILBOX,
                Remedy.FIX_CONFIGURATION,
                "The server keeps offering no encryption.",
                _UNSAFE_STEP,
            ),
        ),
    ),
    Failure.GARBAGE: UNEXPECTED,
}
"""Before the final dot: certainly not sent."""
