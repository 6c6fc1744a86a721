"""One alert e-mail from the command line."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.text import Text

from console import when
from console.alert_options import STDIN, alert_from, pairs, read_attachment, read_text
from console.context import Context, opened
from console.following import exit_code, follow, look
from console.options import SeverityOption
from console.output import Json, complain, err, out, print_json
from console.waking import tell_if_nobody_sends
from models.alert import AlertEmail
from models.explain import Standing
from models.intake import Receipt
from models.lifecycle import State


def _many(name: str, text: str, metavar: str = "ADDRESS") -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(name, metavar=metavar, help=f"{text} Repeat it.")
    return found


def _one(name: str, text: str, metavar: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(name, metavar=metavar, help=text)
    return found


def _moment(name: str, text: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(
        name, parser=when.ahead, metavar="WHEN", help=f"{text}: 2h, 2026-11-01T08:00Z."
    )
    return found


def send(
    *,
    tenant: Annotated[str, _one("--tenant", "On whose behalf it goes out.", "SLUG")],
    subject: Annotated[str, _one("--subject", "One line that says what happened.", "TEXT")],
    to: Annotated[list[str] | None, _many("--to", "A recipient.")] = None,
    cc: Annotated[list[str] | None, _many("--cc", "Gets a copy.")] = None,
    bcc: Annotated[list[str] | None, _many("--bcc", "Gets a copy that nobody sees.")] = None,
    reply_to: Annotated[list[str] | None, _many("--reply-to", "Where answers go.")] = None,
    mailbox: Annotated[
        str | None, _one("--from", "Sender; else the tenant's default.", "MAILBOX")
    ] = None,
    text: Annotated[str | None, _one("--text", "The text itself.", "TEXT")] = None,
    text_file: Annotated[
        str | None, _one("--text-file", "The text from a file; - is standard input.", "FILE")
    ] = None,
    html_file: Annotated[
        str | None, _one("--html-file", "An HTML part from a file; - is standard input.", "FILE")
    ] = None,
    severity: SeverityOption = None,
    key: Annotated[
        str | None, _one("--key", "Idempotency key: accepted once for a tenant.", "KEY")
    ] = None,
    alert_id: Annotated[
        str | None, _one("--alert-id", "Mails of one alert form one thread.", "ID")
    ] = None,
    not_before: Annotated[datetime | None, _moment("--not-before", "Hold it until then")] = None,
    expires_at: Annotated[datetime | None, _moment("--expires-at", "Worthless after that")] = None,
    expires_in: Annotated[
        timedelta | None,
        typer.Option(parser=when.span, metavar="SPAN", help="Worthless after so long: 15m, 2h."),
    ] = None,
    header: Annotated[
        list[str] | None, _many("--header", "An extra header.", "'X-NAME: VALUE'")
    ] = None,
    attach: Annotated[list[str] | None, _many("--attach", "A file to attach.", "FILE")] = None,
    metadata: Annotated[
        list[str] | None, _many("--metadata", "Kept with it, never mailed.", "NAME=VALUE")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SECONDS",
            help="Follow it: exit 0 accepted, 1 dead or expired, 5 still waiting.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Send one alert e-mail."""
    _exclude(("--text", text), ("--text-file", text_file))
    _exclude(("--expires-at", expires_at), ("--expires-in", expires_in))
    if text_file == html_file == STDIN:
        raise typer.BadParameter("standard input can be read once", param_hint="--html-file")
    alert = alert_from(
        {
            "tenant": tenant,
            "mailbox": mailbox,
            "to": to,
            "cc": cc,
            "bcc": bcc,
            "reply_to": reply_to,
            "subject": subject,
            "text": read_text(text_file, "--text-file") if text_file else text,
            "html": html_file and read_text(html_file, "--html-file"),
            "severity": severity if severity is None else severity.label,
            "idempotency_key": key,
            "alert_id": alert_id,
            "not_before": not_before,
            "expires_at": expires_at if expires_in is None else _after(expires_in),
            "headers": pairs(header or (), "--header", ":"),
            "attachments": [read_attachment(file) for file in attach or ()],
            "metadata": pairs(metadata or (), "--metadata", "="),
        }
    )
    with opened() as context:
        _send(context, alert, wait=wait, as_json=as_json)


def _send(context: Context, alert: AlertEmail, *, wait: float | None, as_json: bool) -> None:
    receipt = context.producer.enqueue(alert)
    if not receipt.same_content:
        complain(
            f"the key was used before for a different alert, delivery {receipt.delivery_id}; "
            "this one was not taken"
        )
    if not as_json:
        out.print(Text(str(receipt.delivery_id)))
    if wait is None:
        found = look(context.engine, receipt.delivery_id)
    else:
        found = _followed(context, receipt, wait)
    if as_json:
        print_json(_as_json(receipt, found))
    else:
        if not receipt.created and receipt.same_content:
            out.print(Text("Accepted before under this key; nothing was added."))
        out.print(Text(found.sentence()))
    if found.delivery.state is State.QUEUED:
        tell_if_nobody_sends(context)
    if wait is not None:
        raise typer.Exit(exit_code(found.delivery.state))


def _followed(context: Context, receipt: Receipt, seconds: float) -> Standing:
    with err.status(Text("…")) if err.is_terminal else nullcontext() as status:

        def tell(sentence: str) -> None:
            if status is not None:
                status.update(Text(sentence))

        return follow(context.engine, receipt.delivery_id, seconds=seconds, tell=tell)


def _as_json(receipt: Receipt, found: Standing) -> dict[str, object]:
    return {
        "id": receipt.delivery_id,
        "mailbox": found.mailbox.address,
        "created": receipt.created,
        "same_content": receipt.same_content,
        "state": found.delivery.state,
        "severity": found.delivery.severity.label,
        "reason": found.delivery.reason,
        "why": found.sentence(),
    }


def _after(span: timedelta) -> datetime:
    try:
        return datetime.now(UTC) + span
    except OverflowError as error:
        raise typer.BadParameter("is beyond the calendar", param_hint="--expires-in") from error


def _exclude(*options: tuple[str, object]) -> None:
    if all(value is not None for _, value in options):
        names = " and ".join(name for name, _ in options)
        raise typer.BadParameter(f"{names} exclude each other", param_hint=options[-1][0])
