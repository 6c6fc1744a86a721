"""A delivery as a person reads it: why it is where it is, its fields, its tries. Never its body."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.text import Text
from sqlalchemy import Connection

from console.output import cell, out, print_fields, printable
from models import audit, deliveries
from models.audit import Recorded
from models.deliveries import AttemptRow, Shown
from models.explain import standing
from models.lifecycle import State
from workers.reasons import meaning_of


@dataclass(frozen=True, slots=True)
class Whole:
    """
    All that is on record about a delivery, but its content.

    Attributes:
        why: Why it is where it is, in a sentence.
        by_people: What people did with it, the first first.
    """

    shown: Shown
    why: str
    by_people: tuple[Recorded, ...]


_DEEDS = {"replay": "Replayed", "discard": "Discarded", "cancel": "Cancelled"}
"""What the audit trail's words for deliveries are in a sentence."""


def gather(conn: Connection, id_or_prefix: str) -> Whole:
    """
    Read a delivery, why it is where it is, and who did what with it.

    Raises:
        NotFound, Conflict: No delivery has this id, or several begin so.
    """
    shown = deliveries.show(conn, id_or_prefix)
    key = shown.delivery.id
    return Whole(shown, standing(conn, key).sentence(), tuple(audit.of_delivery(conn, key)))


def as_json(whole: Whole) -> dict[str, object]:
    """Return all that is shown."""
    shown = whole.shown
    meaning = meaning_of(shown.delivery.reason)
    return {
        **asdict(shown.delivery),
        "severity": shown.delivery.severity.label,
        "why": whole.why,
        "meaning": meaning and meaning.meaning,
        "next_step": meaning and meaning.next_step,
        "tries": [{**asdict(t), "duration_ms": t.duration_ms} for t in shown.attempts],
        "by_people": [
            {
                "at": done.at,
                "actor": done.entry.actor,
                "action": done.entry.action,
                "reason": done.entry.reason,
                "detail": done.entry.detail,
            }
            for done in whole.by_people
        ],
    }


def print_delivery(whole: Whole) -> None:
    """Print it for a person."""
    shown = whole.shown
    delivery = shown.delivery
    out.print(Text(printable(whole.why), "bold"))
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
    for done in whole.by_people:
        out.print(Text(_by_whom(done)))
    for attempt in shown.attempts:
        _print_attempt(attempt)
    if not shown.attempts:
        out.print(Text("\nNot tried yet."))


def _by_whom(done: Recorded) -> str:
    """Write in a line who did what with it, when and why."""
    entry = done.entry
    deed = _DEEDS.get(entry.action, entry.action)
    why = f": {entry.reason}" if entry.reason else ", no reason given"
    forced = " (forced)" if entry.detail.get("forced") else ""
    return printable(f"{deed}{forced} by {entry.actor} at {cell(done.at)}{why}").replace(
        "\n", " / "
    )


def _print_attempt(attempt: AttemptRow) -> None:
    began = attempt.started_at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    counted = "" if attempt.counted else ", not counted"
    after = "" if attempt.outcome == attempt.rule else f", then {attempt.outcome}"
    out.print(
        Text.assemble(
            (f"\nTry {attempt.number}", "bold"),
            f"  {began}Z, {attempt.duration_ms} ms{counted}\n",
            f"  {attempt.stage}: {attempt.rule}{after}",
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
