"""Whose fault a refusal is: what the server did with this mail before, and with others since."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, exists, func, select

from models.stages import Stage
from models.tables import METADATA

_ATTEMPT = METADATA.tables["attempt"]
_A = _ATTEMPT.c

MAIL_STAGES = frozenset({Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.BODY})
"""Where a mail is in hand: what is refused here may concern it, or its mailbox."""

_TAKEN = ("accepted", "recipients-deferred", "recipients-split")
"""Rules of tries with which a mail went out, at least to some."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    What speaks for the mail or for the mailbox as the cause of a refusal.

    Attributes:
        mine: How often this mail was refused so before.
        others_taken: Another mail of the mailbox went out since this one was first refused so.
        others_refused: Another one was refused so, and none went out since.
    """

    mine: int = 0
    others_taken: bool = False
    others_refused: bool = False


def evidence(
    conn: Connection, *, delivery_id: UUID, mailbox_id: UUID, rules: Collection[str]
) -> Evidence:
    """
    Look at the tries of a mailbox.

    Args:
        conn: An open transaction.
        delivery_id: The mail that was refused just now.
        mailbox_id: Its mailbox.
        rules: The refusal's rule, and the one that it turns into when it repeats.
    """
    stages = [stage.value for stage in MAIL_STAGES]
    refused = (_A.rule.in_(rules), _A.stage.in_(stages))
    mine, first = conn.execute(
        select(func.count(), func.min(_A.finished_at)).where(
            _A.delivery_id == delivery_id, *refused
        )
    ).one()
    of_others = (_A.mailbox_id == mailbox_id, _A.delivery_id != delivery_id)
    last_taken = conn.scalar(
        select(func.max(_A.finished_at)).where(*of_others, _A.rule.in_(_TAKEN))
    )
    since = [] if last_taken is None else [_A.finished_at > last_taken]
    return Evidence(
        mine=mine,
        others_taken=bool(mine) and last_taken is not None and last_taken > first,
        others_refused=bool(conn.scalar(select(exists().where(*of_others, *refused, *since)))),
    )
