from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.alert_lines import Line, alertmanager_reader, read_lines

SAMPLES = Path(__file__).parents[2] / "console" / "demo_data" / "alertmanager-webhooks.jsonl"
GOOD = json.dumps({"tenant": "contoso", "to": "a@x.example", "subject": "s", "text": "t"}).encode()
WEBHOOKS = alertmanager_reader(lambda tenant, _: [f"noc@{tenant}.example"])


def read(data: bytes, **options: object) -> list[Line]:
    return list(read_lines(io.BytesIO(data), **options))  # type: ignore[arg-type]


BAD = [
    pytest.param(b"\xff\xfe{}", "line", "UTF-8 from octet 1", id="utf-8"),
    pytest.param(b'{"tenant":', "body", "not valid JSON", id="cut"),
    pytest.param(b"nonsense", "body", "not valid JSON", id="nonsense"),
    pytest.param(b"[]", "body", "not a JSON object", id="list"),
    pytest.param(b"{}", "tenant", "is missing", id="empty"),
    pytest.param(GOOD.replace(b"a@x.example", b"a"), "to[0]", "no @", id="recipient"),
    pytest.param(b"[" * 200, "body", "not valid JSON", id="deep"),
]


@pytest.mark.parametrize(("bad", "field", "reason"), BAD)
def test_bad_line_stops_nobody(bad: bytes, field: str, reason: str) -> None:
    """A bad line is told by number and reason, the good ones around it are read."""
    first, told, last = read(GOOD + b"\n" + bad + b"\r\n" + GOOD)

    assert (first.number, told.number, last.number) == (1, 2, 3)
    assert first.alerts
    assert last.alerts
    assert told.error is not None
    assert told.alerts == ()
    assert told.error.field == field
    assert reason in told.error.reason


@pytest.mark.parametrize("bad", [b"\xff", b"nonsense", b"[]", b'{"version":"3"}'])
def test_bad_webhook_line_stops_nobody(bad: bytes) -> None:
    """The same holds for lines of webhook bodies."""
    good = SAMPLES.read_bytes().partition(b"\n")[0]
    told, last = read(bad + b"\n" + good, read=WEBHOOKS)

    assert told.error
    assert last.alerts[0].subject.startswith("[FIRING:1]")


def test_samples() -> None:
    """Every recorded webhook body is read."""
    with SAMPLES.open("rb") as stream:
        lines = list(read_lines(stream, WEBHOOKS))

    assert len(lines) == 459
    assert all(line.alerts and not line.error for line in lines)


def test_empty_lines_and_marks_are_passed_over() -> None:
    """Empty lines count but say nothing, and a byte order mark is no part of the first."""
    lines = read(b"\xef\xbb\xbf" + GOOD + b"\n\n  \r\n" + GOOD + b"\r\n")

    assert [line.number for line in lines] == [1, 4]
    assert all(line.alerts for line in lines)
    assert read(b"") == []


LIMITS = [(0, False), (-1, True), (-100, True), (1, False)]


@pytest.mark.parametrize(("spare", "refused"), LIMITS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("filling", [b"", b" " * (3 << 20)])
def test_too_long_line(spare: int, refused: bool, end: bytes, filling: bytes) -> None:
    """A line above the limit is refused without being held in memory, the next one is read."""
    long = filling + GOOD
    lines = read(long + end + b"[]" + end + long, max_line_octets=len(long) + spare)

    assert [line.number for line in lines] == [1, 2, 3]
    assert [bool(line.error) for line in lines] == [refused, True, refused]
    assert not refused or "longer than" in str(lines[0].error)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_any_stream_is_read_to_its_end(data: bytes, limit: int) -> None:
    """Whatever the stream holds, each line is told once, in order."""
    numbers = [line.number for line in read(data, max_line_octets=limit)]

    assert numbers == sorted(set(numbers))
    assert not numbers or numbers[-1] <= len(data.splitlines(keepends=True)) + 1
