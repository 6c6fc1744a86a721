"""
The lane: every statement that moves deliveries between being accepted and being settled.

    claimed = lane.claim(conn, mailbox_id=…, claimed_by=visit, limit=10, lease_seconds=20)
    lane.settle(conn, [Outcome(…, transition=lifecycle.ACCEPT, …)])

All functions take a connection in a transaction of ``database.write``; nothing here commits.
"""

from __future__ import annotations

from models.lane_claim import Claimed, Wish, claim, claim_many, give_back, renew
from models.lane_clock import call_back, clock_was_set
from models.lane_due import due
from models.lane_look import Found, Look, look
from models.lane_outcome import AttemptRecord, Outcome
from models.lane_park import (
    Scope,
    leave_probe,
    park,
    pause,
    resume,
    resume_scope,
    take_probe,
    unpause,
)
from models.lane_recent import Recent, recent_submissions
from models.lane_recover import Begun, abandoned_visits, recover
from models.lane_settle import settle
from models.lane_sweep import Sweep, cancel, end_left_behind, expire, sweep
from models.quota_claim import Granted, claim_within

__all__ = [
    "AttemptRecord",
    "Begun",
    "Claimed",
    "Found",
    "Granted",
    "Look",
    "Outcome",
    "Recent",
    "Scope",
    "Sweep",
    "Wish",
    "abandoned_visits",
    "call_back",
    "cancel",
    "claim",
    "claim_many",
    "claim_within",
    "clock_was_set",
    "due",
    "end_left_behind",
    "expire",
    "give_back",
    "leave_probe",
    "look",
    "park",
    "pause",
    "recent_submissions",
    "recover",
    "renew",
    "resume",
    "resume_scope",
    "settle",
    "sweep",
    "take_probe",
    "unpause",
]  # fmt: skip
