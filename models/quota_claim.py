"""Claiming no more than may still be sent today."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Connection, Float, Uuid, bindparam, null, or_, update

from models.clock import utc_after
from models.lane_claim import Claimed, claim, give_back
from models.lifecycle import RETURN
from models.lookups import MAILBOX
from models.moves import DELIVERY, move
from models.quota import EXTERNAL, RECIPIENTS, DayLimits, Usage, external, tenant_subject
from models.quota_counts import (
    accepted_domains,
    account_usage,
    alone,
    external_usage,
)
from models.senders import Sender
from models.severity import Severity

AGAIN_SECONDS = 0.02
"""When to look again where another worker claims for the same account at this moment."""

_LOOKS = 50
"""How many times a claim looks past mails that do not fit, before it lets others have a turn."""

_RETRY_SECONDS = 5.0
"""When to look again where what is in hand stands in the way; it is settled by then."""

_UNLIMITED = 2**62

_D = DELIVERY.c


@dataclass(slots=True)
class Granted:
    """
    What a visit may send.

    Attributes:
        claims: In the order of the lane.
        wait_seconds: When it is worth looking again, where something has to wait.
        paused: The mailbox waits as a whole, as SQL says by now.
        domains: The tenant's own, where its external recipients are counted.
    """

    claims: list[Claimed] = field(default_factory=list)
    wait_seconds: float | None = None
    paused: bool = False
    domains: frozenset[str] | None = None

    def wait(self, seconds: float) -> None:
        """Look again after so long, or earlier if something else says so."""
        known = self.wait_seconds
        self.wait_seconds = seconds if known is None else min(known, seconds)


@dataclass(slots=True)
class _Room:
    """What is left of one limit while claims are taken from it."""

    usage: Usage
    limit: int
    reserve: int
    window_seconds: float
    retry_seconds: float
    taken: int = 0

    def left(self, *, critical: bool) -> int:
        return self._most(critical=critical) - self.usage.total - self.taken

    def seconds_until(self, recipients: int, *, critical: bool) -> float:
        most = self._most(critical=critical)
        if recipients > most:
            # It never fits. Looked at once in a window, it costs nothing and is seen to wait.
            return self.window_seconds
        usage = Usage(self.usage.buckets, self.usage.in_hand + self.taken)
        return usage.seconds_until(recipients, limit=most, retry_seconds=self.retry_seconds)

    def _most(self, *, critical: bool) -> int:
        return self.limit if critical else self.limit - self.reserve


@dataclass(slots=True)
class _Rooms:
    account: _Room
    outside: _Room
    domains: frozenset[str] | None


def claim_within(
    conn: Connection,
    *,
    sender: Sender,
    limits: DayLimits,
    claimed_by: str,
    limit: int,
    lease_seconds: float,
    only_critical: bool = False,
    probing: bool = False,
    careful: bool = False,
) -> Granted:
    """
    Take what is due from a lane, as ``lane.claim`` does, as far as the day's limits have room.

    Claims of one account run one after the other, and what is claimed counts until it is settled.
    A mail that does not fit is due again when it would; the ones behind it go on. Where no room
    is left at all, the mailbox pauses until some is; criticals that come go out of the reserve.
    """
    take = partial(
        claim,
        conn,
        mailbox_id=sender.mailbox_id,
        claimed_by=claimed_by,
        lease_seconds=lease_seconds,
        careful=careful,
    )
    granted = Granted()
    if sender.external_limit is not None:
        granted.domains = accepted_domains(conn, sender.tenant_id)
    subjects = _limited(sender, limits)
    if not subjects:
        granted.claims = take(limit=limit, only_critical=only_critical, probing=probing)
        return granted
    if not alone(conn, subjects):
        granted.wait(AGAIN_SECONDS)
        return granted
    rooms = _rooms(conn, sender, limits, granted.domains)
    resting = _rests(conn, sender, rooms)
    for _ in range(_LOOKS):
        if rooms.account.left(critical=True) < 1 or len(granted.claims) >= limit:
            break
        used_up = rooms.account.left(critical=False) < 1
        claims = take(
            limit=limit - len(granted.claims),
            only_critical=only_critical or used_up,
            probing=probing or resting,
        )
        if not claims:
            break
        granted.claims += _fitting(conn, claims, rooms, granted, claimed_by)
    if not granted.claims and rooms.account.left(critical=False) < 1:
        _pause(conn, sender, rooms.account, granted)
    return granted


def _limited(sender: Sender, limits: DayLimits) -> list[str]:
    """Name what is limited, in one order for everybody."""
    subjects = [sender.auth_user] if limits.recipients else []
    if sender.external_limit is not None:
        subjects.append(tenant_subject(sender.tenant_id))
    return subjects


def _rooms(
    conn: Connection, sender: Sender, limits: DayLimits, domains: frozenset[str] | None
) -> _Rooms:
    retry = min(limits.bucket_seconds, _RETRY_SECONDS)
    window = limits.window_seconds
    account = _Room(Usage((), 0), _UNLIMITED, 0, window, retry)
    outside = _Room(Usage((), 0), _UNLIMITED, 0, window, retry)
    if limits.recipients:
        usage = account_usage(conn, sender.auth_user, window_seconds=window)
        account = _Room(usage, limits.recipients, limits.critical_reserve, window, retry)
    if sender.external_limit is not None and domains is not None:
        usage = external_usage(conn, sender.tenant_id, domains, window_seconds=window)
        outside = _Room(usage, sender.external_limit, 0, window, retry)
    return _Rooms(account, outside, domains)


def _fitting(
    conn: Connection, claims: Sequence[Claimed], rooms: _Rooms, granted: Granted, visit: str
) -> list[Claimed]:
    """Keep the claims for which there is room; put the others off, or give them back."""
    kept, back = [], []
    for one in claims:
        critical = one.severity == Severity.CRITICAL
        left = [a for a in one.recipients if a not in one.refused and a not in one.taken]
        outside = 0 if rooms.domains is None else external(left, rooms.domains)
        for room, need, reason in (
            (rooms.account, len(left), RECIPIENTS),
            (rooms.outside, outside, EXTERNAL),
        ):
            if need <= max(room.left(critical=critical), 0):
                continue
            if room is rooms.account and room.left(critical=critical) < 1:
                # Nothing of its kind fits: the lane waits, not each mail of it.
                back.append(one.id)
            else:
                wait = room.seconds_until(need, critical=critical)
                granted.wait(wait)
                conn.execute(
                    _PUT_OFF,
                    {"visit": visit, "delivery": one.id, "wait": wait, "why": reason},
                )
            break
        else:
            rooms.account.taken += len(left)
            rooms.outside.taken += outside
            kept.append(one)
    give_back(conn, claimed_by=visit, ids=back)
    return kept


def _rests(conn: Connection, sender: Sender, rooms: _Rooms) -> bool:
    """Say whether the mailbox pauses for this limit; a pause that is no longer needed ends."""
    if sender.parked_at is not None or sender.pause_reason != RECIPIENTS:
        return False
    if rooms.account.left(critical=False) < 1:
        return True
    conn.execute(_GO_ON, {"mailbox": sender.mailbox_id})
    return False


def _pause(conn: Connection, sender: Sender, room: _Room, granted: Granted) -> None:
    wait = room.seconds_until(1, critical=False)
    granted.wait(wait)
    paused = conn.execute(
        _PAUSE, {"mailbox": sender.mailbox_id, "wait": wait, "why": RECIPIENTS}
    ).rowcount
    granted.paused = bool(paused) and sender.pause_reason != RECIPIENTS


_MAILBOX = bindparam("mailbox", type_=Uuid())
_WAIT = utc_after(bindparam("wait", type_=Float()))

_PUT_OFF = (
    move(RETURN)
    .where(
        _D.id == bindparam("delivery", type_=Uuid()),
        _D.claimed_by == bindparam("visit", type_=_D.claimed_by.type),
    )
    .values(
        claimed_by=null(),
        claimed_until=null(),
        due_at=_WAIT,
        reason=bindparam("why", type_=_D.reason.type),
    )
)

_PAUSE = (
    update(MAILBOX)
    .where(
        MAILBOX.c.id == _MAILBOX,
        # A longer pause for another cause stays.
        or_(MAILBOX.c.paused_until.is_(None), MAILBOX.c.paused_until < _WAIT),
    )
    .values(paused_until=_WAIT, pause_reason=bindparam("why", type_=MAILBOX.c.pause_reason.type))
)

_GO_ON = (
    update(MAILBOX)
    .where(MAILBOX.c.id == _MAILBOX, MAILBOX.c.pause_reason == RECIPIENTS)
    .values(paused_until=null(), pause_reason=null())
)
