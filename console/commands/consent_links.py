"""
Consent links in ``alertpost mailboxes``: link, unlink, links, consents.

A link that a customer's administrator opens, without an account here, to connect a mailbox.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shlex import quote
from typing import Annotated, TextIO

import typer

from console import verbs_consent_links as verbs
from console.actor import As, actor
from console.context import opened
from console.output import Json, complain, counted, jsonable, out, print_json, print_table
from console.verbs_consent_links import Consent, MadeLink, Progress
from models.consent_links import LONGEST
from models.errors import ConfigurationError, Conflict

_DAYS = 14

Days = Annotated[
    int,
    typer.Option(metavar="N", min=1, max=LONGEST.days, help="How long it holds."),
]
Tenants = Annotated[
    list[str] | None,
    typer.Option("--tenant", metavar="SLUG", help="Only this tenant; repeatable."),
]


def link(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The mailbox.")],
    *,
    days: Days = _DAYS,
    note: Annotated[str, typer.Option(metavar="TEXT", help="One line for whoever opens it.")] = "",
    who: As = None,
) -> None:
    """
    Print a link by which the customer's administrator connects a mailbox, without an account here.

    An earlier link of the mailbox is worth nothing from then on.
    """
    with opened() as context:
        made = verbs.make_link(
            context, address, lasts=timedelta(days=days), note_text=note, actor=actor(who)
        )
    # Alone on standard output, for scripts.
    out.print(made.link, markup=False)
    complain(
        f"it holds until {_moment(made.until)}, or until the mailbox is connected; whoever has it "
        f"may use it, but only {made.mailbox} can consent. `alertpost mailboxes unlink "
        f"{quote(made.mailbox)}` withdraws it"
    )


def unlink(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The mailbox.")],
    who: As = None,
) -> None:
    """Withdraw the consent link of a mailbox; a consent that was given stays."""
    with opened() as context:
        verbs.withdraw_links(context, address, actor=actor(who))
    out.print(f"The consent link of {address.lower()} is withdrawn.", markup=False)


def links(
    *,
    file: Annotated[Path, typer.Option("--out", metavar="FILE.csv", help="Readable by you only.")],
    tenant: Tenants = None,
    days: Days = _DAYS,
    anew: Annotated[
        bool, typer.Option("--anew", help="Replace links that still hold; else they are kept.")
    ] = False,
    who: As = None,
) -> None:
    """
    Write consent links of all mailboxes without a consent, or whose consent is lost, to one file.

    Columns: tenant, mailbox, link, until. A link that still holds is given again as it is.
    """
    me = actor(who)
    with opened() as context, _new_file(file) as stream:
        given = verbs.links_for_missing(
            context, tenants=tenant or (), lasts=timedelta(days=days), anew=anew, actor=me
        )
        _write(stream, given)
    out.print(
        f"{file}: {counted(len(given), 'consent link', 'consent links')}. Whoever has a link may "
        "use it, so send each to its own customer.",
        markup=False,
    )


def consents(
    tenant: Tenants = None,
    unopened: Annotated[
        bool, typer.Option("--unopened", help="Only links that nobody has opened yet.")
    ] = False,
    ending: Annotated[
        int | None,
        typer.Option(
            "--ending",
            metavar="DAYS",
            min=0,
            max=36_500,
            help="Only links that end within so many days; with --unopened: those, too.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how far the consent of each mailbox has come: asked, opened, consented, lost."""
    with opened() as context:
        found = verbs.consents(context, tenants=tenant or ())
    if unopened or ending is not None:
        within = None if ending is None else datetime.now(UTC) + timedelta(days=ending)
        found = verbs.links_to_look_after(found, unopened=unopened, ends_by=within)
    counts = Counter(one.consent for one in found)
    totals = {progress.value: counts[progress] for progress in Progress}
    if as_json:
        print_json({"consents": [jsonable(one) for one in found], "totals": totals})
        return
    print_table(
        (
            "tenant",
            "mailbox",
            "consent",
            "since",
            "consented by",
            "link by",
            "link until",
            "opened",
            "last answer",
        ),
        [_row(one) for one in found],
        # The tenant shows in the address, as a rule.
        spare=("tenant", "opened", "link until"),
        empty="No link is so."
        if unopened or ending is not None
        else "There are no mailboxes yet. `alertpost mailboxes add TENANT ADDRESS` adds one.",
    )
    if found:
        told = ", ".join(f"{number} {name}" for name, number in totals.items() if number)
        out.print(f"{counted(len(found), 'mailbox', 'mailboxes')}: {told}.", markup=False)
    if counts[Progress.CONSENTED] < len(found):
        out.print(
            "`alertpost mailboxes links --out FILE.csv` gives links for what is missing.",
            markup=False,
        )


def register(app: typer.Typer) -> None:
    """Add these commands to those of mailboxes."""
    app.command("link")(link)
    app.command("unlink")(unlink)
    app.command("links")(links)
    app.command("consents")(consents)


def _row(one: Consent) -> tuple[object, ...]:
    given = one.consent in {Progress.CONSENTED, Progress.LOST}
    return (
        one.tenant,
        one.mailbox,
        one.consent,
        one.at if given else one.link_made_at,
        one.by if given else None,
        None if one.consent is Progress.CONSENTED else one.link_made_by,
        None if one.consent is Progress.CONSENTED else one.link_until,
        None if one.consent is Progress.CONSENTED else one.opened_at,
        one.why or (one.refusal if one.consent is Progress.REFUSED else None),
    )


@contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """Make a file that is its owner's alone; if anything goes wrong it is gone again."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise Conflict(f"{path} exists already: give another name, or remove it first") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write(stream: TextIO, given: list[MadeLink]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("tenant", "mailbox", "link", "until"))
    writer.writerows((one.tenant, one.mailbox, one.link, _iso(one.until)) for one in given)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}Z"
