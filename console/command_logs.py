"""Where commands log: on standard error, warnings and worse; standard output is the answer."""

from __future__ import annotations

import logging
import sys


def set_up() -> None:
    """
    Keep log lines out of what scripts read; for ``typer.Typer(callback=…)``.

    The loggers take as long to load as a listing takes to print, and a listing has nothing to log.
    So where nothing that was loaded brought them along, they come with the first line, if ever.
    """
    if "structlog" in sys.modules:
        _set_up_now()
    else:
        logging.getLogger().handlers[:] = [_First()]


def set_up_again() -> None:
    """Do so now, if the loggers were loaded only since; to be called after loading them late."""
    if any(isinstance(handler, _First) for handler in logging.getLogger().handlers):
        set_up()


def _set_up_now() -> None:
    from models import logs  # noqa: PLC0415 - see set_up
    from models.settings import LogSettings  # noqa: PLC0415

    logs.setup(LogSettings(level="warning"), process="cli")


class _First(logging.Handler):
    """Takes the first line that a library logs, and hands it to the real one."""

    def emit(self, record: logging.LogRecord) -> None:
        _set_up_now()
        logging.getLogger().handle(record)
