"""Texts from outside: what no UTF-8 can carry, and what would break out of a line."""

from __future__ import annotations

import re

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def legible(text: str) -> str:
    """
    Replace what no UTF-8 can carry.

    Halves of surrogate pairs come from JSON, and from whatever decodes a server's odd octets so
    that they can be told again; no database, file or terminal takes them.
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def breaks_out(text: str) -> bool:
    """Say whether a text holds what may not stand in one line: line ends, NUL, other controls."""
    # isprintable answers for nearly everybody; the pattern knows what else is harmless.
    return not text.isprintable() and _CONTROL.search(text) is not None
