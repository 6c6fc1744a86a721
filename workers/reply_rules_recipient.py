"""
Replies about one recipient, row by row.

Source:
    The tags above each row stand in docs/sources.md.
"""

from __future__ import annotations

from datetime import timedelta

from models.stages import Stage
from workers.reply_rule import ReplyRule, enhanced, words
from workers.verdict import (
    Action,
    Limit,
    Remedy,
    Verdict,
    dead,
    rejected,
    retry_backoff,
)

IN_A_TIME = r".{0,40}\b(?:24|days?|today|hours?|hourly|minutes?|daily)\b"
"""After "too many recipients": not those of one mail, but what was sent in a time."""

_REMOTE_UNREACHABLE = "The recipient's own mail server could not be reached."

_SPLIT = Verdict(
    rule="too-many-recipients",
    action=Action.SPLIT,
    meaning="The mail has more recipients than one message may have.",
    next_step="Nothing to do; it is sent to fewer recipients at a time.",
    limit=Limit(
        # Ten halvings bring the largest permitted envelope, 1,000 recipients, down to one.
        times=10,
        then=dead(
            "too-many-recipients-always",
            Remedy.REPORT_BUG,
            "The server calls even the smallest envelope too large.",
            "Report this as a bug with the raw reply.",
        ),
    ),
)

RESTRICTED = rejected(
    "recipient-restricted",
    "The recipient, a group or mailbox, takes mail only from inside or from listed senders.",
    "Have the sending mailbox added to the senders that the recipient allows.",
)

FLOODED = retry_backoff(
    "recipient-flooded",
    "The recipient has had more mail this hour than Exchange lets through.",
    "Nothing to do; use digests for this recipient.",
    pause=(3600.0, 3600.0),
    counts=False,
    limit=Limit(
        duration=timedelta(hours=24),
        then=rejected(
            "recipient-flooded-all-day",
            "The recipient has had too much mail in every hour of a day.",
            "Send digests to this recipient, or to another one.",
        ),
    ),
)

DOMAIN_NOT_AUTHENTICATED = dead(
    "domain-not-authenticated",
    Remedy.ADMIN_SETTING,
    "The receiving side found SPF or DMARC of the tenant's domain failing.",
    "Have the tenant's DNS records for SPF, DKIM and DMARC corrected, then replay.",
)

RECIPIENT_FULL = retry_backoff(
    "recipient-mailbox-full",
    "The recipient's mailbox is full.",
    "Nothing to do here; it is tried again every hour for a day. Tell the recipient.",
    pause=(3600.0, 3600.0),
    counts=False,
    limit=Limit(
        duration=timedelta(hours=24),
        then=rejected(
            "recipient-mailbox-full-all-day",
            "The recipient's mailbox has been full for a day.",
            "Tell the recipient, or send to another one.",
        ),
    ),
)

RECIPIENT_RULES = (
    # [L-EXSRV] [L-NDR] 452 4.5.3 / 550 5.5.3 … too many recipients
    ReplyRule(
        verdict=_SPLIT,
        text=words(
            rf"too many recipients(?!{IN_A_TIME})|Recip(?:ient)?Limit\b|recipients? per message"
        ),
        enhanced=enhanced("4.5.3", "5.5.3"),
    ),
    # [L-EXSRV] 501 5.1.3 invalid address: counts towards 5.2.255
    ReplyRule(
        verdict=rejected(
            "recipient-address-invalid",
            "The recipient's address is written wrongly or has characters that Exchange refuses.",
            "Correct the address; it is not used again, since bad addresses lock the mailbox out.",
            suppress_after=1,
        ),
        enhanced=enhanced("5.1.3"),
    ),
    # [L-EXSRV] 5.1.4 / 5.1.5 Recipient address reserved by RFC 2606, 5.1.6 single-label domain
    ReplyRule(
        verdict=rejected(
            "recipient-domain-reserved",
            "The recipient's domain is one for tests, or has no dot.",
            "Correct the address.",
            suppress_after=1,
        ),
        text=words(r"reserved by RFC ?2606"),
        enhanced=enhanced("5.1.4-5.1.6"),
    ),
    # [L-NDR] 550 5.1.1, 550 5.1.10, 5.4.1 Recipient address rejected: Access denied,
    # 5.7.504, 5.7.505
    ReplyRule(
        verdict=rejected(
            "recipient-unknown",
            "There is no such recipient.",
            "Correct or remove the address; after three refusals it is not used again.",
            suppress_after=3,
        ),
        text=words(r"recipient address rejected: access denied"),
        enhanced=enhanced("5.1.1", "5.1.10", "5.4.1", "5.7.504-5.7.505"),
    ),
    # [L-NDR] 550 5.7.1, 5.7.12, 5.7.124, 5.7.133, 5.7.134, 5.7.136
    ReplyRule(
        verdict=RESTRICTED,
        enhanced=enhanced("5.7.1", "5.7.12", "5.7.124", "5.7.133-5.7.134", "5.7.136"),
        codes=frozenset({550}),
    ),
    # [L-NDR] 5.2.121 / 5.2.122: too much for this recipient this hour, no fault of the address
    ReplyRule(
        verdict=FLOODED,
        enhanced=enhanced("5.2.121-5.2.122"),
        stages=frozenset({Stage.RCPT, Stage.DATA, Stage.BODY}),
    ),
    # RFC 3463 section 3.3: a full mailbox, which its owner can empty; at RCPT the recipient's
    ReplyRule(verdict=RECIPIENT_FULL, enhanced=enhanced("5.2.2"), stages=frozenset({Stage.RCPT})),
    # [L-EXSRV] 5.2.3 … message too large for this recipient
    ReplyRule(
        verdict=rejected(
            "too-large-for-recipient",
            "The mail is larger than this recipient takes.",
            "Send it again without attachments.",
        ),
        text=words(r"too large for this recipient"),
        enhanced=enhanced("5.2.3"),
    ),
    # [L-NDR] 5.7.23, 5.7.509: SPF or DMARC of the tenant's domain at the receiver
    ReplyRule(
        verdict=DOMAIN_NOT_AUTHENTICATED,
        enhanced=enhanced("5.7.23", "5.7.509"),
    ),
    # [L-NDR] 4.4.7, 4.4.316, 5.4.300: Exchange has already retried when it says so with a 5xx
    ReplyRule(
        verdict=rejected(
            "recipient-unreachable",
            _REMOTE_UNREACHABLE,
            "Exchange has tried for long already; ask the recipient's side, then replay.",
        ),
        enhanced=enhanced("4.4.7", "4.4.316", "5.4.300"),
        codes=frozenset(range(500, 600)),
    ),
    ReplyRule(
        verdict=retry_backoff("recipient-unreachable-now", _REMOTE_UNREACHABLE),
        enhanced=enhanced("4.4.7", "4.4.316"),
        codes=frozenset(range(400, 500)),
    ),
)
"""Section 3.4."""
