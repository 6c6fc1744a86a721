"""
Transactions as producers open them.

Whatever SQL answers, also where it refuses a statement for a fault of our own, who hands in an
alert hears one of our errors: it was not accepted, and may be handed in again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from models import database
from models.outages import wholly_translated


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """
    Open a transaction as ``database.write`` does.

    Raises:
        StoreUnavailable: The database is away, or refused; nothing was committed.
        ConfigurationError: The tables are missing or old.
    """
    with wholly_translated(), database.write(engine) as conn:
        yield conn


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that only reads, as ``database.read`` does; raises as ``write`` does."""
    with wholly_translated(), database.read(engine) as conn:
        yield conn
