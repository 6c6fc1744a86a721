"""
The contents that a visit has in hand: those of its next small mails, or of one large one.

Small ones are read ahead, those of one claim in one question. What is larger than that counts in
the process' budget from before it is read until its mail is out of hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from models.errors import VaultError
from models.severity import Severity

if TYPE_CHECKING:
    from models.lane import Claimed
    from models.vault import Vault
    from workers.budget import Budget
    from workers.contents import Contents, Opened
    from workers.flow import Flow

AHEAD_BYTES = 64 * 1024
"""Of small contents, sealed, that a visit reads ahead without asking for room."""

WHOLE_TIMES = 8
"""A content that is read, opened and composed as a whole is in memory about so many times."""

FLOW_BYTES = 2_000_000
"""A mail that flows: the piece that is made, the one that is written, and what a socket holds."""


class Stopping(Exception):  # noqa: N818 - ends a visit, no error
    """The process stops, and nothing that has not begun is begun."""


class Hand:
    """Of one visit."""

    def __init__(self, contents: Contents, budget: Budget) -> None:
        self._contents = contents
        self._budget = budget
        self._taken = 0
        self._heads: Opened = {}
        self._ahead: asyncio.Future[Opened] | None = None

    def read_ahead(self, claims: Iterable[Claimed], vault: Vault) -> None:
        """Begin to read the contents of claims, most of them at once."""
        self._heads = {}
        ids = _small(claims)
        self._ahead = self._contents.heads(ids, vault) if ids else None

    async def take(
        self, claims: Sequence[Claimed], vault: Vault, *, before: Callable[[], Awaitable[None]]
    ) -> bytes:
        """
        Give what stands in the row of the first claim, opened.

        Args:
            claims: Those of the visit.
            vault: Opens them.
            before: Awaited when nothing has to be waited for any more but the content itself.

        Raises:
            VaultError: It does not open, or is not there any more.
            StoreUnavailable: SQL is away.
            Stopping: The process stops while there is no room.
        """
        first = claims[0]
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            self._heads = await ahead
        ids = _small(claims)
        if first.id not in self._heads and not ids:
            await self._make_room(first, WHOLE_TIMES * first.sealed_bytes)
        await before()
        if first.id not in self._heads:
            if ids:
                self._heads = await self._contents.heads(ids, vault)
            else:
                self._heads = await self._contents.whole(first.id, vault)
        opened = self._heads.pop(first.id)
        if isinstance(opened, VaultError):
            raise opened
        return opened

    async def make_room(self, delivery: Claimed, flow: Flow) -> None:
        """
        Wait until a mail may flow.

        Raises:
            Stopping: The process stops while there is no room.
        """
        # Who holds a part must not wait for another.
        if not self._taken:
            await self._make_room(delivery, min(FLOW_BYTES, WHOLE_TIMES * flow.size))

    def let_go(self) -> None:
        """Give back the room that the last mail took."""
        if self._taken:
            self._budget.give(self._taken)
            self._taken = 0

    async def _make_room(self, delivery: Claimed, octets: int) -> None:
        critical = delivery.severity == Severity.CRITICAL
        self._taken = await self._budget.take(octets, critical=critical)
        if not self._taken:
            raise Stopping


def _small(claims: Iterable[Claimed]) -> list[UUID]:
    """Name the first claims, as many as may be read without asking for room."""
    ids = []
    left = AHEAD_BYTES
    for claimed in claims:
        left -= claimed.sealed_bytes
        if left < 0:
            break
        ids.append(claimed.id)
    return ids
