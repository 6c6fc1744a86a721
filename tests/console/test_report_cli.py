from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta

import pytest

from console import when
from console.actor import actor
from models.errors import ConfigurationError
from tests.console.cli_world import CliWorld

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEYS = {
    "accepted", "waiting", "dead", "expired", "cancelled", "retried", "uncertain",
    "p50_ms", "p95_ms", "p99_ms", "max_ms", "reasons",
}  # fmt: skip


@pytest.fixture
def busy(world: CliWorld) -> CliWorld:
    """One accepted after two seconds, one dead, one waiting, one expired long ago."""
    accepted = world.row(world.send("a"))
    settled = accepted.enqueued_at + timedelta(seconds=2)
    world.set(str(accepted.id), state="accepted", settled_at=settled)
    world.set(world.send("b"), state="dead", reason="recipient-unknown")
    world.send("c", tenant="fabrikam")
    world.set(world.send("d", tenant="fabrikam"), state="expired", enqueued_at=NOW - timedelta(700))
    return world


def test_json_has_the_same_keys_in_all_and_by_tenant(busy: CliWorld) -> None:
    """Scripts read totals and tenants alike."""
    report = busy.run("report", "--json").json

    assert report == busy.run("report", "--format", "json").json
    assert set(report["tenants"]) == {"contoso", "fabrikam"}
    for figures in (report["total"], *report["tenants"].values()):
        assert set(figures) >= KEYS
        assert set(figures) == set(report["total"])
    total = report["total"]
    assert [total[name] for name in ("accepted", "waiting", "dead", "expired")] == [1, 1, 1, 1]
    assert total["p50_ms"] == total["max_ms"] == 2000
    assert report["tenants"]["fabrikam"]["p50_ms"] is None
    assert total["reasons"] == {"recipient-unknown": 1}


def test_filters(busy: CliWorld) -> None:
    """A tenant's report has its total; an old delivery is left out by --since."""
    assert busy.run("report", "--json", "--tenant", "contoso").json["total"]["waiting"] == 0
    since = busy.run("report", "--json", "--since", "1h").json
    assert since["total"]["expired"] == 0
    assert since["since"].endswith("Z")
    assert busy.run("report", "--tenant", "nobody").code == 3


def test_csv_reads_back(busy: CliWorld) -> None:
    """One row a tenant; the total comes last, under a name that no tenant can have."""
    said = busy.run("report", "--format", "csv")

    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [row["tenant"] for row in rows] == ["contoso", "fabrikam", "in all"]
    assert rows[-1]["accepted"] == "1"
    assert busy.run("tenants", "show", rows[-1]["tenant"]).code == 3
    assert busy.usage("report", "--format", "csv", "--json").exit_code == 2


def test_the_table_names_times_and_reasons(busy: CliWorld) -> None:
    """What a person wants to know is on one screen."""
    said = busy.run("report")

    for text in ("contoso", "fabrikam", "in all", "2.0 s", "recipient-unknown"):
        assert text in said.out


def test_an_empty_report_says_what_to_do(world: CliWorld) -> None:
    """No table of noughts."""
    assert "alertpost send" in world.run("report").out


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("2H", NOW - timedelta(hours=2)),
        (" 3d ", NOW - timedelta(days=3)),
        ("1w", NOW - timedelta(weeks=1)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T08:00Z", datetime(2026, 11, 1, 8, tzinfo=UTC)),
        ("2026-11-01T08:00:00+01:00", datetime(2026, 11, 1, 7, tzinfo=UTC)),
    ],
)
def test_moments_in_the_past(text: str, moment: datetime) -> None:
    """Spans count back from now; the rest is taken as it stands."""
    assert when.parse_past(text, now=NOW) == moment
    if not text.strip()[-1].isalpha() or text.endswith("Z"):
        assert when.parse_future(text, now=NOW) == moment


def test_spans_count_ahead_for_what_is_to_come() -> None:
    """Two hours are two hours from now."""
    assert when.parse_future("2h", now=NOW) == NOW + timedelta(hours=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a time"),
        ("tomorrow", "is not a time"),
        ("-2h", "is not a time"),
        ("2026-13-01", "is not a time"),
        ("2026-11-01T08:00", "has no time zone"),
        ("20261101", "has no time zone"),
        ("999999999w", "longer than a calendar"),
        ("99999999w", "beyond the years"),
        ("0001-01-01T00:00+14:00", "beyond the years"),
    ],
)
def test_what_is_no_moment(text: str, message: str) -> None:
    """The message says what would be one."""
    with pytest.raises(ValueError, match=message):
        when.parse_past(text, now=NOW)


@pytest.mark.parametrize(
    ("given", "environment", "name"),
    [
        ("bob", {"USER": "alice"}, "cli:bob"),
        (None, {"USER": "root", "SUDO_USER": "alice"}, "cli:alice"),
        (None, {"USER": "alice"}, "cli:alice"),
    ],
)
def test_who_acts(given: str | None, environment: dict[str, str], name: str) -> None:
    """What was said wins, then who used sudo, then the login."""
    assert actor(given, environment) == name


@pytest.mark.parametrize("given", ["", " ", "a\nb", "x" * 97])
def test_a_name_that_no_trail_can_hold(given: str) -> None:
    """It is refused before anything happens."""
    with pytest.raises(ConfigurationError, match="--as"):
        actor(given)


def test_without_any_name_there_is_still_one() -> None:
    """A container's user has a number at least."""
    assert actor(None, {}).startswith("cli:")
