"""Dead letters: what did not go out, why, and what to do with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from console import verbs_dead
from console.actor import As, actor
from console.asking import Yes, ask
from console.commands.deliveries import show
from console.context import opened
from console.delivery_view import reply_of
from console.options import Limit, Mailbox, SeverityOption, Since, Tenant, Why
from console.output import Json, cell, counted, out, print_json, print_table
from models import dead_letters
from models.database import read
from models.dead_letters import DeadFilter, DeadLetter, ReasonGroup
from models.explain import PER_MINUTE
from workers.reasons import meaning_of

app = typer.Typer(no_args_is_help=True, help="What did not go out, and what to do with it.")
app.command("show")(show)

_NOTHING = "There are no dead letters."
_NO_MATCH = "No dead letter matches; `alertpost dead list` shows what there is."
_PACE = f"They leave at the pace of their mailboxes, {PER_MINUTE} a minute each."
_SHOWN_TENANTS = 5
_BASIC = re.compile(r"[2-5]\d\d")
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")


def _code(text: str) -> str:
    if not _BASIC.fullmatch(text) and not _ENHANCED.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not a reply code; write 550 or 5.1.1")
    return text


SomeIds = Annotated[
    list[str] | None, typer.Argument(metavar="ID", help="Only these; beginnings will do.")
]
Reason = Annotated[str | None, typer.Option(metavar="RULE", help="Only what died of this.")]
Code = Annotated[
    str | None, typer.Option(parser=_code, metavar="CODE", help="Only this reply: 550 or 5.1.1.")
]
Some = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, max=10_000, help="Only the latest so many."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Also what was accepted, expired or cancelled; by id only.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count.")]


@app.command("list")
def list_(
    ids: SomeIds = None,
    *,
    tenant: Tenant = None,
    mailbox: Mailbox = None,
    reason: Reason = None,
    code: Code = None,
    since: Since = None,
    severity: SeverityOption = None,
    each: Annotated[bool, typer.Option("--each", help="One by one, not by reason.")] = False,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List dead letters by reason, the most frequent first."""
    wanted = _filter(
        tenant=tenant, mailbox=mailbox, reason=reason, code=code, since=since, severity=severity
    )
    with opened() as context:
        wanted = verbs_dead.with_ids(context.engine, wanted, ids or ())
        with read(context.engine) as conn:
            letters = dead_letters.list_dead(conn, wanted, limit=limit) if each else []
            groups = [] if each else dead_letters.group_by_reason(conn, wanted)[:limit]
    empty = _NOTHING if wanted == DeadFilter() else _NO_MATCH
    if as_json:
        print_json([*map(_letter_json, letters), *map(_group_json, groups)])
    elif each:
        _print_letters(letters, empty=empty)
    else:
        _print_groups(groups, empty=empty)


@app.command("replay")
def replay(
    ids: SomeIds = None,
    *,
    tenant: Tenant = None,
    mailbox: Mailbox = None,
    reason: Reason = None,
    code: Code = None,
    since: Since = None,
    severity: SeverityOption = None,
    limit: Some = None,
    force: Force = False,
    dry_run: DryRun = False,
    why: Why = None,
    yes: Yes = False,
    who: As = None,
    as_json: Json = False,
) -> None:
    """
    Put dead letters back into their lanes; without ids and filters all of them.

    They leave at the pace of their mailboxes, as everything else does.
    """
    wanted = _filter(
        tenant=tenant, mailbox=mailbox, reason=reason, code=code, since=since, severity=severity
    )
    if force and (not ids or wanted != DeadFilter()):
        raise typer.BadParameter("goes with ids, not with filters", param_hint="--force")
    _check_limit(ids, limit)
    name = actor(who)
    with opened() as context:
        chosen = verbs_dead.choose(context.engine, wanted, ids=ids or (), limit=limit, force=force)
        size = verbs_dead.size(context.engine, chosen) if chosen else 0
        if chosen is None or not size:
            done = dead_letters.Replay(0, 0, 0, ())
        elif dry_run:
            done = verbs_dead.rehearse_replay(context.engine, chosen)
        else:
            if size > 1:
                ask(f"{counted(size)} would go back into their lanes.", yes=yes)
            done = verbs_dead.replay(context.engine, context.waker, chosen, actor=name, reason=why)
    figures = {"replayed": done.replayed, "forced": done.forced,
               "expiry_cleared": done.expiry_cleared, "mailboxes": len(done.wake)}  # fmt: skip
    _say(
        f"{_would(dry_run)}{done}. {_PACE}" if done.replayed else _NO_MATCH,
        {**figures, "dry_run": dry_run},
        as_json=as_json,
    )


@app.command("discard")
def discard(
    ids: SomeIds = None,
    *,
    tenant: Tenant = None,
    mailbox: Mailbox = None,
    reason: Reason = None,
    code: Code = None,
    since: Since = None,
    severity: SeverityOption = None,
    limit: Some = None,
    dry_run: DryRun = False,
    why: Why = None,
    yes: Yes = False,
    who: As = None,
    as_json: Json = False,
) -> None:
    """Give dead letters up for good; without ids and filters all of them."""
    wanted = _filter(
        tenant=tenant, mailbox=mailbox, reason=reason, code=code, since=since, severity=severity
    )
    _check_limit(ids, limit)
    name = actor(who)
    with opened() as context:
        chosen = verbs_dead.choose(context.engine, wanted, ids=ids or (), limit=limit)
        size = verbs_dead.size(context.engine, chosen) if chosen else 0
        if chosen is None or not size:
            done = 0
        elif dry_run:
            done = verbs_dead.rehearse_discard(context.engine, chosen)
        else:
            if size > 1:
                ask(f"{counted(size)} would be given up for good.", yes=yes)
            done = verbs_dead.discard(context.engine, chosen, actor=name, reason=why)
    _say(
        f"{_would(dry_run)}{counted(done)} given up" if done else _NO_MATCH,
        {"discarded": done, "dry_run": dry_run},
        as_json=as_json,
    )


def _filter(
    *,
    tenant: Tenant,
    mailbox: Mailbox,
    reason: Reason,
    code: Code,
    since: Since,
    severity: SeverityOption,
) -> DeadFilter:
    basic = int(code) if code and _BASIC.fullmatch(code) else None
    return DeadFilter(
        tenant=tenant,
        mailbox=mailbox,
        reason=reason,
        reply_code=basic,
        enhanced_code=code if basic is None else None,
        since=since,
        severity=severity,
    )


def _check_limit(ids: SomeIds, limit: Some) -> None:
    if ids and limit is not None:
        raise typer.BadParameter("does not go with ids", param_hint="--limit")


def _print_groups(groups: Sequence[ReasonGroup], *, empty: str) -> None:
    if not groups:
        out.print(Text(empty))
    for group in groups:
        codes = " ".join(str(code) for code in (group.reply_code, group.enhanced_code) if code)
        unsure = f", {group.uncertain} of them may have been sent" if group.uncertain else ""
        out.print(
            Text.assemble(
                (f"{group.count:>6}  {group.reason or 'without a reason'}", "bold"),
                f"  {codes}" if codes else "",
                f"\n        from {cell(group.oldest)} to {cell(group.newest)}{unsure}",
                f"\n        {_whose(group)}",
            )
        )
        if (meaning := meaning_of(group.reason)) is not None:
            out.print(
                Text(f"        Means:   {meaning.meaning}\n        Next:    {meaning.next_step}")
            )
        if example := reply_of(group.reply_code, group.example):
            out.print(Text(f"        Example: {example.replace(chr(10), ' / ')}"))


def _whose(group: ReasonGroup) -> str:
    """Name the tenants with the most, and count the others."""
    named = list(group.tenants.items())[:_SHOWN_TENANTS]
    words = [slug if len(group.tenants) == 1 else f"{slug} {size:,}" for slug, size in named]
    if others := len(group.tenants) - len(named):
        words.append(f"{others} more {'tenant' if others == 1 else 'tenants'}")
    return f"Tenant{'s' if len(group.tenants) > 1 else ''}: {', '.join(words)}"


def _print_letters(letters: Sequence[DeadLetter], *, empty: str) -> None:
    print_table(
        ("Id", "Died", "Mailbox", "Reason", "Subject"),
        [
            (letter.id, letter.died_at, letter.mailbox, letter.reason, letter.subject)
            for letter in letters
        ],
        alike=("Tenant",),
        spare=("Tenant", "Died"),
        empty=empty,
    )


def _letter_json(letter: DeadLetter) -> dict[str, object]:
    return {**asdict(letter), "severity": letter.severity.label}


def _group_json(group: ReasonGroup) -> dict[str, object]:
    meaning = meaning_of(group.reason)
    return {
        **asdict(group),
        "meaning": meaning and meaning.meaning,
        "next_step": meaning and meaning.next_step,
    }


def _say(sentence: str, figures: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(figures)
    else:
        out.print(Text(sentence))


def _would(dry_run: bool) -> str:
    return "Dry run, nothing was changed; this would happen: " if dry_run else ""
