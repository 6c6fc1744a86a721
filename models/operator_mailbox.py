"""
The mailbox from which the provider itself is warned, and whether it can.

It is one of alertpost's own mailboxes, best of a tenant that is the provider's, so that what
befalls a customer does not befall it too. It is looked up each time: it may be added, connected or
lost while workers run.
"""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from sqlalchemy import Connection, select

from models import senders
from models.lookups import MAILBOX, live_mailbox, nearest_mailbox
from models.senders import Sender
from models.settings import Settings


@dataclass(frozen=True, slots=True)
class OperatorMailbox:
    """
    Where warnings go from and to.

    Attributes:
        address: As the setting names it.
        recipients: Who is warned.
        sender: None where there is no such mailbox.
        trouble: Why nothing can be mailed, None where it can.
        waits: Why a warning that is mailed now would wait, None where it would go.
        command: What mends either.
    """

    address: str
    recipients: tuple[str, ...]
    sender: Sender | None = None
    trouble: str | None = None
    waits: str | None = None
    command: str | None = None

    def sentence(self) -> str:
        """Say in one line how it stands."""
        if self.trouble is not None:
            return f"not mailed: {self.trouble}"
        if self.waits is not None:
            return f"mailed, but they wait: {self.waits}"
        return f"mailed from {self.address} to {', '.join(self.recipients)}"


NOT_SET = "not mailed: ALERTPOST_OPERATOR_MAILBOX is not set"
"""What there is to say where nobody wants to be warned by mail."""


def _not_a_mailbox(conn: Connection, address: str) -> str:
    near = nearest_mailbox(conn, address)
    meant = f"; perhaps {near!r} is meant" if near else ""
    return f"ALERTPOST_OPERATOR_MAILBOX names {address!r}, which is not a mailbox here{meant}"


def operator_mailbox(conn: Connection, settings: Settings) -> OperatorMailbox | None:
    """
    Look the mailbox up.

    Returns:
        None where the settings name none.

    Raises:
        ConfigurationError: Its tenant's cloud is one that this version does not know.
    """
    address = settings.operator_mailbox
    if not address:
        return None
    recipients = settings.operator_to or (address,)
    key = conn.scalar(select(MAILBOX.c.id).where(MAILBOX.c.address == address, live_mailbox()))
    sender = None if key is None else senders.sender(conn, key)
    if sender is None:
        return OperatorMailbox(
            address,
            recipients,
            trouble=_not_a_mailbox(conn, address),
            command="alertpost mailboxes list",
        )
    if not sender.connected:
        return OperatorMailbox(
            address,
            recipients,
            sender,
            trouble=f"ALERTPOST_OPERATOR_MAILBOX {address} is not connected",
            command=f"alertpost mailboxes connect {quote(address)}",
        )
    if sender.parked_at is not None:
        return OperatorMailbox(
            address,
            recipients,
            sender,
            waits=f"the operator's own mailbox {address} is parked: {sender.park_reason}",
            command=f"alertpost mailboxes show {quote(address)}",
        )
    return OperatorMailbox(address, recipients, sender)
