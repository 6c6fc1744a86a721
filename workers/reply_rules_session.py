"""
Replies to the connection and to AUTH, row by row.

Source:
    The tags above each row stand in docs/sources.md; "our choice" marks numbers that are not
    Microsoft's.
"""

from __future__ import annotations

from datetime import timedelta

from models.stages import Stage
from workers.reply_rule import ReplyRule, enhanced, words
from workers.verdict import (
    HOUR,
    Action,
    Limit,
    Remedy,
    Scope,
    Verdict,
    park,
    retry_backoff,
    retry_soon,
    throttle,
)

SWITCH_PROBE = 600.0
"""An AUTH switch shows at AUTH already, so looking every ten minutes sends no mail."""

_AUTH = frozenset({Stage.AUTH})
_IN_A_MAIL = frozenset({Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY})

_NO_MORE = enhanced("5.0.0")
"""Beside a basic code it says nothing more than that."""

_PROTOCOL = enhanced("5.0.0", "5.3.3", "5.5.0-5.5.999")
"""Of the dialogue itself (RFC 3463 section 3.6)."""

_OAUTH_ONLY = (
    "Check the mailbox's settings: only XOAUTH2 may be used; if they are right, report this as a"
    " bug with the raw reply."
)

BUG_AUTH_PAYLOAD = park(
    "auth-payload-invalid",
    Scope.MAILBOX,
    Remedy.REPORT_BUG,
    "The server could not read our XOAUTH2 data.",
    "Report this as a bug with the raw reply; check the mailbox address for odd characters.",
)

PROTOCOL_ERROR = retry_soon(
    "protocol-error",
    "The server did not expect our command: an error in sequence, or a device on the way that"
    " rewrites SMTP.",
    limit=Limit(
        times=1,
        then=park(
            "protocol-error-again",
            Scope.MAILBOX,
            Remedy.REPORT_BUG,
            "The server refuses our commands on every connection.",
            "Look for a firewall or proxy that inspects SMTP on this path; if there is none, report"
            " this as a bug with the raw reply.",
        ),
    ),
)

EHLO_NAME_REFUSED = park(
    "ehlo-name-refused",
    Scope.MAILBOX,
    Remedy.FIX_CONFIGURATION,
    "The server does not take the name by which we greet it.",
    "Set ALERTPOST_SMTP__EHLO_NAME to a full domain name of the machine that sends, such as"
    " mail.example.com, or to its address in brackets, such as [192.0.2.1], and restart the"
    " workers.",
    # It shows at EHLO already, so looking sends no mail.
    probe=SWITCH_PROBE,
)

MECHANISM_MISSING = park(
    "auth-mechanism-missing",
    Scope.MAILBOX,
    Remedy.FIX_CONFIGURATION,
    "The server does not offer XOAUTH2 here.",
    "Check host and port of the mailbox's cloud (worldwide: smtp.office365.com, port 587).",
)

NOT_AUTHENTICATED = retry_soon(
    "not-authenticated",
    "The server says that this session is not signed in.",
    # The mail that was in hand has nothing to do with it.
    counts=False,
    limit=Limit(
        times=1,
        then=park(
            "not-authenticated-again",
            Scope.MAILBOX,
            Remedy.REPORT_BUG,
            "The server forgets or ignores our sign-in on every connection.",
            "Check host and port of the mailbox's cloud; if they are right, report this as a bug"
            " with the raw reply.",
        ),
    ),
)

TOKEN_REFUSED_AGAIN = park(
    "token-refused-again",
    Scope.MAILBOX,
    Remedy.ADMIN_SETTING,
    "Exchange refused a token that was issued just now: wrong audience, a token of another user,"
    " or no right to this mailbox.",
    "Check that the consent was given by the sending mailbox itself and covers"
    " https://outlook.office.com/SMTP.Send; for app-only access check the service principal and"
    " the mailbox permission. The grant is kept.",
    # Changed rights take up to an hour to show, and a failed AUTH is no mail. [OBS]
)

TOKEN_REFUSED = Verdict(
    rule="token-refused",
    action=Action.REAUTH,
    meaning="The access token was refused.",
    next_step="Nothing to do; another token is fetched and tried once.",
)

AUTH_REFUSED_AGAIN = park(
    "auth-refused-again",
    Scope.MAILBOX,
    Remedy.ADMIN_SETTING,
    "Sign-in to SMTP was refused for a reason that is not in our tables.",
    "Read the raw reply and the tenant's sign-in log; the grant is kept, so nothing has to be"
    " consented anew.",
)

AUTH_REFUSED = Verdict(
    rule="auth-refused",
    action=Action.REAUTH,
    meaning="Sign-in to SMTP was refused for a reason that is not in our tables.",
    next_step="Nothing to do; another token is fetched and tried once.",
)

_CONCURRENT = throttle(
    "concurrent-connections",
    Scope.MAILBOX,
    (15.0, 60.0),
    "More than three connections were open to this mailbox at once.",
    "Nothing to do; if it keeps happening, look for other software that sends from this mailbox.",
)

SESSION_RULES = (
    # [L-EXSRV] [OBS] 421 4.3.2 Service not available / Service not active
    ReplyRule(
        verdict=retry_soon("front-end-busy", "The front end is busy or about to restart."),
        text=words(r"service not (?:available|active)"),
        codes=frozenset({421}),
    ),
    # [SFM] 421 4.3.2 The maximum number of concurrent connections … has exceeded a limit
    ReplyRule(
        verdict=throttle(
            "host-connections",
            Scope.MAILBOX,
            (60.0, 60.0),
            "Too many connections are open from here to this part of the service.",
            "Nothing to do; if many mailboxes show it, run fewer workers behind this address.",
        ),
        text=words(r"maximum number of concurrent connections"),
    ),
    # [IRIDIS] 421 4.4.2 Message submission rate for this client has exceeded the configured limit
    ReplyRule(
        verdict=throttle(
            "submission-rate",
            Scope.MAILBOX,
            (60.0, 120.0),
            "The server counts more submissions a minute than it allows.",
            "Nothing to do; look for other software that sends from this mailbox.",
        ),
        text=words(r"submission rate for this client"),
    ),
    # [L-SUBM] [G-FASTAPIMAIL75] [G-NM1613] 432 4.3.2 Concurrent connections limit exceeded
    # [B-SUBM] [G-OMBI4093] 432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded
    ReplyRule(
        verdict=_CONCURRENT,
        text=words(r"concurrent connections limit exceeded|sender thread limit exceeded"),
    ),
    ReplyRule(verdict=_CONCURRENT, enhanced=enhanced("4.3.2"), codes=frozenset({432})),
    # [L-EXSRV] [OBS] 421 4.3.2 whose words nobody knows
    ReplyRule(
        verdict=retry_soon("front-end-closing", "The front end closes this connection."),
        enhanced=enhanced("4.3.2"),
        codes=frozenset({421}),
    ),
    # [L-EXSRV] 421 4.4.1 Connection timed out / 421 4.4.2 Connection dropped
    ReplyRule(
        verdict=retry_soon("session-ended", "The session reached its idle or total time."),
        enhanced=enhanced("4.4.1", "4.4.2"),
        codes=frozenset({421}),
    ),
    # [G-OAUTH2MS5] [G-MK566] [G-SASL69] 451 4.7.0 Temporary server error … PRX<n>;
    # six hours: our choice
    ReplyRule(
        verdict=retry_backoff(
            "proxy-to-mailbox-failed",
            "The front end could not reach this mailbox's own server.",
            # The limit is in hours, so the answers must not use up the attempts first.
            counts=False,
            limit=Limit(
                duration=timedelta(hours=6),
                then=park(
                    "proxy-to-mailbox-failing",
                    Scope.MAILBOX,
                    Remedy.ADMIN_SETTING,
                    "For six hours the front end has not reached this mailbox's own server.",
                    "Check the host of this mailbox's cloud, and that the mailbox exists and is"
                    " licensed; then open a ticket with Microsoft.",
                ),
            ),
        ),
        text=words(r"temporary server error|\bPRX[0-9]+"),
        codes=frozenset({421, 450, 451, 454}),
    ),
    # [L-NDR] 421 4.7.x: class only; five minutes: our choice
    ReplyRule(
        verdict=throttle(
            "policy-deferral",
            Scope.MAILBOX,
            (300.0, 3600.0),
            "The service defers this sender by policy or reputation.",
        ),
        enhanced=enhanced("4.7.0-4.7.999"),
        codes=frozenset({421}),
    ),
    # generic SMTP, [OBS] 454 4.7.0 Temporary authentication failure; the token is kept
    ReplyRule(
        verdict=retry_backoff(
            "authentication-unavailable", "The server could not check the sign-in just now."
        ),
        text=words(r"temporary authentication failure"),
        enhanced=enhanced("4.7.0"),
        codes=frozenset({451, 454}),
        stages=_AUTH,
    ),
    # [G-SASL110] 501 5.5.124 Invalid XOAUTH2 auth data
    ReplyRule(
        verdict=BUG_AUTH_PAYLOAD,
        text=words(r"invalid xoauth2"),
        enhanced=enhanced("5.5.124"),
    ),
    # [G-FLUENT44] [G-NM1025] 504 5.7.4 Unrecognized authentication type (older: 502)
    ReplyRule(
        verdict=MECHANISM_MISSING,
        text=words(r"unrecognized authentication type"),
        enhanced=enhanced("5.7.4"),
    ),
    ReplyRule(
        verdict=MECHANISM_MISSING,
        enhanced=enhanced("5.3.3", "5.5.0-5.5.4"),
        codes=frozenset({502, 504}),
        stages=_AUTH,
    ),
    ReplyRule(
        verdict=MECHANISM_MISSING, codes=frozenset({502, 504}), stages=_AUTH, beside=_NO_MORE
    ),
    # [L-NDR] [OBS] 530 5.7.57 Client not authenticated to send mail
    ReplyRule(
        verdict=NOT_AUTHENTICATED,
        text=words(r"client (?:was )?not authenticated"),
        enhanced=enhanced("5.7.57"),
    ),
    ReplyRule(
        verdict=NOT_AUTHENTICATED,
        codes=frozenset({530}),
        beside=enhanced("5.0.0", "5.5.1", "5.7.0-5.7.1"),
    ),
    # [G-EOP193] 535 5.7.139 …, SmtpClientAuthentication is disabled for the Tenant.
    ReplyRule(
        verdict=park(
            "smtp-auth-disabled-tenant",
            Scope.TENANT,
            Remedy.ADMIN_SETTING,
            "SMTP AUTH is switched off for the whole tenant and this mailbox inherits that.",
            "Switch it on for the mailbox in the admin center: Mail, Manage email apps,"
            " Authenticated SMTP (it may take an hour); or, for the whole tenant, in Exchange"
            " Online PowerShell: `Set-TransportConfig -SmtpClientAuthenticationDisabled $false`.",
            probe=SWITCH_PROBE,
            probe_longest=HOUR,
        ),
        text=words(r"SmtpClientAuthentication is disabled for the tenant"),
    ),
    # [OBS] 535 5.7.139 …, SmtpClientAuthentication is disabled for the Mailbox.
    ReplyRule(
        verdict=park(
            "smtp-auth-disabled-mailbox",
            Scope.MAILBOX,
            Remedy.ADMIN_SETTING,
            "SMTP AUTH is switched off for this mailbox.",
            "Switch it on in the admin center: mailbox, Mail, Manage email apps, Authenticated"
            " SMTP; or (it may take an hour) in Exchange Online PowerShell:"
            " `Set-CASMailbox -Identity ADDRESS -SmtpClientAuthenticationDisabled $false`.",
            probe=SWITCH_PROBE,
            probe_longest=HOUR,
        ),
        # The link stands under both texts; alone it is read as the narrower one.
        text=words(r"SmtpClientAuthentication is disabled for the mailbox|smtp_auth_disabled"),
    ),
    # [OBS] 535 5.7.139 …, the user credentials were incorrect.
    ReplyRule(
        verdict=Verdict(
            rule="credentials-incorrect",
            action=Action.REAUTH,
            meaning="Exchange calls the credentials wrong, which should not happen with a token.",
            next_step="Nothing to do; another token is fetched and tried once.",
        ),
        with_fresh_token=park(
            "credentials-incorrect-again",
            Scope.MAILBOX,
            Remedy.FIX_CONFIGURATION,
            "Exchange calls the credentials wrong although the token is new.",
            "Check that the account that consented is this mailbox. The grant is kept.",
        ),
        text=words(r"user credentials were incorrect"),
    ),
    # [OBS] 535 5.7.139 …, user is locked by your organization's security defaults policy.
    ReplyRule(
        verdict=park(
            "security-defaults",
            Scope.MAILBOX,
            Remedy.FIX_CONFIGURATION,
            "The organization's security defaults block Basic authentication, which means that"
            " Basic was used.",
            _OAUTH_ONLY,
        ),
        text=words(r"security defaults policy"),
    ),
    # [OBS] 535 5.7.139 …, the request did not meet the criteria to be authenticated successfully.
    ReplyRule(
        verdict=park(
            "conditional-access-smtp",
            Scope.TENANT,
            Remedy.ADMIN_SETTING,
            "A policy of the tenant refused the sign-in, perhaps for our network address alone:"
            " Conditional Access, multi-factor authentication or a disabled protocol.",
            "Check the sign-in log of the mailbox and the Conditional Access policies; allow this"
            " app, or this server's address, for the mailbox.",
        ),
        text=words(r"did not meet the criteria to be authenticated"),
    ),
    # [OBS] 535 5.7.139 …, basic authentication is disabled.
    # [G-OPENCTI] [B-BASIC-OLD] 550 5.7.30 Basic authentication is not supported …
    ReplyRule(
        verdict=park(
            "basic-authentication-disabled",
            Scope.MAILBOX,
            Remedy.FIX_CONFIGURATION,
            "Basic authentication is switched off by policy, which means that Basic was used.",
            _OAUTH_ONLY,
        ),
        text=words(r"basic authentication is disabled"),
    ),
    ReplyRule(
        verdict=park(
            "basic-authentication-retired",
            Scope.MAILBOX,
            Remedy.FIX_CONFIGURATION,
            "Microsoft has retired Basic authentication for this tenant, and Basic was used.",
            _OAUTH_ONLY,
        ),
        text=words(r"basic authentication is not supported"),
        enhanced=enhanced("5.7.30"),
    ),
    # [L-PRINT] 535 5.7.139 …, federated STS service was unreachable. /
    # the federated STS URL does not support HTTPS.
    ReplyRule(
        verdict=retry_backoff(
            "federated-sign-in-unreachable",
            "The customer's own federation server did not answer Microsoft.",
            counts=False,
            limit=Limit(
                times=1,
                then=park(
                    "federated-sign-in-failing",
                    Scope.TENANT,
                    Remedy.ADMIN_SETTING,
                    "The customer's own federation server keeps failing, so no mailbox of the"
                    " tenant can sign in.",
                    "Have the customer check the federation server and its HTTPS address.",
                ),
            ),
        ),
        text=words(r"federated STS"),
    ),
    # [L-OAUTH] [G-PHPM2988] 535 5.7.3 Authentication unsuccessful
    # [TEST] Postfix, Dovecot: 334 with JSON, then 535 5.7.8
    ReplyRule(
        verdict=TOKEN_REFUSED,
        with_fresh_token=TOKEN_REFUSED_AGAIN,
        enhanced=enhanced("5.7.3", "5.7.8"),
        codes=frozenset({535}),
        stages=_AUTH,
        detail=words(r'"status"\s*:\s*"([^"]+)"'),
    ),
    # A sign-in that the server takes back in the middle of a mail is no fault of that mail.
    ReplyRule(verdict=NOT_AUTHENTICATED, codes=frozenset({535}), stages=_IN_A_MAIL, beside=None),
    # An unknown 535 never costs the grant: another would cost somebody a consent.
    ReplyRule(
        verdict=AUTH_REFUSED,
        with_fresh_token=AUTH_REFUSED_AGAIN,
        codes=frozenset({535}),
        stages=_AUTH,
        beside=None,
        detail=words(r'"status"\s*:\s*"([^"]+)"'),
    ),
    # [L-EXSRV] 501 5.5.4 Invalid domain name
    ReplyRule(
        verdict=EHLO_NAME_REFUSED,
        text=words(
            r"invalid domain name|domain name (?:is )?(?:not valid|invalid)|fully.qualified host"
            r"|(?:helo|ehlo)\b.{0,30}(?:name|argument|domain|rejected)"
            r"|(?:invalid|illegal|bad) (?:helo|ehlo|host ?name)"
        ),
        codes=frozenset({501, 504, 550, 553, 554}),
        stages=frozenset({Stage.EHLO}),
    ),
    ReplyRule(
        verdict=EHLO_NAME_REFUSED,
        enhanced=enhanced("5.5.4"),
        codes=frozenset({501}),
        stages=frozenset({Stage.EHLO}),
    ),
    ReplyRule(
        verdict=EHLO_NAME_REFUSED,
        codes=frozenset({501}),
        stages=frozenset({Stage.EHLO}),
        beside=_PROTOCOL,
    ),
    # [L-EXSRV] 500 5.3.3 Unrecognized command, 503 5.5.2 Send hello first, 501 5.5.4 …
    # At RCPT only 503 is about the sequence; the others speak of one address, which must not
    # stop the mailbox.
    ReplyRule(
        verdict=PROTOCOL_ERROR,
        text=words(r"unrecognized command|send hello first"),
        enhanced=enhanced("5.3.3", "5.5.1-5.5.2", "5.5.4"),
        codes=frozenset({500, 501, 502, 503}),
        stages=frozenset(Stage) - {Stage.RCPT},
    ),
    ReplyRule(verdict=PROTOCOL_ERROR, codes=frozenset({503}), beside=_PROTOCOL),
    ReplyRule(
        verdict=PROTOCOL_ERROR,
        codes=frozenset({500, 502}),
        stages=frozenset(Stage) - {Stage.RCPT},
        beside=_PROTOCOL,
    ),
    ReplyRule(verdict=BUG_AUTH_PAYLOAD, codes=frozenset({501}), stages=_AUTH, beside=_PROTOCOL),
    ReplyRule(
        verdict=PROTOCOL_ERROR,
        codes=frozenset({504}),
        stages=frozenset({Stage.EHLO}),
        beside=_PROTOCOL,
    ),
)
"""Connection and sign-in, and what is about the dialogue itself."""
