"""Which command cures what a mailbox waits for."""

from __future__ import annotations

from models.mailboxes import MailboxEntry
from workers.cures import cure_of


def command_for(reason: str | None, entry: MailboxEntry) -> str | None:
    """
    Name the command that helps, ready to be typed.

    Args:
        reason: Why it does not send: the name of a rule.
        entry: The mailbox.

    Returns:
        None where none does: nothing is to be done, or it is not to be done here.
    """
    parked = entry.parked_at is not None
    return cure_of(
        reason, address=entry.address, tenant=entry.tenant_slug, parked=parked, app=entry.app
    )
