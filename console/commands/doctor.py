"""``alertpost doctor``: why a mail does not go out, link by link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import Progress
from rich.text import Text

from console.actor import As, actor
from console.doctor import rounds
from console.doctor.access import Wish
from console.doctor.causes import Problem, by_cause
from console.doctor.checks import NAMES, Chain, Check, Result, exit_code, skipped
from console.doctor.ground import surveyed
from console.doctor.rounds import Tick
from console.output import Json, cell, counted, err, jsonable, out, print_json
from models import directory_rules
from models.errors import ConfigurationError

_STYLES = {
    Result.OK: "green",
    Result.WARNING: "yellow",
    Result.FAILED: "bold red",
    Result.SKIPPED: "dim",
}
_MARGIN = 11
_LABEL = 23
_NAMED = 10
_FIRST = 3


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TENANT|ADDRESS", help="A tenant, or one mailbox; all if nothing is given."
        ),
    ] = None,
    *,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="ADDRESS", help="At the end, send a test mail there."),
    ] = None,
    check_scope: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Of an app-only mailbox: see that the app is not let in as this other one.",
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Ask Entra for a new token, though the present one is good."),
    ] = False,
    problems: Annotated[
        bool,
        typer.Option("--problems", help="Only what is wrong, by cause, over all that it concerns."),
    ] = False,
    as_json: Json = False,
    who: As = None,
) -> None:
    """
    Look at everything that a mail needs, and say what is wrong and what mends it.

    Entra is asked about each app's credentials. Nothing is changed, but that a token is fetched
    where none is good or with --fresh, and that the way to sign in
    for a shared mailbox is kept that worked. No mail is sent without --to, which takes one of the
    mailbox's mails of this minute.

    Exit code 0: nothing failed (warnings allowed). 1: something failed. 5: nothing failed, but not
    everything could be looked at now.
    """
    if to is not None and target is None:
        raise ConfigurationError("--to needs a tenant or a mailbox: each one sends a mail")
    wish = Wish(actor(who), to, _checked_other(check_scope, target), fresh)
    checks: list[Check] = []

    def take(chain: Chain) -> None:
        checks.extend(chain.checks)
        if not as_json and not problems:
            _print_chain(chain)

    # On a terminal the checks themselves show how far it is.
    with _progress(shown=err.is_terminal and (as_json or problems or not out.is_terminal)) as tick:
        asyncio.run(_look(target, wish, take, tick))
    if as_json and problems:
        print_json([asdict(one) for one in by_cause(checks)])
    elif as_json:
        print_json([jsonable(check) for check in checks])
    else:
        if problems:
            _print_problems(by_cause(checks))
        _print_sum(checks, proven=to is not None, fresh=fresh)
    raise typer.Exit(exit_code(checks))


async def _look(
    target: str | None,
    wish: Wish,
    take: Callable[[Chain], None],
    tick: Callable[[Tick], None],
) -> None:
    async with surveyed() as ground:
        context, chain = ground.context, ground.chain
        if context is None:
            because = chain.missing("settings", "keys", "sql", "schema") or "sql"
            chain.add("mailboxes", skipped(because))
            take(chain)
            return
        parties = rounds.concerned(context, target)
        if wish.out_of_scope is not None:
            rounds.check_app_only(parties)
        if not parties:
            chain.add("mailboxes", rounds.nobody(target))
        take(chain)
        await rounds.look_at(context, parties, wish=wish, take=take, tick=tick)


def _print_chain(chain: Chain) -> None:
    out.print(Text(cell(chain.subject), "bold"))
    for check in chain.checks:
        out.print(
            Text.assemble(
                (f"  {check.result:<{_MARGIN - 2}}", _STYLES[check.result]),
                f"{check.name:<{_LABEL}}",
                cell(_seen(check)),
            )
        )
        for word, text in (("means", check.meaning), ("fix", check.mend)):
            if text:
                out.print(Text(f"{'':<{_MARGIN}}  {word:<6} {cell(text)}"))


def _seen(check: Check) -> str:
    if check.result is not Result.SKIPPED:
        return check.seen
    why = f"because of: {NAMES.get(check.because, check.because)}"
    return f"{check.seen} ({why})" if check.seen else why


def _print_problems(found: Sequence[Problem]) -> None:
    for one in found:
        many = len(one.subjects)
        named = ", ".join(one.subjects[:_FIRST])
        more = f" and {many - _FIRST:,} more" if many > _FIRST else ""
        where = named if many == 1 else f"{many:,} times: {named}{more}"
        out.print(
            Text.assemble(
                (f"{one.result:<{_MARGIN - 2}}", _STYLES[one.result]),
                f"{one.name:<{_LABEL}}",
                cell(f"{where}: {one.seen}"),
            )
        )
        first = "" if many == 1 else f" (of {one.subjects[0]})"
        for word, text in (("means", one.meaning), (f"mend{first}", one.mend)):
            if text:
                out.print(Text(f"{'':<{_MARGIN - 2}}{word} {cell(text)}"))


def _print_sum(checks: list[Check], *, proven: bool, fresh: bool) -> None:
    failures = sum(check.result is Result.FAILED for check in checks)
    warnings = sum(check.result is Result.WARNING for check in checks)
    told = (
        f"{counted(len(checks), 'check', 'checks')}, {failures} failed, "
        f"{counted(warnings, 'warning', 'warnings')}"
    )
    said = {
        0: "All checks passed. Only a real mail proves the rest: --to ADDRESS",
        1: _what_fails(checks),
        5: "Nothing is known to be wrong, but not everything could be looked at now",
    }[exit_code(checks)]
    if proven and exit_code(checks) == 0:
        said = "Mails go out"
    elif not fresh and exit_code(checks) == 0:
        said += "; --fresh asks Entra for new tokens"
    wrong = dict.fromkeys(check.subject for check in checks if check.result is Result.FAILED)
    where = f" Wrong at: {', '.join([*wrong][:_NAMED])}" if wrong else ""
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    out.print(Text(cell(f"{said}: {told}.{where}{more}{'.' if wrong else ''}")))


def _what_fails(checks: list[Check]) -> str:
    if {check.check for check in checks if check.result is Result.FAILED} == {"app_scope"}:
        return "The app is let in where it should not be; nothing else is wrong"
    return "Something keeps mails from going out"


def _checked_other(other: str | None, target: str | None) -> str | None:
    """
    Check which other mailbox is to be tried.

    Raises:
        ConfigurationError: It is no address, or there is none that it could be other than.
    """
    if other is None:
        return None
    if target is None or "@" not in target:
        raise ConfigurationError("--check-scope needs one mailbox: `alertpost doctor ADDRESS`")
    address = directory_rules.mailbox_address(other)
    if address == target.strip().lower():
        raise ConfigurationError(
            "--check-scope: name another mailbox of the same organisation, one that the app should "
            "not reach"
        )
    return address


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[Tick], None]]:
    """Show how far it is, on standard error."""
    # A bar that takes standard output over would draw what is piped elsewhere on the terminal.
    with Progress(
        console=err, transient=True, disable=not shown, redirect_stdout=False, redirect_stderr=False
    ) as bars:
        task = bars.add_task("mailboxes", total=None)

        def tick(now: Tick) -> None:
            bars.update(task, total=now.of, completed=now.done)

        yield tick
