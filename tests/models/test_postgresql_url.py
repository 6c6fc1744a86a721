"""PostgreSQL's address, as libpq reads it: several hosts, and whether the line may be in clear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from models.database import create_engine_from, read, write
from models.errors import StoreUnavailable
from models.postgresql_url import in_clear, read_url
from models.settings import Settings


def _given(url: str) -> dict[str, Any]:
    """Give what the driver is called with."""
    parsed = read_url(url).url
    _, arguments = parsed.get_dialect()().create_connect_args(parsed)
    return dict(arguments)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h:5432/d", {"host": "h", "port": 5432, "password": "p"}),
        ("postgresql://u:p%40x@a,b/d", {"host": "a,b", "password": "p@x"}),
        (
            "postgresql://u@a:1,b:2/d?target_session_attrs=read-write",
            {"host": "a,b", "port": "1,2", "target_session_attrs": "read-write"},
        ),
        ("postgresql://u@a:1,b/d", {"host": "a,b", "port": "1,"}),
        ("postgresql://u@/d?host=a:1&host=b:2", {"host": "a,b", "port": "1,2"}),
        ("postgresql://u@/d?host=a,b&port=1,2", {"host": "a,b", "port": "1,2"}),
        ("postgresql://u@a,b/d?port=1", {"host": "a,b", "port": "1,1"}),
        ("postgresql://u@[::1]:5,[2001:db8::1]:6/d", {"host": "::1,2001:db8::1", "port": "5,6"}),
        ("postgresql://u@/d?host=/run/pg,b:2", {"host": "/run/pg,b", "port": ",2"}),
        ("postgresql:///d?host=/run/pg", {"host": "/run/pg"}),
        ("postgresql://%2Frun%2Fpg/d", {"host": "/run/pg"}),
    ],
)
def test_hosts(url: str, expected: dict[str, Any]) -> None:
    """Each way to name one host or several comes to the driver as libpq takes it, also twice."""
    assert _given(url) | expected == _given(url)
    again = read_url(url).url.render_as_string(hide_password=False)
    assert _given(again) == _given(url)
    assert Settings.load(database_url=url).database_url == url


@pytest.mark.parametrize(
    "url", ["postgresql://u:hunter2@a:x,b/d", "postgresql://u:hunter2@a,b/d?port=1,2,3"]
)
def test_what_cannot_be_read(url: str) -> None:
    """The sentence names what is wrong and repeats nothing of the URL."""
    with pytest.raises(ValueError, match="host") as caught:
        read_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u@db.example/d", ["db.example"]),
        ("postgresql://u@db.example/d?sslmode=prefer", ["db.example"]),
        ("postgresql://u@db.example/d?sslmode=allow", ["db.example"]),
        ("postgresql://u@db.example/d?sslmode=require", []),
        ("postgresql://u@db.example/d?sslmode=verify-full", []),
        ("postgresql://u@db.example/d?sslmode=disable", []),
        ("postgresql://u@localhost,10.0.0.7:5433/d", ["10.0.0.7"]),
        ("postgresql://u@127.0.0.1,[::1]/d", []),
        ("postgresql://u@/d?host=/run/pg", []),
        ("postgresql:///d", []),
        ("postgresql://u@/d?host=a:1&host=b:2", ["a", "b"]),
        ("sqlite:///x.db", []),
        ("", []),
    ],
)
def test_who_may_listen(monkeypatch: pytest.MonkeyPatch, url: str, hosts: list[str]) -> None:
    """Without sslmode, beyond this machine, the line may be in clear; what was chosen is left."""
    for name in ("PGSSLMODE", "PGHOST"):
        monkeypatch.delenv(name, raising=False)

    assert in_clear(url) == hosts


def test_libpq_reads_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGSSLMODE counts as said."""
    monkeypatch.setenv("PGSSLMODE", "verify-full")

    assert in_clear("postgresql://u@db.example/d") == []


@pytest.mark.parametrize("form", ["host={0}&host={1}", "host={0},{1}"])
def test_the_first_host_that_serves_is_taken(
    postgresql_url: str, tmp_path: Path, form: str
) -> None:
    """With one host gone the next one is asked, for one that takes writes."""
    real = make_url(postgresql_url)
    place = real.query["host"]
    hosts = form.format(tmp_path / "gone", place)
    url = f"postgresql://{real.username}@/{real.database}?{hosts}&target_session_attrs=read-write"
    engine = create_engine_from(Settings.load(database_url=url).sqlalchemy_url)
    try:
        with write(engine) as conn:
            assert conn.execute(text("SELECT 1")).scalar_one() == 1
    finally:
        engine.dispose()


def test_a_server_that_was_demoted_is_left(postgresql_url: str) -> None:
    """Once a server refuses writes, its connections are replaced: another host may take them."""
    engine = create_engine_from(postgresql_url)
    try:
        with read(engine) as conn:
            before = conn.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with pytest.raises(StoreUnavailable, match="read-only"), write(engine) as conn:  # noqa: PT012
            conn.execute(text("SET TRANSACTION READ ONLY"))
            conn.execute(text("CREATE TABLE t (a int)"))
        with read(engine) as conn:
            assert conn.execute(text("SELECT pg_backend_pid()")).scalar_one() != before
    finally:
        engine.dispose()
