"""Long lists of names on one line."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 3


def some_of(names: Sequence[str]) -> str:
    """Say the first few names, and how many others there are; JSON has all of them."""
    left = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {left:,} more" if left > 0 else shown
