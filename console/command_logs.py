"""Where commands log: on standard error, warnings and worse; standard output is the answer."""

from __future__ import annotations

from models import logs
from models.settings import LogSettings


def set_up() -> None:
    """Keep log lines out of what scripts read; for ``typer.Typer(callback=…)``."""
    logs.setup(LogSettings(level="warning"), process="cli")
