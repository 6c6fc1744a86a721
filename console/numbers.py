"""Numbers as people type them; what is none is refused in a sentence, not in Pydantic's words."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any, Final

import typer

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")


def read_plainly(option: Any) -> None:
    """Let an option or argument of Typer's that takes a number read it so; leave others alone."""
    wanted = option.type_descriptor
    if wanted.annotation in {int, float} and wanted.parameter_info.parser is None:
        info = wanted.parameter_info
        info.parser = partial(_read, wanted.annotation, info.min, info.max)


def _read(kind: type[int | float], least: float | None, most: float | None, given: Any) -> Any:
    # A default comes as it stands in the code.
    if not isinstance(given, str):
        return given
    text = given.strip()
    if not (_WHOLE if kind is int else _DECIMAL).fullmatch(text):
        what = "a whole number" if kind is int else "a number"
        raise typer.BadParameter(f"{given!r} is not {what}{_range(least, most)}")
    value = kind(text)
    lowest, highest = -math.inf if least is None else least, math.inf if most is None else most
    if not lowest <= value <= highest:
        raise typer.BadParameter(f"{text} is not a number{_range(least, most)}")
    return value


def _range(least: float | None, most: float | None) -> str:
    if least is None or most is None:
        return "" if least is None else f" from {least:,} on"
    return f" from {least:,} to {most:,}"
