"""
Warns the operator by mail: before something ends, when something was lost, when it is back.

The mail goes the way of any alert, through the lane of a mailbox of the provider's own, so it is
paced, tried again and on record. What was told is remembered in SQL (``models.told_warnings``).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID

import structlog

from models import intake, intake_checks, operator_news
from models.database import read
from models.errors import Conflict, RouteGone
from models.ids import uuid7
from models.new_delivery import new_delivery
from models.operator_mailbox import OperatorMailbox, operator_mailbox
from models.operator_news import News
from models.severity import Severity
from workers.rounds import Rounds
from workers.warning_mail import warning_mail

if TYPE_CHECKING:
    from typing import Protocol

    import redis.asyncio
    from sqlalchemy import Connection, Engine

    from models.intake import NewDelivery
    from models.redis_keys import RedisKeys
    from models.settings import Settings
    from models.vault import Vault
    from workers.recorder import Recorder

    class Wake(Protocol):
        """Wakes a lane after a commit."""

        async def __call__(self, mailbox_id: UUID, *, critical: bool) -> None:
            """Wake one."""


log = structlog.get_logger()

LOOK_SECONDS: Final = 60.0
"""About how often somebody looks; what was lost is told after about two minutes."""


class OperatorWarnings:
    """
    Looks for what the operator has to be told; of all workers one at a time.

    Args:
        redis: Where it is elected.
        keys: Names of the keys.
        recorder: Commits the mail together with the memory of it.
        engine: Where it looks. It reads all mailboxes, for which no visit's commit shall wait.
        vault: Seals the mail.
        settings: Which mailbox, and whom to tell.
        wake: Wakes the lane.
        worker: Who this is.
    """

    def __init__(
        self,
        *,
        redis: redis.asyncio.Redis,
        keys: RedisKeys,
        recorder: Recorder,
        engine: Engine,
        vault: Vault,
        settings: Settings,
        wake: Wake,
        worker: str,
    ) -> None:
        self._rounds = Rounds(
            redis=redis,
            key=keys.warnings_lock,
            worker=worker,
            seconds=LOOK_SECONDS,
            name="warnings",
        )
        self._recorder = recorder
        self._engine = engine
        self._vault = vault
        self._settings = settings
        self._wake = wake
        self._trouble: str | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Look about once a minute until told to stop, where there is a mailbox to warn from."""
        if self._settings.operator_mailbox:
            await self._rounds.run_later(stop, self.look)
        else:
            await stop.wait()

    async def look(self) -> UUID | None:
        """
        Tell what is new.

        Returns:
            The delivery that tells it; None where there is nothing to tell, or no way to.

        Raises:
            StoreUnavailable: SQL is away; nothing was told.
        """
        operator, news = await asyncio.to_thread(self._see)
        if operator is None or news is None or not news.to_record:
            return None
        delivery = self._mail(news, operator) if news.to_mail else None
        try:
            told = await self._recorder.run(partial(self._tell, news=news, delivery=delivery))
        except (Conflict, RouteGone) as meanwhile:
            # Redis forgot the election, a look took longer than it holds, or the mailbox went.
            log.debug("warning_told_elsewhere", reason=str(meanwhile))
            return None
        if not told or delivery is None:
            return None
        self._log(news, delivery, operator)
        await self._wake(delivery.mailbox_id, critical=delivery.severity == Severity.CRITICAL)
        return delivery.id

    def _mail(self, news: News, operator: OperatorMailbox) -> NewDelivery:
        sender = operator.sender
        assert sender is not None
        return new_delivery(
            warning_mail(news, operator),
            self._vault,
            tenant_id=sender.tenant_id,
            mailbox_id=sender.mailbox_id,
            address=sender.address,
        )

    def _see(self) -> tuple[OperatorMailbox | None, News | None]:
        with read(self._engine) as conn:
            operator = operator_mailbox(conn, self._settings)
            self._log_trouble(operator)
            if operator is None or operator.trouble is not None:
                return operator, None
            days = self._settings.lease.keep_warm_days
            return operator, operator_news.news(conn, keep_warm_days=days)

    def _tell(self, conn: Connection, *, news: News, delivery: NewDelivery | None) -> bool:
        """Enqueue the mail and remember what it tells, both or neither."""
        operator = operator_mailbox(conn, self._settings)
        if operator is None or operator.trouble is not None:
            # It was removed since; what was seen is new still at the next look.
            return False
        operator_news.record(conn, news, delivery_id=delivery.id if delivery else uuid7())
        if delivery is not None:
            intake_checks.check(conn, [delivery])
            intake.insert(conn, [delivery])
        return True

    def _log_trouble(self, operator: OperatorMailbox | None) -> None:
        trouble = operator.trouble if operator else None
        if trouble != self._trouble:
            self._trouble = trouble
            if operator is not None and trouble is not None:
                log.error("warnings_not_mailed", reason=trouble, next_step=operator.command)
            else:
                log.info("warnings_mailed_again")

    def _log(self, news: News, delivery: NewDelivery, operator: OperatorMailbox) -> None:
        log.info(
            "warning_enqueued",
            delivery_id=str(delivery.id),
            ends=len(news.ends),
            lost=len(news.lost),
            repeated=len(news.repeated),
            back=len(news.back),
            unsent=sum(one.alerts for one in news.unsent),
        )
        if operator.waits is not None:
            log.error("warning_waits", reason=operator.waits, next_step=operator.command)
