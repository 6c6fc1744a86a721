"""What became of everything, in total and per tenant, by the same keys."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    cast,
    exists,
    func,
    literal_column,
    select,
)

from models import report_sqlite, suppressions
from models.deliveries import ATTEMPT
from models.lifecycle import State
from models.lookups import TENANT, tenant_id
from models.moves import DELIVERY, in_state
from models.partly_accepted import number_refused, partly_accepted
from models.percentiles import milliseconds_between, percentiles

SHARES = (0.5, 0.95, 0.99, 1.0)
TOP_REASONS = 10
TOTAL = "in all"
"""What the row of all tenants is called. No tenant can be: a slug holds no space."""
_ACCEPTED_RULE = "accepted"
_LATENCIES = ("p50_ms", "p95_ms", "p99_ms", "max_ms")


@dataclass(frozen=True, slots=True)
class Figures:
    """
    The figures of one tenant or of all.

    Attributes:
        enqueued: All deliveries; the seven that follow add up to it.
        waiting: Queued or being sent.
        retried: Deliveries that took more than one try.
        uncertain: Deliveries of which some try's fate is unknown.
        partly_accepted: Of the accepted, those of which some recipients were refused.
        recipients_refused: So many in all of these; each counts once in each mail.
        tries: All attempts.
        p50_ms: From enqueued to accepted, of the accepted; None where there are none.
        reasons: Why attempts did not end in a 250, and why deliveries died without one; the most
            frequent first.
    """

    enqueued: int = 0
    accepted: int = 0
    waiting: int = 0
    dead: int = 0
    expired: int = 0
    cancelled: int = 0
    folded: int = 0
    retried: int = 0
    uncertain: int = 0
    partly_accepted: int = 0
    recipients_refused: int = 0
    tries: int = 0
    p50_ms: int | None = None
    p95_ms: int | None = None
    p99_ms: int | None = None
    max_ms: int | None = None
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """Figures since a moment (None: since ever), in total and by tenant slug."""

    since: datetime | None
    total: Figures
    tenants: dict[str, Figures]
    suppressed: int = 0
    """Addresses that are not used again at this moment."""

    def as_json(self) -> dict[str, Any]:
        """Return ``{"since": …, "total": {…}, "tenants": {slug: {…}}, "suppressed": …}``."""
        return {
            "since": self.since.isoformat() if self.since else None,
            "total": asdict(self.total),
            "tenants": {slug: asdict(figures) for slug, figures in self.tenants.items()},
            "suppressed": self.suppressed,
        }

    def csv_rows(self) -> Iterator[list[str]]:
        """Return a heading and one row per tenant; the row ``TOTAL`` comes last."""
        names = [entry.name for entry in fields(Figures)]
        yield ["tenant", *names]
        for slug, figures in (*self.tenants.items(), (TOTAL, self.total)):
            cells = asdict(figures)
            cells["reasons"] = "; ".join(f"{rule}={n}" for rule, n in figures.reasons.items())
            yield [slug, *("" if cells[name] is None else str(cells[name]) for name in names)]


def report(conn: Connection, *, since: datetime | None = None, tenant: str | None = None) -> Report:
    """
    Report on the deliveries that were enqueued since a moment.

    Args:
        conn: An open transaction.
        since: None: all of them.
        tenant: Only this tenant's; the total is then the tenant's too.

    Raises:
        NotFound: There is no such tenant.
    """
    chosen = None if tenant is None else tenant_id(conn, tenant)
    scope = _scope(since, chosen)
    tenants: dict[UUID, dict[str, Any]] = defaultdict(dict)
    if chosen is not None:
        tenants[chosen] = {}
    gather = _gathered if conn.dialect.name == "sqlite" else _asked
    seen = gather(conn, scope)
    for key, figures in seen.figures.items():
        tenants[key] |= figures
    reasons: dict[UUID, Counter[str]] = defaultdict(Counter)
    for row in seen.tries:
        for name in ("tries", "retried"):
            tenants[row.tenant_id][name] = tenants[row.tenant_id].get(name, 0) + getattr(row, name)
        if row.rule != _ACCEPTED_RULE:
            reasons[row.tenant_id][row.rule] += row.tries
    for row in conn.execute(_silent_deaths(scope)):
        reasons[row.tenant_id][row.reason] += row.size
    total = _summed(tenants.values())
    total["reasons"] = _top(sum(reasons.values(), Counter()))
    total |= seen.latency_of_all
    for key, latencies in seen.latencies.items():
        tenants[key] |= latencies
    for key, counter in reasons.items():
        tenants[key]["reasons"] = _top(counter)
    slugs = conn.execute(select(TENANT.c.slug, TENANT.c.id).order_by(TENANT.c.slug))
    return Report(
        since=since,
        total=Figures(**total),
        tenants={row.slug: Figures(**tenants[row.id]) for row in slugs if row.id in tenants},
        suppressed=suppressions.count(conn, tenant=chosen),
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a report is made of, by tenant; ``tries`` are rows of ``_tries``, or like them."""

    figures: Mapping[UUID, Mapping[str, Any]]
    latencies: Mapping[UUID, Mapping[str, int]]
    latency_of_all: Mapping[str, int]
    tries: Sequence[Any]


def _asked(conn: Connection, scope: ColumnElement[bool] | None) -> _Seen:
    """Let the database do the sums; PostgreSQL does them on several cores."""
    return _Seen(
        figures={row.tenant_id: _fields(row) for row in conn.execute(_counts(scope))},
        latencies=_latencies(conn, scope, grouped=DELIVERY.c.tenant_id),
        latency_of_all=_latencies(conn, scope, grouped=literal_column("0")).get(0, {}),
        tries=conn.execute(_tries(scope)).all(),
    )


def _gathered(conn: Connection, scope: ColumnElement[bool] | None) -> _Seen:
    """Do the sums here, see ``report_sqlite``."""
    sums = report_sqlite.deliveries(conn, scope)
    moved = any(len(tenants) > 1 for tenants in sums.boxes.values())
    everything = array("d")
    for values in sums.milliseconds.values():
        everything.extend(values)
    return _Seen(
        figures=sums.counts,
        latencies={key: _named(values) for key, values in sums.milliseconds.items() if values},
        latency_of_all=_named(everything) if everything else {},
        tries=conn.execute(_tries(scope)).all()
        if moved or scope is not None
        else report_sqlite.tries(conn, sums, quiet_rule=_ACCEPTED_RULE),
    )


def _named(values: array[float]) -> dict[str, int]:
    found = report_sqlite.percentiles_of(values, SHARES)
    return dict(zip(_LATENCIES, map(round, found), strict=True))


def _scope(since: datetime | None, tenant: UUID | None) -> ColumnElement[bool] | None:
    conditions = []
    if since is not None:
        conditions.append(DELIVERY.c.enqueued_at >= since)
        if tenant is None:
            # All of them: said so, the index of tenant and time serves, tenant by tenant.
            conditions.append(DELIVERY.c.tenant_id.in_(select(TENANT.c.id)))
    if tenant is not None:
        conditions.append(DELIVERY.c.tenant_id == tenant)
    return and_(*conditions) if conditions else None


def _within(statement: Select[Any], scope: ColumnElement[bool] | None) -> Select[Any]:
    return statement if scope is None else statement.where(scope)


def _counts(scope: ColumnElement[bool] | None) -> Select[Any]:
    def number(*states: State) -> ColumnElement[int]:
        return func.count().filter(in_state(*states))

    statement = select(
        DELIVERY.c.tenant_id,
        func.count().label("enqueued"),
        number(State.ACCEPTED).label("accepted"),
        number(State.QUEUED, State.SENDING).label("waiting"),
        number(State.DEAD).label("dead"),
        number(State.EXPIRED).label("expired"),
        number(State.CANCELLED).label("cancelled"),
        number(State.FOLDED).label("folded"),
        func.count().filter(DELIVERY.c.uncertain).label("uncertain"),
        func.count().filter(partly_accepted()).label("partly_accepted"),
        # A sum is a NUMERIC to PostgreSQL.
        cast(
            func.coalesce(func.sum(number_refused()).filter(in_state(State.ACCEPTED)), 0),
            BigInteger(),
        ).label("recipients_refused"),
    ).group_by(DELIVERY.c.tenant_id)
    return _within(statement, scope)


def _tries(scope: ColumnElement[bool] | None) -> Select[Any]:
    statement = (
        select(
            DELIVERY.c.tenant_id,
            ATTEMPT.c.rule,
            func.count().label("tries"),
            # Tries are numbered, so whatever was tried again has one second try.
            func.count().filter(ATTEMPT.c.number == 2).label("retried"),  # noqa: PLR2004
        )
        .join_from(ATTEMPT, DELIVERY, ATTEMPT.c.delivery_id == DELIVERY.c.id)
        .group_by(DELIVERY.c.tenant_id, ATTEMPT.c.rule)
    )
    return _within(statement, scope)


def _silent_deaths(scope: ColumnElement[bool] | None) -> Select[Any]:
    """Count what died of something that no attempt says, such as stopping its worker."""
    told = exists().where(
        ATTEMPT.c.delivery_id == DELIVERY.c.id, ATTEMPT.c.rule == DELIVERY.c.reason
    )
    statement = (
        select(DELIVERY.c.tenant_id, DELIVERY.c.reason, func.count().label("size"))
        .where(in_state(State.DEAD), DELIVERY.c.reason.is_not(None), ~told)
        .group_by(DELIVERY.c.tenant_id, DELIVERY.c.reason)
    )
    return _within(statement, scope)


def _latencies(
    conn: Connection, scope: ColumnElement[bool] | None, *, grouped: ColumnElement[Any]
) -> dict[Any, dict[str, int]]:
    values = select(
        grouped.label("grouped"),
        milliseconds_between(DELIVERY.c.enqueued_at, DELIVERY.c.settled_at).label("value"),
    ).where(in_state(State.ACCEPTED), DELIVERY.c.settled_at.is_not(None))
    return {
        group: dict(zip(_LATENCIES, map(round, found), strict=True))
        for group, found in percentiles(conn, _within(values, scope), shares=SHARES).items()
    }


def _fields(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row._mapping.items() if name != "tenant_id"}  # noqa: SLF001


def _summed(tenants: Any) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for figures in tenants:
        total.update(figures)
    return dict(total)


def _top(counter: Counter[str]) -> dict[str, int]:
    # By name where the numbers are equal, so that two reports of the same rows are the same.
    ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    return dict(ranked[:TOP_REASONS])
