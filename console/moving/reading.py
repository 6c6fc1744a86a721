"""Reading another program's files; nothing is ever written to them."""

from __future__ import annotations

from pathlib import Path

from models.errors import ConfigurationError

LARGEST = 5_000_000
"""Octets; what these programs keep is far smaller."""


def read_text(path: str, what: str) -> str:
    """
    Read a text file whole.

    Args:
        path: Where it is.
        what: What it is, for people.

    Raises:
        ConfigurationError: It cannot be read, is no text, or is far too large.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            octets = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{what} {path}: {error.strerror or error}; it is only read, so run this as a user who "
            "may read it, or copy it first"
        ) from error
    if len(octets) > LARGEST:
        raise ConfigurationError(f"{what} {path} has more than {LARGEST:,} octets: it is another")
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{what} {path} is not text in UTF-8") from None
