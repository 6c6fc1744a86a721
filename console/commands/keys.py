"""``alertpost keys``: the keys that encrypt at rest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.progress import Progress

from console import command_logs, key_rotation
from console.actor import As, actor
from console.context import Context, opened
from console.data_dir import DataDir
from console.key_rotation import Step
from console.output import complain, err, out
from models import audit, rotation
from models.database import write
from models.errors import ConfigurationError
from models.rotation import RotationReport
from models.settings import Settings
from models.vault import Vault

app = typer.Typer(
    help="The keys that encrypt at rest.", no_args_is_help=True, callback=command_logs.set_up
)

_ORDER = """\
To change the key without downtime:
  1. alertpost keys new; append it to ALERTPOST_SECRET_KEYS everywhere (a comma between, the
     present key first) and restart producers and workers one after the other.
  2. Put the new key first everywhere and restart them one after the other.
  3. alertpost keys rotate
  4. When it says that nothing is left, remove the old key everywhere and restart."""


@app.command("new")
def new() -> None:
    """Print a new key, and how it is used."""
    sys.stdout.write(f"{Vault.new_key()}\n")
    sys.stdout.flush()
    complain(
        "keep it safe, nothing opens without it: it goes into ALERTPOST_SECRET_KEYS, or into a "
        "file that ALERTPOST_SECRET_KEYS_FILE names"
    )
    err.print(_ORDER, markup=False)


@app.command("rotate")
def rotate(
    add: Annotated[
        bool, typer.Option("--new", help="Add a new key to the data directory's key file.")
    ] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Let the added key seal, and re-encrypt.")
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Re-encrypt the rest and remove the old keys.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only count what is under old keys; 1 if anything is.")
    ] = False,
    who: As = None,
) -> None:
    """
    Re-encrypt everything under the first key, while producers and workers go on.

    With a key file (no ALERTPOST_SECRET_KEYS is set), in steps, each of which says what to do
    next: --new adds a key; restart `alertpost up`; --promote lets it seal and re-encrypts; restart
    `alertpost up`; --finish re-encrypts what came meanwhile and removes the old key. Where nothing
    runs, --new promotes at once. A restart takes seconds and loses nothing.

    With ALERTPOST_SECRET_KEYS: first append the new key everywhere and restart producers and
    workers one after the other; then put it first everywhere and restart; then run this; when
    nothing is left, remove the old key everywhere.
    """
    if sum((add, promote, finish, check)) > 1:
        raise ConfigurationError("give one of --new, --promote, --finish and --check")
    me = actor(who)
    given = Settings.load()
    if (add or promote or finish) and given.secret_keys:
        raise ConfigurationError(
            "ALERTPOST_SECRET_KEYS is set, so the keys are yours to move. " + _ORDER
        )
    with opened() as context, _progress() as progress:
        # Where it has none, that is said before anything is made.
        _ = context.vault
        if check:
            _tell_left(rotation.count_old(context.engine, context.vault))
            return
        if not (add or promote or finish):
            keys = [key.get_secret_value() for key in context.settings.secret_keys]
            report = key_rotation.reseal(context, keys, progress=progress)
            _note(context, me, "resealed")
            _tell(report)
            return
        directory = DataDir.prepare(given.data_dir)
        step_of = {"new": key_rotation.new, "promote": key_rotation.promote}
        name = "new" if add else "promote" if promote else "finish"
        step = step_of.get(name, key_rotation.finish)(context, directory, progress=progress)
        _note(context, me, name)
    _tell_step(step, directory)


def _tell_step(step: Step, directory: DataDir) -> None:
    if step.report is not None:
        _tell(step.report, last=step.keys == 1)
    pids = ", ".join(str(user.pid) for user in step.restart)
    if step.report is None:
        out.print(
            f"A new key is in {directory.key_file}. Next: restart process {pids} (Ctrl-C, then "
            "start it again), so that it knows the key; then `alertpost keys rotate --promote`.",
            markup=False,
        )
    elif step.keys == 1:
        out.print(
            f"{directory.key_file} holds one key now. Backups of the database from before still "
            "need the old one.",
            markup=False,
        )
    elif step.restart:
        out.print(
            f"Next: restart process {pids}, which seals under the old key until then; then "
            "`alertpost keys rotate --finish`.",
            markup=False,
        )
    elif step.report.complete:
        out.print("The old key may be removed: `alertpost keys rotate --finish`.", markup=False)


def _tell(report: RotationReport, *, last: bool = False) -> None:
    done = ", ".join(f"{count} {kind}" for kind, count in report.resealed.items())
    out.print(f"Re-encrypted: {done}.", markup=False)
    for value in report.unreadable[:10]:
        complain(f"{value.kind} {value.id}: {value.reason}")
    if not report.complete:
        _tell_left(report.left)
    elif not last:
        out.print("Nothing is left under another key.", markup=False)


def _tell_left(left: dict[str, int]) -> None:
    if not any(left.values()):
        out.print("Nothing is left under another key.", markup=False)
        return
    still = ", ".join(f"{count} {kind}" for kind, count in left.items() if count)
    complain(f"still under another key: {still}; keep the old key, and run this again")
    raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[rotation.Progress]:
    """Show a bar for each kind, on standard error, where somebody watches."""
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bars:
        tasks = {}

        def tell(kind: str, done: int, total: int) -> None:
            if kind not in tasks:
                tasks[kind] = bars.add_task(kind, total=total)
            bars.update(tasks[kind], completed=done, total=total)

        yield tell


def _note(context: Context, who: str, step: str) -> None:
    with write(context.engine) as conn:
        audit.write(
            conn,
            audit.Entry(
                actor=who,
                action="keys-rotate",
                subject_kind="keys",
                subject=step,
            ),
        )
