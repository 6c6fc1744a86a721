"""Which command cures what a mailbox waits for."""

from __future__ import annotations

from console.reasons import meaning_of
from models.mailboxes import MailboxEntry
from workers import cures
from workers.verdict import Remedy

_TYPED_HERE = frozenset(
    {Remedy.SIGN_IN_AGAIN, Remedy.NEW_SECRET, Remedy.ADMIN_CONSENT, Remedy.ADMIN_SETTING}
)
"""Cures of which a command is at least a part."""


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
    return cure_of(reason, address=entry.address, tenant=entry.tenant_slug, parked=parked)


def cure_of(reason: str | None, *, address: str, tenant: str, parked: bool) -> str | None:
    """Do the same for whoever has no more than the names; ``tenant`` is a slug."""
    meaning = meaning_of(reason)
    if meaning is None:
        return None
    if meaning.remedy is Remedy.ADMIN_SETTING and not parked:
        return None
    if meaning.remedy not in _TYPED_HERE:
        return None
    return cures.command(meaning.remedy, address=address, tenant=tenant)
