"""A worker whose every thread has met a server that does not answer."""

from __future__ import annotations

import asyncio

from sandbox.faults import Fault, Stall
from tests.fixtures.whole import Whole
from tests.workers.test_worker_process import worker
from tests.workers.visit_parts import send_many


async def test_visits_that_wait_for_a_server_do_not_keep_others_from_beginning(
    whole: Whole,
) -> None:
    """Another tenant's mails go out while the only thread's first visit gets no answer."""
    await asyncio.to_thread(whole.add_tenant, "fabrikam")
    silent = Fault("silent", "body", Stall(), mailbox="alerts@contoso.example")
    whole.sandbox.exchange.inject(silent)
    send_many(whole, 2)
    async with worker(whole, ALERTPOST_WORKER__CONCURRENCY="1"):
        await whole.until(lambda: whole.sandbox.exchange.faults.struck["silent"] == 1)
        receipt = whole.producer.enqueue(whole.alert(tenant="fabrikam"))
        await whole.until(lambda: whole.row(receipt.delivery_id).state == "accepted", seconds=20)

    assert whole.outbox() == []
