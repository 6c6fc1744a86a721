"""
What an Exchange administrator runs so that an application may submit as a mailbox. Pure text.

Source:
    learn.microsoft.com: "Authenticate an IMAP, POP or SMTP connection using OAuth" (service
    principal, mailbox permissions) and "Role Based Access Control for Applications".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from uuid import UUID

from models.errors import ConfigurationError

PLACEHOLDER = "PUT-THE-OBJECT-ID-HERE"
_NAME = "alertpost"
_SCOPE = "alertpost senders"
_ROLE = "Application SMTP.SendAsApp"


@dataclass(frozen=True, slots=True)
class App:
    """
    An application as a customer's directory knows it.

    Attributes:
        client_id: Its application id, the same everywhere.
        object_id: Of the *enterprise application* in the customer's directory; None where it is not
            known. That of the app registration is another one, and fails at sign-in only.
        consent_link: Where the customer's administrator allows ``SMTP.SendAsApp``, or None.
    """

    client_id: str
    object_id: str | None
    consent_link: str | None


def with_permissions(app: App, addresses: Sequence[str]) -> str:
    """Write the script for ``SMTP.SendAsApp`` in Entra and permissions on each mailbox."""
    principal = quoted(app.object_id or PLACEHOLDER)
    lines = _begin(app)
    if app.consent_link is not None:
        lines += [
            "# First, in a browser: an administrator of the directory allows SMTP.SendAsApp.",
            f"#   {app.consent_link}",
            "",
        ]
    lines.append(_principal(app))
    for address in addresses:
        box = quoted(address)
        lines += [
            f"Add-MailboxPermission -Identity {box} -User {principal} -AccessRights FullAccess",
            f"Add-RecipientPermission -Identity {box} -Trustee {principal} -AccessRights SendAs",
        ]
    return _end(lines, addresses)


def with_least_privilege(app: App, addresses: Sequence[str]) -> str:
    """Write the script for RBAC for Applications: these mailboxes alone, and no right to read."""
    principal, scope = quoted(app.object_id or PLACEHOLDER), quoted(_SCOPE)
    is_one = " -or ".join(f"PrimarySmtpAddress -eq {quoted(address)}" for address in addresses)
    role = f"-Role {quoted(_ROLE)} -CustomResourceScope {scope}"
    lines = [
        *_begin(app),
        "# Do not allow SMTP.SendAsApp in Entra besides: permissions add up, and with that claim",
        "# in its token Exchange asks for mailbox permissions instead of this scope.",
        "",
        _principal(app),
        f"New-ManagementScope -Name {scope} -RecipientRestrictionFilter {quoted(is_one)}",
        f"New-ManagementRoleAssignment -App {principal} {role}",
        "",
        "# Says InScope True for each of these, and False for any other mailbox:",
    ]
    for address in addresses:
        box = quoted(address)
        lines.append(f"Test-ServicePrincipalAuthorization -Identity {principal} -Resource {box}")
    return _end(lines, addresses)


def checked_object_id(text: str) -> str:
    """
    Return an object id as the portal shows it.

    Raises:
        ConfigurationError: It is no GUID.
    """
    try:
        return str(UUID(text))
    except ValueError:
        raise ConfigurationError(
            f"object id {text!r} is not a GUID; copy it from Enterprise applications in the Entra "
            "admin center"
        ) from None


def full_access(address: str, user: str) -> str:
    """Write the command that lets an account sign in as a mailbox."""
    return (
        f"`Add-MailboxPermission {quoted(address)} -User {quoted(user)} -AccessRights FullAccess`"
    )


def send_as(address: str, user: str) -> str:
    """Write the command that lets an account send as a mailbox."""
    return (
        f"`Add-RecipientPermission {quoted(address)} -Trustee {quoted(user)} -AccessRights SendAs`"
    )


def quoted(text: str) -> str:
    """Write a PowerShell string in which nothing is expanded."""
    return "'" + text.replace("'", "''") + "'"


def _begin(app: App) -> list[str]:
    lines = ["# Exchange Online PowerShell, as an administrator of the customer's organisation."]
    if app.object_id is None:
        lines += [
            f"# Replace {PLACEHOLDER}: Entra admin center, Enterprise applications, this",
            "# application, Object ID. Not the one of App registrations: with that one all this",
            "# succeeds, and the mailbox refuses the sign-in with 535 5.7.3.",
        ]
    return [*lines, "Connect-ExchangeOnline", ""]


def _principal(app: App) -> str:
    ids = f"-AppId {quoted(app.client_id)} -ObjectId {quoted(app.object_id or PLACEHOLDER)}"
    return f"New-ServicePrincipal {ids} -DisplayName {quoted(_NAME)}"


def _end(lines: Sequence[str], addresses: Sequence[str]) -> str:
    switches = [
        f"Set-CASMailbox -Identity {quoted(address)} -SmtpClientAuthenticationDisabled $false"
        for address in addresses
    ]
    return "\n".join(
        [
            *lines,
            "",
            "# The mailbox's own switch for Authenticated SMTP, OAuth included:",
            *switches,
            "",
            "# All this takes up to an hour to hold. Then:",
            *(
                f"#   alertpost mailboxes connect {quote(address)} --app-only"
                for address in addresses
            ),
        ]
    )
