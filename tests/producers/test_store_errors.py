"""Whatever SQL answers, a producer raises one of our errors and nothing was accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from models.database import write
from models.errors import StoreUnavailable
from producers.enqueue import Producer
from tests.fixtures.whole import Whole

_REFUSALS = {
    "check": {
        "sqlite": "CREATE TRIGGER no BEFORE INSERT ON delivery BEGIN"
        " SELECT RAISE(ABORT, 'a rule of somebody''s'); END",
        "postgresql": "ALTER TABLE delivery ADD CONSTRAINT no CHECK (subject = 'never')",
    },
    "not-null": {
        "sqlite": "ALTER TABLE delivery ADD COLUMN later TEXT CHECK (later IS NOT NULL)",
        "postgresql": "ALTER TABLE delivery ADD COLUMN later TEXT NOT NULL",
    },
    "too-long": {
        "sqlite": "CREATE TRIGGER no BEFORE INSERT ON delivery BEGIN"
        " SELECT RAISE(FAIL, 'too long'); END",
        "postgresql": "ALTER TABLE delivery ALTER COLUMN subject TYPE varchar(3)",
    },
}


@pytest.fixture(params=sorted(_REFUSALS))
def refusing(request: pytest.FixtureRequest, engine: Engine) -> Callable[[], None]:
    def refuse() -> None:
        with write(engine) as conn:
            conn.execute(text(_REFUSALS[request.param][engine.dialect.name]))

    return refuse


async def test_a_refused_insert(whole: Whole, refusing: Callable[[], None]) -> None:
    """A constraint, a missing column or a value that is too long: not a word of SQLAlchemy's."""
    refusing()
    with pytest.raises(StoreUnavailable) as caught:
        whole.producer.enqueue(whole.alert())
    with pytest.raises(StoreUnavailable):
        whole.producer.enqueue_notifications([whole.alert(idempotency_key="k")])

    assert "INSERT" not in str(caught.value)
    assert whole.count("queued") == 0


@pytest.mark.parametrize("which", ["routes", "insert"])
async def test_an_error_nobody_knows(whole: Whole, which: str) -> None:
    """Wherever in the call SQL fails, and however, the caller hears one kind of error."""
    words = "INSERT INTO delivery" if which == "insert" else "SELECT"

    class Unheard(SQLAlchemyError):  # noqa: N818
        pass

    def fail(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().startswith(words):
            raise Unheard("never seen before")

    producer = Producer(whole.engine, whole.vault, None)
    event.listen(whole.engine, "before_cursor_execute", fail)
    try:
        with pytest.raises(StoreUnavailable, match="never seen before"):
            producer.enqueue(whole.alert())
    finally:
        event.remove(whole.engine, "before_cursor_execute", fail)
    assert whole.count("queued") == 0
