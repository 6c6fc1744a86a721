"""
Reads the plain part of YAML that docker-compose.yml is written in, and refuses all else.

Nested maps, lists in one line, quoted and plain scalars, comments, anchors, aliases and ``<<``. A
file that stays within this is read alike by every YAML reader, so no dependency is needed to look
into it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_KEY = re.compile(r"""(?P<key>[A-Za-z_<][\w<.-]*):(?:\s+(?P<rest>.*))?""")
_PLAIN = re.compile(r"""[^\s&*!|>%@`"'\[\]{},#?-](?:[^#,\[\]{}]*[^\s,\[\]{}#])?|\S""")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None}
_LIKE_WORDS = re.compile(r"(?i)y|n|yes|no|on|off|true|false|null")


@dataclass(frozen=True)
class _Line:
    number: int
    indent: int
    text: str


def load(text: str) -> dict[str, Any]:
    """Read a document whose outermost value is a map."""
    lines = [
        _Line(number, len(raw) - len(raw.lstrip(" ")), content)
        for number, raw in enumerate(text.splitlines(), 1)
        if (content := _without_comment(raw).strip())
    ]
    anchors: dict[str, Any] = {}
    document, rest = _block(lines, 0, anchors)
    if rest:
        raise ValueError(f"line {rest[0].number}: indented unlike what it follows")
    return document


def _block(
    lines: list[_Line], indent: int, anchors: dict[str, Any]
) -> tuple[dict[str, Any], list[_Line]]:
    own: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    while lines and lines[0].indent == indent:
        line, *lines = lines
        found = _KEY.fullmatch(line.text)
        if found is None:
            raise ValueError(f"line {line.number}: no 'key: value'")
        key, rest = found["key"], (found["rest"] or "").strip()
        if key in own:
            raise ValueError(f"line {line.number}: {key} is there twice")
        anchor = re.match(r"&(\w+)\s*", rest)
        if anchor:
            rest = rest[anchor.end() :]
        value: Any
        if rest:
            value = _value(rest, line, anchors)
        elif lines and lines[0].indent > indent:
            value, lines = _block(lines, lines[0].indent, anchors)
        else:
            value = None
        if anchor:
            anchors[anchor[1]] = value
        if key == "<<":
            merged = value
        else:
            own[key] = value
    return {**merged, **own}, lines


def _value(text: str, line: _Line, anchors: dict[str, Any]) -> Any:
    if text.startswith("*"):
        return anchors[text[1:]]
    if text == "{}":
        return {}
    if text.startswith("["):
        if not text.endswith("]"):
            raise ValueError(f"line {line.number}: a list must end on its line")
        return [_scalar(item, line) for item in _items(text[1:-1])]
    return _scalar(text, line)


def _items(text: str) -> list[str]:
    return [item.strip() for item in re.findall(r'"[^"]*"|[^,]+', text) if item.strip()]


def _scalar(text: str, line: _Line) -> Any:
    if text.startswith('"'):
        return json.loads(text)
    if text in _WORDS:
        return _WORDS[text]
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    # Readers disagree about these: "no" is a truth value to some.
    if _LIKE_WORDS.fullmatch(text) or not _PLAIN.fullmatch(text) or ": " in text:
        raise ValueError(f"line {line.number}: put {text!r} in quotes")
    return text


def _without_comment(raw: str) -> str:
    if "\t" in raw:
        raise ValueError("YAML has no tabs")
    quoted = False
    for position, character in enumerate(raw):
        if character == '"':
            quoted = not quoted
        elif character == "#" and not quoted and (position == 0 or raw[position - 1] == " "):
            return raw[:position]
    return raw
