"""
Standard streams that take every text, whatever encoding the environment gave them.

Under ``LC_ALL=C`` or in a cron job that may be ASCII, and Python would end a command in the middle
of a table for the name of a customer.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
from typing import Final, TextIO

READABLE: Final = "alertpost.readable"
"""Name of the error handler: what an encoding lacks is written in ASCII."""

_INSTEAD: Final = {
    "\u2026": "...", "\u2013": "-", "\u2014": "-", "\u2018": "'", "\u2019": "'", "\u201c": '"',
    "\u201d": '"', "\u2022": "*", "\u2190": "<-", "\u2192": "->", "\u2191": "^", "\u2193": "v",
    "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u00d7": "x", "\u2713": "yes", "\u2717": "no",
}  # fmt: skip
"""Our own marks, those of Rich and of help; anything else is written as its escape."""

_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")

_BOXES: Final = range(0x2500, 0x2600)
_BRAILLE: Final = range(0x2800, 0x2900)


def take_every_text() -> None:
    """Let standard output and standard error write what their encoding lacks in another way."""
    codecs.register_error(READABLE, _readable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)


def fits(text: str, stream: TextIO) -> bool:
    """Tell whether a stream's encoding has every character of a text."""
    try:
        text.encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def not_text(error: BaseException) -> str | None:
    """
    Find what was given in octets that are no text, where an error comes of that; else None.

    Python hands such octets on as lone surrogates, which is right for names of files; wherever
    text has to be text, encoding it fails.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, UnicodeEncodeError) and _SURROGATE.search(seen.object):
            return seen.object
        seen = getattr(seen, "orig", None) or seen.__cause__ or seen.__context__
    return None


def _readable(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_instead, text)), error.end


def _instead(character: str) -> str:
    known = _INSTEAD.get(character)
    if known is not None:
        return known
    if ord(character) in _BOXES:
        return "-"
    if ord(character) in _BRAILLE:
        return "*"
    return character.encode("ascii", "backslashreplace").decode("ascii")
