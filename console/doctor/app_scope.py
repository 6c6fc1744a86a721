"""
Whether an app that acts for itself is let in where it should not be.

The app's token signs in as another mailbox, and leaves: nothing is sent, not even MAIL FROM is
said. A sign-in that is refused is what one hopes for; it costs the other mailbox nothing.

Source:
    learn.microsoft.com: "Authenticate an IMAP, POP or SMTP connection using OAuth" (mailbox
    permissions of a service principal) and "Role Based Access Control for Applications".
"""

from __future__ import annotations

from shlex import quote

import redis.asyncio
from sqlalchemy import Connection

from console.access_tokens import Access
from console.borrowed_slot import MustWait, borrowed
from console.context import Context
from console.dialogue import reply_of
from console.dialogue_lines import untold
from console.doctor.checks import Finding, failed, ok, skipped, warning
from console.exchange_powershell import quoted
from console.token_claims import read_claims
from console.verbs_mailboxes import Account
from models import mailboxes, senders
from models.database import read
from models.errors import NotFound, SubmissionFailed
from models.senders import Sender
from models.stages import Stage
from workers import conclusion
from workers.pacing import PacingUnavailable
from workers.reply_rules_session import TOKEN_REFUSED_AGAIN
from workers.smtp_session import open_session
from workers.tls_contexts import TlsContexts

_ROLE = "SMTP.SendAsApp"


async def examine(
    context: Context,
    who: Account,
    access: Access,
    other: str,
    *,
    client: redis.asyncio.Redis | None,
) -> Finding:
    """
    Sign in as a mailbox that the app should not reach.

    Args:
        context: Open resources.
        who: The app-only mailbox whose token it is; its own sign-in has just worked.
        access: That token.
        other: The mailbox that should refuse.
        client: Of Redis; one of our own mailboxes is signed in within its connections.
    """
    with read(context.engine) as conn:
        ours = _ours(conn, other)
    if ours is None:
        return await _sign_in(context, who, access, other)
    try:
        async with borrowed(context, client, ours, untold):
            return await _sign_in(context, who, access, other)
    except (MustWait, PacingUnavailable) as waiting:
        return skipped("limits", str(waiting), mend="run it again in a minute")


async def _sign_in(context: Context, who: Account, access: Access, other: str) -> Finding:
    sender = who.sender
    try:
        session = await open_session(
            host=sender.smtp_host,
            port=sender.smtp_port,
            tls=TlsContexts(context.settings.ca_file).get(sender.ca_file),
            user=other,
            token=access.token,
            settings=context.settings.smtp,
        )
    except SubmissionFailed as failure:
        return _refused(other, who, failure)
    await session.leave()
    return _let_in(other, who, access)


def _ours(conn: Connection, address: str) -> Sender | None:
    """Give one of our own mailboxes; None where it is none of ours."""
    try:
        return senders.sender(conn, mailboxes.mailbox(conn, address).id)
    except NotFound:
        return None


def _refused(other: str, who: Account, failure: SubmissionFailed) -> Finding:
    seen = f"as {other}: {reply_of(failure)}"
    if failure.stage != Stage.AUTH or failure.reply_code is None:
        return skipped(
            "smtp_connect", seen, "No sign-in was answered, so nothing is known.", "run it again"
        )
    if conclusion.judge(failure, fresh_token=True).rule == TOKEN_REFUSED_AGAIN.rule:
        return ok(
            seen,
            f"The same token was taken as {who.sender.address} and refused as {other}: the app has "
            "no right there. That holds if there is such a mailbox; for an address without one "
            "Exchange answers the same.",
        )
    return warning(
        seen,
        f"Something else than the app's rights refused it, such as {other}'s SMTP AUTH switch; "
        "so this says nothing about them.",
        "name a mailbox whose Authenticated SMTP is switched on: `alertpost doctor "
        f"{quote(who.sender.address)} --check-scope OTHER`",
    )


def _let_in(other: str, who: Account, access: Access) -> Finding:
    claims = read_claims(access.token)
    app = quoted(claims.object_id if claims and claims.object_id else "OBJECT-ID")
    box = quoted(other)
    if claims is None or _ROLE in claims.rights:
        mend = [
            f"Get-MailboxPermission -Identity {box} -User {app}",
            f"Remove-MailboxPermission -Identity {box} -User {app} -AccessRights FullAccess",
            f"Remove-RecipientPermission -Identity {box} -Trustee {app} -AccessRights SendAs",
        ]
        why = "a mailbox permission of the app on that mailbox (its token has SMTP.SendAsApp)"
        more = ""
    else:
        mend = [
            "Get-ManagementRoleAssignment -Role 'Application SMTP.SendAsApp'",
            "Remove-ManagementRoleAssignment -Identity NAME",
            f"Test-ServicePrincipalAuthorization -Identity {app} -Resource {box}",
        ]
        why = "a role assignment (RBAC for Applications) whose scope is too wide, or that has none"
        more = (
            " NAME is the assignment's, as the first command shows it. `alertpost mailboxes "
            f"powershell {quote(who.sender.address)} --least-privilege` prints an assignment with "
            "a scope."
        )
    return failed(
        f"as {other}: let in",
        f"Whoever holds the app's secret can send as {other}. What allows it is {why}.",
        f"in Exchange Online PowerShell: {'; '.join(f'`{line}`' for line in mend)}.{more} Such "
        "changes take up to an hour to hold; then run this again",
    )
