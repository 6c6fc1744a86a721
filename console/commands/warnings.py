"""``alertpost warnings``: what the operator was told by mail, and a mail that proves the way."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from console.actor import As, actor
from console.context import Context, opened
from console.following import exit_code, follow
from console.options import Limit, Since
from console.output import Json, cell, out, print_json
from console.status_json import operator_json
from console.waking import tell_if_nobody_sends
from console.warnings_view import as_json as thing_json
from console.warnings_view import print_things, things
from models import audit, told_warnings
from models.database import read, write
from models.errors import ConfigurationError, Conflict, NotFound
from models.lifecycle import State
from models.operator_mailbox import NOT_SET, OperatorMailbox, operator_mailbox
from workers.warning_mail import trial_mail


def warnings(
    *,
    since: Since = None,
    limit: Limit = 50,
    test: Annotated[
        bool, typer.Option("--test", help="Mail one now, and tell what becomes of it.")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="With --test: follow it so long.")
    ] = 60.0,
    as_json: Json = False,
    who: As = None,
) -> None:
    """
    List what the operator was warned of by mail: when, to whom, by which mail.

    Workers mail before a secret, a certificate or a grant ends, when mailboxes are lost, and when
    they are back, once ALERTPOST_OPERATOR_MAILBOX names one of the mailboxes here.

    With --test the exit code is 0 where the mail was accepted, 1 where it will not go, 5 where it
    waits still.
    """
    with opened() as context:
        if test:
            _test(context, wait=wait, as_json=as_json, who=actor(who))
        with read(context.engine) as conn:
            operator = operator_mailbox(conn, context.settings)
            shown = things(told_warnings.told(conn, since=since))[:limit]
    if as_json:
        print_json({"warnings": operator_json(operator), "told": [thing_json(o) for o in shown]})
        return
    says = NOT_SET if operator is None else operator.sentence()
    out.print(Text(cell(f"Warnings are {says}.")))
    if operator is not None and operator.command is not None:
        out.print(Text(cell(f"Next: `{operator.command}`.")))
    out.print()
    print_things(shown)


def _test(context: Context, *, wait: float, as_json: bool, who: str) -> None:
    with read(context.engine) as conn:
        operator = _usable(operator_mailbox(conn, context.settings))
    receipt = context.producer.enqueue(trial_mail(operator))
    with write(context.engine) as conn:
        audit.write(
            conn,
            audit.Entry(
                who, "warnings-test", "mailbox", operator.address,
                detail={"delivery": str(receipt.delivery_id)},
            ),
        )  # fmt: skip
    if not as_json:
        out.print(Text(cell(f"{receipt.delivery_id}  to {', '.join(operator.recipients)}")))
    found = follow(context.engine, receipt.delivery_id, seconds=wait, tell=_say_nothing)
    state = found.delivery.state
    if as_json:
        told: dict[str, Any] = {"id": receipt.delivery_id, "state": state, "why": found.sentence()}
        print_json({"warnings": operator_json(operator), "test": told})
    else:
        out.print(Text(cell(found.sentence())))
    if state is State.QUEUED:
        tell_if_nobody_sends(context)
    raise typer.Exit(exit_code(state))


def _usable(operator: OperatorMailbox | None) -> OperatorMailbox:
    if operator is None:
        raise ConfigurationError(
            "ALERTPOST_OPERATOR_MAILBOX is not set: name one of the mailboxes of "
            "`alertpost mailboxes list`, best one of your own, and start the workers again"
        )
    if operator.trouble is not None:
        kind = NotFound if operator.sender is None else Conflict
        raise kind(f"{operator.trouble}; next: `{operator.command}`")
    return operator


def _say_nothing(_: str) -> None:
    """Follow without a word; the end is told."""
