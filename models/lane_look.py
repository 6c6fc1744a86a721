"""
What visits find when they come to their lanes: the sender, and what they may send of it.

Hundreds of visits look at the same moment. A statement costs as much as what it does for one of
them, so those to which nothing special applies share a few; the others are served one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

from models import database, host_holds
from models.alert import MAX_RECIPIENTS
from models.lane_claim import Wish, claim_many
from models.lane_park import leave_probe, take_probe
from models.quota import RECIPIENTS, DayLimits
from models.quota_claim import AGAIN_SECONDS, Granted, claim_within
from models.quota_counts import account_totals, alone_among
from models.senders import Sender, senders_by_mailbox

LEAST_WAIT = 1.0
"""Seconds until it is worth looking again, where a probe of a held host is due or under way."""

PROBE_SECONDS = 600.0
"""Within which the answer to a probe is there, or its worker is dead and another may probe."""


@dataclass(frozen=True, slots=True)
class Look:
    """
    What a visit wants to know.

    Attributes:
        wish: Which lane, for whom, and how much of it at most.
        sender: As read lately, None where it is to be read.
    """

    wish: Wish
    sender: Sender | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """
    What is there.

    Attributes:
        sender: None if there is no such mailbox.
        granted: The claims, and what has to wait.
        probing: The mailbox is parked, and the one claim tries whether the cause is gone.
        now: By the database's clock, where a claim has a deadline.
        read: Whether the sender was read just now.
        held_seconds: Its server refuses our address: nobody tries for so long; None: it does not.
        probing_host: The one claim tries whether that has changed.
    """

    sender: Sender | None
    granted: Granted
    probing: bool = False
    now: datetime | None = None
    read: bool = True
    held_seconds: float | None = None
    probing_host: bool = False


def look(
    conn: Connection,
    looks: Sequence[Look],
    *,
    limits: DayLimits,
    lease_seconds: float,
    sends_from: str = "",
) -> list[Found]:
    """
    Claim what visits may send, within the limits of the day.

    Args:
        conn: A transaction that may write.
        looks: Any number, of any mailboxes.
        limits: What holds for every mailbox.
        lease_seconds: As for ``lane.claim``.
        sends_from: Which of our addresses the visits would send from, see ``host_holds``.
    """
    unread = {one.wish.mailbox_id for one in looks if one.sender is None}
    read = senders_by_mailbox(conn, unread)
    senders = [one.sender or read.get(one.wish.mailbox_id) for one in looks]
    found: list[Found | None] = [None] * len(looks)
    holds = host_holds.waits(conn, sends_from)
    plain = _plain(senders, holds)
    granted = _grant_together(
        conn, [(looks[i].wish, senders[i]) for i in plain], limits, lease_seconds
    )
    for i, one in zip(plain, granted, strict=True):
        if one is not None:
            found[i] = Found(senders[i], one, read=looks[i].sender is None)
    for i, one_look in enumerate(looks):
        if found[i] is None:
            sender = senders[i]
            if sender is not None and sender.smtp_host in holds:
                found[i] = _behind_hold(
                    conn, one_look.wish, sender, limits, lease_seconds, sends_from
                )
            else:
                found[i] = _alone(conn, one_look.wish, sender, limits, lease_seconds)
    return _complete(conn, looks, [one for one in found if one is not None])


def _plain(senders: Sequence[Sender | None], holds: Collection[str]) -> list[int]:
    """Pick those that can be served together: nothing of the mailbox's state asks for more."""
    accounts: set[str] = set()
    plain = []
    for i, sender in enumerate(senders):
        if (
            sender is not None
            and sender.connected
            and sender.parked_at is None
            and sender.smtp_host not in holds
            # After a pause one mail tries first, and it is chosen.
            and not sender.pause_count
            and sender.pause_reason != RECIPIENTS
            and sender.external_limit is None
            # Of one account, one after the other: what the first takes counts for the second.
            and sender.auth_user not in accounts
        ):
            accounts.add(sender.auth_user)
            plain.append(i)
    return plain


def _grant_together(
    conn: Connection,
    wanted: Sequence[tuple[Wish, Sender | None]],
    limits: DayLimits,
    lease_seconds: float,
) -> list[Granted | None]:
    """Serve all that have room for whatever they claim; None for those that may not have it."""
    roomy = [True] * len(wanted)
    granted: list[Granted | None] = [None] * len(wanted)
    if limits.recipients and wanted:
        accounts = [sender.auth_user for _, sender in wanted if sender is not None]
        ours = alone_among(conn, accounts)
        used = account_totals(conn, accounts, window_seconds=limits.window_seconds)
        most = limits.recipients - limits.critical_reserve
        for i, (account, (wish, _)) in enumerate(zip(accounts, wanted, strict=True)):
            roomy[i] = account in ours and used[account] + wish.limit * MAX_RECIPIENTS <= most
            if account not in ours:
                granted[i] = Granted(wait_seconds=AGAIN_SECONDS)
    served = [i for i, has_room in enumerate(roomy) if has_room]
    claims = claim_many(conn, [wanted[i][0] for i in served], lease_seconds=lease_seconds)
    for i, claimed in zip(served, claims, strict=True):
        granted[i] = Granted(claimed)
    return granted


def _behind_hold(  # noqa: PLR0917 - what ``look`` was given
    conn: Connection,
    wish: Wish,
    sender: Sender,
    limits: DayLimits,
    lease_seconds: float,
    sends_from: str,
) -> Found:
    """Let one visit at a time see whether the server takes our address again, with one mail."""
    this = {"smtp_host": sender.smtp_host, "sends_from": sends_from}
    may_send = sender.connected and sender.parked_at is None
    if not may_send or not host_holds.take_probe(conn, **this):
        wait = max(host_holds.waits(conn, sends_from).get(sender.smtp_host, 0.0), LEAST_WAIT)
        return Found(sender, Granted(), held_seconds=wait)
    found = _alone(conn, wish, sender, limits, lease_seconds, probing_host=True)
    if not found.granted.claims:
        host_holds.leave_probe(conn, **this)
        return found
    return replace(found, probing_host=True)


def _alone(
    conn: Connection,
    wish: Wish,
    sender: Sender | None,
    limits: DayLimits,
    lease_seconds: float,
    *,
    probing_host: bool = False,
) -> Found:
    """Serve a visit by itself, with all that may apply to it."""
    if sender is None or not sender.connected:
        return Found(sender, Granted())
    probing = sender.parked_at is not None and take_probe(
        conn, mailbox_id=wish.mailbox_id, again_seconds=PROBE_SECONDS
    )
    # Whether a lane goes again is not asked with the mail that stopped it, if there is another.
    careful = probing or probing_host or sender.pause_count > 0
    granted = claim_within(
        conn,
        sender=sender,
        limits=limits,
        claimed_by=wish.claimed_by,
        limit=1 if careful else wish.limit,
        lease_seconds=lease_seconds,
        only_critical=wish.only_critical,
        probing=probing,
        careful=careful,
    )
    if probing and not granted.claims:
        leave_probe(conn, mailbox_id=wish.mailbox_id)
    return Found(sender, granted, probing)


def _complete(conn: Connection, looks: Sequence[Look], found: Sequence[Found]) -> list[Found]:
    """Read again whose lane gave nothing, to tell why; tell the time to whom it matters."""
    stale = {
        one.wish.mailbox_id
        for one, there in zip(looks, found, strict=True)
        if one.sender is not None and not there.granted.claims
    }
    # Parked or paused meanwhile, or with nothing to do? The row tells.
    read = senders_by_mailbox(conn, stale)
    timed = any(claim.expires_at is not None for one in found for claim in one.granted.claims)
    now = database.now(conn) if timed else None
    return [
        replace(
            there,
            sender=read.get(one.wish.mailbox_id) if one.wish.mailbox_id in stale else there.sender,
            read=there.read or one.wish.mailbox_id in stale,
            now=now,
        )
        for one, there in zip(looks, found, strict=True)
    ]
