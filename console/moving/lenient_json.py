"""
JSON as JsonCpp reads it, which the plugin sasl-xoauth2 uses. Pure.

Beyond the standard it takes ``//`` and ``/* */`` comments, a comma after the last member, whatever
stands behind the value, and line breaks in texts; of a name that comes twice the last one counts.

Source:
    github.com/open-source-parsers/jsoncpp: CharReaderBuilder::setDefaults (allowComments,
    allowTrailingCommas, failIfExtra, rejectDupKeys) and src/lib_json/json_reader.cpp.
"""

from __future__ import annotations

import json
import re
from typing import Any

_PARTS = re.compile(
    r"""
      (?P<text>"(?:[^"\\]|\\.)*"?)
    | (?P<comment>//[^\r\n]*|/\*.*?\*/)
    | (?P<comma>,)
    | (?P<blank>\s+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENS, _CLOSES = "{[", "}]"


def load(text: str) -> Any:
    """
    Read a value.

    Raises:
        ValueError: It is none; a ``json.JSONDecodeError`` knows the line.
        RecursionError: It is nested too deeply.
    """
    found, _ = json.JSONDecoder(strict=False).raw_decode(_plain(text).lstrip("\ufeff \t\r\n"))
    return found


def _plain(text: str) -> str:
    """Blank out comments and commas after a last member; every line keeps its number."""
    parts: list[str] = []
    comma: int | None = None
    before = ""
    for found in _PARTS.finditer(text):
        kind, part = found.lastgroup, found[0]
        if kind == "comment":
            parts.append(re.sub(r"[^\r\n]", " ", part))
            continue
        if kind != "blank":
            if part in _CLOSES and comma is not None:
                parts[comma] = " "
            # One that follows nothing, or another comma, is an error there too.
            follows = kind == "comma" and bool(before) and before not in f"{_OPENS},:"
            comma = len(parts) if follows else None
            before = part
        parts.append(part)
    return "".join(parts)
