"""Time that passes: the database's clock stays, and everything that it ever wrote becomes older."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Engine, Float, literal, update

from models.clock import utc_moved
from models.database import write
from models.tables import METADATA, UtcDateTime


def pass_time(engine: Engine, **span: float) -> None:
    """Let so much time pass, given as for ``timedelta``."""
    seconds = literal(-timedelta(**span).total_seconds(), Float())
    with write(engine) as conn:
        for table in METADATA.sorted_tables:
            moments = [column for column in table.c if isinstance(column.type, UtcDateTime)]
            if moments:
                conn.execute(
                    update(table).values({one.name: utc_moved(one, seconds) for one in moments})
                )
