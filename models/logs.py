"""
Logs: one event a line, as fields, with the same form and the same redaction for every source.

    log = structlog.get_logger()
    log.info("delivery_attempt", delivery_id=…, outcome="accepted", duration_ms=…)

The standard library's loggers (Dramatiq, Uvicorn, Alembic, MSAL) end in the same place.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from models.errors import AlertpostError
from models.redaction import redact_event, redact_text

if TYPE_CHECKING:
    from types import TracebackType

    from structlog.typing import EventDict, Processor, WrappedLogger

    from models.settings import LogSettings

_CHATTY = (
    "aiosmtplib", "alembic", "asyncio", "dramatiq", "httpcore", "httpx", "msal", "requests",
    "urllib3", "uvicorn",
)  # fmt: skip
"""Libraries whose "info" is our "debug"."""


def setup(settings: LogSettings, *, process: str, stream: TextIO | None = None) -> None:
    """
    Send everything that is logged in this process to one stream. To be called once, at start.

    Args:
        settings: Level and form.
        process: What this process is, such as ``worker``; a field of every line.
        stream: Where to; None: standard error, so that commands keep their output to themselves.
    """
    stream = stream or sys.stderr
    debug = settings.level == "debug"
    level = logging.getLevelName(settings.level.upper())
    people = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    form: list[Processor] = (
        [_escape_controls, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
        if people
        else [structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    first: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(stream)
    handler.addFilter(_told_already)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            # For lines of libraries; ours have been through these when they arrive.
            foreign_pre_chain=[*first, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _Origin(process),
                _Exceptions(tracebacks_of_expected=debug),
                _redact,
                *form,
            ],
            # Else the library would put the traceback below the line, past the redaction.
            keep_exc_info=True,
            keep_stack_info=False,
        )
    )
    _take_over(handler, level=level, debug=debug)
    structlog.configure(
        processors=[*first, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_factory,
        # Loggers are made at import time, before this; they must not keep the older set-up.
        cache_logger_on_first_use=False,
    )
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


_TOLD_ALREADY = "Consumer encountered a connection error"
"""Dramatiq's line, for each queue every three seconds; ``wakeups_unheard`` says it once."""


def _told_already(record: logging.LogRecord) -> bool:
    """Leave out what would be said again and again."""
    return not (record.name.startswith("dramatiq.") and str(record.msg).startswith(_TOLD_ALREADY))


def _factory(*_: Any) -> logging.Logger:
    return logging.getLogger("alertpost")


def _take_over(handler: logging.Handler, *, level: int, debug: bool) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Dramatiq and Uvicorn bring handlers of their own, whose lines nobody would redact.
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.disabled = False
    for name in _CHATTY:
        logging.getLogger(name).setLevel(level if debug else max(level, logging.WARNING))
    # A line that cannot be written is lost; printing its arguments would bypass the redaction.
    logging.raiseExceptions = debug


class _Origin:
    """Says which process wrote a line; asks each time, as worker processes are forked."""

    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = self._process
        event["pid"] = os.getpid()
        return event


class _Exceptions:
    """
    Turns an exception into fields.

    Errors that we raise on purpose say all in one line; their traceback is for debugging. For
    anything else the traceback is what one needs.
    """

    def __init__(self, *, tracebacks_of_expected: bool) -> None:
        self._always = tracebacks_of_expected

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        error = _exception(event.get("exc_info"))
        if error is None:
            event.pop("exc_info", None)
            return event
        event.setdefault("error", _chain(error))
        if isinstance(error, AlertpostError) and not self._always:
            event.pop("exc_info")
            return event
        event["exc_info"] = (type(error), error, error.__traceback__)
        return structlog.processors.format_exc_info(logger, method, event)


def _exception(given: Any) -> BaseException | None:
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        return given[1] if isinstance(given[1], BaseException) else None
    return sys.exc_info()[1] if given else None


def _chain(error: BaseException) -> str:
    """Tell an exception and what caused it in one line."""
    told: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(told) < 5:  # noqa: PLR2004 - enough to see the origin
        text = " ".join(str(cause).split())
        told.append(f"{type(cause).__name__}: {text}" if text else type(cause).__name__)
        cause = cause.__cause__
    return " ← ".join(told)


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return redact_event(event)


def _escape_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # A server's reply must neither forge a line nor steer the reader's terminal.
    return {
        name: _escaped(value, keep="\n\t" if name == "exception" else "\t")
        if isinstance(value, str)
        else value
        for name, value in event.items()
    }


def _escaped(text: str, *, keep: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def _uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    structlog.get_logger().critical("uncaught", exc_info=(kind, error, traceback))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        structlog.get_logger().critical(
            "uncaught",
            thread=args.thread.name if args.thread else None,
            exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
        )


__all__ = ["redact_text", "setup"]
