"""
Whether there is an installation where a command looks.

A command that made one wherever it is called would say "all is well" of an empty one for ever,
from a scheduled job with another working directory, say.
"""

from __future__ import annotations

import os
import shlex
from importlib.metadata import version

from console.data_dir import DataDir
from models.database import missing_file
from models.errors import ConfigurationError
from models.settings import Settings, masked_url

DEFAULT = Settings.model_fields["data_dir"].default
"""Where an installation is if nothing is said: below the working directory."""


def check_installed(settings: Settings) -> None:
    """
    Refuse where there is no installation; makes nothing.

    Raises:
        ConfigurationError: Says which directory was looked in, and how to name another.
    """
    path = settings.data_dir.absolute()
    file = missing_file(settings.sqlalchemy_url)
    if file is not None and settings.database_url:
        raise ConfigurationError(
            f"there is no database at {file}, which ALERTPOST_DATABASE_URL names; correct that, "
            "or make it: `alertpost db upgrade`"
        )
    if file is not None:
        if os.path.lexists(path):
            # That it belongs to someone else, say, is the better answer.
            DataDir.prepare(path)
        raise ConfigurationError(
            f"there is no installation in {path}{_why(settings)}; {_ANOTHER}, or make one there: "
            "`alertpost init`"
        )


def key_is_elsewhere(settings: Settings) -> bool:
    """Tell whether a database was given but no key is here; one made now would open nothing."""
    here = os.path.lexists(settings.data_dir.absolute() / "secret.key")
    return bool(settings.database_url) and not settings.secret_keys and not here


def no_key(settings: Settings) -> ConfigurationError:
    """Refuse what needs a key: to seal, or to open what is sealed."""
    return ConfigurationError(
        f"there is no key in {settings.data_dir.absolute()}{_why(settings)}; {_ANOTHER}, set "
        "ALERTPOST_SECRET_KEYS, or, for a database that is new, make one there: `alertpost init`"
    )


_ANOTHER = "name another with --data-dir or ALERTPOST_DATA_DIR"


def _why(settings: Settings) -> str:
    return " (`var` of the working directory)" if settings.data_dir == DEFAULT else ""


def begun(settings: Settings, command: str) -> str:
    """
    Say a command so that it means this installation, also when it is typed elsewhere.

    Args:
        settings: Of this process.
        command: Begins with ``alertpost``.
    """
    if settings.data_dir == DEFAULT:
        # In the same directory it does; the one who is told is told which that is.
        return command
    path = shlex.quote(str(settings.data_dir.absolute()))
    return command.replace("alertpost ", f"alertpost --data-dir {path} ", 1)


def where_to_type(settings: Settings) -> str:
    """Say from where commands find this installation; nothing where they say so themselves."""
    if settings.data_dir != DEFAULT:
        return ""
    path = settings.data_dir.absolute()
    return f" in {path.parent} (elsewhere with --data-dir {shlex.quote(str(path))})"


def named(settings: Settings) -> str:
    """Say which installation a screen is about: by its version, and where it keeps everything."""
    database = masked_url(settings.database_url)
    place = f"data directory {settings.data_dir.absolute()}"
    return f"alertpost {version('alertpost')}, {f'{database}, ' if database else ''}{place}"
