"""
What Tab completes beside commands and options: tenants, mailboxes, app registrations.

The shell asks while somebody types, so this answers fast or not at all: it makes nothing, changes
nothing, and says nothing of what went wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any
from urllib.parse import quote

_TENANTS = "SELECT slug FROM tenant WHERE slug LIKE :like ESCAPE '!' ORDER BY slug"
_MAILBOXES = "SELECT address FROM mailbox WHERE address LIKE :like ESCAPE '!' ORDER BY address"
_APPS = "SELECT name FROM app_registration WHERE name LIKE :like ESCAPE '!' ORDER BY name"

_MOST = 300
_PATIENCE_SECONDS = 1.0


def complete_names(command: Any, parameter: Any) -> None:
    """
    Let a parameter be completed, if it names something that is there.

    Told by what its help calls it, so that a new command needs nothing more.

    Args:
        command: Of Typer's; one that makes what it names has nothing to complete.
        parameter: One of its arguments or options.
    """
    named = {
        "SLUG": (_TENANTS,),
        "TENANT": (_TENANTS,),
        "TENANT|ADDRESS": (_TENANTS, _MAILBOXES),
        "NAME": (_APPS,),
    }.get(parameter.metavar or "")
    # There are addresses of recipients, too, and nobody has a list of those.
    told = (getattr(parameter, "help", "") or "").lower()
    if (parameter.metavar or "").startswith("ADDRESS") and "mailbox" in told:
        named = (_MAILBOXES,)
    makes_it = command.name == "add" and parameter.name in {"slug", "address", "name"}
    if named is None or makes_it or getattr(parameter, "is_flag", False):
        return
    parameter._custom_shell_complete = partial(_complete, named)  # noqa: SLF001 - Typer's place


def _complete(statements: tuple[str, ...], _ctx: Any, _parameter: Any, begun: str) -> list[Any]:
    from typer import core  # noqa: PLC0415 - only when the shell asks

    # Typer shows it nowhere else.
    item = core.CompletionItem  # type: ignore[attr-defined]
    try:
        names = [name for one in statements for name in _names(one, begun)]
    except Exception:  # noqa: BLE001 - a line that is being typed is no place for a complaint
        return []
    return [item(name) for name in names]


def _names(statement: str, begun: str) -> list[str]:
    from models.settings import Settings  # noqa: PLC0415 - only when the shell asks

    settings = Settings.load()
    escaped = begun.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    ask: Callable[[str, dict[str, Any]], list[str]]
    if settings.database_url:
        ask = partial(_from_server, settings.sqlalchemy_url)
    else:
        ask = partial(_from_file, settings.data_dir / "alertpost.db")
    return ask(f"{statement} LIMIT {_MOST}", {"like": f"{escaped}%"})


def _from_file(path: Any, statement: str, values: dict[str, Any]) -> list[str]:
    """Read our own file without SQLAlchemy, which takes longer to load than this to answer."""
    import sqlite3  # noqa: PLC0415 - only when the shell asks

    url = f"file:{quote(str(path.absolute()))}?mode=ro"
    with closing(sqlite3.connect(url, uri=True, timeout=_PATIENCE_SECONDS)) as conn:
        return [str(row[0]) for row in conn.execute(statement, values)]


def _from_server(url: str, statement: str, values: dict[str, Any]) -> list[str]:
    from sqlalchemy import text  # noqa: PLC0415 - only when the shell asks

    from console import command_logs  # noqa: PLC0415
    from models.database import create_engine_from, read  # noqa: PLC0415

    engine = create_engine_from(url, busy_seconds=_PATIENCE_SECONDS)
    # The way to PostgreSQL logs, and standard output is what the shell reads.
    command_logs.set_up()
    try:
        with read(engine) as conn:
            return [str(row[0]) for row in conn.execute(text(statement), values)]
    finally:
        engine.dispose()
