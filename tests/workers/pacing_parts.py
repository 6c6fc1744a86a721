"""What tests of pacing share: names of accounts, and a place that remembers Redis' memory."""

from __future__ import annotations

import time
from uuid import UUID, uuid4

from models.accounts import accounts
from models.database import read
from models.redis_memory import RedisMemory
from tests.fixtures.whole import Whole
from workers.pacing import Party


class OneMemory:
    """Agrees as SQL does, for pacers of one test that has no database."""

    def __init__(self) -> None:
        self.memory: RedisMemory | None = None
        self._since = 0.0

    async def see(self, name: str, *, at_least: int) -> RedisMemory:
        """Raise the generation where it is another one."""
        known = self.memory
        if known is None or known.name != name or known.generation < at_least:
            newest = max(known.generation if known else 0, at_least) + 1
            self.memory = RedisMemory(name, newest, 0.0)
            self._since = time.monotonic()
        assert self.memory is not None
        age_seconds = time.monotonic() - self._since
        return RedisMemory(self.memory.name, self.memory.generation, age_seconds)

    async def known(self) -> RedisMemory | None:
        """Tell which one was seen last."""
        return self.memory


def some_party(account: str | None = None) -> Party:
    """Name a mailbox that nobody else has; without an account, of its own."""
    mailbox_id = uuid4()
    return Party(account or f"{mailbox_id.hex}@contoso.example", mailbox_id)


def party_of(whole: Whole, mailbox_id: UUID) -> Party:
    """Name a mailbox as SQL knows it."""
    with read(whole.engine) as connection:
        return Party(accounts(connection, [mailbox_id])[mailbox_id], mailbox_id)
