"""What `make chaos` found, reduced to the smallest case."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url

from models.database import create_engine_from
from workers.main import _found


@pytest.fixture
def road(postgresql_url: str, tmp_path: Path) -> tuple[URL, Path, Path]:
    """A PostgreSQL whose socket can be reached only once a link to its directory is laid."""
    url = make_url(postgresql_url)
    place = url.query.get("host")
    if not isinstance(place, str) or not place.startswith("/"):
        pytest.skip("the server is not reached through a socket")
    link = tmp_path / "road"
    return url.update_query_dict({"host": str(link)}), link, Path(place)


def test_a_worker_that_starts_while_sql_is_away_waits(road: tuple[URL, Path, Path]) -> None:
    """A worker that is restarted during an outage goes on once SQL is back."""
    url, link, place = road
    engine = create_engine_from(url.render_as_string(hide_password=False))
    stop = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(_found, engine, stop)
        with pytest.raises(TimeoutError):
            found.result(0.3)
        link.symlink_to(place)

        assert found.result(10)

    engine.dispose()


def test_a_worker_that_waits_for_sql_can_be_stopped(road: tuple[URL, Path, Path]) -> None:
    """A stop ends the wait for SQL."""
    url, _, _ = road
    engine = create_engine_from(url.render_as_string(hide_password=False))
    stop = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(_found, engine, stop)
        stop.set()

        assert not found.result(10)
