"""A delivery as a person reads it: why it is where it is, its fields, its tries. Never its body."""

from __future__ import annotations

from dataclasses import asdict

from rich.text import Text
from sqlalchemy import Connection

from console.output import out, print_fields, printable
from models import deliveries
from models.deliveries import AttemptRow, Shown
from models.explain import standing
from models.lifecycle import State
from workers.reasons import meaning_of


def gather(conn: Connection, id_or_prefix: str) -> tuple[Shown, str]:
    """
    Read a delivery and why it is where it is.

    Raises:
        NotFound, Conflict: No delivery has this id, or several begin so.
    """
    shown = deliveries.show(conn, id_or_prefix)
    return shown, standing(conn, shown.delivery.id).sentence()


def as_json(shown: Shown, why: str) -> dict[str, object]:
    """Give all that is shown."""
    meaning = meaning_of(shown.delivery.reason)
    return {
        **asdict(shown.delivery),
        "severity": shown.delivery.severity.label,
        "why": why,
        "meaning": meaning and meaning.meaning,
        "next_step": meaning and meaning.next_step,
        "tries": [{**asdict(t), "duration_ms": t.duration_ms} for t in shown.attempts],
    }


def print_delivery(shown: Shown, why: str) -> None:
    """Print it for a person."""
    delivery = shown.delivery
    out.print(Text(printable(why), "bold"))
    meaning = meaning_of(delivery.reason)
    if meaning is not None and delivery.state is not State.ACCEPTED:
        out.print(Text(f"What this means: {meaning.meaning} Next step: {meaning.next_step}"))
    out.print()
    print_fields(
        {
            "id": delivery.id,
            "tenant": delivery.tenant,
            "mailbox": delivery.mailbox,
            "state": delivery.state,
            "severity": delivery.severity.label,
            "subject": delivery.subject,
            "recipients": delivery.recipients,
            "alert id": delivery.alert_id,
            "message id": delivery.message_id,
            "enqueued": delivery.enqueued_at,
            "due": delivery.due_at if delivery.state is State.QUEUED else None,
            "expires": delivery.expires_at,
            "settled": delivery.settled_at,
            "counted tries": delivery.attempts,
            "reason": delivery.reason,
            "may have arrived twice": True if delivery.uncertain else None,
            "replayed": delivery.replayed or None,
        }
    )
    _print_refused(delivery.refused)
    for attempt in shown.attempts:
        _print_attempt(attempt)
    if not shown.attempts:
        out.print(Text("\nNot tried yet."))


def _print_attempt(attempt: AttemptRow) -> None:
    began = attempt.started_at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    counted = "" if attempt.counted else ", not counted"
    out.print(
        Text.assemble(
            (f"\nTry {attempt.number}", "bold"),
            f"  {began}Z, {attempt.duration_ms} ms{counted}\n",
            f"  at {attempt.stage}: {attempt.rule}, then {attempt.outcome}",
            f"  (host {attempt.smtp_host}, worker {attempt.worker})" if attempt.smtp_host else "",
        )
    )
    if reply := reply_of(attempt.reply_code, attempt.reply_text):
        _print_indented(reply)
    if attempt.uncertain:
        _print_indented("Its fate is unknown: the mail may have been taken.")
    if attempt.refused:
        _print_refused(attempt.refused, indent="  ")


def reply_of(code: int | None, text: str | None) -> str:
    """Write a reply as it came, its code in front."""
    return printable(" ".join(part for part in (str(code or ""), text or "") if part))


def _print_refused(refused: dict[str, str], indent: str = "") -> None:
    for address, reply in refused.items():
        out.print(Text(f"{indent}refused  {address}: {printable(reply)}"))


def _print_indented(text: str) -> None:
    for line in text.split("\n"):
        out.print(Text(f"    {line}"))
