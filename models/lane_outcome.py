"""What a visit reports of a delivery, and the form in which the database reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Float, Integer, Uuid
from sqlalchemy.types import TypeEngine

from models.batches import fitted
from models.ids import uuid7
from models.lifecycle import ACCEPT, Transition
from models.moves import DELIVERY
from models.quota import Spent
from models.tables import METADATA

_D = DELIVERY.c
_A = METADATA.tables["attempt"].c


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
    """The mail may have been sent anyway."""
    refused: dict[str, str] | None = None
    """Recipients refused for good in this try, each with the reply; added to earlier ones."""
    taken: dict[str, str] | None = None
    """Recipients that got the mail while others were put off, each with the reply."""
    attempt: AttemptRecord | None = None
    spent: Spent | None = None
    """What it counts towards the day's limits: the recipients that have it, or may have it."""
    key: UUID = field(default_factory=uuid7, compare=False, repr=False)
    """Of its attempt: it is known again where the answer to a commit was lost."""

    @property
    def may_be_out(self) -> bool:
        """Whether somebody has the mail, or may have it."""
        return self.transition is ACCEPT or self.uncertain or bool(self.taken)


OUTCOME_COLUMNS: dict[str, TypeEngine[Any]] = {
    "id": Uuid(),
    "visit": _D.claimed_by.type,
    "delay": Float(),
    "counted": Integer(),
    "reason": _D.reason.type,
    "uncertain": Integer(),
    "refused": _D.refused.type,
    "taken": _D.taken.type,
    "tried": Integer(),
    "attempt": Uuid(),
    "stage": _A.stage.type,
    "rule": _A.rule.type,
    "code": Integer(),
    "enhanced": _A.enhanced_code.type,
    "text": _A.reply_text.type,
    "host": _A.smtp_host.type,
    "worker": _A.worker.type,
    "seconds": Float(),
    "permit": Integer(),
    "recipients": Integer(),
}
"""The columns of ``as_row``."""


def as_row(outcome: Outcome) -> dict[str, Any]:
    """Flatten an outcome, its texts fit for where they go."""
    return fitted(_flat(outcome), OUTCOME_COLUMNS)


def _flat(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": outcome.delivery_id.hex,
        "visit": outcome.claimed_by,
        "delay": outcome.delay_seconds,
        "counted": int(outcome.counted),
        "reason": outcome.reason,
        "uncertain": int(outcome.uncertain),
        "tried": 0,
    }
    if outcome.refused:
        row["refused"] = outcome.refused
    if outcome.taken:
        row["taken"] = outcome.taken
    record = outcome.attempt
    if record is not None:
        row |= {
            "tried": 1,
            "attempt": outcome.key.hex,
            "stage": record.stage,
            "rule": record.rule,
            "code": record.reply_code,
            "enhanced": record.enhanced_code,
            "text": record.reply_text,
            "host": record.smtp_host,
            "worker": record.worker or outcome.claimed_by,
            "seconds": record.duration_ms / 1000,
            "permit": int(record.took_permit),
            "recipients": record.recipients,
        }
    return row
