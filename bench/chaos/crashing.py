"""
A worker, or a producer, that dies at one exact step of a delivery: SIGKILL, by its own hand.

``python -m bench.chaos.crashing STEP`` is ``python -m workers.main`` until that step. The step
``after-the-row`` is a producer's: standard input holds the alert.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.engine.default import DefaultDialect

from models.alert import AlertEmail
from models.settings import Settings
from models.waker import Waker
from producers.enqueue import Producer
from workers import main as worker
from workers import visit
from workers.conversation import Conversation
from workers.lease import TokenLeases
from workers.pacing import Pacer

LONGEST_COMMAND_BYTES = 512
"""What is longer, or ends with a lone dot, is a mail."""

ON_ITS_WAY_SECONDS = 0.1

POISON = b"this mail stops its worker"


def die(*_: object, **__: object) -> NoReturn:
    """End at once, as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def after_the_row() -> None:
    """Committed, nobody told."""
    Waker.wake = die  # type: ignore[method-assign]


def after_the_wake() -> None:
    """The wake-up was taken from its queue, the mailbox not yet looked at."""
    Pacer.enter = die  # type: ignore[method-assign]


def after_the_claim() -> None:
    """Claims are committed, nothing is connected."""
    TokenLeases.get = die  # type: ignore[method-assign]


def after_auth() -> None:
    """The connection is ready, no permit is held."""
    Pacer.permit = die  # type: ignore[method-assign]


def inside_data() -> None:
    """Half of the mail is under way."""

    async def half(real: Any, line: Conversation, data: bytes, **options: Any) -> Any:
        sending = asyncio.ensure_future(real(line, data[: len(data) // 2], **options))
        await asyncio.wait([sending], timeout=ON_ITS_WAY_SECONDS)
        die()

    _instead_of_the_mail(half)


def after_the_dot() -> None:
    """All of the mail is under way; its reply is not awaited."""

    async def unheard(real: Any, line: Conversation, data: bytes, **options: Any) -> Any:
        sending = asyncio.ensure_future(real(line, data, **options))
        await asyncio.wait([sending], timeout=ON_ITS_WAY_SECONDS)
        die()

    _instead_of_the_mail(unheard)


def after_the_250() -> None:
    """The reply was read, nothing is recorded."""

    async def heard(real: Any, line: Conversation, data: bytes, **options: Any) -> Any:
        await real(line, data, **options)
        die()

    _instead_of_the_mail(heard)


def before_the_commit() -> None:
    """The outcome is written, its transaction is open."""
    _at_the_commit_of_an_outcome(die, _nothing)


def after_the_commit() -> None:
    """The outcome is committed, nobody in the process knows yet."""
    _at_the_commit_of_an_outcome(_nothing, die)


def on_poison() -> None:
    """A mail that says so takes its worker down, whenever it is about to be sent."""

    async def poisoned(real: Any, line: Conversation, data: bytes, **options: Any) -> Any:
        if POISON in data:
            die()
        return await real(line, data, **options)

    _instead_of_the_mail(poisoned)


def composing_poison() -> None:
    """A mail that says so takes its worker down while it is composed."""
    real = visit.compose

    def compose(alert: AlertEmail, **options: Any) -> Any:
        if POISON.decode() in (alert.text or ""):
            die()
        return real(alert, **options)

    visit.compose = compose  # type: ignore[attr-defined]


STEPS: dict[str, Callable[[], None]] = {
    step.__name__.replace("_", "-"): step
    for step in (
        after_the_row, after_the_wake, after_the_claim, after_auth, inside_data, after_the_dot,
        after_the_250, before_the_commit, after_the_commit,
    )
}  # fmt: skip


def _instead_of_the_mail(do: Callable[..., Any]) -> None:
    real = Conversation.exchange

    async def exchange(line: Conversation, data: bytes, **options: Any) -> Any:
        is_mail = data.endswith(b"\r\n.\r\n") or len(data) > LONGEST_COMMAND_BYTES
        return await (do(real, line, data, **options) if is_mail else real(line, data, **options))

    Conversation.exchange = exchange  # type: ignore[method-assign, assignment]


def _at_the_commit_of_an_outcome(before: Callable[[], None], after: Callable[[], None]) -> None:
    written: set[int] = set()
    real = DefaultDialect.do_commit

    @event.listens_for(Engine, "after_cursor_execute")
    def _see(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "INSERT INTO attempt" in statement:
            written.add(id(connection.connection.dbapi_connection))

    def do_commit(dialect: DefaultDialect, connection: Any) -> None:
        outcome = id(getattr(connection, "dbapi_connection", connection)) in written
        if outcome:
            before()
        real(dialect, connection)
        if outcome:
            after()

    DefaultDialect.do_commit = do_commit  # type: ignore[method-assign, assignment]


def _nothing() -> None:
    pass


def main() -> int:
    """Run as a program; whoever comes to its end has not come to the step."""
    step = sys.argv[1]
    (STEPS | {"on-poison": on_poison, "composing-poison": composing_poison})[step]()
    if step == "after-the-row":
        Producer.from_settings(Settings.load()).enqueue(AlertEmail.parse(json.load(sys.stdin)))
        return 1
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
