"""What a visit reports of a delivery, and the form in which the database reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, Float, Integer, Text, Uuid
from sqlalchemy.types import TypeEngine

from models.batches import plain
from models.ids import uuid7
from models.lifecycle import Transition
from models.quota import Spent

_REPLY_LIMIT = 4000
"""Characters kept of a reply; real ones have a few hundred."""


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One try, as its row will say."""

    stage: str
    rule: str
    reply_code: int | None = None
    enhanced_code: str | None = None
    reply_text: str | None = None
    smtp_host: str = ""
    worker: str = ""
    duration_ms: float = 0.0
    took_permit: bool = False
    """Whether it reached the server's rate limit."""
    recipients: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one claimed delivery."""

    delivery_id: UUID
    mailbox_id: UUID
    claimed_by: str
    transition: Transition
    delay_seconds: float | None = None
    """Due again after so long; None leaves the due time as it was."""
    counted: bool = False
    """Whether this try counts towards the most attempts allowed."""
    reason: str | None = None
    uncertain: bool = False
    """The mail may have been sent all the same."""
    refused: dict[str, str] | None = None
    """Recipients refused for good in this try, each with the reply; added to earlier ones."""
    taken: dict[str, str] | None = None
    """Recipients that got the mail while others were put off, each with the reply."""
    attempt: AttemptRecord | None = None
    spent: Spent | None = None
    """What it counts towards the day's limits: the recipients that have it, or may have it."""


OUTCOME_COLUMNS: dict[str, TypeEngine[Any]] = {
    "id": Uuid(),
    "visit": Text(),
    "delay": Float(),
    "counted": Integer(),
    "reason": Text(),
    "uncertain": Integer(),
    "refused": JSON(),
    "taken": JSON(),
    "tried": Integer(),
    "attempt": Uuid(),
    "stage": Text(),
    "rule": Text(),
    "code": Integer(),
    "enhanced": Text(),
    "text": Text(),
    "host": Text(),
    "worker": Text(),
    "seconds": Float(),
    "permit": Integer(),
    "recipients": Integer(),
}
"""The columns of ``as_row``."""


def as_row(outcome: Outcome) -> dict[str, Any]:
    """Flatten an outcome; a fresh key for its attempt included."""
    row: dict[str, Any] = {
        "id": outcome.delivery_id.hex,
        "visit": outcome.claimed_by,
        "delay": outcome.delay_seconds,
        "counted": int(outcome.counted),
        "reason": plain(outcome.reason, 100),
        "uncertain": int(outcome.uncertain),
        "tried": 0,
    }
    if outcome.refused:
        row["refused"] = {plain(k): plain(v, _REPLY_LIMIT) for k, v in outcome.refused.items()}
    if outcome.taken:
        row["taken"] = {plain(k): plain(v, _REPLY_LIMIT) for k, v in outcome.taken.items()}
    record = outcome.attempt
    if record is not None:
        row |= {
            "tried": 1,
            "attempt": uuid7().hex,
            "stage": record.stage,
            "rule": plain(record.rule, 100),
            "code": record.reply_code,
            "enhanced": plain(record.enhanced_code, 12),
            "text": plain(record.reply_text, _REPLY_LIMIT),
            "host": plain(record.smtp_host, 255),
            "worker": plain(record.worker or outcome.claimed_by, 80),
            "seconds": record.duration_ms / 1000,
            "permit": int(record.took_permit),
            "recipients": record.recipients,
        }
    return row
