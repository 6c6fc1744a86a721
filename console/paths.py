"""Names of files as people type them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from models.errors import ConfigurationError

_LONGEST: Final = 4_095
_LONGEST_PART: Final = 255
"""Octets, as file systems of Linux take them."""


def typed_path(name: str) -> Path:
    """
    Give the path, with ``~`` written out.

    Raises:
        ConfigurationError: It names no file, or ``~`` means nothing: a container's user often has
            no home.
    """
    if not name or "\0" in name:
        raise ConfigurationError(f"{name!r} names no file")
    octets = os.fsencode(name)
    if len(octets) > _LONGEST or max(map(len, octets.split(b"/"))) > _LONGEST_PART:
        raise ConfigurationError(f"{name[:60]}… is longer than the name of a file can be")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(
            f"{name}: there is no such home directory here; write the whole path"
        ) from error
