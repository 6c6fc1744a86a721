"""``alertpost status --json``: everything, with no list cut short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from console.attention import Concern, command_of
from console.status_view import near_expiries, next_at
from models.backlog import WaitingLane
from models.operator_mailbox import NOT_SET, OperatorMailbox
from models.overview import Dead, Overview
from models.standings import Held
from workers.reasons import meaning_of

if TYPE_CHECKING:
    from console.live import Live
    from models.sql_probe import Looked


def status_json(
    seen: Overview,
    live: Live,
    needed: Sequence[Concern],
    first_step: str | None,
    operator: OperatorMailbox | None,
) -> dict[str, Any]:
    """
    Shape what was seen.

    Args:
        seen: What SQL knows.
        live: What the stores say.
        needed: What needs a person.
        first_step: The command to begin with; None where everything is set up.
        operator: The mailbox that warnings come from; None: nobody wants any.
    """
    who = seen.standings
    return {
        "at": seen.now,
        "needs_a_person": [concern.as_json() for concern in needed],
        "first_step": first_step,
        "tenants": {
            "ready": who.tenants_ready,
            "waiting": who.tenants_waiting,
            "without_mailbox": who.tenants_empty,
        },
        "mailboxes": {
            "all": who.mailboxes,
            "ready": who.mailboxes_ready,
            "held": [_held(held) for held in who.held],
        },
        "waiting": seen.waiting,
        "in_hand": seen.in_hand,
        "lanes": [_lane(lane, seen, live) for lane in seen.lanes],
        "dead": [_dead(one) for one in seen.dead],
        "unsent": [asdict(one) for one in seen.unsent],
        "refused": asdict(seen.refusals),
        "suppressed": seen.suppressed,
        "host_holds": [asdict(one) for one in seen.holds],
        "recipients": [asdict(budget) for budget in seen.budgets],
        "redis": _redis(live),
        "sql": _sql(live.sql),
        # Not an empty list where nobody could be asked, or nobody could say so.
        "workers": [asdict(one) for one in live.workers] if live.knows_workers else None,
        "unrecorded": [asdict(one) for one in live.unrecorded] if live.away is None else None,
        "expiries": [asdict(one) for one in near_expiries(seen.expiries)],
        "warnings": operator_json(operator),
    }


def _sql(looked: Looked) -> dict[str, Any]:
    """Shape what is known of SQL; ``writes`` is null where nobody tried what workers do."""
    if looked.trouble is not None:
        return {"writes": False, "reason": looked.trouble.text}
    return {"writes": None if looked.caveat else True, "reason": looked.caveat}


def _redis(live: Live) -> dict[str, Any]:
    trouble = live.refuses or live.risk
    return {
        "answers": live.away is None,
        "writes": live.away is None and live.refuses is None,
        "reason": live.away if trouble is None else trouble.text,
    }


def operator_json(operator: OperatorMailbox | None) -> dict[str, Any]:
    """Shape how warnings are mailed."""
    if operator is None:
        return {"mailed": False, "says": NOT_SET, "from": None, "to": [], "command": None}
    return {
        "mailed": operator.trouble is None,
        "says": operator.sentence(),
        "from": operator.address,
        "to": operator.recipients,
        "command": operator.command,
    }


def _held(held: Held) -> dict[str, Any]:
    meaning = meaning_of(held.reason)
    return {
        **asdict(held),
        "meaning": held.meaning or (meaning and meaning.meaning),
        "next_step": held.next_step or (meaning and meaning.next_step),
        "command": command_of(held),
    }


def _lane(lane: WaitingLane, seen: Overview, live: Live) -> dict[str, Any]:
    window = live.windows.get(lane.mailbox_id)
    return {
        **asdict(lane),
        "oldest_seconds": (seen.now - lane.oldest_at).total_seconds(),
        "next_at": next_at(lane, live, seen.now),
        "permits": window and window.permits,
        "critical_permits": window and window.critical_permits,
    }


def _dead(one: Dead) -> dict[str, Any]:
    meaning = meaning_of(one.reason)
    return {
        **asdict(one),
        "meaning": meaning and meaning.meaning,
        "next_step": meaning and meaning.next_step,
    }
