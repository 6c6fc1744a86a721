"""Words are found wherever they stand, in capital letters or not, in any script, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, select

from models.mentions import mentions
from tests.models.factories import DELIVERY, delivery_rows, world_rows


@pytest.mark.parametrize(
    ("subject", "part"),
    [
        ("Disk full", "DISK"), ("DISK FULL", "k f"), ("Überlast", "überl"), ("überlast", "ÜBER"),
        ("ДИСК ПОЛОН", "полон"), ("100% voll", "0% V"), ("a_b", "A_B"), ("x", ""),
    ],
)  # fmt: skip
def test_found(engine: Engine, subject: str, part: str) -> None:
    """It is found."""
    delivery_rows(engine, world_rows(engine), subject=subject)

    with engine.connect() as conn:
        assert conn.scalar(select(DELIVERY.c.subject).where(mentions(DELIVERY.c.subject, part)))


@pytest.mark.parametrize("part", ["100_", "1%o", "\udc80", "\x00", "voll 1"])
def test_not_found(engine: Engine, part: str) -> None:
    """Signs stand for themselves, and odd ones break nothing."""
    delivery_rows(engine, world_rows(engine), subject="100% voll")

    with engine.connect() as conn:
        assert not conn.scalars(
            select(DELIVERY.c.id).where(mentions(DELIVERY.c.subject, part))
        ).all()
