from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.stages import Stage
from workers.replies import classify, classify_failure
from workers.reply_rule import enhanced, parse_enhanced
from workers.reply_rules import RULES, Failure
from workers.reply_rules_words import ABOUT_OUR_ADDRESS, WORD_RULES
from workers.rule_book import every_reply_verdict, every_verdict
from workers.verdict import Action, Limit, Remedy, Scope, Verdict, park, throttle

TRACE = "[FR4P281CA0123.DEUP281.PROD.OUTLOOK.COM 2026-11-20T08:15:42.117Z 08DE26F8C2A1B3D4]"
HOST = "[Hostname=AM9PR03MB7563.eurprd03.prod.outlook.com]"
STOREDRV = "STOREDRV.Submission.Exception"

AUTH, MAIL, RCPT, DATA, BODY = Stage.AUTH, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY


@dataclass(frozen=True)
class Case:
    stage: Stage
    code: int
    text: str
    rule: str
    action: Action
    scope: Scope | None = None
    fresh: bool = False


PARK, DEAD, SOON = Action.PARK, Action.DEAD, Action.RETRY_SOON
BACKOFF, MAILBOX_REST = Action.RETRY_BACKOFF, Action.THROTTLE_MAILBOX
REJECTED, REAUTH, STOP = Action.RECIPIENT_REJECTED, Action.REAUTH, Action.STOP_WORKER
MAILBOX, TENANT = Scope.MAILBOX, Scope.TENANT

DISABLED = "5.7.139 Authentication unsuccessful, "

SESSION = [
    # [L-EXSRV] [OBS]
    Case(Stage.CONNECT, 421, f"4.3.2 Service not available {TRACE}", "front-end-busy", SOON),
    Case(MAIL, 421, f"4.3.2 Service not active {TRACE}", "front-end-busy", SOON),
    Case(MAIL, 421, f"4.3.2 System going down {TRACE}", "front-end-closing", SOON),
    # [SFM]
    Case(
        Stage.CONNECT,
        421,
        "4.3.2 The maximum number of concurrent connections for client 203.0.113.9 has exceeded a limit, closing transmission channel",
        "host-connections",
        MAILBOX_REST,
        MAILBOX,
    ),
    # [L-EXSRV]
    Case(MAIL, 421, "4.4.1 Connection timed out", "session-ended", SOON),
    Case(BODY, 421, f"4.4.2 Connection dropped {TRACE}", "session-ended", SOON),
    # [IRIDIS]
    Case(
        MAIL,
        421,
        "4.4.2 Message submission rate for this client has exceeded the configured limit",
        "submission-rate",
        MAILBOX_REST,
        MAILBOX,
    ),
    # [L-NDR] class only
    Case(RCPT, 421, "4.7.26 Deferred by policy", "policy-deferral", MAILBOX_REST, MAILBOX),
    # [L-SUBM] [G-FASTAPIMAIL75] [G-NM1613]: at AUTH, DATA and after the dot
    *(
        Case(
            stage,
            432,
            f"4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending for more information. {HOST}",
            "concurrent-connections",
            MAILBOX_REST,
            MAILBOX,
        )
        for stage in (AUTH, DATA, BODY)
    ),
    # [B-SUBM] [G-OMBI4093]
    Case(
        BODY,
        432,
        f"4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded {HOST}",
        "concurrent-connections",
        MAILBOX_REST,
        MAILBOX,
    ),
    Case(BODY, 432, "4.3.2 new words", "concurrent-connections", MAILBOX_REST, MAILBOX),
    # [G-OAUTH2MS5] [G-MK566] [G-SASL69]
    Case(
        AUTH,
        451,
        f"4.7.0 Temporary server error. Please try again later. PRX4 {TRACE}",
        "proxy-to-mailbox-failed",
        BACKOFF,
    ),
    # [OBS]
    Case(
        AUTH, 454, "4.7.0 Temporary authentication failure", "authentication-unavailable", BACKOFF
    ),
    # [G-SASL110]
    Case(AUTH, 501, "5.5.124 Invalid XOAUTH2 auth data", "auth-payload-invalid", PARK, MAILBOX),
    # [G-FLUENT44] [G-NM1025]
    Case(
        AUTH,
        504,
        f"5.7.4 Unrecognized authentication type {TRACE}",
        "auth-mechanism-missing",
        PARK,
        MAILBOX,
    ),
    Case(AUTH, 502, "5.3.3 Command not implemented", "auth-mechanism-missing", PARK, MAILBOX),
    # [L-NDR] [OBS]
    Case(
        MAIL,
        530,
        f"5.7.57 Client not authenticated to send mail. {TRACE}",
        "not-authenticated",
        SOON,
    ),
    # [L-OAUTH] [G-PHPM2988]
    Case(AUTH, 535, f"5.7.3 Authentication unsuccessful {TRACE}", "token-refused", REAUTH),
    Case(
        AUTH,
        535,
        f"5.7.3 Authentication unsuccessful {TRACE}",
        "token-refused-again",
        PARK,
        MAILBOX,
        fresh=True,
    ),
    # [G-EOP193]
    Case(
        AUTH,
        535,
        f"{DISABLED}SmtpClientAuthentication is disabled for the Tenant. Visit https://aka.ms/smtp_auth_disabled for more information. {TRACE}",
        "smtp-auth-disabled-tenant",
        PARK,
        TENANT,
    ),
    # [OBS], with the same link
    Case(
        AUTH,
        535,
        f"{DISABLED}SmtpClientAuthentication is disabled for the Mailbox. Visit https://aka.ms/smtp_auth_disabled for more information. {TRACE}",
        "smtp-auth-disabled-mailbox",
        PARK,
        MAILBOX,
    ),
    # [OBS]
    Case(
        AUTH,
        535,
        f"{DISABLED}the user credentials were incorrect. {TRACE}",
        "credentials-incorrect",
        REAUTH,
    ),
    Case(
        AUTH,
        535,
        f"{DISABLED}the user credentials were incorrect. {TRACE}",
        "credentials-incorrect-again",
        PARK,
        MAILBOX,
        fresh=True,
    ),
    Case(
        AUTH,
        535,
        f"{DISABLED}user is locked by your organization's security defaults policy. Contact your administrator. {TRACE}",
        "security-defaults",
        PARK,
        MAILBOX,
    ),
    Case(
        AUTH,
        535,
        f"{DISABLED}the request did not meet the criteria to be authenticated successfully. Contact your administrator. {TRACE}",
        "conditional-access-smtp",
        PARK,
        TENANT,
    ),
    Case(
        AUTH,
        535,
        f"{DISABLED}basic authentication is disabled. {TRACE}",
        "basic-authentication-disabled",
        PARK,
        MAILBOX,
    ),
    # [L-PRINT]
    Case(
        AUTH,
        535,
        f"{DISABLED}federated STS service was unreachable. {TRACE}",
        "federated-sign-in-unreachable",
        BACKOFF,
    ),
    Case(
        AUTH,
        535,
        f"{DISABLED}the federated STS URL does not support HTTPS. {TRACE}",
        "federated-sign-in-unreachable",
        BACKOFF,
    ),
    # [G-OPENCTI]
    Case(
        AUTH,
        550,
        f"5.7.30 Basic authentication is not supported for Client Submission. {TRACE}",
        "basic-authentication-retired",
        PARK,
        MAILBOX,
    ),
    # [TEST]: Postfix, Dovecot
    Case(
        AUTH,
        535,
        '{"status":"invalid_token","scope":"mail"}\n5.7.8 Error: authentication failed: token expired',
        "token-refused",
        REAUTH,
    ),
    Case(
        AUTH,
        535,
        "5.7.8 Error: authentication failed:",
        "token-refused-again",
        PARK,
        MAILBOX,
        fresh=True,
    ),
    Case(AUTH, 500, "5.5.2 Line too long", "protocol-error", SOON),
    Case(AUTH, 501, "no idea", "auth-payload-invalid", PARK, MAILBOX),
    # [L-EXSRV]
    Case(MAIL, 500, f"5.3.3 Unrecognized command {TRACE}", "protocol-error", SOON),
    Case(MAIL, 503, f"5.5.2 Send hello first {TRACE}", "protocol-error", SOON),
    Case(Stage.EHLO, 501, "5.5.4 Invalid domain name", "ehlo-name-refused", PARK, MAILBOX),
    Case(Stage.EHLO, 501, "5.5.4 [XX.PROD.OUTLOOK.COM]", "ehlo-name-refused", PARK, MAILBOX),
    Case(
        Stage.EHLO,
        501,
        "Syntactically invalid EHLO argument(s)",
        "ehlo-name-refused",
        PARK,
        MAILBOX,
    ),
    Case(
        Stage.EHLO,
        504,
        "5.5.2 <x>: Helo command rejected: need fully-qualified hostname",
        "ehlo-name-refused",
        PARK,
        MAILBOX,
    ),
    Case(Stage.EHLO, 502, "what?", "protocol-error", SOON),
]

MAILS = [
    # [L-CONT]
    Case(
        MAIL,
        550,
        "5.2.251 Sender throttled due to continuous mailbox full errors.",
        "locked-out-mailbox-full",
        PARK,
        MAILBOX,
    ),
    Case(
        BODY,
        550,
        f"5.2.252 Sender throttled due to continuous send as denied errors. {HOST}",
        "locked-out-send-as",
        PARK,
        MAILBOX,
    ),
    Case(BODY, 550, "5.2.252 new words", "locked-out-send-as", PARK, MAILBOX),
    Case(
        MAIL,
        550,
        "5.2.253 Sender throttled due to continuous invalid license errors.",
        "locked-out-licence",
        PARK,
        MAILBOX,
    ),
    Case(
        RCPT,
        550,
        "5.2.254 Sender throttled due to continuous too many recipients errors.",
        "locked-out-too-many-recipients",
        PARK,
        MAILBOX,
    ),
    Case(
        MAIL,
        550,
        "5.2.255 Sender throttled due to continuous invalid recipients errors.",
        "locked-out-invalid-recipients",
        PARK,
        MAILBOX,
    ),
    # [OBS]
    Case(
        BODY,
        554,
        f"5.2.252 SendAsDenied; alerts@contoso.com not allowed to send as noc@contoso.com; {STOREDRV}:SendAsDeniedException.MapiExceptionSendAsDenied; {HOST}",
        "send-as-denied",
        PARK,
        MAILBOX,
    ),
    Case(BODY, 554, "5.2.252 new words", "send-as-denied", PARK, MAILBOX),
    Case(
        BODY,
        554,
        f"5.2.0 {STOREDRV}:SendAsDeniedException.MapiExceptionSendAsDenied; Failed to process message {HOST}",
        "send-as-denied",
        PARK,
        MAILBOX,
    ),
    # [L-PRINT]
    Case(
        BODY,
        550,
        f"5.7.60 SMTP; Client does not have permissions to send as this sender {TRACE}",
        "send-as-denied",
        PARK,
        MAILBOX,
    ),
    Case(BODY, 550, "5.7.60 new words", "send-as-denied", PARK, MAILBOX),
    # [TEST]: Postfix, at once or held back until RCPT
    Case(MAIL, 553, "5.7.1 sender refused", "send-as-denied", PARK, MAILBOX),
    Case(
        RCPT,
        553,
        "5.7.1 <noc@contoso.com>: Sender address rejected: not owned by user alerts@contoso.com",
        "send-as-denied",
        PARK,
        MAILBOX,
    ),
    # [L-SUBM]
    Case(
        BODY,
        554,
        f"5.2.2 mailbox full; {STOREDRV}:QuotaExceededException.MapiExceptionShutoffQuotaExceeded; Failed to process message due to a permanent exception {HOST}",
        "sender-mailbox-full",
        PARK,
        MAILBOX,
    ),
    Case(BODY, 554, "5.2.2 mailbox full", "sender-mailbox-full", PARK, MAILBOX),
    # [L-CONT] licence errors lock out; the sandbox names the exception so
    Case(
        BODY,
        554,
        f"5.2.0 {STOREDRV}:InvalidLicenseException {HOST}",
        "licence-invalid",
        PARK,
        MAILBOX,
    ),
    # [L-SUBM] [L-NDR] [L-QUOTA]
    Case(
        BODY,
        554,
        f"5.2.0 {STOREDRV}:SubmissionQuotaExceededException; Failed to process message {HOST}",
        "submission-quota",
        MAILBOX_REST,
        MAILBOX,
    ),
    Case(BODY, 550, "5.2.2 Submission quota exceeded", "submission-quota", MAILBOX_REST, MAILBOX),
    Case(
        BODY,
        550,
        "5.1.90 Your message can't be sent because you've reached your daily limit for message recipients",
        "submission-quota",
        MAILBOX_REST,
        MAILBOX,
    ),
    # [OBS] odoo, sendmail logs
    Case(
        BODY,
        554,
        f"5.2.0 {STOREDRV}:OutboundSpamException; Failed to process message due to a permanent exception with message [BeginDiagnosticData]WASCL UserAction verdict is not None. Actual verdict is RefuseQuota, ShowTierUpgrade. {HOST}",
        "outbound-spam",
        PARK,
        MAILBOX,
    ),
    # [OBS]
    Case(
        BODY,
        554,
        f"5.2.0 {STOREDRV}:MessageSubmissionExceededException.MapiExceptionMessageSubmissionExceeded; {HOST}",
        "mail-too-large",
        DEAD,
    ),
    # our choice
    Case(
        BODY,
        554,
        f"5.2.0 {STOREDRV}:CorruptDataException; Failed {HOST}",
        "store-refused",
        BACKOFF,
    ),
    # [L-NDR518] [L-PRINT]
    Case(
        BODY,
        550,
        f"5.1.8 Access denied, bad outbound sender. AS(42003) {HOST}",
        "sender-restricted",
        PARK,
        MAILBOX,
    ),
    # [L-NDR]
    Case(MAIL, 550, "5.7.501 Access denied, spam abuse detected", "sender-banned", PARK, MAILBOX),
    Case(MAIL, 550, "5.7.502 Access denied, banned sender", "sender-banned", PARK, MAILBOX),
    Case(MAIL, 550, "5.7.503 Access denied", "sender-banned", PARK, MAILBOX),
    Case(MAIL, 550, "5.7.508 Access denied, IPv6 range", "ipv6-range-limit", BACKOFF),
    Case(MAIL, 550, "5.7.511 Access denied", "sender-or-address-banned", PARK, MAILBOX),
    Case(BODY, 550, "5.7.512 Access denied, From header", "from-header-invalid", DEAD),
    *(
        Case(
            MAIL,
            550,
            f"5.7.{number} Access denied, banned sending IP [203.0.113.9]",
            "banned-address",
            Action.STOP_WORKER,
        )
        for number in (606, 620, 649)
    ),
    # [L-NDR7]
    Case(
        BODY,
        550,
        "5.7.703 Your message can't be delivered because messages to x@example.net are blocked by your organization using Tenant Allow Block List.",
        "tenant-block-list",
        DEAD,
    ),
    Case(
        BODY,
        550,
        "5.7.705 Access denied, tenant has exceeded threshold",
        "tenant-threshold",
        PARK,
        TENANT,
    ),
    Case(
        BODY,
        550,
        "5.7.708 Access denied, traffic not accepted from this IP.",
        "tenant-traffic-refused",
        PARK,
        TENANT,
    ),
    Case(
        BODY,
        550,
        "5.7.750 Service unavailable. Client blocked from sending from unregistered domain(s).",
        "domain-unregistered",
        PARK,
        TENANT,
    ),
    # [L-NDR] [L-LIMITS]
    *(
        Case(
            BODY,
            550,
            f"5.7.{number} Your message can't be sent because your tenant exceeded its daily limit",
            "tenant-external-recipients",
            Action.THROTTLE_TENANT,
            TENANT,
        )
        for number in (232, 233)
    ),
    # [L-EXSRV]
    Case(
        MAIL,
        552,
        "5.3.4 Message size exceeds fixed maximum message size",
        "mail-too-large",
        DEAD,
    ),
    Case(
        BODY,
        550,
        "5.3.4 Message size exceeds fixed maximum message size",
        "mail-too-large",
        DEAD,
    ),
    Case(MAIL, 552, "too big", "mail-too-large", DEAD),
    Case(MAIL, 452, f"4.3.1 Insufficient system resources {TRACE}", "server-resources", BACKOFF),
    Case(
        BODY,
        451,
        f"4.4.0 Message failed to be made redundant {HOST}",
        "server-internal",
        SOON,
    ),
    # [L-NDR] [SUPED]
    Case(
        RCPT,
        451,
        f"4.7.500 Server busy. Please try again later from [203.0.113.9]. (S77714) {TRACE}",
        "new-pattern-restricted",
        MAILBOX_REST,
        MAILBOX,
    ),
    Case(
        MAIL,
        451,
        "4.7.699 Access denied, please try again later. (AS760003)",
        "new-pattern-restricted",
        MAILBOX_REST,
        MAILBOX,
    ),
    Case(MAIL, 451, "4.7.850 Access denied", "address-under-evaluation", BACKOFF),
    Case(MAIL, 450, "4.7.899 Access denied", "address-under-evaluation", BACKOFF),
    # [L-EXSRV]
    Case(MAIL, 550, "5.1.7 Invalid address", "sender-address-invalid", PARK, MAILBOX),
    Case(MAIL, 501, "Unknown sender address", "sender-address-invalid", PARK, MAILBOX),
    # [L-NDR]
    Case(BODY, 550, "5.6.11 Invalid characters", "bare-line-feeds", DEAD),
    Case(BODY, 550, "5.7.900 refused", "transport-rule", DEAD),
    Case(BODY, 550, "5.7.999 refused", "transport-rule", DEAD),
    Case(
        BODY,
        550,
        "5.7.1 TRANSPORT.RULES.RejectMessage; the message was rejected by organization policy",
        "transport-rule",
        DEAD,
    ),
]

RECIPIENTS = [
    # [L-EXSRV] [L-NDR]
    Case(RCPT, 501, f"5.1.3 Invalid address {TRACE}", "recipient-address-invalid", REJECTED),
    Case(
        RCPT,
        550,
        "5.1.4 Recipient address reserved by RFC 2606",
        "recipient-domain-reserved",
        REJECTED,
    ),
    Case(
        RCPT,
        501,
        "5.1.5 Recipient address reserved by RFC 2606",
        "recipient-domain-reserved",
        REJECTED,
    ),
    Case(
        RCPT,
        501,
        "5.1.6 Recipient addresses in single label domains not accepted",
        "recipient-domain-reserved",
        REJECTED,
    ),
    *(
        Case(RCPT, 550, f"{text} {TRACE}", "recipient-unknown", REJECTED)
        for text in (
            "5.1.1 User unknown",
            "5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
            "5.4.1 Recipient address rejected: Access denied.",
            "5.7.504 Recipient address rejected",
            "5.7.505 Access denied, banned recipient",
        )
    ),
    *(
        Case(
            RCPT, 550, f"5.7.{number} RESOLVER.RST.NotAuthorized", "recipient-restricted", REJECTED
        )
        for number in (1, 12, 124, 133, 134, 136)
    ),
    Case(RCPT, 550, "5.2.121 Recipient's limit for one sender", "recipient-flooded", BACKOFF),
    Case(BODY, 550, "5.2.122 Recipient's limit an hour", "recipient-flooded", BACKOFF),
    Case(
        BODY, 550, "5.2.3 Message too large for this recipient", "too-large-for-recipient", REJECTED
    ),
    Case(RCPT, 452, "4.5.3 Too many recipients", "too-many-recipients", Action.SPLIT),
    Case(
        BODY,
        550,
        "5.5.3 RESOLVER.ADR.RecipLimit; too many recipients",
        "too-many-recipients",
        Action.SPLIT,
    ),
    Case(BODY, 550, "5.5.3 new words", "too-many-recipients", Action.SPLIT),
    Case(
        BODY,
        550,
        "5.7.23 The message was rejected because of SPF",
        "domain-not-authenticated",
        DEAD,
    ),
    Case(RCPT, 550, "5.7.509 Access denied, DMARC", "domain-not-authenticated", REJECTED),
    Case(BODY, 550, "4.4.7 QUEUE.Expired; message expired", "recipient-unreachable", REJECTED),
    Case(RCPT, 550, "4.4.316 Connection refused", "recipient-unreachable", REJECTED),
    Case(RCPT, 550, "5.4.300 Message expired", "recipient-unreachable", REJECTED),
    Case(RCPT, 450, "4.4.316 Connection refused", "recipient-unreachable-now", BACKOFF),
]

STRANGERS = [
    Case(BODY, 250, f"2.0.0 OK <x@y> {HOST}", "accepted", Action.ACCEPTED),
    Case(AUTH, 535, "5.7.999 Computer says no", "auth-refused", REAUTH),
    Case(AUTH, 535, "5.7.139 Authentication unsuccessful, a new reason.", "auth-refused", REAUTH),
    Case(AUTH, 535, "nothing known", "auth-refused-again", PARK, MAILBOX, fresh=True),
    Case(AUTH, 534, "5.7.9 stronger mechanism needed", "auth-refused", REAUTH),
    Case(AUTH, 534, "5.7.9 stronger mechanism needed", "auth-refused-again", PARK, MAILBOX, fresh=True),
    Case(AUTH, 432, "4.7.12 A password transition is needed", "unknown-transient", BACKOFF),
    Case(Stage.CONNECT, 554, "5.3.2 No SMTP service here", "unknown-at-connect", BACKOFF),
    Case(Stage.STARTTLS, 454, "4.7.0 TLS not available", "unknown-transient", BACKOFF),
    Case(MAIL, 550, "5.9.9 Never seen", "refused-at-mail", PARK, MAILBOX),
    Case(MAIL, 550, "5.1.1 a recipient's code at MAIL", "refused-at-mail", PARK, MAILBOX),
    Case(RCPT, 550, "5.9.9 Never seen", "refused-at-rcpt", REJECTED),
    Case(RCPT, 552, "5.2.2 over quota", "recipient-mailbox-full", BACKOFF),
    Case(RCPT, 501, "5.5.4 Invalid address", "refused-at-rcpt", REJECTED),
    Case(RCPT, 503, "5.5.1 Need MAIL first", "protocol-error", SOON),
    Case(DATA, 554, "5.9.9 Never seen", "refused-at-data", DEAD),
    Case(BODY, 554, "", "refused-at-data", DEAD),
    Case(BODY, 451, "Never seen", "unknown-transient", BACKOFF),
    Case(BODY, 451, "5.1.1 a 4xx beside a 5.x.x", "unknown-transient", BACKOFF),
    Case(MAIL, 451, "5.7.511 a 4xx beside a 5.x.x", "unknown-transient", BACKOFF),
    Case(BODY, 451, f"4.2.0 {STOREDRV}:StorageTransientException", "unknown-transient", BACKOFF),
    Case(BODY, 354, "go on", "unreadable-after-dot", BACKOFF),
    Case(BODY, -1, "", "unreadable-after-dot", BACKOFF),
    Case(RCPT, 250, "2.1.5 Recipient OK", "unexpected-reply", BACKOFF),
    Case(Stage.CONNECT, 999, "HTTP/1.1 400 Bad Request", "unexpected-reply", BACKOFF),
    Case(Stage.QUIT, 550, f"5.2.252 {TRACE}", "after-the-mail", SOON),
    Case(Stage.QUIT, 221, "2.0.0 Bye", "after-the-mail", SOON),
    Case(BODY, 550, "5.7.6061 no such number", "refused-at-data", DEAD),
]  # fmt: skip

HOST_BLOCKED = "Service unavailable, Client host [203.0.113.9] blocked using Blocklist 1"
SOME_LIMIT = "Your message can't be sent because your tenant exceeded its daily limit"

WORDS = [
    # What concerns our address is met at any stage, by any number, and charged to nobody.
    *(
        Case(stage, code, f"{number} {HOST_BLOCKED}", "address-blocked", STOP)
        for stage in (Stage.CONNECT, Stage.EHLO, AUTH, MAIL, RCPT, DATA, BODY)
        for code, number in ((550, "5.7.1"), (554, "5.7.9001"), (550, "5.1.1"), (421, "4.7.0"))
    ),
    *(
        Case(RCPT, 550, text, "address-blocked", STOP)
        for text in (
            "5.7.1 Unfortunately, messages from [40.92.1.2] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140).",
            "5.7.999 Your IP address is banned",
            "5.9.9 Mail from IP 203.0.113.9 was rejected due to listing in a blacklist",
            "5.0.0 rejected: listed at zen.spamhaus.org",
        )
    ),
    # The recipient's own doing stays the recipient's.
    Case(RCPT, 550, "5.7.897 The sender is blocked by the recipient", "recipient-restricted", REJECTED),
    Case(RCPT, 550, "5.7.896 Access denied, banned recipient", "recipient-restricted", REJECTED),
    Case(RCPT, 550, "5.7.895 Sender was not authenticated for group", "recipient-restricted", REJECTED),
    Case(RCPT, 550, "5.2.995 Recipient's hourly limit exceeded", "recipient-flooded", BACKOFF),
    Case(RCPT, 550, "5.2.994 The recipient has exceeded a limit", "recipient-flooded", BACKOFF),
    Case(RCPT, 552, "mailbox is full", "recipient-mailbox-full", BACKOFF),
    Case(BODY, 550, "5.7.1 sender domain fails DMARC", "domain-not-authenticated", DEAD),
    # What is in it
    Case(BODY, 552, "5.7.0 This message was blocked because its content presents a potential security issue", "content-refused", DEAD),
    Case(BODY, 554, "5.6.0 The attachment was refused", "content-refused", DEAD),
    Case(BODY, 550, "5.7.1 Message rejected as spam by Content Filtering.", "content-refused", DEAD),
    Case(BODY, 554, "5.7.9 virus found", "content-refused", DEAD),
    # Our sign-in, in the middle of a mail
    *(
        Case(stage, code, text, "not-authenticated", SOON)
        for stage in (MAIL, RCPT, DATA, BODY)
        for code, text in (
            (550, "5.7.1 Authentication required"),
            (554, "5.7.9 You must be authenticated to send"),
            (535, "5.7.3 Authentication unsuccessful"),
            (550, "5.7.54 SMTP; Unable to relay recipient in non-accepted domain"),
            (554, "5.7.1 <ops@example.net>: Relay access denied"),
            (550, "5.7.9 the session's token has expired"),
        )
    ),
    Case(RCPT, 550, "5.7.136 Sender was not authenticated", "recipient-restricted", REJECTED),
    # How much we send
    *(
        Case(stage, code, text, "limit-reached", MAILBOX_REST, MAILBOX)
        for stage in (MAIL, RCPT, BODY)
        for code, text in (
            (550, f"5.7.237 {SOME_LIMIT} of something new"),
            (550, "5.7.1 The sending rate of this account was exceeded"),
            (554, "5.2.99 Submission limit reached"),
            (550, "Too many messages"),
            (451, "4.7.1 You are sending too fast, slow down"),
            (550, "5.7.1 Sender throttled"),
        )
    ),
    *(
        Case(
            stage,
            550,
            f"5.7.236 {SOME_LIMIT} of external recipients for its onmicrosoft.com domain",
            "onmicrosoft-recipients",
            MAILBOX_REST,
            MAILBOX,
        )
        for stage in (MAIL, RCPT, BODY)
    ),
    Case(BODY, 550, "5.7.9 You sent to too many recipients in the last 24 hours", "limit-reached", MAILBOX_REST, MAILBOX),
    Case(BODY, 554, "5.6.99 A line exceeds the limit of 998 octets", "refused-at-data", DEAD),
    # What passes says so
    *(
        Case(stage, 550, text, "refused-for-now", BACKOFF)
        for stage in (Stage.CONNECT, AUTH, MAIL, RCPT, DATA, BODY)
        for text in ("5.9.9 Transient failure", "5.3.99 Temporarily unavailable", "5.0.0 Try again later")
    ),
    *(
        Case(stage, 554, "4.9.9 New words", "unknown-transient", BACKOFF)
        for stage in (Stage.CONNECT, MAIL, RCPT, DATA, BODY)
    ),
    # Who is blocked
    Case(RCPT, 550, "5.7.894 Your account is blocked", "sender-blocked", PARK, MAILBOX),
    Case(BODY, 550, "5.7.893 Access denied, the tenant has been suspended", "sender-blocked", PARK, MAILBOX),
    Case(RCPT, 550, "5.7.892 Blocked", "refused-as-blocked", BACKOFF),
    Case(BODY, 550, "5.7.891 This was banned", "refused-as-blocked", BACKOFF),
    Case(RCPT, 550, "5.2.1 The email account that you tried to reach is suspended", "refused-at-rcpt", REJECTED),
    Case(RCPT, 550, "5.7.1 RESOLVER.RST.AuthRequired; authentication required", "recipient-restricted", REJECTED),
    Case(RCPT, 550, "5.7.891 banned sender list", "sender-banned", PARK, MAILBOX),
    # The number knows better than the code beside it
    Case(MAIL, 552, "5.2.2 mailbox full", "sender-mailbox-full", PARK, MAILBOX),
    Case(MAIL, 552, "5.7.1 no", "refused-at-mail", PARK, MAILBOX),
    Case(BODY, 552, "5.6.3 no", "refused-at-data", DEAD),
    Case(BODY, 503, "5.7.9 no", "refused-at-data", DEAD),
    Case(MAIL, 530, "5.1.7 no", "sender-address-invalid", PARK, MAILBOX),
    Case(AUTH, 504, "5.7.14 Please log in by a web browser", "auth-refused", REAUTH),
    Case(BODY, 554, "4.3.1 no", "server-resources", BACKOFF),
    # What sizes exceed is the mail's
    Case(BODY, 550, "5.7.9 Your message exceeds the size limit", "mail-too-large", DEAD),
    Case(BODY, 550, "5.4.14 Hop count exceeded the limit, possible mail loop", "refused-at-data", DEAD),
    Case(RCPT, 550, "5.5.99 Maximum of 500 recipients per message exceeded", "too-many-recipients", Action.SPLIT),
]  # fmt: skip

TABLE = SESSION + MAILS + RECIPIENTS + STRANGERS + WORDS


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=f"{c.stage}-{c.code}-{c.rule}-{i}") for i, c in enumerate(TABLE)],
)
def test_each_reply_has_its_row(case):
    """Every known reply ends in the verdict that its row names."""
    verdict = classify(case.stage, case.code, case.text, fresh_token=case.fresh)

    assert (verdict.rule, verdict.action) == (case.rule, case.action)
    assert verdict.scope == case.scope


def test_every_row_is_reached():
    """No row is hidden behind another one: each is the answer to some reply of the table."""
    reached = {c.rule for c in TABLE}
    rows = {
        v.rule
        for r in (*RULES, *ABOUT_OUR_ADDRESS, *WORD_RULES)
        for v in (r.verdict, r.with_fresh_token)
        if v is not None
    }

    assert rows - reached == set()


@pytest.mark.parametrize("case", SESSION + MAILS + RECIPIENTS, ids=lambda c: c.rule)
def test_letters_and_traces_do_not_matter(case):
    """The case of the words, and a first line without a code before them, change nothing."""
    plain = classify(case.stage, case.code, case.text, fresh_token=case.fresh)
    loud = classify(case.stage, case.code, case.text.upper(), fresh_token=case.fresh)
    longer = classify(
        case.stage, case.code, f"A line of prose\n{case.text}", fresh_token=case.fresh
    )

    assert plain.rule == loud.rule == longer.rule


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (f"5.2.0 {STOREDRV}:CorruptDataException; Failed", "CorruptDataException"),
        (f"5.2.0 {STOREDRV}:A.MapiExceptionB; Failed", "A.MapiExceptionB"),
        (
            f"5.2.0 {STOREDRV}:OutboundSpamException; WASCL UserAction verdict is not None. Actual verdict is RefuseQuota, ShowTierUpgrade. [x]",
            "RefuseQuota, ShowTierUpgrade",
        ),
        (f"5.2.0 {STOREDRV}:OutboundSpamException; WASCL UserAction verdict Suspend", "Suspend"),
    ],
)
def test_what_the_store_names_is_recorded(text, detail):
    """The exception or verdict word that the mailbox store names stands in the detail."""
    assert classify(BODY, 554, text, fresh_token=True).detail == detail


def test_the_challenge_is_recorded():
    """The status in a 334's JSON belongs to the attempt."""
    verdict = classify(
        AUTH, 535, '{"status":"invalid_token"}\n5.7.8 authentication failed', fresh_token=False
    )

    assert verdict.detail == "invalid_token"


@pytest.mark.parametrize("failure", Failure)
def test_only_after_the_dot_is_a_mail_in_doubt(failure):
    """A line lost after the final dot leaves the mail in doubt; before it, nothing was sent."""
    assert classify_failure(BODY, failure).uncertain
    assert not any(classify_failure(s, failure).uncertain for s in Stage if s is not BODY)


@pytest.mark.parametrize(
    ("stage", "failure", "rule", "action"),
    [
        (Stage.CONNECT, Failure.REFUSED, "connection-refused", BACKOFF),
        (Stage.CONNECT, Failure.DNS, "host-not-found", BACKOFF),
        (Stage.CONNECT, Failure.TIMEOUT, "no-answer", BACKOFF),
        (Stage.STARTTLS, Failure.TLS, "tls-failed", BACKOFF),
        (Stage.STARTTLS, Failure.CERTIFICATE, "certificate-invalid", BACKOFF),
        (Stage.STARTTLS, Failure.NO_STARTTLS, "no-starttls", BACKOFF),
        (Stage.CONNECT, Failure.GARBAGE, "wrong-protocol", BACKOFF),
        (Stage.EHLO, Failure.GARBAGE, "unexpected-reply", BACKOFF),
        (RCPT, Failure.GARBAGE, "unexpected-reply", BACKOFF),
        (BODY, Failure.GARBAGE, "unreadable-after-dot", BACKOFF),
        (MAIL, Failure.DISCONNECTED, "connection-lost", SOON),
        (DATA, Failure.TIMEOUT, "no-answer", BACKOFF),
        (BODY, Failure.TIMEOUT, "lost-after-dot", BACKOFF),
        (BODY, Failure.DISCONNECTED, "lost-after-dot", BACKOFF),
        (Stage.QUIT, Failure.TIMEOUT, "after-the-mail", SOON),
        (Stage.COMPOSE, Failure.DISCONNECTED, "mail-not-built", DEAD),
    ],
)
def test_failures_without_a_reply(stage, failure, rule, action):
    """Each way to end without a reply has its own verdict."""
    verdict = classify_failure(stage, failure, "Errno 111")

    assert (verdict.rule, verdict.action) == (rule, action)
    assert verdict.detail == f"{failure}: Errno 111"


def test_a_reply_without_a_code_is_a_lost_line():
    """No code after the final dot is the same as a connection that ended there."""
    assert classify(BODY, None, "EOF", fresh_token=True).rule == "lost-after-dot"
    assert classify(Stage.COMPOSE, 500, "", fresh_token=True).rule == "mail-not-built"


@pytest.mark.parametrize("failure", [Failure.CERTIFICATE, Failure.NO_STARTTLS])
def test_unsafe_tls_comes_to_a_person(failure):
    """Wrong certificates and missing encryption end parked if they go on."""
    limit = classify_failure(Stage.STARTTLS, failure).limit

    assert limit is not None
    assert limit.then.action is PARK


def test_nothing_is_counted_before_mail():
    """Trouble with connection or sign-in costs no delivery an attempt."""
    for stage in (Stage.CONNECT, Stage.STARTTLS, Stage.EHLO, AUTH):
        assert not classify(stage, 451, "later", fresh_token=True).counts
        assert not classify_failure(stage, Failure.DISCONNECTED).counts
    assert classify(BODY, 451, "later", fresh_token=True).counts


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("5.7.3 Authentication unsuccessful", (5, 7, 3)),
        ("prose\n4.3.2 later", (4, 3, 2)),
        ("535 5.7.3 with its code", (5, 7, 3)),
        ("535-5.7.3 with its code", (5, 7, 3)),
        ("5.7.606", (5, 7, 606)),
        ("5.7.6061", None),
        ("5.7.3.1 an address", None),
        ("at 5.7.3 later in the line", None),
        ("9.7.3", None),
        ("", None),
    ],
)
def test_enhanced_codes_are_read(text, code):
    """An enhanced code stands at the start of a line and is read as three numbers."""
    assert parse_enhanced(text) == code


def test_ranges_do_not_swallow_neighbours():
    """5.7.60 is one code, and 5.7.606 to 5.7.649 another family."""
    assert enhanced("5.7.60", "5.7.606-5.7.649") == (
        ((5, 7, 60), (5, 7, 60)),
        ((5, 7, 606), (5, 7, 649)),
    )


# --- laws -----------------------------------------------------------------------------------------

tokens = st.sampled_from(
    [c.text for c in TABLE] + ["", "STARTTLS", "mailbox full", "too many recipients"]
)
texts = st.one_of(
    st.text(max_size=80),
    tokens,
    st.builds(
        "{}.{}.{} {}".format,
        st.integers(0, 9),
        st.integers(0, 1200),
        st.integers(0, 1200),
        st.one_of(st.text(max_size=40), tokens),
    ),
)  # fmt: skip
replies = st.fixed_dictionaries(
    {
        "stage": st.sampled_from(Stage),
        "reply_code": st.one_of(st.none(), st.integers(200, 599), st.integers()),
        "text": texts,
        "fresh_token": st.booleans(),
    }
)


def _verdict(reply) -> Verdict:
    return classify(
        reply["stage"], reply["reply_code"], reply["text"], fresh_token=reply["fresh_token"]
    )


@given(replies)
def test_any_reply_gets_one_verdict(reply):
    """Whatever a server says, there is one verdict, the same each time, with words for people."""
    verdict = _verdict(reply)

    assert verdict == _verdict(reply)
    assert verdict.meaning.endswith(".")
    assert verdict.next_step.rstrip().endswith(".")
    assert (verdict.scope is not None) == (
        verdict.action in {PARK, MAILBOX_REST, Action.THROTTLE_TENANT}
    )
    assert len(verdict.detail) <= 200


@given(replies)
def test_only_a_250_after_the_dot_is_accepted(reply):
    """Nothing but a 250 to the mail itself is ever taken for acceptance."""
    accepted = _verdict(reply).action is Action.ACCEPTED

    assert accepted == (reply["stage"] is BODY and reply["reply_code"] == 250)


@given(replies, st.integers(400, 499))
def test_a_4xx_is_never_final(reply, code):
    """A server that asks to try later ends neither a mail nor a recipient."""
    if reply["stage"] is not Stage.COMPOSE:
        assert _verdict({**reply, "reply_code": code}).action not in {DEAD, REJECTED}


@given(replies, st.integers(400, 599))
def test_a_refusal_leaves_no_doubt(reply, code):
    """A 4xx or 5xx says that the mail was not taken."""
    assert not _verdict({**reply, "reply_code": code}).uncertain


@given(replies)
def test_a_fresh_token_is_not_refused_in_circles(reply):
    """With a fresh token there is no further sign-in."""
    assert _verdict({**reply, "fresh_token": True}).action is not REAUTH


@given(replies)
def test_mails_end_only_where_there_is_one(reply):
    """Before MAIL and after the mail nothing ends a mail, a recipient or an attempt."""
    if reply["stage"] in {Stage.CONNECT, Stage.STARTTLS, Stage.EHLO, AUTH, Stage.QUIT}:
        verdict = _verdict(reply)

        assert verdict.action not in {DEAD, REJECTED, Action.SPLIT, Action.ACCEPTED}
        assert not verdict.counts


@given(replies)
def test_at_rcpt_only_the_recipient_ends(reply):
    """At RCPT nothing ends the mail itself."""
    assert _verdict({**reply, "stage": RCPT}).action is not DEAD


@given(st.text(max_size=60), st.booleans())
def test_an_unknown_refusal_of_auth_keeps_the_grant(text, fresh):
    """A 535 with any text asks neither for a new consent nor for a new secret."""
    verdict = classify(AUTH, 535, text, fresh_token=fresh)

    assert verdict.remedy not in {Remedy.SIGN_IN_AGAIN, Remedy.ADMIN_CONSENT, Remedy.NEW_SECRET}


# --- the data -------------------------------------------------------------------------------------


def _all_verdicts() -> list[Verdict]:
    return list(every_reply_verdict())


def test_a_name_means_one_thing():
    """Two verdicts never share a rule name, and every name is kebab-case and fits its column."""
    by_name: dict[str, Verdict] = {}
    for verdict in every_verdict():
        assert by_name.setdefault(verdict.rule, verdict) == verdict
        assert verdict.rule.replace("-", "").isalnum()
        assert verdict.rule == verdict.rule.lower()
        assert len(verdict.rule) <= 100


def test_an_escalation_ends():
    """What follows a limit has no limit of its own."""
    assert all(v.limit is None or v.limit.then.limit is None for v in _all_verdicts())


def test_probes_are_rare():
    """A lock-out is probed no more than every few hours, a full mailbox once an hour at most."""
    for verdict in _all_verdicts():
        probe = verdict.probe_after_seconds
        if verdict.rule.startswith("locked-out-") or verdict.rule == "licence-invalid":
            assert probe is not None
            assert probe >= 4 * 3600
        elif verdict.rule == "send-as-denied":
            assert probe == 24 * 3600
        elif verdict.rule == "sender-mailbox-full":
            assert probe == 3600
        else:
            assert probe is None or probe >= 600


@pytest.mark.parametrize("verdict", list(every_verdict()), ids=lambda v: v.rule)
def test_every_park_ends_by_itself_once_its_cause_is_gone(verdict):
    """What waits for a person looks by itself too, first soon and then ever more rarely."""
    if verdict.action is not PARK:
        assert verdict.probe_in(0) is None
        return
    distances = [verdict.probe_in(failed) for failed in range(40)]

    assert distances == sorted(distances)
    assert distances[0] <= distances[-1] == max(distances[0], verdict.probe_longest_seconds)
    assert distances[-1] <= 24 * 3600
    assert distances[-1] > distances[0] or distances[0] >= 24 * 3600


@pytest.mark.parametrize(
    "build",
    [
        lambda: park("x", Scope.MAILBOX, Remedy.WAIT, "", "Do."),
        lambda: park("x", Scope.MAILBOX, Remedy.WAIT, "It is.", ""),
        lambda: throttle("x", Scope.MAILBOX, (0.0, 5.0), "It is."),
        lambda: throttle("x", Scope.MAILBOX, (6.0, 5.0), "It is."),
        lambda: Verdict(rule="x", action=PARK, meaning="It is.", next_step="Do."),
        lambda: Limit(then=park("x", Scope.MAILBOX, Remedy.WAIT, "It is.", "Do.")),
    ],
)
def test_a_row_that_cannot_hold_is_refused(build):
    """A verdict without words, scope, pause or end is an error when it is written."""
    with pytest.raises(ValueError, match="x"):
        build()
