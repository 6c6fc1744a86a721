"""Moments and spans as people write them: ``2h``, ``3d``, ``2026-11-01``, ISO 8601 with a zone."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import typer

from models.moments import is_zero

_SPAN = re.compile(r"(\d{1,9})\s*([smhdw])", re.IGNORECASE)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def parse_span(text: str) -> timedelta:
    """
    Read a length of time: a number and one of s, m, h, d, w.

    Raises:
        ValueError: It is none; the text says what would be one.
    """
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a length of time; write 90s, 15m, 2h, 3d or 1w")
    try:
        return timedelta(**{_UNITS[found[2].lower()]: int(found[1])})
    except OverflowError as error:
        raise ValueError(f"{text!r} is longer than a calendar reaches") from error


def parse_past(text: str, *, now: datetime) -> datetime:
    """
    Read a moment of which a span means so long ago.

    Args:
        text: A span, a date (its midnight in UTC) or ISO 8601 with a zone.
        now: Aware.

    Raises:
        ValueError: It is none of these.
    """
    return _parse(text, lambda span: now - span)


def parse_future(text: str, *, now: datetime) -> datetime:
    """Read a moment of which a span means so long from now; else as ``parse_past``."""
    return _parse(text, lambda span: now + span)


def _parse(text: str, counted: Callable[[timedelta], datetime]) -> datetime:
    text = text.strip()
    span = parse_span(text) if _SPAN.fullmatch(text) else None
    try:
        if span is not None:
            return counted(span)
        moment = datetime.fromisoformat(text)
        if _DAY.fullmatch(text):
            return moment.replace(tzinfo=UTC)
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} is beyond the years that a calendar has") from error
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a time; write 2h or 3d, a date such as 2026-11-01 (midnight UTC), "
            "or 2026-11-01T08:00Z"
        ) from error
    raise ValueError(f"{text!r} has no time zone; append Z, or an offset such as +01:00")


def since(text: str) -> datetime:
    """Read the value of ``--since``; for ``typer.Option(parser=…)``."""
    return _option(parse_past, text)


def ahead(text: str) -> datetime:
    """
    Read the value of an option that names a moment to come, likewise.

    A program's zero value stays one, for the alert to take it as none.
    """
    if is_zero(text):
        return datetime.min.replace(tzinfo=UTC)
    return _option(parse_future, text)


def span(text: str) -> timedelta:
    """Read the value of an option that takes a length of time, likewise."""
    try:
        return parse_span(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _option(parse: Callable[..., datetime], text: str) -> datetime:
    try:
        return parse(text, now=datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
