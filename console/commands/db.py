"""``alertpost db``: the tables."""

from __future__ import annotations

import typer
from rich.text import Text
from sqlalchemy import Engine

from console import command_logs
from console.context import effective_settings, opened
from console.installation import begun, where_to_type
from console.output import complain, out
from models import schema
from models.database import create_engine_from, missing_file
from models.settings import Settings

app = typer.Typer(help="The database's tables.", no_args_is_help=True, callback=command_logs.set_up)


def init() -> None:
    """
    Make an installation in the data directory: its key and its database. Harmless where one is.

    The data directory is --data-dir, else ALERTPOST_DATA_DIR, else `var` of the working directory.
    `alertpost up` does this too. With an ALERTPOST_DATABASE_URL the tables are made there by
    `alertpost db upgrade`; this makes the key that encrypts what they hold, unless
    ALERTPOST_SECRET_KEYS gives it.
    """
    settings = Settings.load()
    path = settings.data_dir.absolute()
    if settings.database_url:
        effective_settings(making=True)
        out.print(Text(f"The key is in {path / 'secret.key'}. Next: `alertpost db upgrade`."))
        return
    there = missing_file(settings.sqlalchemy_url) is None
    with opened(making=True):
        pass
    state = "There is an installation in" if there else "Made an installation in"
    out.print(Text(f"{state} {path}."))
    if not there:
        add, run = (begun(settings, f"alertpost {verb}") for verb in ("tenants add", "up"))
        out.print(Text(f"Next{where_to_type(settings)}: `{run}`, and `{add}`."))


@app.command("upgrade")
def upgrade() -> None:
    """Bring the tables to what this version expects; harmless where they are."""
    settings = Settings.load()
    if not settings.database_url:
        # A key is made before the database that it encrypts.
        settings = effective_settings(making=True)
    engine = create_engine_from(settings.sqlalchemy_url)
    # The way to PostgreSQL logs.
    command_logs.set_up_again()
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
    # The way to PostgreSQL logs.
    command_logs.set_up_again()
    try:
        # To look into an SQLite file that is not there would make it.
        missing = missing_file(settings.sqlalchemy_url) is not None
        current = not missing and schema.is_current(engine)
    finally:
        engine.dispose()
    if current:
        out.print(f"The schema of {_name(engine)} is that of this version.", markup=False)
        return
    what = "does not exist yet" if missing else "is not that of this version"
    complain(f"the schema of {_name(engine)} {what}: run `alertpost db upgrade`")
    raise typer.Exit(1)


def _name(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)
