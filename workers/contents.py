"""
Where visits get the contents of their claims: by key, beside the transaction that claimed them.

What stands in the rows is read by a thread of its own, for all visits that ask meanwhile in one
statement, as the recorder does with what they write. Large contents are read by others, piece by
piece: small mails do not queue behind them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy import Engine

from models import contents
from models.database import read
from models.errors import NotFound, StoreUnavailable
from models.large_content import piece_id
from models.vault import Vault, content_context
from workers.flow import Flow, Segment

log = structlog.get_logger()

LARGE_READERS = 2
"""Threads that read and encode pieces; more would only take turns at the interpreter."""

MAX_GROUP = 256
"""Requests in one statement at most."""

LOOK_SECONDS = 3600.0
"""Between looks for pieces whose deliveries never came about."""


@dataclass(slots=True)
class _Request:
    ids: Sequence[UUID]
    future: asyncio.Future[dict[UUID, bytes]]


class Contents:
    """
    Reads what deliveries hold; nothing of it is kept.

    Args:
        engine: Only read from, but for what ``tend`` removes.
        loop: On which the results are awaited.
    """

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._pending: list[_Request] = []
        self._arrived = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="contents", daemon=True)
        self._executor = ThreadPoolExecutor(LARGE_READERS, thread_name_prefix="large-contents")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the threads; who waits is told that SQL is away."""
        with self._arrived:
            self._stopping = True
            self._arrived.notify()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def heads(self, delivery_ids: Sequence[UUID]) -> asyncio.Future[dict[UUID, bytes]]:
        """
        Read what stands in the rows, sealed; a delivery that is gone is left out.

        Raises (when awaited):
            StoreUnavailable: SQL is away.
        """
        future: asyncio.Future[dict[UUID, bytes]] = self._loop.create_future()
        with self._arrived:
            self._pending.append(_Request(delivery_ids, future))
            self._arrived.notify()
        # A visit that ends earlier does not ask for the result.
        future.add_done_callback(_heard)
        return future

    def flow(self, delivery_id: UUID, segments: tuple[Segment, ...], vault: Vault) -> Flow:
        """Prepare a large mail to be read while it is written; nothing is read yet."""
        return Flow(segments, partial(self._open, vault, delivery_id), self._executor)

    def _open(self, vault: Vault, delivery_id: UUID, number: int) -> bytes:
        key = piece_id(delivery_id, number)
        with read(self._engine) as conn:
            sealed = contents.piece(conn, key)
        if sealed is None:
            raise NotFound(f"a part of the content of delivery {delivery_id} is no longer stored")
        return vault.open(sealed, context=content_context(key))

    async def tend(self, stop: asyncio.Event) -> None:
        """Remove pieces that dead producers left behind; runs until told to stop."""
        while not stop.is_set():
            with suppress(StoreUnavailable):
                await self._loop.run_in_executor(self._executor, self.forget_orphans)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_SECONDS)

    def forget_orphans(self) -> int:
        """
        Remove pieces whose deliveries never came about; blocks.

        Returns:
            Of how many deliveries.
        """
        with read(self._engine) as conn:
            found = contents.orphans(conn)
        contents.forget(self._engine, found)
        if found:
            log.info("contents_forgotten", deliveries=len(found))
        return len(found)

    def _work(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._pending or self._stopping)
                group = self._pending[:MAX_GROUP]
                del self._pending[:MAX_GROUP]
                stopping = self._stopping
            if stopping:
                group += self._pending
                self._tell(group, StoreUnavailable("the process stops"))
                return
            self._tell(group, self._read(group))

    def _read(self, group: Sequence[_Request]) -> dict[UUID, bytes] | Exception:
        try:
            with read(self._engine) as conn:
                return contents.heads(conn, {one for request in group for one in request.ids})
        except Exception as error:  # noqa: BLE001 - told to whom it concerns
            return error

    def _tell(self, group: Sequence[_Request], found: dict[UUID, bytes] | Exception) -> None:
        # A loop that is closed has nobody left who waits.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(_resolve, group, found)


def _heard(future: asyncio.Future[dict[UUID, bytes]]) -> None:
    if not future.cancelled():
        future.exception()


def _resolve(group: Sequence[_Request], found: dict[UUID, bytes] | Exception) -> None:
    for request in group:
        if request.future.done():
            continue
        if isinstance(found, Exception):
            request.future.set_exception(found)
        else:
            request.future.set_result({one: found[one] for one in request.ids if one in found})
