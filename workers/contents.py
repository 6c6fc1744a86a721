"""
Where visits get the contents of their claims: by key, beside the transaction that claimed them.

What stands in the rows is read by a thread of its own, for all visits that ask meanwhile in one
statement, as the recorder does with what they write. Large contents are read by others, piece by
piece: small mails do not queue behind them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import structlog
from sqlalchemy import Engine

from models import contents
from models.database import read
from models.errors import NotFound, StoreUnavailable, VaultError
from models.large_content import piece_id
from models.vault import Vault, content_context, delivery_context
from workers.flow import Flow, Segment
from workers.pace import Pace

log = structlog.get_logger()

LARGE_READERS = 1
"""Threads that read and encode pieces; more would only take turns at the interpreter."""

MAX_GROUP = 256
"""Requests in one statement at most."""

LOOK_SECONDS = 3600.0
"""Between looks for pieces whose deliveries never came about."""


Opened = dict[UUID, bytes | VaultError]
"""What stood in the rows of deliveries, opened, or why it does not open."""


@dataclass(slots=True)
class _Request:
    ids: Sequence[UUID]
    vault: Vault
    future: asyncio.Future[Opened]


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
        self._pace = Pace()
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

    def heads(self, delivery_ids: Sequence[UUID], vault: Vault) -> asyncio.Future[Opened]:
        """
        Read and open what stands in the rows, for contents that are small.

        Raises (when awaited):
            StoreUnavailable: SQL is away.
        """
        future: asyncio.Future[Opened] = self._loop.create_future()
        with self._arrived:
            self._pending.append(_Request(delivery_ids, vault, future))
            self._arrived.notify()
        # A visit that ends earlier does not ask for the result.
        future.add_done_callback(_heard)
        return future

    async def whole(self, delivery_id: UUID, vault: Vault) -> Opened:
        """Do the same for one that is so large that others would wait for it; raises likewise."""
        return await self._loop.run_in_executor(
            self._executor, self._whole, _Request([delivery_id], vault, self._loop.create_future())
        )

    def flow(self, delivery_id: UUID, segments: tuple[Segment, ...], vault: Vault) -> Flow:
        """Prepare a large mail to be read while it is written; nothing is read yet."""
        return Flow(segments, partial(self._open, vault, delivery_id), self._executor, self._pace)

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
                if self._stopping:
                    group += self._pending
                    _tell(self._loop, [(one, StoreUnavailable("it stops")) for one in group])
                    return
            _tell(self._loop, self._read(group))

    def _read(self, group: Sequence[_Request]) -> list[tuple[_Request, Opened | Exception]]:
        try:
            sealed = self._sealed(one for request in group for one in request.ids)
            return [(request, _opened(request, sealed)) for request in group]
        except Exception as error:  # noqa: BLE001 - told to whom it concerns
            return [(request, error) for request in group]

    def _whole(self, request: _Request) -> Opened:
        return _opened(request, self._sealed(request.ids))

    def _sealed(self, ids: Iterable[UUID]) -> dict[UUID, bytes]:
        with read(self._engine) as conn:
            return contents.heads(conn, set(ids))


def _opened(request: _Request, sealed: dict[UUID, bytes]) -> Opened:
    found: Opened = {}
    for one in request.ids:
        try:
            # Of one that is gone nothing is left: what does not open says so.
            found[one] = request.vault.open(sealed.get(one, b""), context=delivery_context(one))
        except VaultError as wrong:
            found[one] = wrong
    return found


def _tell(
    loop: asyncio.AbstractEventLoop, results: Sequence[tuple[_Request, Opened | Exception]]
) -> None:
    # A loop that is closed has nobody left who waits.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_resolve, results)


def _resolve(results: Sequence[tuple[_Request, Opened | Exception]]) -> None:
    for request, found in results:
        if request.future.done():
            continue
        if isinstance(found, Exception):
            request.future.set_exception(found)
        else:
            request.future.set_result(found)


def _heard(future: asyncio.Future[Opened]) -> None:
    if not future.cancelled():
        future.exception()
