"""Moments that mean none: what programs write where they have no time to name."""

from __future__ import annotations

import re
from datetime import MAXYEAR, datetime
from typing import Any

ZERO_SECONDS = -62_135_596_800
"""The first second of the year 1, counted from 1970, as Go's ``time.Time{}.Unix()`` gives it."""

_FIRST_YEAR = re.compile(r"[+-]?(?:00)?000[01]-\d\d-\d\d(?!\d)")
_LAST_YEAR = re.compile(r"\+?(?:00)?9999-\d\d-\d\d(?!\d)")


def is_zero(value: Any) -> bool:
    """
    Say whether a moment is a program's zero value, with any offset or none.

    Go's zero time and .NET's ``DateTime.MinValue`` are in the year 1, MySQL's in the year 0.
    """
    match value:
        case str():
            return _FIRST_YEAR.match(value.strip()) is not None
        case datetime():
            return value.year <= 1
        case int() | float():
            return value in {ZERO_SECONDS, ZERO_SECONDS * 1000}
        case _:
            return False


def is_never(value: Any) -> bool:
    """Say whether a moment is in the last year of the calendar, such as ``DateTime.MaxValue``."""
    match value:
        case str():
            return _LAST_YEAR.match(value.strip()) is not None
        case datetime():
            return value.year == MAXYEAR
        case _:
            return False
