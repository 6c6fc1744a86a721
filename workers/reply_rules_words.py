"""
What words say where the number is one that nobody knows, or one that says next to nothing.

Microsoft adds numbers without notice, and many a refusal bears no more than 5.7.1. Read the other
way round, the words of such a reply mostly say whom it concerns: us (our address, our sign-in, how
much we send), the mail, or the recipient. What concerns us is never charged to a mail or to its
recipient; what says that it passes is not taken for the end.

Source:
    Words of replies in [L-NDR], [L-LIMITS] and [L-EXSRV], and of submission servers in the field
    [OBS]; waits are our choice.
"""

from __future__ import annotations

from datetime import timedelta

from models.stages import Stage
from workers.reply_rule import ReplyRule, words
from workers.reply_rules_mail import LOCKOUT_PROBE, TOO_LARGE
from workers.reply_rules_recipient import (
    DOMAIN_NOT_AUTHENTICATED,
    FLOODED,
    IN_A_TIME,
    RECIPIENT_FULL,
    RESTRICTED,
)
from workers.reply_rules_session import NOT_AUTHENTICATED
from workers.verdict import (
    DAY,
    HOUR,
    Action,
    Limit,
    Remedy,
    Scope,
    Verdict,
    dead,
    park,
    retry_backoff,
    throttle,
)

_WITH_RECIPIENTS = frozenset({Stage.RCPT, Stage.DATA, Stage.BODY})
_WITH_MAIL = _WITH_RECIPIENTS | {Stage.MAIL}
_WITH_CONTENT = frozenset({Stage.DATA, Stage.BODY})
_WITH_SIZE = _WITH_CONTENT | {Stage.MAIL}
_FINAL = frozenset(range(500, 600))

ADDRESS_BLOCKED = Verdict(
    rule="address-blocked",
    action=Action.STOP_WORKER,
    remedy=Remedy.FIX_CONFIGURATION,
    meaning="The server refuses the network address that this worker sends from.",
    next_step="Read the raw reply: it mostly names a list, and a page to be taken off it. Or send"
    " through another address.",
    pause_seconds=(900.0, HOUR),
)

CONTENT_REFUSED = dead(
    "content-refused",
    Remedy.ADMIN_SETTING,
    "The server refuses this mail for what is in it.",
    "Read the raw reply, change the text or leave the attachment out, then send it again.",
)

LIMIT_REACHED = throttle(
    "limit-reached",
    Scope.MAILBOX,
    (300.0, HOUR),
    "The server says that a limit is reached, by a number that is not in our tables.",
    "Nothing to do; it continues by itself. See in the raw reply which limit it is, and what else"
    " sends from this mailbox.",
    limit=Limit(
        duration=timedelta(hours=24),
        then=park(
            "limit-reached-all-day",
            Scope.MAILBOX,
            Remedy.ADMIN_SETTING,
            "For a whole day the server has said that a limit is reached.",
            "Read the raw reply; have the tenant's administrator look up the limit that it names.",
            probe=LOCKOUT_PROBE,
        ),
    ),
)

SENDER_BLOCKED = park(
    "sender-blocked",
    Scope.MAILBOX,
    Remedy.ADMIN_SETTING,
    "The server says that this sender is blocked, by a number that is not in our tables.",
    "Read the raw reply, and look for the account among the Restricted entities; it is probed once"
    " after an hour, then once a day.",
    probe=HOUR,
    probe_again=DAY,
)

BLOCKED = retry_backoff(
    "refused-as-blocked",
    "The server says that something is blocked, and not what.",
    "Read the raw reply; it is tried again every hour for a day.",
    pause=(300.0, HOUR),
    counts=False,
    limit=Limit(
        duration=timedelta(hours=24),
        then=dead(
            "refused-as-blocked-all-day",
            Remedy.ADMIN_SETTING,
            "For a whole day the server has said that this mail is blocked.",
            "Read the raw reply; replay the mail once its cause is gone.",
        ),
    ),
)

PASSES = retry_backoff(
    "refused-for-now",
    "The server refuses for good by its number, but says that it passes.",
)

_BLOCKED = r"(?:blocked|banned|suspended|restricted|deactivated)"
_LIST = r"(?<!allow )(?<!allow/)(?<!allow-)block[- ]?list|black[- ]?list|deny[- ]?list"
_SHUT_OUT = (
    r"(?:blocked|banned|rejected|denied|refused|listed|not (?:allowed|accepted|permitted|welcome))"
)
_OUR_ADDRESS = (
    r"(?:client host|(?:your|client|sending|source|connecting|originating|this) (?:IP|host|server"
    r"|network)|\bIP(?:v[46])?(?: address)?\b|(?:network|source|client) address"
    r"|address \[?[0-9a-f]*[.:][0-9a-f.:]+)"
)

ABOUT_OUR_ADDRESS = (
    # [OBS] 5xx 5.7.1 Service unavailable; Client host [x] blocked using …; messages from [x] were
    # not sent … part of their network is on our block list (S3140)
    ReplyRule(
        verdict=ADDRESS_BLOCKED,
        text=words(
            rf"(?s:{_OUR_ADDRESS}.{{0,80}}\b{_SHUT_OUT}\b|\b{_SHUT_OUT}\b.{{0,40}}{_OUR_ADDRESS})"
            rf"|spamhaus|\b(?:RBL|DNSBL)\b|{_LIST}"
        ),
    ),
)
"""Beats any number by which a mail or a recipient would pay."""

WORD_RULES = (
    # The recipient keeps us out, or takes mail only from some.
    ReplyRule(
        verdict=RESTRICTED,
        text=words(
            r"RESOLVER\.RST\.|blocked (?:by|for) (?:the |this )?recipient|bann?ed recipient"
            r"|recipient (?:has |is )?(?:blocked|banned|blocks)"
            r"|not authenticated (?:for|by) (?:the |this )?"
            r"(?:group|mailbox|contact|organi[sz]ation)"
        ),
        stages=_WITH_RECIPIENTS,
    ),
    # The recipient's own limit.
    ReplyRule(
        verdict=FLOODED,
        text=words(
            r"(?s:recipient(?:'s|s')\b.{0,60}\b(?:limit|quota)"
            r"|recipient (?:has|is|was)\b.{0,40}\b(?:limit|quota|too (?:much|many)|exceeded))"
            r"|is receiving (?:mail|messages)"
        ),
        stages=_WITH_RECIPIENTS,
    ),
    # The recipient's mailbox is full, or over its quota.
    ReplyRule(
        verdict=RECIPIENT_FULL,
        text=words(
            r"(?:recipient|mailbox|user|account)\b[^.;]{0,30}\b(?:full|over (?:its |the )?quota)\b"
        ),
        stages=frozenset({Stage.RCPT}),
    ),
    # What the receiving side could not verify is DNS, not a session of ours.
    ReplyRule(
        verdict=DOMAIN_NOT_AUTHENTICATED,
        text=words(r"\b(?:SPF|DKIM|DMARC)\b"),
        stages=_WITH_RECIPIENTS,
    ),
    # Content, attachments, viruses, phishing, a message that is spam.
    ReplyRule(
        verdict=CONTENT_REFUSED,
        text=words(
            r"\bcontents?\b|\battachments?\b|\bvirus|\bmalware|\bmalicious|\bphish"
            r"|\b(?:message|mail|e-mail)\b[^.;]{0,40}\bspam\b"
        ),
        stages=_WITH_CONTENT,
    ),
    # Our sign-in or our right to relay, whatever was being said when the server thought of it.
    ReplyRule(
        verdict=NOT_AUTHENTICATED,
        text=words(
            r"(?:authentication|sign[- ]?in|log[- ]?[io]n) (?:is |was )?(?:required|needed|failed"
            r"|unsuccessful|expired)|must (?:first )?(?:be )?(?:authenticat|sign in|log in)"
            r"|(?:please|first|not) (?:authenticated?|signed in|logged in|sign in|log in)\b"
            r"|not (?:yet |been )?authenticated"
            r"|credentials? (?:is |are |was |were |has |have )?"
            r"(?:invalid|incorrect|expired|missing)"
            r"|\b(?:token|session)\b[^.;]{0,20}\b(?:expired|revoked|invalid|no longer valid)"
            r"|unable to relay|relay(?:ing)? (?:access )?(?:is )?(?:denied|prohibited|not )"
        ),
        stages=_WITH_MAIL,
    ),
    # Too large, or beyond a size.
    ReplyRule(
        verdict=TOO_LARGE,
        text=words(
            r"too (?:large|big)\b|(?:message|mail) (?:size|length)\b|size (?:limit|exceed)"
            r"|exceed\w*\b[^.;]{0,30}\bsize\b"
        ),
        stages=_WITH_SIZE,
        codes=_FINAL,
    ),
    # How much we send: a limit, quota, threshold or rate that is exceeded, too many, throttled.
    ReplyRule(
        verdict=LIMIT_REACHED,
        text=words(
            r"(?s:\A(?!.*\b(?:hops?|loop|length|lines?|headers?)\b).*?(?:"
            r"\b(?:exceed\w*|reach\w*|over|above|hit)\b.{0,80}"
            r"\b(?:limits?|quotas?|thresholds?|rates?|allowance|maximum)\b"
            r"|\b(?:limits?|quotas?|thresholds?|rates?)\b.{0,80}\b(?:exceed\w*|reach\w*|hit)\b"
            rf"|\btoo many (?!recipients?\b|errors?\b)|\btoo many recipients?\b{IN_A_TIME}"
            r"|throttl|rate[- ]?limit|slow down|too (?:fast|quickly|often|frequently)\b))"
        ),
    ),
    # The sender, account, user, tenant or customer is blocked, banned or suspended.
    ReplyRule(
        verdict=SENDER_BLOCKED,
        text=words(
            r"\b(?:you|your|sender|account|user|tenant|organi[sz]ation|customer|client)\b"
            rf"(?! message| mail| e-mail)[^.;]{{0,60}}\b{_BLOCKED}\b"
            r"|\b(?:blocked|banned) (?:sender|account|user)\b"
        ),
        stages=_WITH_MAIL - {Stage.RCPT},
        codes=_FINAL,
    ),
    # At RCPT an account or user without more may be the recipient's.
    ReplyRule(
        verdict=SENDER_BLOCKED,
        text=words(
            r"\b(?:you (?:are|were|have been)|your|sender|tenant|organi[sz]ation|customer|client)\b"
            rf"(?! message| mail| e-mail)[^.;]{{0,60}}\b{_BLOCKED}\b|\b(?:blocked|banned) sender\b"
        ),
        stages=frozenset({Stage.RCPT}),
        codes=_FINAL,
    ),
    # Temporary, transient, try again later.
    ReplyRule(
        verdict=PASSES,
        text=words(r"\btemporar|\btransient|try again|again later|retry later|later retry"),
        codes=_FINAL,
    ),
    # Blocked or banned, and not said who or what.
    ReplyRule(
        verdict=BLOCKED, text=words(r"\b(?:blocked|banned)\b"), stages=_WITH_MAIL, codes=_FINAL
    ),
)
"""Asked in this order, after the numbers that have a row and before what the stage alone says."""
