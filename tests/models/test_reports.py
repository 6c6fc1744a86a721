from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from statistics import quantiles

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import column, insert, literal_column, select, text

from models import reports
from models.database import read, write
from models.errors import NotFound
from models.ids import uuid7
from models.percentiles import percentiles
from models.reports import Figures
from tests.models.factories import ATTEMPT, delivery_rows, set_delivery, world_rows

MORNING = datetime(2027, 3, 2, 8, tzinfo=UTC)


def tries(engine, world, delivery_id, *rules):
    with write(engine) as conn:
        for number, rule in enumerate(rules, start=1):
            conn.execute(
                insert(ATTEMPT).values(
                    id=uuid7(),
                    delivery_id=delivery_id,
                    mailbox_id=world.mailbox_id,
                    number=number,
                    stage="body",
                    rule=rule,
                    outcome="accepted" if rule == "accepted" else "queued",
                    started_at=MORNING,
                    finished_at=MORNING,
                )
            )


def accepted(engine, world, *, ms, at=MORNING):
    [key] = delivery_rows(engine, world)
    set_delivery(
        engine,
        key,
        state="accepted",
        enqueued_at=at,
        settled_at=at + timedelta(milliseconds=ms),
    )
    return key


@pytest.fixture
def day(engine):
    """A day of two tenants; every state, some retries, some causes."""
    contoso, fabrikam = world_rows(engine, slug="contoso"), world_rows(engine, slug="fabrikam")
    for ms in (100, 200, 300, 400):
        tries(engine, contoso, accepted(engine, contoso, ms=ms), "accepted")
    tries(engine, contoso, accepted(engine, contoso, ms=10_000), "busy", "busy", "accepted")
    tries(engine, fabrikam, accepted(engine, fabrikam, ms=50), "accepted")
    rest = delivery_rows(engine, contoso, 8)
    states = (
        "queued", "sending", "dead", "dead", "dead", "expired", "cancelled", "folded",
    )  # fmt: skip
    for key, state in zip(rest, states, strict=True):
        set_delivery(engine, key, state=state, enqueued_at=MORNING)
    told, silent, uncertain = rest[2:5]
    set_delivery(engine, told, reason="recipient-unknown")
    tries(engine, contoso, told, "busy", "recipient-unknown")
    set_delivery(engine, silent, reason="stops-its-worker")
    set_delivery(engine, uncertain, reason="uncertain-held", uncertain=True)
    return contoso, fabrikam


CONTOSO = Figures(
    enqueued=13,
    accepted=5,
    waiting=2,
    dead=3,
    expired=1,
    cancelled=1,
    folded=1,
    retried=2,
    uncertain=1,
    tries=9,
    p50_ms=300,
    p95_ms=8080,
    p99_ms=9616,
    max_ms=10_000,
    reasons={"busy": 3, "recipient-unknown": 1, "stops-its-worker": 1, "uncertain-held": 1},
)
FABRIKAM = Figures(enqueued=1, accepted=1, tries=1, p50_ms=50, p95_ms=50, p99_ms=50, max_ms=50)


def test_a_report_counts_every_delivery_once(engine, day):
    """Tenants and total have the same keys, and each death is counted once among the reasons."""
    with read(engine) as conn:
        report = reports.report(conn)
    total = report.total

    assert report.tenants == {"contoso": CONTOSO, "fabrikam": FABRIKAM}
    assert (total.enqueued, total.accepted, total.tries, total.retried) == (14, 6, 10, 2)
    assert (total.p50_ms, total.max_ms) == (250, 10_000)
    assert total.reasons == CONTOSO.reasons
    states = ("accepted", "waiting", "dead", "expired", "cancelled", "folded")
    assert sum(getattr(total, name) for name in states) == total.enqueued


def test_one_tenant_is_the_total_of_its_own_report(engine, day):
    """A report on one tenant holds nothing of another."""
    with read(engine) as conn:
        report = reports.report(conn, tenant="contoso")
        assert (report.total, report.tenants) == (CONTOSO, {"contoso": CONTOSO})
        with pytest.raises(NotFound, match="nearest is 'contoso'"):
            reports.report(conn, tenant="contosso")


def test_only_what_was_enqueued_since_counts(engine, day):
    """A report since a moment leaves out what came before, its tries included."""
    contoso, _ = day
    later = MORNING + timedelta(hours=1)
    tries(engine, contoso, accepted(engine, contoso, ms=7, at=later), "accepted")
    with read(engine) as conn:
        report = reports.report(conn, since=later)

    expected = Figures(enqueued=1, accepted=1, tries=1, p50_ms=7, p95_ms=7, p99_ms=7, max_ms=7)
    assert report.total == expected
    assert report.tenants == {"contoso": expected}


def test_nothing_happened_is_a_report_too(engine):
    """An empty database gives zeros, and no percentiles rather than wrong ones."""
    world_rows(engine, slug="quiet")
    with read(engine) as conn:
        assert reports.report(conn).total == Figures()
        assert reports.report(conn).tenants == {}
        assert reports.report(conn, tenant="quiet").tenants == {"quiet": Figures()}


def test_a_report_can_be_read_by_programs(engine, day):
    """JSON has the same keys for total and tenants; CSV has one row each under one heading."""
    with read(engine) as conn:
        report = reports.report(conn, since=MORNING)
    read_back = json.loads(json.dumps(report.as_json()))
    written = io.StringIO()
    csv.writer(written).writerows(report.csv_rows())
    rows = list(csv.DictReader(io.StringIO(written.getvalue())))

    assert read_back["total"].keys() == read_back["tenants"]["contoso"].keys()
    assert read_back["tenants"]["contoso"]["p95_ms"] == 8080
    assert [row["tenant"] for row in rows] == ["contoso", "fabrikam", "in all"]
    assert [row["enqueued"] for row in rows] == ["13", "1", "14"]
    assert rows[0]["reasons"].startswith("busy=3; ")


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(values=st.lists(st.integers(0, 10**9), min_size=2, max_size=60))
def test_percentiles_are_those_of_statistics(engine, values):
    """What the database ranks and we interpolate is what the standard library computes."""
    rows = text(" UNION ALL ".join(f"SELECT {value} AS value" for value in values))
    given_rows = rows.columns(column("value")).subquery()
    query = select(literal_column("1").label("grouped"), given_rows.c.value)
    with read(engine) as conn:
        found = percentiles(conn, query, shares=(0.0, 0.25, 0.5, 0.75, 1.0))[1]
    expected = (min(values), *quantiles(values, n=4, method="inclusive"), max(values))

    assert found == pytest.approx(expected)
