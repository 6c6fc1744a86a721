"""
Keeps grants alive that no alert uses.

A refresh token ends 90 days after its last use (docs/microsoft-setup.md, "The years after"), and a
consent that was withdrawn is otherwise noticed when an alert is in a hurry. So each grant that has
been idle for about a week is refreshed, a few at a time.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID

import structlog

from models import grants, senders
from models.errors import AlertpostError, CredentialRejected, StoreUnavailable
from workers.oauth_errors import classify_oauth
from workers.oauth_rules import every_verdict
from workers.parking import park_unless_renewed, tell_parked
from workers.rounds import Rounds
from workers.verdict import Action

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    import redis.asyncio

    from models.redis_keys import RedisKeys
    from models.senders import Sender
    from workers.lease import TokenLeases
    from workers.recorder import Recorder

log = structlog.get_logger()

LOOK_SECONDS: Final = 600.0
"""How often somebody looks for idle grants."""

AT_ONCE: Final = 20
"""Refreshed in one look: a thousand grants of the same age are spread over eight hours."""

LEAST_SHARE: Final = 0.8
"""Of the idle time, after which the first are refreshed; the last are when it is over."""

AFTER_FAILURE_SECONDS: Final = 6 * 3600.0
"""A grant that could not be refreshed is left alone for so long; Entra counts loops (50196)."""

_DAY_SECONDS: Final = 86_400.0

_NOTHING_TO_KEEP: Final = frozenset(verdict.rule for verdict in every_verdict())
"""A mailbox that is parked for one of these waits for a person; until then Entra would refuse."""


class KeepWarm:
    """
    Refreshes what has idled; of all workers one at a time, elected by a key in Redis.

    Args:
        redis: Where it is elected.
        keys: Names of the keys.
        recorder: Runs what needs SQL.
        leases: Refreshes, as for a mail: once over all workers, and never into a loop.
        halt: Stops what visits have in hand of mailboxes that were parked.
        idle_days: About how long a grant may idle; 0: for ever.
        worker: Who this is.
    """

    def __init__(
        self,
        *,
        redis: redis.asyncio.Redis,
        keys: RedisKeys,
        recorder: Recorder,
        leases: TokenLeases,
        halt: Callable[[Sequence[UUID]], Awaitable[None]],
        idle_days: float,
        worker: str,
    ) -> None:
        self._rounds = Rounds(
            redis=redis,
            key=keys.keep_warm_lock,
            worker=worker,
            seconds=LOOK_SECONDS,
            name="keep_warm",
        )
        self._recorder = recorder
        self._leases = leases
        self._halt = halt
        self._idle_seconds = idle_days * _DAY_SECONDS
        self._not_before: dict[UUID, float] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Look now and then until told to stop; an outage is waited out."""
        if self._idle_seconds:
            await self._rounds.run_later(stop, self.look)
        else:
            await stop.wait()

    async def look(self) -> int:
        """
        Refresh some of what has idled for long enough; returns how many were.

        Raises:
            StoreUnavailable: SQL is away.
        """
        found = await self._recorder.run(
            partial(
                grants.idle_since,
                seconds=LEAST_SHARE * self._idle_seconds,
                # They are the longest idle and would take the turns of all others.
                but_parked_for=_NOTHING_TO_KEEP,
            )
        )
        now = time.monotonic()
        self._not_before = {key: when for key, when in self._not_before.items() if when > now}
        due = [
            mailbox_id
            for mailbox_id, idle_seconds in found
            if idle_seconds >= self._idle_seconds * _share_of(mailbox_id)
            and mailbox_id not in self._not_before
        ][:AT_ONCE]
        refreshed = 0
        # One after the other: there is no hurry, and visits refresh meanwhile.
        for mailbox_id in due:
            refreshed += await self._refresh(mailbox_id)
        if due:
            log.info("keep_warm", idle=len(due), refreshed=refreshed)
        return refreshed

    async def _refresh(self, mailbox_id: UUID) -> bool:
        sender = await self._recorder.run(partial(senders.sender, mailbox_id=mailbox_id))
        if sender is None or not sender.connected:
            return False
        try:
            await self._leases.get(sender)
        except CredentialRejected as refused:
            self._not_before[mailbox_id] = time.monotonic() + AFTER_FAILURE_SECONDS
            await self._refused(sender, refused)
        except StoreUnavailable:
            raise
        except AlertpostError as error:
            self._not_before[mailbox_id] = time.monotonic() + AFTER_FAILURE_SECONDS
            log.warning("keep_warm_later", mailbox_id=str(mailbox_id), reason=str(error)[:200])
        else:
            return True
        return False

    async def _refused(self, sender: Sender, refused: CredentialRejected) -> None:
        """Park as a mail would have: better today than when an alert is in a hurry."""
        verdict = classify_oauth(
            refused.error,
            refused.codes,
            refused.suberror,
            refused.description,
            http_status=refused.http_status,
        )
        if verdict.action is not Action.PARK or verdict.scope is None or sender.parked_at:
            log.warning("keep_warm_refused", mailbox_id=str(sender.mailbox_id), reason=verdict.rule)
            return
        parked = await self._recorder.run(
            partial(
                park_unless_renewed,
                tried=sender,
                verdict=verdict,
                scope=verdict.scope,
                answer=str(refused),
                probe_after_seconds=verdict.probe_after_seconds,
                over_credential=True,
            )
        )
        if parked:
            tell_parked(sender.mailbox_id, verdict, verdict.scope, parked)
            await self._halt(parked)


def _share_of(mailbox_id: UUID) -> float:
    """Give each mailbox a share of its own, the same in every worker, between the least and 1."""
    return LEAST_SHARE + (1 - LEAST_SHARE) * (mailbox_id.int % 1000) / 1000
