"""Reading another program's files; nothing is ever written to them."""

from __future__ import annotations

from console.paths import typed_path
from models.errors import ConfigurationError
from models.files import open_to_read

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")

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
        with open_to_read(typed_path(path)) as file:
            octets = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{what} {path}: {error.strerror or error}; it is only read, so run this as a user who "
            "may read it, or copy it first"
        ) from error
    if len(octets) > LARGEST:
        raise ConfigurationError(f"{what} {path} has more than {LARGEST:,} octets: it is another")
    if b"\0" in octets or octets.startswith(_UTF_16):
        raise ConfigurationError(f"{what} {path} is no text in UTF-8")
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError:
        # These programs do not mind a comment in an older encoding; what counts is ASCII.
        return octets.decode("latin-1")
