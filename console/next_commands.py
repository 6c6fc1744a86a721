"""Which command cures what a mailbox waits for."""

from __future__ import annotations

from console.reasons import meaning_of
from models.mailboxes import MailboxEntry
from workers.verdict import Remedy


def command_for(reason: str | None, entry: MailboxEntry) -> str | None:
    """
    Name the command that helps, ready to be typed.

    Args:
        reason: Why it does not send: the name of a rule.
        entry: The mailbox.

    Returns:
        None where none does: nothing is to be done, or it is not to be done here.
    """
    meaning = meaning_of(reason)
    if meaning is None:
        return None
    if meaning.remedy is Remedy.ADMIN_SETTING and entry.parked_at is None:
        return None
    return {
        Remedy.SIGN_IN_AGAIN: f"alertpost mailboxes connect {entry.address}",
        Remedy.NEW_SECRET: f"alertpost tenants edit {entry.tenant_slug} --client-secret-file FILE",
        Remedy.ADMIN_CONSENT: f"alertpost tenants show {entry.tenant_slug}",  # it shows the link
        Remedy.ADMIN_SETTING: f"alertpost mailboxes resume {entry.address}",
    }.get(meaning.remedy)
