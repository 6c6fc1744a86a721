import io
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from models import logs
from models.errors import ConfigurationError, StoreUnavailable
from models.redaction import LONGEST_TEXT, redact_event, redact_text, shorten_address
from models.settings import LogSettings

log = structlog.get_logger()
Lines = Callable[[], list[dict[str, Any]]]

JWT = "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0.eyJhdWQiOiJodHRwczovL291dGxvb2sifQ.c2lnbmF0dXJl"
REFRESH = "1.AXoAq3Bx0000000000000000000000000000000.AgABAwEAAADW6jl31mB3T7ugrWTT8pFe"
CLIENT_SECRET = "Ab18Q~1234567890abcdefghijklmnopqrstuvwx"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, hooks = root.handlers[:], root.level, (sys.excepthook, threading.excepthook)
    raising = logging.raiseExceptions
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    logging.raiseExceptions = raising
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def lines(stream: io.StringIO) -> Lines:
    """Set up JSON lines; the call gives what was logged so far."""
    logs.setup(LogSettings(format="json"), process="worker", stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_holds_its_fields(lines: Lines) -> None:
    """A line is JSON with the event, the fields, UTC time, level and process."""
    delivery = UUID(int=7)
    log.info("delivery_attempt", delivery_id=delivery, outcome="accepted", duration_ms=12.5)

    (line,) = lines()
    moment = datetime.fromisoformat(line.pop("timestamp"))
    assert moment.utcoffset() is not None
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    assert line == {
        "event": "delivery_attempt",
        "delivery_id": str(delivery),
        "outcome": "accepted",
        "duration_ms": 12.5,
        "level": "info",
        "process": "worker",
        "pid": os.getpid(),
    }


def test_bound_context_is_in_the_line(lines: Lines) -> None:
    """What was bound for the job is in each of its lines, also in those of libraries."""
    with structlog.contextvars.bound_contextvars(tenant_id="t1"):
        log.info("token_refresh")
        logging.getLogger("msal").warning("slow")
    log.info("lane_sweep")

    assert [line.get("tenant_id") for line in lines()] == ["t1", "t1", None]


@pytest.mark.parametrize("name", ["dramatiq.worker", "uvicorn.error", "alembic.runtime", "msal.x"])
def test_libraries_take_the_same_form(lines: Lines, name: str) -> None:
    """A line of a library has the same fields, its logger's name, and is redacted alike."""
    logging.getLogger(name).warning("answer was %s for %s", JWT, "alerts@contoso.example")

    (line,) = lines()
    assert line["logger"] == name
    assert line["level"] == "warning"
    assert line["process"] == "worker"
    assert line["event"] == "answer was [redacted] for a***@contoso.example"


def test_libraries_lose_their_own_handlers(stream: io.StringIO) -> None:
    """A handler that a library attached would write past the redaction."""
    elsewhere = io.StringIO()
    logger = logging.getLogger("uvicorn.access")
    logger.addHandler(logging.StreamHandler(elsewhere))
    logger.propagate = False
    logs.setup(LogSettings(format="json"), process="web", stream=stream)
    logger.warning("seen")

    assert elsewhere.getvalue() == ""
    assert "seen" in stream.getvalue()


@pytest.mark.parametrize("library", ["dramatiq", "alembic.runtime.migration"])
@pytest.mark.parametrize(
    ("level", "ours", "theirs"),
    [
        ("debug", ["debug", "info", "warning"], ["debug", "info", "warning"]),
        ("info", ["info", "warning"], ["warning"]),
        ("warning", ["warning"], ["warning"]),
        ("error", [], []),
    ],
)
def test_levels(
    stream: io.StringIO, library: str, *, level: Any, ours: list[str], theirs: list[str]
) -> None:
    """The level holds for us; chatty libraries are one step quieter unless debugging."""
    logs.setup(LogSettings(level=level, format="json"), process="worker", stream=stream)
    for each in ("debug", "info", "warning"):
        getattr(log, each)("ours")
        getattr(logging.getLogger(library), each)("theirs")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]

    assert [line["level"] for line in lines if line["event"] == "ours"] == ours
    assert [line["level"] for line in lines if line["event"] == "theirs"] == theirs


def _fail(message: str, kind: type[Exception] = ConfigurationError) -> None:
    try:
        raise OSError(f"refresh_token={REFRESH}")
    except OSError as error:
        raise kind(message) from error


def test_an_expected_error_is_one_line(lines: Lines) -> None:
    """An error that we raise on purpose is told with its cause, without a traceback."""
    try:
        _fail("SQL is\naway", StoreUnavailable)
    except StoreUnavailable:
        log.exception("store_away")

    (line,) = lines()
    assert line["error"] == "StoreUnavailable: SQL is away ← OSError: refresh_token=[redacted]"
    assert "exception" not in line


def test_an_unexpected_error_brings_its_traceback(lines: Lines) -> None:
    """The traceback of a mistake of ours is logged, without secrets."""
    try:
        _fail(f"Bearer {JWT}", KeyError)
    except KeyError as error:
        log.warning("visit_failed", exc_info=error)

    (line,) = lines()
    assert "in _fail" in line["exception"]
    assert JWT not in str(line)
    assert REFRESH not in str(line)


def test_an_expected_error_has_a_traceback_when_debugging(stream: io.StringIO) -> None:
    """At level debug nothing is left out."""
    logs.setup(LogSettings(level="debug", format="json"), process="cli", stream=stream)
    try:
        _fail("no server program")
    except ConfigurationError:
        log.exception("start")

    assert "Traceback" in json.loads(stream.getvalue())["exception"]


def test_exc_info_without_an_error(lines: Lines) -> None:
    """Asking for an exception where there is none does no harm."""
    log.info("settings", exc_info=True)  # noqa: LOG014 - the case

    assert "exc_info" not in lines()[0]


def test_nothing_ends_elsewhere(lines: Lines) -> None:
    """Errors nobody caught, in threads too, and warnings are lines like all others."""

    def fail() -> None:
        raise RuntimeError(f"Bearer {JWT}")

    thread = threading.Thread(target=fail, name="recorder")
    thread.start()
    thread.join()
    try:
        fail()
    except RuntimeError as error:
        sys.excepthook(RuntimeError, error, error.__traceback__)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old call", stacklevel=1)

    found = lines()
    assert [line["event"] for line in found[:2]] == ["uncaught", "uncaught"]
    assert found[0]["thread"] == "recorder"
    assert "old call" in found[2]["event"]
    assert JWT not in str(found)


def test_the_console_form_is_for_people(stream: io.StringIO) -> None:
    """On a terminal a line is text; a server's reply can neither forge a line nor steer it."""
    logs.setup(LogSettings(format="console"), process="worker", stream=stream)
    log.info("delivery_attempt", reply_text="250 OK\n2026-01-01 [info] forged\x1b[2J", count=3)

    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert "delivery_attempt" in stream.getvalue()
    assert "count=3" in stream.getvalue()


def test_auto_is_json_where_nobody_watches(stream: io.StringIO) -> None:
    """Into a file or a pipe go JSON lines."""
    logs.setup(LogSettings(), process="worker", stream=stream)
    log.info("settings")

    assert json.loads(stream.getvalue())["event"] == "settings"


@pytest.mark.parametrize(
    "name",
    [
        "token", "access_token", "refreshToken", "refresh", "client_secret", "password",
        "Authorization", "proxy-authorization", "body", "text", "html", "text_body", "payload",
        "payload_encrypted", "private_key", "secret_keys", "code", "code_verifier", "assertion",
        "cookie", "cache", "x-auth.token", "attachments",
    ],
)  # fmt: skip
def test_a_field_with_a_telling_name_is_redacted(name: str) -> None:
    """Whatever such a field holds, deep inside others too, does not show."""
    assert redact_event({name: "hunter2 hunter2"}) == {name: "[redacted]"}
    assert "hunter2" not in str(redact_event({"a": [{"b": {name: ("hunter2",)}}]}))
    assert redact_event({name: {"content": "hunter2"}}) == {name: "[redacted]"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reply_text", "535 5.7.139 Authentication unsuccessful"),
        ("token_endpoint", "https://login.example/t/oauth2/v2.0/token"),
        ("tokens", 7),
        ("refresh_at_share", 0.6),
        ("token_kind", "delegated"),
        ("reply_code", "250"),
        ("message_id", "<0190f2@contoso.example>"),
        ("idempotency_key", "alert-17"),
        ("has_secret", True),
        ("refresh", None),
        ("stage", "token"),
        ("event", "token_refresh"),
    ],
)
def test_what_one_reads_logs_for_stays(name: str, value: object) -> None:
    """Redaction leaves numbers, states, replies and ids alone."""
    assert redact_event({name: value}) == {name: value}


def test_a_numeric_password_is_redacted() -> None:
    """Numbers are shown, but not as a password."""
    assert redact_event({"password": 1234}) == {"password": "[redacted]"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"got {JWT} back", "got [redacted] back"),
        ("eyJlbmMiOiJ4In0.a.b.c.d", "[redacted]"),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: [redacted] [redacted]"),
        ("auth=Bearer opaque-token-123", "auth=Bearer [redacted]"),
        ("AUTH XOAUTH2 dXNlcj1hQGIuY29tAWF1dGg9QmVhcmVy", "AUTH XOAUTH2 [redacted]"),
        ("AUTH PLAIN AGEAYg==", "AUTH PLAIN [redacted]"),
        ("sent dXNlcj1hQGIuY29tAWF1dGg9QmVhcmVy", "sent [redacted]"),
        (f"old {REFRESH}", "old [redacted]"),
        (f"is '{CLIENT_SECRET}'", "is '[redacted]'"),
        ("client_secret=abc&grant_type=x", "client_secret=[redacted]&grant_type=x"),
        ('{"refresh_token": "abc", "x": 1}', '{"refresh_token": "[redacted]", "x": 1}'),
        ("{'password': 'abc'}", "{'password': '[redacted]'}"),
        (
            "See https://login.microsoftonline.com/error?code=7000222.",
            "See https://login.microsoftonline.com/error?code=7000222.",
        ),
        ("GET /?code=123456789x HTTP", "GET /?code=[redacted] HTTP"),
        ("GET /callback?code=abc&state=def HTTP", "GET /callback?code=[redacted]&state=[redacted] HTTP"),
        ("postgresql://app:p@ss:w@db.example/x", "postgresql://app:***@db.example/x"),
        ("redis://:pw@127.0.0.1:1/0", "redis://:***@127.0.0.1:1/0"),
        ("INSERT\n[parameters: ('a', b'c')]\n(more)", "INSERT\n[parameters: [redacted]]\n(more)"),
        ("k -----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY----- e", "k [redacted] e"),
        ("550 5.1.10 <joe.doe@contoso.example>: no", "550 5.1.10 <j***@contoso.example>: no"),
        ("to=alice@a.example,bob@b.example", "to=a***@a.example,b***@b.example"),
        ('"two words"@contoso.example', "t***@contoso.example"),
        ("jürgen@müller.example", "j***@müller.example"),
        ("admin@localhost", "a***@localhost"),
        ("535 5.7.139 Authentication unsuccessful", "535 5.7.139 Authentication unsuccessful"),
        ("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded",) * 2,
        ("AADSTS700082: The refresh token has expired",) * 2,
        ("Trace ID: 2b4a0f2c-0000-4000-8000-000000000000",) * 2,
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_redacted(text: str, expected: str) -> None:
    """Secrets are found by their look, and what helps to find the cause is left."""
    assert redact_text(text) == expected


@given(
    st.text(max_size=200) | st.from_regex(r"(a@b\.c|=|Bearer |secret=|://u:p@h| |eyJ\w{9}\.){1,9}")
)
def test_twice_is_once(text: str) -> None:
    """Redacting what was redacted changes nothing."""
    once = redact_text(text)

    assert redact_text(once) == once


@given(
    local=st.from_regex(r"[a-z][a-z0-9.+_-]{3,30}[a-z]", fullmatch=True),
    before=st.sampled_from([*" <:,;('=[", ""]),
)
def test_no_address_survives(local: str, before: str) -> None:
    """Wherever an address stands, only its first letter and its domain are left."""
    assert (
        redact_text(f"{before}{local}@contoso.example") == f"{before}{local[0]}***@contoso.example"
    )
    assert shorten_address(f"{local}@contoso.example") == f"{local[0]}***@contoso.example"


class Mail:
    def __repr__(self) -> str:
        return "Mail(body='hunter2')"


class Colour(Enum):
    RED = "red"


def test_objects_become_plain() -> None:
    """An object shows its type only; well-known values are written out."""
    assert redact_event(
        {
            "mail": Mail(),
            "key_holder": SecretStr("hunter2"),
            "blob": b"hunter2",
            "path": Path("/var/x"),
            "colour": Colour.RED,
            "at": datetime(2026, 1, 2, tzinfo=UTC),
            "ids": {UUID(int=1)},
            "error": ValueError("for bob@contoso.example"),
        }
    ) == {
        "mail": "<Mail>",
        "key_holder": "<SecretStr>",
        "blob": "<7 bytes>",
        "path": "/var/x",
        "colour": "red",
        "at": "2026-01-02T00:00:00+00:00",
        "ids": ["00000000-0000-0000-0000-000000000001"],
        "error": "ValueError: for b***@contoso.example",
    }


def test_long_texts_are_cut() -> None:
    """A log line cannot carry a whole mail."""
    assert len(redact_text("x " * LONGEST_TEXT)) < LONGEST_TEXT + 10


@pytest.mark.parametrize(
    "piece",
    ["a", "a.", "~", "a@", "://a:", '"', "secret", "eyJaaaa.", "0.A", "Bearer ", "AUTH A ", "=",
     "-----BEGIN PRIVATE KEY-----", "[parameters: ", "a-", "\\"],
)  # fmt: skip
def test_no_text_takes_long(piece: str) -> None:
    """A server cannot keep us busy with a reply made to be slow to search."""
    text = piece * (LONGEST_TEXT // len(piece))
    started = time.process_time()
    redact_text(f"{text}@")
    redact_text(f"@secret{text}")

    assert time.process_time() - started < 0.5


def test_what_dramatiq_would_say_every_three_seconds_is_left_out() -> None:
    """That wake-ups cannot be fetched is our own event, said once."""
    stream = io.StringIO()
    logs.setup(LogSettings(format="json"), process="worker", stream=stream)

    logger = logging.getLogger("dramatiq.worker.ConsumerThread(default)")
    logger.critical("Consumer encountered a connection error: %s", "gone")
    logger.critical("Something else")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [
        "Something else"
    ]
