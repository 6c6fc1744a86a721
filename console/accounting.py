"""Every alert accounted for: SQL's story held against what Exchange says it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from models.lifecycle import State
from models.tables import METADATA

_D = METADATA.tables["delivery"].c


@dataclass(frozen=True, slots=True)
class Account:
    """
    What became of everything that was accepted from producers.

    Attributes:
        enqueued: Deliveries in SQL.
        states: How many are in each state.
        lost: Accepted according to SQL, but Exchange does not have the mail.
        strangers: Exchange has the mail, but SQL knows no such delivery.
        duplicates: Mails that Exchange has more than once, the first not counted.
        unmarked: Duplicates of deliveries that SQL does not mark as uncertain.
        uncertain: Deliveries that SQL marks so.
    """

    enqueued: int
    states: Mapping[str, int]
    lost: int
    strangers: int
    duplicates: int
    unmarked: int
    uncertain: int

    def count(self, *states: State) -> int:
        """Count the deliveries in these states."""
        return sum(self.states.get(state.value, 0) for state in states)


def account(connection: Connection, mails: Iterable[Mapping[str, Any]]) -> Account:
    """
    Compare.

    Args:
        connection: An open transaction.
        mails: The outbox, one object a mail with ``alert_id``: its X-Alertpost-Id.
    """
    grouped = select(_D.state, func.count()).group_by(_D.state)
    states = {str(state): int(count) for state, count in connection.execute(grouped)}
    taken = Counter(str(mail["alert_id"]) for mail in mails)
    accepted: set[str] = set()
    known: set[str] = set()
    uncertain: set[str] = set()
    for row in connection.execute(select(_D.id, _D.state, _D.uncertain)):
        known.add(str(row.id))
        if row.state == State.ACCEPTED.value:
            accepted.add(str(row.id))
        if row.uncertain:
            uncertain.add(str(row.id))
    repeated = {key: count - 1 for key, count in taken.items() if count > 1}
    return Account(
        enqueued=len(known),
        states=states,
        lost=len(accepted - taken.keys()),
        strangers=len(taken.keys() - known),
        duplicates=sum(repeated.values()),
        unmarked=sum(count for key, count in repeated.items() if key not in uncertain),
        uncertain=len(uncertain),
    )
