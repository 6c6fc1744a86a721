"""
Replies about the sender, the mail and the quotas, row by row.

Source:
    The tags above each row stand in docs/sources.md. Waits are our choice, not Microsoft's.
"""

from __future__ import annotations

from datetime import timedelta

from models.stages import Stage
from workers.reply_rule import ReplyRule, enhanced, words
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
    retry_soon,
    throttle,
)

LOCKOUT_PROBE = 6 * HOUR
"""How long Microsoft locks out is unpublished, and each error may prolong it. [L-CONT]"""

_AT_MAIL = frozenset({Stage.MAIL, Stage.DATA, Stage.BODY})
_SIZE_KNOWN = frozenset({Stage.MAIL, Stage.DATA, Stage.BODY})


def _locked_out(rule: str, remedy: Remedy, meaning: str, next_step: str) -> Verdict:
    return park(
        rule,
        Scope.MAILBOX,
        remedy,
        f"Exchange has shut this mailbox out of SMTP AUTH for a while: {meaning}.",
        f"{next_step} Microsoft support cannot lift it; it ends by itself once the errors stop.",
        probe=LOCKOUT_PROBE,
    )


LOCKED_OUT_SEND_AS = _locked_out(
    "locked-out-send-as",
    Remedy.ADMIN_SETTING,
    "it kept sending under an address that it has no right to",
    "Grant Send As for the From address, or change the From address.",
)

SEND_AS_DENIED = park(
    "send-as-denied",
    Scope.MAILBOX,
    Remedy.ADMIN_SETTING,
    "This mailbox may not send under the From address of the mail.",
    "Grant it in Exchange Online PowerShell:"
    " `Add-RecipientPermission ADDRESS -Trustee ACCOUNT -AccessRights SendAs`, or send"
    " from the mailbox's own address. Repeated attempts lock the mailbox out, so it is probed only"
    " once a day.",
    # Each refusal is one of the errors that lock out; one a day is no repetition. [L-CONT]
    probe=DAY,
)

SEND_AS_DENIED_ONCE = throttle(
    "send-as-denied-once",
    Scope.MAILBOX,
    (10.0, 10.0),
    "Exchange says that this mailbox may not send as itself, which it may.",
    "Nothing to do; it is tried once more before anybody is asked.",
    limit=Limit(times=1, then=SEND_AS_DENIED),
)
"""Of a mailbox that signs in as itself: a slip of Exchange's, if it does not come twice."""

SENDER_MAILBOX_FULL = park(
    "sender-mailbox-full",
    Scope.MAILBOX,
    Remedy.ADMIN_SETTING,
    "The sending mailbox itself is full, usually its Sent Items.",
    "Empty it and give its Sent Items a retention rule; it is probed once an hour at most.",
    probe_longest=LOCKOUT_PROBE,
)

LICENCE_INVALID = park(
    "licence-invalid",
    Scope.MAILBOX,
    Remedy.ADMIN_SETTING,
    "The licence of this mailbox does not allow sending.",
    "Assign a licence with Exchange Online. Repeated attempts lock the mailbox out, so it is probed"
    " only every six hours; resume it by hand once the licence is assigned.",
    probe=LOCKOUT_PROBE,
)

SUBMISSION_QUOTA = throttle(
    "submission-quota",
    Scope.MAILBOX,
    (HOUR, HOUR),
    "The mailbox has reached 10,000 recipients in 24 hours.",
    "The mails are kept and go out as the 24 hours pass; send fewer or use digests.",
    limit=Limit(
        duration=timedelta(hours=24),
        then=park(
            "submission-quota-stuck",
            Scope.MAILBOX,
            Remedy.ADMIN_SETTING,
            "For a whole day the mailbox has been at its limit of recipients.",
            "Check the Restricted entities page and what else sends from this mailbox.",
            probe=LOCKOUT_PROBE,
        ),
    ),
)

TOO_LARGE = dead(
    "mail-too-large",
    Remedy.FIX_CONFIGURATION,
    "The mail is larger than the mailbox may send (35 MB unless the administrator changed it;"
    " attachments grow by a third).",
    "Send it again without attachments, or have the limit of the mailbox raised.",
)

TENANT_RULE = dead(
    "transport-rule",
    Remedy.ADMIN_SETTING,
    "A mail-flow rule of the customer's own tenant refuses this mail.",
    "Have the tenant's administrator exempt the mailbox from that rule, then replay the mail.",
)

STORE_REFUSED = retry_backoff(
    "store-refused",
    "The mailbox store refused the mail and named an exception that is not in our tables.",
    limit=Limit(
        times=3,
        then=dead(
            "store-refused-again",
            Remedy.REPORT_BUG,
            "The mailbox store keeps refusing this mail.",
            "Look up the exception that it names; replay the mail once its cause is gone.",
        ),
    ),
)

MAIL_RULES = (
    # [L-CONT] 550 5.2.251 Sender throttled due to continuous mailbox full errors.
    ReplyRule(
        verdict=_locked_out(
            "locked-out-mailbox-full",
            Remedy.ADMIN_SETTING,
            "it kept sending while it was full",
            "Empty the mailbox and give its Sent Items a retention rule.",
        ),
        text=words(r"throttled due to continuous mailbox full"),
        enhanced=enhanced("5.2.251"),
    ),
    # [L-CONT] 550 5.2.252 Sender throttled due to continuous send as denied errors.
    # Its number with 554 means one refused send-as, no lock-out.
    ReplyRule(
        verdict=LOCKED_OUT_SEND_AS, text=words(r"throttled due to continuous send as denied")
    ),
    ReplyRule(verdict=LOCKED_OUT_SEND_AS, enhanced=enhanced("5.2.252"), codes=frozenset({550})),
    # [L-CONT] 550 5.2.253 Sender throttled due to continuous invalid license errors.
    ReplyRule(
        verdict=_locked_out(
            "locked-out-licence",
            Remedy.ADMIN_SETTING,
            "its licence does not allow sending",
            "Assign a licence with Exchange Online.",
        ),
        text=words(r"throttled due to continuous invalid license"),
        enhanced=enhanced("5.2.253"),
    ),
    # [L-CONT] 550 5.2.254 Sender throttled due to continuous too many recipients errors.
    ReplyRule(
        verdict=_locked_out(
            "locked-out-too-many-recipients",
            Remedy.REPORT_BUG,
            "its mails kept having too many recipients",
            "Lower the recipients per mail of this mailbox and report this as a bug.",
        ),
        text=words(r"throttled due to continuous too many recipients"),
        enhanced=enhanced("5.2.254"),
    ),
    # [L-CONT] 550 5.2.255 Sender throttled due to continuous invalid recipient errors.
    ReplyRule(
        verdict=_locked_out(
            "locked-out-invalid-recipients",
            Remedy.FIX_RECIPIENT,
            "its mails kept naming bad addresses",
            "Clean the address lists of this customer.",
        ),
        text=words(r"throttled due to continuous invalid recipient"),
        enhanced=enhanced("5.2.255"),
    ),
    # [OBS] 554 5.2.252 SendAsDenied; <user> not allowed to send as <from>
    # [OBS] 554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiException…
    # [L-PRINT] 550 5.7.60 SMTP; Client does not have permissions to send as this sender
    ReplyRule(
        verdict=SEND_AS_DENIED,
        text=words(
            r"SendAsDenied|not allowed to send as|does not have permissions? to send as"
            r"|not owned by user"
        ),
        enhanced=enhanced("5.7.60"),
    ),
    ReplyRule(verdict=SEND_AS_DENIED, enhanced=enhanced("5.2.252"), codes=frozenset({554})),
    # [TEST] Postfix: 553 5.7.1, which it may hold back until RCPT
    ReplyRule(
        verdict=SEND_AS_DENIED,
        enhanced=enhanced("5.7.1"),
        codes=frozenset({553}),
        stages=frozenset({Stage.MAIL, Stage.RCPT}),
    ),
    # [L-CONT] names licence errors among those that lock out; the exception's name: unconfirmed
    ReplyRule(
        verdict=LICENCE_INVALID,
        text=words(r"InvalidLicen[cs]e|(?:invalid|no valid|without a) licen[cs]e"),
        stages=_AT_MAIL,
    ),
    # [L-SUBM] [L-NDR] [L-QUOTA] 554 5.2.0 …SubmissionQuotaExceededException, "submission quota
    # exceeded", 5.1.90 … daily limit for message recipients
    ReplyRule(
        verdict=SUBMISSION_QUOTA,
        text=words(
            r"SubmissionQuotaExceeded|submission quota (?:was )?exceeded"
            r"|daily limit for message recipients"
        ),
        enhanced=enhanced("5.1.90"),
    ),
    # [L-SUBM] 554 5.2.2 mailbox full; STOREDRV.Submission.Exception:QuotaExceededException…
    ReplyRule(
        verdict=SENDER_MAILBOX_FULL,
        text=words(r"STOREDRV\.Submission\S*?:QuotaExceeded|ShutoffQuotaExceeded"),
    ),
    # At RCPT 5.2.2 would speak of the recipient's mailbox.
    ReplyRule(verdict=SENDER_MAILBOX_FULL, enhanced=enhanced("5.2.2"), stages=_AT_MAIL),
    # [OBS] odoo, sendmail logs: 554 5.2.0 …OutboundSpamException; … verdict … RefuseQuota
    ReplyRule(
        verdict=park(
            "outbound-spam",
            Scope.MAILBOX,
            Remedy.ADMIN_SETTING,
            "Microsoft's outbound spam filter refuses what this mailbox sends, for its quota or on"
            " suspicion.",
            "Check the Restricted entities page and the outbound spam policy of the tenant; it is"
            " probed once after an hour, then once a day.",
            probe=HOUR,
            probe_again=DAY,
        ),
        text=words(r"OutboundSpamException|\bWASCL\b"),
        detail=words(r"verdict(?: is)?\s+(?!is\b|not\b)(\w+(?:, \w+)*)"),
    ),
    # [OBS] 554 5.2.0 …MessageSubmissionExceededException
    ReplyRule(verdict=TOO_LARGE, text=words(r"MessageSubmissionExceeded")),
    # our choice: any other 554 5.2.0 STOREDRV.Submission.Exception:<X>
    ReplyRule(
        verdict=STORE_REFUSED,
        text=words(r"STOREDRV\.Submission\.Exception:"),
        codes=frozenset(range(500, 600)),
        detail=words(r"STOREDRV\.Submission\.Exception:\s*([\w.]+)"),
    ),
    # [L-NDR518] [L-PRINT] 550 5.1.8 Access denied, bad outbound sender
    ReplyRule(
        verdict=park(
            "sender-restricted",
            Scope.MAILBOX,
            Remedy.ADMIN_SETTING,
            "Microsoft restricts this account after too much or suspicious mail.",
            "Release it on the Restricted entities page (takes about an hour), and check that the"
            " account was not stolen.",
            probe=HOUR,
            probe_again=DAY,
        ),
        text=words(r"bad outbound sender"),
        enhanced=enhanced("5.1.8"),
    ),
    # [L-NDR] 5.7.606–5.7.649 banned sending IP
    ReplyRule(
        verdict=Verdict(
            rule="banned-address",
            action=Action.STOP_WORKER,
            remedy=Remedy.FIX_CONFIGURATION,
            meaning="Microsoft has banned the network address that this worker sends from.",
            next_step="Send through another address, or have this one delisted by Microsoft.",
            pause_seconds=(900.0, HOUR),
        ),
        text=words(r"banned sending IP"),
        enhanced=enhanced("5.7.606-5.7.649"),
    ),
    # [L-NDR] 5.7.501, 5.7.502, 5.7.503 spam abuse detected / banned sender
    ReplyRule(
        verdict=park(
            "sender-banned",
            Scope.MAILBOX,
            Remedy.ADMIN_SETTING,
            "Microsoft has banned this account for abuse.",
            "The tenant's administrator has to open a ticket with Microsoft support.",
            probe=DAY,
        ),
        text=words(r"spam abuse detected|banned sender"),
        enhanced=enhanced("5.7.501-5.7.503"),
    ),
    # [L-NDR] 5.7.508 IPv6 range over its limit; not ours on submission
    ReplyRule(
        verdict=retry_backoff(
            "ipv6-range-limit", "A range of IPv6 addresses on the way is over its limit."
        ),
        enhanced=enhanced("5.7.508"),
    ),
    # [L-NDR] 5.7.511 banned sender; Microsoft's pages differ: account or address
    ReplyRule(
        verdict=park(
            "sender-or-address-banned",
            Scope.MAILBOX,
            Remedy.ADMIN_SETTING,
            "Microsoft has banned this account, or the address that it sends from.",
            "Follow the link in the raw reply, or open a ticket with Microsoft support.",
            probe=DAY,
        ),
        enhanced=enhanced("5.7.511"),
    ),
    # [L-NDR] 5.7.512 From header not RFC 5322 compliant
    ReplyRule(
        verdict=dead(
            "from-header-invalid",
            Remedy.REPORT_BUG,
            "The From header of the mail breaks RFC 5322.",
            "Report this as a bug with the mail's id; check the display name of the mailbox.",
        ),
        enhanced=enhanced("5.7.512"),
    ),
    # [L-NDR7] 550 5.7.703 … Tenant Allow Block List: refuses the mail for all its recipients
    ReplyRule(
        verdict=dead(
            "tenant-block-list",
            Remedy.ADMIN_SETTING,
            "A recipient or domain of the mail is on the tenant's own Tenant Allow/Block List,"
            " which refuses the whole mail.",
            "Have the entry removed from the Tenant Allow/Block List, or replay the mail to the"
            " other recipients.",
        ),
        text=words(r"tenant allow\W{0,3}block list"),
        enhanced=enhanced("5.7.703"),
    ),
    # [L-NDR7] 550 5.7.705 Access denied, tenant has exceeded threshold: a day's pause and a person
    ReplyRule(
        verdict=park(
            "tenant-threshold",
            Scope.TENANT,
            Remedy.ADMIN_SETTING,
            "Microsoft blocks the whole tenant for bulk or spam, or its subscription was renewed"
            " within the last day.",
            "Have the administrator check the tenant's outbound mail and its subscription; it is"
            " probed once a day.",
            probe=DAY,
        ),
        text=words(r"tenant has exceeded threshold"),
        enhanced=enhanced("5.7.705"),
    ),
    # [L-NDR7] 550 5.7.708 Access denied, traffic not accepted from this IP
    ReplyRule(
        verdict=park(
            "tenant-traffic-refused",
            Scope.TENANT,
            Remedy.ADMIN_SETTING,
            "Microsoft takes no mail of this tenant by the address it used; typical of trial"
            " tenants.",
            "Have the administrator turn the trial into a paid subscription or open a ticket with"
            " Microsoft.",
            probe=DAY,
        ),
        text=words(r"traffic not accepted from this IP"),
        enhanced=enhanced("5.7.708"),
    ),
    # [L-NDR7] 550 5.7.750 … unregistered domain(s)
    ReplyRule(
        verdict=park(
            "domain-unregistered",
            Scope.TENANT,
            Remedy.ADMIN_SETTING,
            "The domain of the From address is not an accepted domain of the tenant.",
            "Add and verify the domain in the Microsoft 365 admin center, or send from another.",
        ),
        text=words(r"unregistered domain"),
        enhanced=enhanced("5.7.750"),
    ),
    # [L-NDR] [L-LIMITS] 5.7.232 (trial) / 550 5.7.233: the tenant's external recipients
    ReplyRule(
        verdict=throttle(
            "tenant-external-recipients",
            Scope.TENANT,
            (HOUR, HOUR),
            "The tenant has reached its external recipients for 24 hours; inside the tenant mail"
            " still passes.",
            "The mails are kept and go out as the 24 hours pass; see what else the tenant sends.",
        ),
        enhanced=enhanced("5.7.232-5.7.233"),
    ),
    # MOERA: senders at *.onmicrosoft.com, 100 external recipients in 24 hours [OBS]
    ReplyRule(
        verdict=throttle(
            "onmicrosoft-recipients",
            Scope.MAILBOX,
            (HOUR, HOUR),
            "Senders at a tenant's onmicrosoft.com domain may reach only 100 external recipients in"
            " 24 hours.",
            "The mails are kept and go out as the 24 hours pass; let the mailbox send from a domain"
            " of the customer's own, which has no such limit.",
        ),
        enhanced=enhanced("5.7.236"),
    ),
    # [L-EXSRV] 552/550 5.3.4 Message size exceeds fixed maximum message size
    ReplyRule(
        verdict=TOO_LARGE,
        text=words(r"message size exceeds"),
        enhanced=enhanced("5.3.4"),
        stages=_SIZE_KNOWN,
    ),
    # RFC 1870 section 6.1: 552 answers the SIZE that MAIL declared. Other enhanced codes beside it
    # speak of something else: 5.7.0 of the content, 5.2.2 of a full mailbox.
    ReplyRule(
        verdict=TOO_LARGE,
        codes=frozenset({552}),
        stages=_SIZE_KNOWN,
        beside=enhanced("5.0.0", "5.2.3", "5.3.0", "5.3.4"),
    ),
    # [L-EXSRV] 452 4.3.1 Insufficient system resources
    ReplyRule(
        verdict=retry_backoff("server-resources", "The server is short of resources."),
        text=words(r"insufficient system resources"),
        enhanced=enhanced("4.3.1"),
    ),
    # [L-EXSRV] 451 4.4.0 … such as "failed to be made redundant": it was not taken
    ReplyRule(
        verdict=retry_soon("server-internal", "The service stumbled; the mail was not taken."),
        enhanced=enhanced("4.4.0"),
        codes=frozenset({451}),
    ),
    # [L-NDR] [SUPED] 451 4.7.500 … 4.7.699 Server busy / Access denied, please try again later
    ReplyRule(
        verdict=throttle(
            "new-pattern-restricted",
            Scope.MAILBOX,
            (300.0, HOUR),
            "Microsoft holds back a pattern of sending that is new to it.",
            limit=Limit(
                duration=timedelta(hours=24),
                then=park(
                    "new-pattern-refused",
                    Scope.MAILBOX,
                    Remedy.ADMIN_SETTING,
                    "For a whole day Microsoft has held back what this mailbox sends.",
                    "Check the tenant's outbound spam alerts, then open a ticket with Microsoft.",
                    probe=LOCKOUT_PROBE,
                ),
            ),
        ),
        enhanced=enhanced("4.7.500-4.7.699"),
    ),
    # [L-NDR] 4.7.850–4.7.899
    ReplyRule(
        verdict=retry_backoff(
            "address-under-evaluation",
            "Microsoft is still judging the network address that this worker sends from.",
            "Nothing to do for one mailbox; if many show it, send through another address.",
        ),
        enhanced=enhanced("4.7.850-4.7.899"),
    ),
    # [L-EXSRV] 550 5.1.7 Invalid address / Unknown sender address
    ReplyRule(
        verdict=park(
            "sender-address-invalid",
            Scope.MAILBOX,
            Remedy.FIX_CONFIGURATION,
            "The server does not know the sender address, or cannot read it.",
            "Correct the address of the mailbox in our settings.",
        ),
        text=words(r"unknown sender address"),
        enhanced=enhanced("5.1.7"),
    ),
    # [L-NDR] 550 5.6.11 bare line feeds
    ReplyRule(
        verdict=dead(
            "bare-line-feeds",
            Remedy.REPORT_BUG,
            "The mail contains line feeds without carriage returns.",
            "Report this as a bug with the mail's id.",
        ),
        enhanced=enhanced("5.6.11"),
    ),
    # [L-EXSRV] [L-NDR] 5.7.900–5.7.999, other 5.7.1 … rejected by transport rule
    ReplyRule(
        verdict=TENANT_RULE,
        text=words(r"transport\.?rules?|rejected by (?:a |an )?(?:transport|mail flow) rule"),
        enhanced=enhanced("5.7.900-5.7.999"),
    ),
)
"""Section 3.3, without the row about protocol errors, which is with the session's."""
