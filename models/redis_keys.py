from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """
    The name of every key that alertpost keeps in Redis; all of them may be lost.

    Attributes:
        prefix: Stands before each name, so that several installations can share a server.
    """

    prefix: str = "alertpost"

    @property
    def namespace(self) -> str:
        """The namespace that Dramatiq puts before its own keys."""
        return self.prefix

    def queue(self, name: str) -> str:
        """Dramatiq's list of message ids that wait in a queue."""
        return f"{self.prefix}:{name}"

    def queue_messages(self, name: str) -> str:
        """Dramatiq's hash from message id to message."""
        return f"{self.prefix}:{name}.msgs"

    def wake(self, mailbox_id: UUID, *, critical: bool) -> str:
        """Set while a wake-up for this lane is on its way; criticals have their own."""
        return f"{self.prefix}:wake{'-critical' if critical else ''}:{mailbox_id}"

    def permits(self, account: str) -> str:
        """List of the moments, in ms, at which mails of the present window were answered."""
        return f"{self.prefix}:permits:{account}"

    def slots(self, account: str) -> str:
        """Hash of who holds a connection and a permit, and of who waits for one."""
        return f"{self.prefix}:slots:{account}"

    def account_of_slots(self, name: str) -> str:
        """Tell whose ``slots`` have this name."""
        return name[len(self.slots("")) :]

    def pause(self, account: str) -> str:
        """Exists while Exchange has asked for patience."""
        return f"{self.prefix}:pause:{account}"

    def pacing(
        self, account: str, mailbox_id: UUID, *, critical: bool
    ) -> tuple[str, str, str, str]:
        """What the law of pacing reads and writes: slots, permits, pause, wake."""
        return _pacing(self, account, mailbox_id, critical)

    @property
    def alarms(self) -> str:
        """Sorted set of mailboxes to wake, by the moment in ms."""
        return f"{self.prefix}:alarms"

    @property
    def sweep_lock(self) -> str:
        """Held by the one worker that sweeps."""
        return f"{self.prefix}:sweep"

    @property
    def keep_warm_lock(self) -> str:
        """Held by the one worker that refreshes idle grants."""
        return f"{self.prefix}:keep-warm"

    @property
    def warnings_lock(self) -> str:
        """Held by the one worker that looks for what the operator has to be told."""
        return f"{self.prefix}:warnings"

    @property
    def workers(self) -> str:
        """Sorted set of the workers that live, by the moment in ms until which each is known to."""
        return f"{self.prefix}:workers"

    def begun(self, worker: str) -> str:
        """Hash of which submission each visit of a worker has begun last."""
        return f"{self.prefix}:begun:{worker}"

    @property
    def clocks(self) -> str:
        """What the deciding clocks showed last, all at one time; see ``workers.clock_pair``."""
        return f"{self.prefix}:clocks"

    @property
    def unrecorded(self) -> str:
        """Hash of what workers cannot record, by their names; see ``models.unrecorded``."""
        return f"{self.prefix}:unrecorded"

    def token(self, mailbox_id: UUID) -> str:
        """The access token that all workers share, encrypted."""
        return f"{self.prefix}:token:{mailbox_id}"

    def refresh_lock(self, mailbox_id: UUID) -> str:
        """Held by the one worker that refreshes this mailbox's grant."""
        return f"{self.prefix}:refresh:{mailbox_id}"

    def refresh_failure(self, mailbox_id: UUID) -> str:
        """Exists while a refresh that failed should not be tried again."""
        return f"{self.prefix}:refresh-failure:{mailbox_id}"

    @property
    def clock_set(self) -> str:
        """Exists for moments after Redis was made to forget because its clock was set."""
        return f"{self.prefix}:clock-set"

    def probe(self, name: str) -> str:
        """Written and deleted by whoever looks whether Redis takes what is written."""
        return f"{self.prefix}:probe:{name}"

    @property
    def wanted(self) -> str:
        """Set of the ``slots`` keys of accounts where a visit found no slot."""
        return f"{self.prefix}:wanted"

    @property
    def era(self) -> str:
        """Made once and never expiring: another value means that Redis lost its memory."""
        return f"{self.prefix}:era"

    @property
    def generation(self) -> str:
        """The latest generation of Redis' memory that it was told of; see ``redis_memory``."""
        return f"{self.prefix}:generation"


@lru_cache(maxsize=16_384)
def _pacing(
    keys: RedisKeys,
    account: str,
    mailbox_id: UUID,
    critical: bool,  # noqa: FBT001 - a cache key
) -> tuple[str, str, str, str]:
    # Four names for each of several requests a mail: making them anew is a tenth of their cost.
    return (
        keys.slots(account),
        keys.permits(account),
        keys.pause(account),
        keys.wake(mailbox_id, critical=critical),
    )
