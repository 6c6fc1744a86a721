"""Accounts and tenants that have used much of the recipients they may reach in a day."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, Float, bindparam, func, or_, select

from models.clock import utc_after
from models.lookups import TENANT
from models.quota import TRIAL_EXTERNAL, DayLimits, external_limit, is_account, tenant_subject
from models.quota_counts import account_totals
from models.tables import METADATA

NOTABLE_SHARE = 0.8
"""From this share of a limit on it is worth telling."""

_COUNT = METADATA.tables["recipient_count"]


class Counted(StrEnum):
    """Which recipients a limit is about."""

    ALL = "recipients"
    EXTERNAL = "external recipients"


@dataclass(frozen=True, slots=True)
class Budget:
    """
    How much of a day's recipients is used.

    Attributes:
        who: The account that signs in; of external recipients the tenant.
        used: In the last 24 hours, for an account with what is in hand.
    """

    who: str
    counted: Counted
    used: int
    limit: int


def notable_budgets(conn: Connection, limits: DayLimits) -> list[Budget]:
    """Return the budgets of which ``NOTABLE_SHARE`` is used, the fullest first."""
    external = _external_limits(conn)
    least = min([limits.recipients or TRIAL_EXTERNAL, *(limit for _, limit in external.values())])
    given = {"since": -limits.window_seconds, "least": NOTABLE_SHARE * least}
    sums = {row.subject: int(row.used) for row in conn.execute(_SUMS, given)}
    accounts = [one for one in sums if is_account(one)] if limits.recipients else []
    totals = account_totals(conn, accounts, window_seconds=limits.window_seconds)
    budgets = [
        Budget(account, Counted.ALL, used, limits.recipients) for account, used in totals.items()
    ]
    budgets += [
        Budget(slug, Counted.EXTERNAL, sums[subject], limit)
        for subject, (slug, limit) in external.items()
        if subject in sums
    ]
    notable = [one for one in budgets if one.used >= NOTABLE_SHARE * one.limit]
    return sorted(notable, key=lambda one: (-one.used / one.limit, one.who))


def _external_limits(conn: Connection) -> dict[str, tuple[str, int]]:
    """Name the tenants whose external recipients are counted, by the subject of the count."""
    rows = conn.execute(
        select(TENANT.c.id, TENANT.c.slug, TENANT.c.licences, TENANT.c.trial).where(
            or_(TENANT.c.licences.is_not(None), TENANT.c.trial)
        )
    )
    found = {}
    for row in rows:
        limit = external_limit(licences=row.licences, trial=row.trial)
        if limit:
            found[tenant_subject(row.id)] = row.slug, limit
    return found


_SUMS = (
    select(_COUNT.c.subject, func.sum(_COUNT.c.recipients).label("used"))
    .where(_COUNT.c.ends_at > utc_after(bindparam("since", type_=Float())))
    .group_by(_COUNT.c.subject)
    .having(func.sum(_COUNT.c.recipients) >= bindparam("least", type_=Float()))
)
