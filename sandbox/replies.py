"""
Every refusal that Exchange Online is known to give, as data with stable names.

Where the sources give an enhanced code alone, the basic code here is 450 for 4.x.x and 550 for
5.x.x. Where they give no words, the text holds no more than the code's class says.

Source:
    Exchange Online's documentation where it quotes a reply, else replies reported from the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_LITERAL = re.compile(r"([1-9][0-9][0-9])[ -](.+)", re.DOTALL)
"""Codes that no server should give included: clients meet them all the same."""

_UNSUCCESSFUL = "5.7.139 Authentication unsuccessful, "
_TOO_MANY = (
    "4.3.2 The maximum number of concurrent connections has exceeded a limit, "
    "closing transmission channel"
)
_FULL = "5.2.2 mailbox full; STOREDRV.Submission.Exception:"
_EXCEPTION = "5.2.0 STOREDRV.Submission.Exception:"


@dataclass(frozen=True, slots=True)
class Reply:
    """
    One reply of the server.

    Attributes:
        name: What faults, limits and tests call it; the code where it was given as a literal.
        code: Basic reply code.
        text: What follows the code; a newline separates the lines of a reply of several lines.
            ``{trace}``, ``{user}``, ``{sender}`` and ``{line}`` are filled in when it is said.
    """

    name: str
    code: int
    text: str

    def wire(self, *, trace: str = "", user: str = "", sender: str = "", line: str = "") -> bytes:
        """
        Write the reply as it goes over the line.

        Args:
            trace: Server, time and trace number, as Exchange puts them into brackets.
            user: Address of the authenticated mailbox.
            sender: Address that the mail claims to come from.
            line: What the client said last, for servers that say it back.

        Returns:
            One or more lines, each with its code and CRLF.
        """
        text = self.text
        for field, value in (
            ("{trace}", trace), ("{user}", user), ("{sender}", sender), ("{line}", line),
        ):  # fmt: skip
            text = text.replace(field, value)
        *first, last = text.split("\n")
        lines = [f"{self.code}-{line}\r\n" for line in first] + [f"{self.code} {last}\r\n"]
        # Servers behind Exchange write in other encodings too: octets that are no UTF-8 come as
        # what Python's surrogateescape makes of them.
        return "".join(lines).encode("utf-8", "surrogateescape")


_TABLE = (
    # Connection and authentication
    ("service_not_available", 421, "4.3.2 Service not available"),
    ("service_not_active", 421, "4.3.2 Service not active"),
    ("too_many_connections", 421, _TOO_MANY),
    ("connection_timed_out", 421, "4.4.1 Connection timed out"),
    ("connection_dropped", 421, "4.4.2 Connection dropped"),
    (
        "submission_rate",
        421,
        "4.4.2 Message submission rate for this client has exceeded the configured limit",
    ),
    ("policy_deferral", 421, "4.7.0 Deferred by policy, closing transmission channel"),
    ("concurrent_connections", 432, "4.3.2 Concurrent connections limit exceeded [{trace}]"),
    (
        "sender_thread_limit",
        432,
        "4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded [{trace}]",
    ),
    (
        "temporary_server_error",
        451,
        "4.7.0 Temporary server error. Please try again later. PRX4 [{trace}]",
    ),
    ("temporary_authentication_failure", 454, "4.7.0 Temporary authentication failure [{trace}]"),
    ("invalid_xoauth2", 501, "5.5.124 Invalid XOAUTH2 auth data"),
    ("unrecognized_authentication", 504, "5.7.4 Unrecognized authentication type"),
    ("not_authenticated", 530, "5.7.57 Client not authenticated to send mail"),
    ("authentication_unsuccessful", 535, "5.7.3 Authentication unsuccessful [{trace}]"),
    (
        "smtp_auth_disabled_tenant",
        535,
        _UNSUCCESSFUL + "SmtpClientAuthentication is disabled for the Tenant. "
        "Visit https://aka.ms/smtp_auth_disabled for more information. [{trace}]",
    ),
    (
        "smtp_auth_disabled_mailbox",
        535,
        _UNSUCCESSFUL + "SmtpClientAuthentication is disabled for the Mailbox. "
        "Visit https://aka.ms/smtp_auth_disabled for more information. [{trace}]",
    ),
    (
        "credentials_incorrect",
        535,
        _UNSUCCESSFUL + "the user credentials were incorrect. [{trace}]",
    ),
    (
        "security_defaults",
        535,
        _UNSUCCESSFUL + "user is locked by your organization's security defaults policy. [{trace}]",
    ),
    (
        "criteria_not_met",
        535,
        _UNSUCCESSFUL
        + "the request did not meet the criteria to be authenticated successfully. [{trace}]",
    ),
    (
        "basic_authentication_disabled",
        535,
        _UNSUCCESSFUL + "basic authentication is disabled. [{trace}]",
    ),
    (
        "federation_unreachable",
        535,
        _UNSUCCESSFUL + "federated STS service was unreachable. [{trace}]",
    ),
    (
        "federation_without_https",
        535,
        _UNSUCCESSFUL + "the federated STS URL does not support HTTPS. [{trace}]",
    ),
    (
        "basic_authentication_retired",
        550,
        "5.7.30 Basic authentication is not supported for Client Submission.",
    ),
    # Sender, message and quota
    ("locked_mailbox_full", 550, "5.2.251 Sender throttled due to continuous mailbox full errors."),
    (
        "locked_send_as_denied",
        550,
        "5.2.252 Sender throttled due to continuous send as denied errors.",
    ),
    (
        "locked_invalid_license",
        550,
        "5.2.253 Sender throttled due to continuous invalid license errors.",
    ),
    (
        "locked_too_many_recipients",
        550,
        "5.2.254 Sender throttled due to continuous too many recipients errors.",
    ),
    (
        "locked_invalid_recipients",
        550,
        "5.2.255 Sender throttled due to continuous invalid recipients errors.",
    ),
    (
        "send_as_denied",
        554,
        "5.2.252 SendAsDenied; {user} not allowed to send as {sender} [{trace}]",
    ),
    (
        "send_as_denied_exception",
        554,
        _EXCEPTION + "SendAsDeniedException.MapiExceptionSendAsDenied [{trace}]",
    ),
    (
        "send_as_no_permission",
        550,
        "5.7.60 SMTP; Client does not have permissions to send as this sender",
    ),
    (
        "mailbox_full",
        554,
        _FULL + "QuotaExceededException.MapiExceptionShutoffQuotaExceeded [{trace}]",
    ),
    ("submission_quota", 554, _EXCEPTION + "SubmissionQuotaExceededException [{trace}]"),
    ("submission_quota_short", 554, "5.2.2 Submission quota exceeded"),
    ("daily_recipient_limit", 550, "5.1.90 Exceeded the daily limit for message recipients"),
    (
        "outbound_spam",
        554,
        _EXCEPTION + "OutboundSpamException; WASCL UserAction verdict is not None. "
        "Actual verdict is RefuseQuota [{trace}]",
    ),
    (
        "message_submission_exceeded",
        554,
        _EXCEPTION + "MessageSubmissionExceededException [{trace}]",
    ),
    # The sources name the lock-out that licence errors lead to (5.2.253), not the single error.
    ("invalid_license", 554, _EXCEPTION + "InvalidLicenseException [{trace}]"),
    ("store_refused", 554, _EXCEPTION + "StoreDriverSubmissionException [{trace}]"),
    ("bad_outbound_sender", 550, "5.1.8 Access denied, bad outbound sender"),
    ("spam_abuse", 550, "5.7.501 Access denied, spam abuse detected"),
    ("banned_sender", 550, "5.7.502 Access denied, banned sender"),
    ("banned_sender_503", 550, "5.7.503 Access denied, banned sender"),
    ("ipv6_range_limit", 550, "5.7.508 Access denied, IPv6 range has exceeded its limit"),
    ("banned_sender_511", 550, "5.7.511 Access denied, banned sender"),
    ("from_header_not_compliant", 550, "5.7.512 Access denied, From header breaks RFC 5322 3.6.2"),
    ("banned_ip", 550, "5.7.606 Access denied, banned sending IP"),
    ("tenant_block_list", 550, "5.7.703 Blocked by the Tenant Allow Block List"),
    ("tenant_threshold", 550, "5.7.705 Access denied, tenant has exceeded threshold"),
    (
        "onmicrosoft_limit",
        550,
        "5.7.236 Your message can't be sent because your tenant exceeded its daily limit",
    ),
    (
        "client_host_blocked",
        550,
        "5.7.1 Service unavailable, Client host [203.0.113.9] blocked using Blocklist 1",
    ),
    (
        "content_blocked",
        552,
        "5.7.0 This message was blocked because its content presents a potential security issue",
    ),
    ("low_reputation_ip", 550, "5.7.708 Access denied, traffic not accepted from this IP"),
    (
        "unregistered_domain",
        550,
        "5.7.750 Service unavailable. Client blocked from sending from unregistered domain(s)",
    ),
    ("trial_external_limit", 550, "5.7.232 Trial tenant exceeded its external recipient limit"),
    ("tenant_external_limit", 550, "5.7.233 Tenant exceeded its external recipient limit"),
    ("message_too_large", 552, "5.3.4 Message size exceeds fixed maximum message size"),
    ("message_too_large_550", 550, "5.3.4 Message size exceeds fixed maximum message size"),
    ("too_large_for_recipient", 550, "5.2.3 Message too large for this recipient"),
    ("insufficient_resources", 452, "4.3.1 Insufficient system resources"),
    ("not_redundant", 451, "4.4.0 Message failed to be made redundant [{trace}]"),
    ("server_busy", 451, "4.7.500 Server busy. Please try again later (S77714)"),
    ("access_denied_later", 451, "4.7.699 Access denied, please try again later (AS5000)"),
    ("ip_under_evaluation", 451, "4.7.850 Access denied, IP under evaluation"),
    ("invalid_sender", 550, "5.1.7 Invalid address"),
    ("unknown_sender", 550, "5.1.7 Unknown sender address"),
    ("bare_line_feeds", 550, "5.6.11 Invalid characters"),
    ("unrecognized_command", 500, "5.3.3 Unrecognized command"),
    ("hello_first", 503, "5.5.2 Send hello first"),
    ("invalid_arguments", 501, "5.5.4 Invalid arguments"),
    ("invalid_domain_name", 501, "5.5.4 Invalid domain name"),
    ("tenant_rule", 550, "5.7.900 Delivery not authorized, message refused"),
    ("transport_rule", 550, "5.7.1 Message rejected by transport rule"),
    # Recipients
    ("invalid_address", 501, "5.1.3 Invalid address"),
    ("reserved_address_4", 501, "5.1.4 Recipient address reserved by RFC 2606"),
    ("reserved_address", 501, "5.1.5 Recipient address reserved by RFC 2606"),
    (
        "single_label_domain",
        501,
        "5.1.6 Recipient addresses in single label domains not accepted",
    ),
    ("no_such_recipient", 550, "5.1.1 Recipient not found"),
    ("recipient_not_found", 550, "5.1.10 Recipient not found"),
    ("recipient_access_denied", 550, "5.4.1 Recipient address rejected: Access denied"),
    ("recipient_access_denied_504", 550, "5.7.504 Recipient address rejected: Access denied"),
    ("recipient_access_denied_505", 550, "5.7.505 Recipient address rejected: Access denied"),
    ("delivery_not_authorized", 550, "5.7.1 Delivery not authorized"),
    ("sender_not_authenticated_for_group", 550, "5.7.12 Sender was not authenticated"),
    ("sender_not_in_allowed_list", 550, "5.7.124 Sender not in allowed-senders list"),
    ("sender_outside_group", 550, "5.7.133 Sender not authenticated for group"),
    ("sender_outside_mailbox", 550, "5.7.134 Sender was not authenticated for mailbox"),
    ("sender_outside_contact", 550, "5.7.136 Sender was not authenticated"),
    ("recipient_flooded_by_sender", 550, "5.2.121 Recipient's hourly limit per sender exceeded"),
    ("recipient_flooded", 550, "5.2.122 Recipient's hourly limit exceeded"),
    ("too_many_recipients", 452, "4.5.3 Too many recipients"),
    ("too_many_recipients_permanent", 550, "5.5.3 Too many recipients"),
    ("spf_failed", 550, "5.7.23 Message rejected, SPF failure"),
    ("dmarc_failed", 550, "5.7.509 Access denied, sending domain does not pass DMARC"),
    ("message_expired", 450, "4.4.7 Message expired"),
    ("connection_refused_remote", 450, "4.4.316 Connection refused"),
    ("message_expired_remote", 550, "5.4.300 Message expired"),
    # Protocol errors of any SMTP server, in the words that Exchange is known for.
    ("need_mail", 503, "5.5.2 Need mail command"),
    ("need_recipient", 503, "5.5.2 Need rcpt command"),
    ("bad_sequence", 503, "5.5.1 Bad sequence of commands"),
    ("cannot_start_tls", 503, "5.5.1 Cannot start TLS"),
    ("authentication_cancelled", 501, "5.7.0 Authentication cancelled"),
    ("line_too_long", 500, "5.5.2 Line too long"),
    ("unrecognized_parameter", 501, "5.5.4 Unrecognized parameter"),
)

CATALOGUE: Mapping[str, Reply] = MappingProxyType({row[0]: Reply(*row) for row in _TABLE})
"""Name to reply. Names are stable: worlds, faults and tests refer to them."""


def reply_for(name_or_literal: str) -> Reply:
    """
    Find a reply by its name, or read one that is written out, such as ``451 4.7.0 Later``.

    Args:
        name_or_literal: A name in ``CATALOGUE``, or a code, a space and a text.

    Raises:
        ValueError: It is neither.
    """
    known = CATALOGUE.get(name_or_literal)
    if known is not None:
        return known
    literal = _LITERAL.fullmatch(name_or_literal)
    if literal is None:
        raise ValueError(f"no such reply: {name_or_literal!r}; give a name or '451 4.7.0 text'")
    return Reply(literal[1], int(literal[1]), literal[2])
