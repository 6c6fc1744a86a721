"""What stands in a packaged example where a value should be. Pure."""

from __future__ import annotations

import re
from typing import Final

_PLACEHOLDER: Final = re.compile(
    r"""
      goes[ _-]?here
    | \*{3}
    | \byour[ _-]+(?:\w+[ _-]+)*(?:client|app|application|tenant|directory|secret|id|token)\b
    | ^<[^<>]*>$ | ^\{\{?[^{}]*\}?\}$ | ^\[[^\[\]]*\]$ | ^%[^%]+%$ | ^\$\{?\w+\}?$
    | \breplace[ _-]?(?:me|this|with)\b | \bchange[ _-]?(?:me|this)\b | \bfill[ _-]?(?:me|in)\b
    | ^(?:insert|enter)[ _-]
    | ^x{3,}(?:-x+)*$ | ^\.{3,}$ | ^(?:client|app|application|tenant)[ _-]?(?:id|secret)$
    | ^0{8}-0{4}-0{4}-0{4}-0{12}$
    | ^(?:todo|tbd|example|dummy)$
    """,
    re.VERBOSE | re.IGNORECASE,
)
_IN_A_PATH: Final = re.compile(
    r"[<>{}*\s\[\]]|goes[-_ ]?here|your[-_]|^tenant([-_]?id)?$|^directory([-_]?id)?$"
    r"|^x{3,}(-x+)*$|^0{8}-0{4}-0{4}-0{4}-0{12}$",
    re.IGNORECASE,
)


def is_placeholder(value: str) -> bool:
    """Tell whether nobody has put a value of their own here yet."""
    return _PLACEHOLDER.search(value.strip()) is not None


def placeholder_in_path(path: str) -> str | None:
    """Name the part of an address's path that nobody has filled in; None where all are."""
    return next((part for part in path.split("/") if part and _IN_A_PATH.search(part)), None)
