"""Who signs in for which mailbox, as one worker knows it: pacing is asked before SQL is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from models.accounts import accounts, changed_lately
from models.lane_recent import ages_of
from workers.pacing import Pacer, Party

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from workers.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Found:
    """
    What SQL says of a mailbox.

    Attributes:
        account: Who signs in.
        change: Names the last change of that, if it was lately.
        ages_ms: How long ago its mails of the window were answered; told where it changed.
    """

    account: str
    change: str = ""
    ages_ms: tuple[int, ...] = ()


class Accounts:
    """
    Remembers the accounts of mailboxes.

    What it remembers may be out of date. A visit that learns so from the sender it has read says
    ``forget`` and begins anew, before it has sent anything.

    Args:
        recorder: Asks SQL, for all visits that want to know at the same time.
        pacer: Told of what a mailbox brings along to an account.
        window_seconds: How far back mails count.
    """

    def __init__(self, recorder: Recorder, pacer: Pacer, *, window_seconds: float) -> None:
        self._recorder = recorder
        self._pacer = pacer
        self._look_up = partial(_look_up, window_seconds=window_seconds)
        self._known: dict[UUID, str] = {}

    async def party(self, mailbox_id: UUID) -> Party:
        """
        Name a mailbox with its account.

        Raises:
            StoreUnavailable: It is not known, and SQL is away.
            PacingUnavailable: It has changed lately, and Redis is away.
        """
        account = self._known.get(mailbox_id)
        if account is not None:
            return Party(account, mailbox_id)
        found = await self._recorder.together(self._look_up, mailbox_id)
        if found is None:
            # A mailbox that is not there sends nothing, whoever it is counted for.
            return Party(str(mailbox_id), mailbox_id)
        party = Party(found.account, mailbox_id)
        if found.ages_ms:
            await self._pacer.bring(party, found.change, found.ages_ms)
        self._known[mailbox_id] = found.account
        return party

    async def parties(self, mailbox_ids: Sequence[UUID]) -> list[Party]:
        """Name many."""
        return [await self.party(one) for one in mailbox_ids]

    def forget(self, mailbox_id: UUID) -> None:
        """Ask anew the next time: somebody else signs in by now."""
        self._known.pop(mailbox_id, None)


def _look_up(
    conn: Connection, mailbox_ids: list[UUID], *, window_seconds: float
) -> Sequence[Found | None]:
    known = accounts(conn, set(mailbox_ids))
    changed = changed_lately(conn, seconds=window_seconds)
    return [
        Found(
            known[one],
            str(changed[one]),
            tuple(ages_of(conn, one, window_seconds=window_seconds)),
        )
        if one in known and one in changed
        else (Found(known[one]) if one in known else None)
        for one in mailbox_ids
    ]
