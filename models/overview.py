"""The whole at one look: who can send, what waits and why, what died, what ends soon."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from models import database, host_holds, suppressions
from models.backlog import WaitingLane, in_hand, waiting_lanes
from models.budgets import Budget, notable_budgets
from models.expiries import Expiry, credential_rows, expiries
from models.host_holds import HostHold
from models.lifecycle import State
from models.moves import DELIVERY, in_state
from models.partly_accepted import NO_REFUSALS, Refusals, lately_refused
from models.quota import DayLimits
from models.standings import Standings, mailbox_rows, standings
from models.unsent import Unsent, unsent


@dataclass(frozen=True, slots=True)
class Dead:
    """Dead letters of one reason."""

    reason: str | None
    letters: int


@dataclass(frozen=True, slots=True)
class Overview:
    """
    What SQL knows of the whole.

    Attributes:
        now: The moment, by the database's clock.
        in_hand: Deliveries that visits hold at this moment.
        dead: The most frequent reason first.
        budgets: Of which much is used, see ``budgets``.
        expiries: All of them, see ``expiries``.
        unsent: What ended unsent within a day, see ``unsent``.
        suppressed: Addresses that are not used again.
        refusals: Recipients refused within a day in mails that were accepted.
        holds: Servers that refuse the address that workers send from.
    """

    now: datetime
    standings: Standings
    lanes: tuple[WaitingLane, ...]
    in_hand: int
    dead: tuple[Dead, ...]
    budgets: tuple[Budget, ...]
    expiries: tuple[Expiry, ...]
    unsent: tuple[Unsent, ...] = ()
    suppressed: int = 0
    refusals: Refusals = NO_REFUSALS
    holds: tuple[HostHold, ...] = ()

    @property
    def waiting(self) -> int:
        """All that is queued."""
        return sum(lane.waiting for lane in self.lanes)


def overview(conn: Connection, limits: DayLimits) -> Overview:
    """
    Look at everything.

    The cost follows the number of mailboxes, of what waits, of what is dead and of what was
    tried or ended unsent within a day, never of what was sent before.

    Args:
        conn: An open transaction.
        limits: How many recipients an account may reach in a day.
    """
    now = database.now(conn)
    return Overview(
        now=now,
        standings=standings(mailbox_rows(conn)),
        lanes=tuple(waiting_lanes(conn)),
        in_hand=in_hand(conn),
        dead=tuple(Dead(row.reason, row.letters) for row in conn.execute(_DEAD)),
        unsent=tuple(unsent(conn)),
        budgets=tuple(notable_budgets(conn, limits)),
        expiries=tuple(expiries(credential_rows(conn), now)),
        suppressed=suppressions.count(conn),
        refusals=lately_refused(conn),
        holds=tuple(host_holds.all_holds(conn)),
    )


_LETTERS = func.count().label("letters")

_DEAD = (
    select(DELIVERY.c.reason, _LETTERS)
    .where(in_state(State.DEAD))
    .group_by(DELIVERY.c.reason)
    .order_by(_LETTERS.desc(), DELIVERY.c.reason)
)
