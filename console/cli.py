"""The command ``alertpost``: groups of verbs, and how errors become exit codes."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from console import command_logs, encoding, output
from console.commands import COMMANDS
from console.lazy_commands import LazyCommands
from models.errors import (
    AlertpostError,
    ConfigurationError,
    Conflict,
    CredentialRejected,
    InvalidAlert,
    NotFound,
    StoreUnavailable,
    TokenUnavailable,
    VaultError,
)

EXIT_CODES: tuple[tuple[type[AlertpostError], int], ...] = (
    (ConfigurationError, 2),
    (InvalidAlert, 2),
    (VaultError, 2),
    (NotFound, 3),
    (Conflict, 4),
    (StoreUnavailable, 5),
    (TokenUnavailable, 5),
    (CredentialRejected, 6),
)
"""0 done; 1 it ran and the answer is no, or some lines were bad; 2 wrong input or set-up; 3 no
such thing; 4 not in its present state; 5 try again later; 6 Microsoft refused; 7 (``attention``)
something needs a person; 70 our fault; 130 interrupted."""

INTERRUPTED = 130

_DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_LATER = 5

_UsageFault: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
"""Typer brings a click of its own and does not show the base of its usage errors otherwise."""


def command_line(words: Sequence[str] = ()) -> typer.Typer:
    """
    Build the command line; what a command needs is loaded when its name is typed.

    Args:
        words: As typed. Where the first of them names a command, only that one is offered.
    """
    only = {"offered": tuple(words[:1])} if words and words[0] in COMMANDS else {}
    return typer.Typer(
        name="alertpost",
        cls=type("Commands", (LazyCommands,), only),
        help="Alert e-mail that gets through Microsoft 365, without a stored password.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        callback=_begin,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - nothing else asks

        output.out.print(f"alertpost {version('alertpost')}")
        raise typer.Exit


def _begin(
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", metavar="DIR",
            help="The installation to work with, instead of ALERTPOST_DATA_DIR.  [default: var]",
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Say the version and exit."
        ),
    ] = False,
) -> None:  # fmt: skip
    if data_dir is not None:
        # The environment is where settings come from; children of `up` look there as well.
        os.environ["ALERTPOST_DATA_DIR"] = str(data_dir.absolute())
    command_logs.set_up()


def main() -> None:
    """Run the command line; expected errors are one line, never a stack trace."""
    encoding.take_every_text()
    try:
        code = command_line()(prog_name="alertpost", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        if code == INTERRUPTED:
            output.complain("stopped")
    except (typer.Abort, KeyboardInterrupt):
        output.complain("stopped")
        code = INTERRUPTED
    except _UsageFault as error:
        error.message = output.shortened(error.message)  # type: ignore[attr-defined]
        error.show()  # type: ignore[attr-defined]
        code = error.exit_code  # type: ignore[attr-defined]
    except BrokenPipeError:
        # Whoever read us, `head` for instance, has enough.
        output.give_up_output()
        code = 0
    except AlertpostError as error:
        output.complain(str(error))
        code = next((number for kind, number in EXIT_CODES if isinstance(error, kind)), 1)
    except Exception as error:  # noqa: BLE001 - the last line of defence
        if (word := encoding.not_text(error)) is not None:
            output.complain(f"{word[:60]!r} is not text in UTF-8: convert it first")
            code = 2
        elif isinstance(error, OSError) and error.errno in _DISK_TROUBLE:
            where = f": {error.filename}" if error.filename else ""
            output.give_up_output()
            output.complain(f"the disk cannot be written to ({error.strerror}){where}")
            code = _LATER
        else:
            output.complain("this is a fault of alertpost; please report it with these lines:")
            traceback.print_exc()
            code = 70
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
