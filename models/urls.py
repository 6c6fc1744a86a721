"""Taking a URL apart, in which anything may stand."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit


def split_url(text: str) -> SplitResult:
    """
    Return the parts of a URL; its port is one that can be asked for.

    Raises:
        ValueError: It is none. The parser would repeat a part of it, a password perhaps.
    """
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError(
            "is not a URL; a user or password with special characters must be percent-encoded"
        ) from None
    return parts
