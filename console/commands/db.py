"""``alertpost db``: the tables."""

from __future__ import annotations

from pathlib import Path

import typer
from sqlalchemy import Engine

from console import command_logs
from console.context import effective_settings
from console.output import complain, out
from models import schema
from models.database import create_engine_from
from models.settings import Settings

app = typer.Typer(help="The database's tables.", no_args_is_help=True, callback=command_logs.set_up)


@app.command("upgrade")
def upgrade() -> None:
    """Bring the tables to what this version expects; harmless where they are."""
    settings = Settings.load()
    if not settings.database_url:
        # A key is made before the database that it encrypts.
        settings = effective_settings()
    engine = create_engine_from(settings.sqlalchemy_url)
    try:
        before = schema.is_current(engine)
        schema.upgrade(engine)
    finally:
        engine.dispose()
    state = "was up to date" if before else "is up to date now"
    out.print(f"The schema of {_name(engine)} {state}.", markup=False)


@app.command("check")
def check() -> None:
    """Tell whether the tables are those of this version; exit code 1 if not. Changes nothing."""
    settings = Settings.load()
    engine = create_engine_from(settings.sqlalchemy_url)
    try:
        # To look into an SQLite file that is not there would make it.
        missing = engine.dialect.name == "sqlite" and not _file(engine).exists()
        current = not missing and schema.is_current(engine)
    finally:
        engine.dispose()
    if current:
        out.print(f"The schema of {_name(engine)} is that of this version.", markup=False)
        return
    what = "does not exist yet" if missing else "is not that of this version"
    complain(f"the schema of {_name(engine)} {what}: run `alertpost db upgrade`")
    raise typer.Exit(1)


def _file(engine: Engine) -> Path:
    return Path(engine.url.database or "")


def _name(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)
