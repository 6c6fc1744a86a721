"""Names of files as people type them."""

from __future__ import annotations

from pathlib import Path

from models.errors import ConfigurationError


def typed_path(name: str) -> Path:
    """
    Give the path, with ``~`` written out.

    Raises:
        ConfigurationError: It names no file, or ``~`` means nothing: a container's user often has
            no home.
    """
    if not name or "\0" in name:
        raise ConfigurationError(f"{name!r} names no file")
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(
            f"{name}: there is no such home directory here; write the whole path"
        ) from error
