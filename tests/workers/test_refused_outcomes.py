"""An outcome is kept for every error of SQL and of our own, alone, loudly, until it is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
import redis
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from models import lane
from models.database import write
from models.errors import StoreUnavailable
from models.lifecycle import ACCEPT
from models.redis_keys import RedisKeys
from models.unrecorded import unrecorded
from tests.fixtures.whole import Whole
from tests.models.factories import World, delivery_rows, row_of, world_rows
from tests.workers.visit_parts import IMPATIENT, send_many, visit
from workers import recorder as recorder_module
from workers.recorder import Recorder


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT


@pytest.fixture
async def recorder(engine: Engine) -> AsyncIterator[Recorder]:
    recorder = Recorder(engine, asyncio.get_running_loop())
    recorder.start()
    yield recorder
    await asyncio.to_thread(recorder.stop, timeout_seconds=1.0)


class Trouble:
    """Makes whatever touches one delivery's outcome fail, until it is over."""

    def __init__(self, engine: Engine, world: World, bad: UUID) -> None:
        self.engine, self.world, self.bad = engine, world, bad
        self.on = True
        self.error: Callable[[], Exception] = lambda: KeyError("a bug")
        event.listen(engine, "before_cursor_execute", self._look)

    def _look(self, _conn: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if self.on and statement.startswith("UPDATE delivery") and self.bad.hex in str(given):
            raise self.error()


def _driver(kind: str) -> Exception:
    cause = getattr(psycopg.errors, kind)("as the server would say it")
    return DBAPIError.instance("UPDATE", {}, cause, psycopg.Error)  # type: ignore[return-value]


ERRORS: dict[str, Callable[[], Exception]] = {
    "bug": lambda: KeyError("a bug"),
    "memory": MemoryError,
    "encoding": lambda: UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    **{
        kind: (lambda kind=kind: _driver(kind))  # type: ignore[misc]
        for kind in (
            "CheckViolation", "NotNullViolation", "UniqueViolation", "ForeignKeyViolation",
            "NumericValueOutOfRange", "StringDataRightTruncation", "InvalidTextRepresentation",
            "UntranslatableCharacter", "CharacterNotInRepertoire", "SerializationFailure",
            "DeadlockDetected", "QueryCanceled", "LockNotAvailable", "OutOfMemory",
            "InvalidSqlStatementName", "DuplicatePreparedStatement", "RaiseException",
            "FeatureNotSupported", "InternalError_", "StatementTooComplex",
        )
    },
}  # fmt: skip


def _held(engine: Engine, count: int) -> tuple[World, list[UUID]]:
    world = world_rows(engine)
    ids = delivery_rows(engine, world, count)
    with write(engine) as conn:
        lane.claim(conn, mailbox_id=world.mailbox_id, claimed_by="v", limit=count, lease_seconds=60)
    return world, ids


def _accepted(world: World, key: UUID) -> lane.Outcome:
    record = lane.AttemptRecord(stage="body", rule="accepted", took_permit=True)
    return lane.Outcome(
        delivery_id=key, mailbox_id=world.mailbox_id, claimed_by="v", transition=ACCEPT,
        counted=True, attempt=record,
    )  # fmt: skip


@pytest.mark.parametrize("kind", sorted(ERRORS))
async def test_others_go_on_and_the_outcome_is_kept(
    engine: Engine, recorder: Recorder, kind: str
) -> None:
    """One bad outcome of a group waits; all others are recorded, and it is once it can be."""
    world, ids = _held(engine, 6)
    trouble = Trouble(engine, world, ids[2])
    trouble.error = ERRORS[kind]

    with capture_logs() as logs:
        futures = [recorder.settle(_accepted(world, key)) for key in ids]
        others = [future for future in futures if future is not futures[2]]
        async with asyncio.timeout(30):
            assert await asyncio.gather(*others) == [True] * 5
            assert await recorder.run(lambda conn: conn.scalar(select(1))) == 1
        assert not futures[2].done()
        assert row_of(engine, ids[2]).state == "sending"
        trouble.on = False
        async with asyncio.timeout(30):
            assert await futures[2] is True

    assert {row_of(engine, key).state for key in ids} == {"accepted"}
    told = [entry for entry in logs if entry["event"] != "store_available"]
    assert [entry["event"] for entry in told] == ["outcome_not_recorded", "outcomes_recorded"]
    assert told[0]["delivery_id"] == str(ids[2])
    assert told[0]["log_level"] == "error"


async def test_a_locked_row_holds_up_no_other(
    postgresql_url: str, engine: Engine, recorder: Recorder
) -> None:
    """A row that somebody holds for long costs the others a moment, not their outcomes."""
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite locks no rows")
    world, ids = _held(engine, 3)
    with psycopg.connect(engine.url.set(drivername="postgresql").render_as_string(False)) as other:
        other.execute("SELECT 1 FROM delivery WHERE id = %s FOR UPDATE", (ids[0],))
        futures = [recorder.settle(_accepted(world, key)) for key in ids]
        async with asyncio.timeout(60):
            assert await asyncio.gather(*futures[1:]) == [True, True]
        for _ in range(5):
            assert await recorder.run(lambda conn: conn.scalar(select(1))) == 1
        assert not futures[0].done()
        assert recorder.available
        other.rollback()
        async with asyncio.timeout(60):
            assert await futures[0] is True


async def test_a_table_that_refuses_everything(engine: Engine, recorder: Recorder) -> None:
    """Where no outcome can be recorded all are kept, and all are recorded in the end."""
    world, ids = _held(engine, 40)
    with write(engine) as conn:
        conn.execute(text("ALTER TABLE attempt RENAME TO elsewhere"))
    futures = [recorder.settle(_accepted(world, key)) for key in ids]
    async with asyncio.timeout(30):
        while (found := recorder.unrecorded()) is None or found.outcomes < 40:  # noqa: ASYNC110 - a thread rings no bell
            await asyncio.sleep(0.05)
    assert "attempt" in found.reason
    assert not any(future.done() for future in futures)

    with write(engine) as conn:
        conn.execute(text("ALTER TABLE elsewhere RENAME TO attempt"))

    async with asyncio.timeout(30):
        assert await asyncio.gather(*futures) == [True] * 40
    assert recorder.unrecorded() is None


async def test_a_stop_tells_what_is_left(engine: Engine) -> None:
    """What cannot be recorded until the end of a stop is named in the log; its claim stays."""
    recorder = Recorder(engine, asyncio.get_running_loop())
    recorder.start()
    world, ids = _held(engine, 2)
    Trouble(engine, world, ids[0])
    futures = [recorder.settle(_accepted(world, key)) for key in ids]
    async with asyncio.timeout(30):
        await futures[1]

    with capture_logs() as logs:
        await asyncio.to_thread(recorder.stop, timeout_seconds=0.5)

    with pytest.raises(StoreUnavailable):
        await futures[0]
    (left,) = [entry for entry in logs if entry["event"] == "outcomes_left"]
    assert left["delivery_ids"] == [str(ids[0])]
    row = row_of(engine, ids[0])
    assert (row.state, row.claimed_by) == ("sending", "v")


async def test_a_stop_records_what_becomes_possible(engine: Engine) -> None:
    """A stop goes on trying as long as it has time."""
    recorder = Recorder(engine, asyncio.get_running_loop())
    recorder.start()
    world, ids = _held(engine, 1)
    trouble = Trouble(engine, world, ids[0])
    future = recorder.settle(_accepted(world, ids[0]))
    stopping = asyncio.create_task(asyncio.to_thread(recorder.stop, timeout_seconds=60))
    async with asyncio.timeout(30):
        while not recorder._stopping:  # noqa: ASYNC110 - a thread rings no bell
            await asyncio.sleep(0.01)
    trouble.on = False

    await stopping

    assert await future is True


async def test_a_fault_of_the_recorder_itself_loses_nothing(
    engine: Engine, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where even telling fails, as with a log that is gone, the thread and its outcomes stay."""
    world, ids = _held(engine, 1)
    trouble = Trouble(engine, world, ids[0])

    class Gone:
        def __getattr__(self, name: str) -> Any:
            raise BrokenPipeError("nobody reads the log")

    with monkeypatch.context() as patched:
        patched.setattr("workers.refused.log", Gone())
        patched.setattr(recorder_module, "log", Gone())
        future = recorder.settle(_accepted(world, ids[0]))
        async with asyncio.timeout(30):
            while recorder.unrecorded() is None:  # noqa: ASYNC110 - a thread rings no bell
                await asyncio.sleep(0.05)
        trouble.on = False
        async with asyncio.timeout(30):
            assert await future is True


@contextmanager
def _rule_against(engine: Engine, delivery_id: UUID) -> Iterator[None]:
    """Let the database itself refuse whatever ends one delivery."""
    if engine.dialect.name == "sqlite":
        make = [
            (
                "CREATE TRIGGER rule BEFORE UPDATE ON delivery WHEN NEW.state = 'accepted' AND"
                f" OLD.id = '{delivery_id.hex}' BEGIN SELECT RAISE(ABORT, 'not this one'); END"
            )
        ]
        drop = ["DROP TRIGGER rule"]
    else:
        make = [
            (
                "CREATE FUNCTION rule() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'not this one'; END $$"
            ),
            (
                "CREATE TRIGGER rule BEFORE UPDATE ON delivery FOR EACH ROW WHEN"
                f" (NEW.state = 'accepted' AND OLD.id = '{delivery_id}') EXECUTE FUNCTION rule()"
            ),
        ]
        drop = ["DROP TRIGGER rule ON delivery", "DROP FUNCTION rule()"]
    with write(engine) as conn:
        for statement in make:
            conn.exec_driver_sql(statement)
    try:
        yield
    finally:
        with write(engine) as conn:
            for statement in drop:
                conn.exec_driver_sql(statement)


@pytest.mark.parametrize("settings_changes", [IMPATIENT | {"visit": {"claim_seconds": 6.0}}])
async def test_its_visit_waits_and_keeps_its_claims(
    whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys
) -> None:
    """
    Nothing more is sent that cannot be recorded, and nobody takes the claim for abandoned.

    ``status`` can tell meanwhile; once it is recorded the visit goes on, and all went out once.
    """
    sent = send_many(whole, 3)
    services = whole.services
    with _rule_against(whole.engine, sent[0].delivery_id):
        visiting = asyncio.create_task(visit(whole, sent[0].mailbox_id))
        await whole.until(lambda: services.recorder.unrecorded() is not None)
        await services._heartbeat._tell()
        (told,) = unrecorded(redis_client, redis_keys, workers=[services.worker])
        first = whole.row(sent[0].delivery_id).claimed_until
        lease = timedelta(seconds=whole.settings.visit.claim_seconds)
        await whole.until(lambda: whole.row(sent[0].delivery_id).claimed_until > first + lease)
        assert len(whole.outbox()) == 1
        assert not visiting.done()
        assert whole.count("sending") == 3
    assert (told.outcomes, told.worker) == (1, services.worker)
    assert "not this one" in told.reason
    await visiting
    await whole.until(lambda: whole.count("accepted") == 3)

    assert len(whole.outbox()) == 3
    assert [whole.row(one.delivery_id).uncertain for one in sent] == [False] * 3
