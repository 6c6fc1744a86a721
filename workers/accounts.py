"""Who signs in for which mailbox, as one worker knows it: pacing is asked before SQL is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from models.accounts import accounts
from workers.pacing import Party

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from workers.recorder import Recorder


class Accounts:
    """
    Remembers the accounts of mailboxes.

    What it remembers may be out of date. A visit that learns so from the sender it has read says
    ``note`` and begins anew, before it has sent anything.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._known: dict[UUID, str] = {}

    async def party(self, mailbox_id: UUID) -> Party:
        """
        Name a mailbox with its account.

        Raises:
            StoreUnavailable: It is not known, and SQL is away.
        """
        account = self._known.get(mailbox_id)
        if account is None:
            found = await self._recorder.together(_look_up, mailbox_id)
            # A mailbox that is not there sends nothing, whoever it is counted for.
            account = found or str(mailbox_id)
            if found:
                self._known[mailbox_id] = found
        return Party(account, mailbox_id)

    async def parties(self, mailbox_ids: Sequence[UUID]) -> list[Party]:
        """Name many."""
        return [await self.party(one) for one in mailbox_ids]

    def note(self, mailbox_id: UUID, account: str) -> None:
        """Remember what was read just now."""
        self._known[mailbox_id] = account


def _look_up(conn: Connection, mailbox_ids: list[UUID]) -> Sequence[str | None]:
    found = accounts(conn, set(mailbox_ids))
    return [found.get(one) for one in mailbox_ids]
