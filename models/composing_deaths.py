"""
Deaths of a worker while it composed a mail: counted apart, because nothing of the mail was sent.

To say in Redis what is composed would cost each mail a word, so only what may have to do with a
death is watched. Of what a dead visit held, the first that was not begun may have been the one it
was composing: from then on it waits under ``EARLY``, and whoever composes it says so before and
after (``workers/begun.py``). Where a worker dies in between, that mail was in hand and no other: it
gets an attempt ``COMPOSING``, and waits under that word, which makes it a suspect (``lane_claim``),
in hand alone. After ``LIMIT`` such deaths in a row it is a dead letter.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import Connection

from models.repeats import repeats

LIMIT = 5
"""So many deaths in a row while it was composed; more than of mails that may be out by then."""

EARLY = "worker-died-early"
"""What a delivery waits under that may have been composed when its worker died."""

COMPOSING = "worker-died-composing"
"""Likewise where it surely was; and the rule of the attempt that came to nothing so."""

STOPS_UNSENT = "stops-its-worker-unsent"
"""Reason of a delivery that was being composed each time a worker died."""

WATCHED = frozenset({EARLY, COMPOSING})
"""Who composes what waits under these says so."""


def deaths_so_far(conn: Connection, deliveries: Iterable[UUID]) -> dict[UUID, int]:
    """Count the latest deaths in a row while each of these was composed."""
    return {key: repeats(conn, rule=COMPOSING, delivery_id=key)[0] for key in deliveries}
