"""Values as people type them; what is no number or no file's name is refused in a sentence."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, Final

import typer

from console.paths import typed_path

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
_MOST: Final = 1_000_000_000
"""Where an option names no bound: more seconds or days than timers and calendars hold."""


def read_plainly(option: Any) -> None:
    """Let an option or argument of Typer's refuse odd values in our words, not in Pydantic's."""
    wanted = option.type_descriptor
    info = wanted.parameter_info
    if info.parser is not None:
        return
    if wanted.annotation in {int, float}:
        most = _MOST if info.max is None else info.max
        info.parser = partial(_number, wanted.annotation, info.min, most)
    elif wanted.annotation is Path:
        info.parser = _path


def _number(kind: type[int | float], least: float | None, most: float, given: Any) -> Any:
    # A default comes as it stands in the code.
    if not isinstance(given, str):
        return given
    text = given.strip()
    bounds = f"up to {most:,}" if least is None else f"from {least:,} to {most:,}"
    if not (_WHOLE if kind is int else _DECIMAL).fullmatch(text):
        what = "a whole number" if kind is int else "a number"
        raise typer.BadParameter(f"{given!r} is not {what} {bounds}")
    value = kind(text)
    if value > most or value < (-_MOST if least is None else least):
        raise typer.BadParameter(f"{text} is not a number {bounds}")
    return value


def _path(given: Any) -> Any:
    return typed_path(given) if isinstance(given, str) else given
