"""One plain sentence: why a delivery is where it is, and what would help."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from shlex import quote
from uuid import UUID

from sqlalchemy import Connection, and_, func, or_, select

from models import host_holds
from models.clock import utc_now
from models.clouds import resolve
from models.database import now
from models.errors import NotFound
from models.host_holds import HostHold
from models.lifecycle import State
from models.lookups import BY_HAND, MAILBOX, TENANT
from models.moves import DELIVERY, in_state
from models.quota import EXTERNAL, RECIPIENTS
from models.severity import Severity

PER_MINUTE = 30
"""Mails that Exchange takes from one mailbox in a minute."""

QUOTA_WORDS = {
    RECIPIENTS: "there is no room for it in the recipients that its account may reach in 24 hours",
    EXTERNAL: "there is no room for it in the external recipients that its tenant may reach in "
    "24 hours",
}
"""Reasons that are no answer of a server, so that nothing will be tried "again"."""

_SECONDS_A_MINUTE = 60
_MINUTES_AN_HOUR = 60
_ROUGHLY = 2
_HOURS_A_DAY = 24


@dataclass(frozen=True, slots=True)
class DeliveryStanding:
    """
    What a sentence about a delivery needs to know of it.

    Attributes:
        ahead: Due deliveries of the same lane that are more severe or older.
        id: For the commands that the sentence names.
        tries: Attempts so far, counted or not counted alike.
    """

    state: State
    severity: Severity
    enqueued_at: datetime
    due_at: datetime
    expires_at: datetime | None = None
    settled_at: datetime | None = None
    claimed_by: str | None = None
    attempts: int = 0
    reason: str | None = None
    reply_code: int | None = None
    reply_text: str | None = None
    recipients: int = 1
    refused: int = 0
    uncertain: bool = False
    ahead: int = 0
    id: UUID | None = None


@dataclass(frozen=True, slots=True)
class MailboxStanding:
    """What a sentence about a delivery needs to know of its mailbox."""

    address: str
    connected_at: datetime | None = None
    parked_at: datetime | None = None
    park_reason: str | None = None
    park_meaning: str | None = None
    park_next_step: str | None = None
    probe_at: datetime | None = None
    paused_until: datetime | None = None
    pause_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A delivery, its mailbox and the moment, as one transaction saw them."""

    delivery: DeliveryStanding
    mailbox: MailboxStanding
    now: datetime
    hold: HostHold | None = None

    def sentence(self) -> str:
        """Say why the delivery is where it is."""
        return why_waiting(self.delivery, self.mailbox, self.now, self.hold)


def standing(conn: Connection, delivery_id: UUID) -> Standing:
    """
    Gather what ``why_waiting`` needs.

    Raises:
        NotFound: There is no such delivery.
    """
    row = conn.execute(
        select(
            DELIVERY.c.state,
            DELIVERY.c.severity,
            DELIVERY.c.enqueued_at,
            DELIVERY.c.due_at,
            DELIVERY.c.expires_at,
            DELIVERY.c.settled_at,
            DELIVERY.c.claimed_by,
            DELIVERY.c.attempts,
            DELIVERY.c.reason,
            DELIVERY.c.reply_code,
            DELIVERY.c.reply_text,
            DELIVERY.c.recipients,
            DELIVERY.c.refused,
            DELIVERY.c.uncertain,
            DELIVERY.c.mailbox_id,
            TENANT.c.smtp_host,
            TENANT.c.cloud,
            *(MAILBOX.c[name] for name in MailboxStanding.__dataclass_fields__),
        )
        .join_from(DELIVERY, MAILBOX, DELIVERY.c.mailbox_id == MAILBOX.c.id)
        .join(TENANT, MAILBOX.c.tenant_id == TENANT.c.id)
        .where(DELIVERY.c.id == delivery_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no delivery {delivery_id}")
    state = State(row.state)
    ahead = 0
    if state is State.QUEUED:
        ahead = conn.execute(
            select(func.count())
            .select_from(DELIVERY)
            .where(
                DELIVERY.c.mailbox_id == row.mailbox_id,
                in_state(State.QUEUED),
                DELIVERY.c.due_at <= utc_now(),
                or_(
                    DELIVERY.c.severity < row.severity,
                    and_(
                        DELIVERY.c.severity == row.severity,
                        or_(
                            DELIVERY.c.due_at < row.due_at,
                            and_(DELIVERY.c.due_at == row.due_at, DELIVERY.c.id < delivery_id),
                        ),
                    ),
                ),
            )
        ).scalar_one()
    return Standing(
        delivery=DeliveryStanding(
            id=delivery_id,
            state=state,
            severity=Severity(row.severity),
            enqueued_at=row.enqueued_at,
            due_at=row.due_at,
            expires_at=row.expires_at,
            settled_at=row.settled_at,
            claimed_by=row.claimed_by,
            attempts=row.attempts,
            reason=row.reason,
            reply_code=row.reply_code,
            reply_text=row.reply_text,
            recipients=len(row.recipients),
            refused=len(row.refused or {}),
            uncertain=row.uncertain,
            ahead=ahead,
        ),
        mailbox=MailboxStanding(
            **{name: getattr(row, name) for name in MailboxStanding.__dataclass_fields__}
        ),
        now=now(conn),
        hold=_hold(conn, row.smtp_host or resolve(row.cloud).smtp_host),
    )


def _hold(conn: Connection, smtp_host: str) -> HostHold | None:
    holds = host_holds.all_holds(conn)
    return next((one for one in holds if one.smtp_host == smtp_host), None)


def why_waiting(
    delivery: DeliveryStanding,
    mailbox: MailboxStanding,
    now: datetime,
    hold: HostHold | None = None,
) -> str:
    """
    Say in plain words why a delivery is where it is; of what waits, what it waits for.

    The first cause that holds is told, in the order in which they would have to be removed.

    Args:
        delivery: The delivery.
        mailbox: Its mailbox.
        now: The moment, by the database's clock.
        hold: Its server refuses the address that workers send from.
    """
    if delivery.state is State.QUEUED:
        sentence = _queued(delivery, mailbox, now, hold)
    elif delivery.state is State.SENDING:
        sentence = f"Being sent at this moment by worker {delivery.claimed_by or 'unknown'}."
    else:
        sentence = _settled(delivery, now)
    if delivery.uncertain and delivery.state is not State.ACCEPTED:
        sentence += " The fate of an earlier try is unknown: a copy may have arrived."
    return sentence


def _queued(
    delivery: DeliveryStanding, mailbox: MailboxStanding, now: datetime, hold: HostHold | None
) -> str:
    # One list in order: what a person must do comes before what time will do.
    if mailbox.connected_at is None and mailbox.parked_at is None:
        sentence = (
            f"Waits until mailbox {mailbox.address} is connected: "
            f"`alertpost mailboxes connect {quote(mailbox.address)}`"
        )
    elif mailbox.parked_at is not None:
        sentence = _parked(mailbox, mailbox.parked_at, now)
    elif delivery.due_at > now:
        sentence = _not_due(delivery, now)
    elif mailbox.paused_until is not None and mailbox.paused_until > now:
        why = QUOTA_WORDS.get(mailbox.pause_reason or "")
        why = why or f"the mailbox pauses{_because(mailbox.pause_reason)}"
        sentence = f"Waits until {_moment(mailbox.paused_until, now)}: {why}."
    elif hold is not None:
        sentence = (
            f"Waits because {hold.smtp_host} refuses the address that {hold.sends_from} sends from"
            f"{_because(hold.rule)}; one mail tries again at {_moment(hold.probe_at, now)}."
        )
    elif delivery.ahead:
        others = "one other" if delivery.ahead == 1 else f"{delivery.ahead} others"
        sentence = (
            f"Waits behind {others} in the lane of {mailbox.address} that "
            f"{'is' if delivery.ahead == 1 else 'are'} more severe or older: "
            f"{_minutes(delivery.ahead)} at {PER_MINUTE} mails a minute."
        )
    else:
        sentence = f"Is next in the lane of {mailbox.address}; a worker takes it in a moment."
    if delivery.expires_at is not None:
        sentence += f" It expires at {_moment(delivery.expires_at, now)}."
    return sentence


def _parked(mailbox: MailboxStanding, since: datetime, now: datetime) -> str:
    if mailbox.park_reason == BY_HAND:
        why = f": {mailbox.park_meaning}" if mailbox.park_meaning else ""
        parked = f"parked by hand since {_moment(since, now)}{why}"
        meaning = ""
    else:
        parked = f"parked since {_moment(since, now)}{_because(mailbox.park_reason)}"
        meaning = _ended(mailbox.park_meaning)
    parts = [
        _ended(f"Waits with mailbox {mailbox.address}, {parked}"),
        meaning,
        _ended(mailbox.park_next_step and f"Next step: {mailbox.park_next_step}"),
    ]
    if mailbox.probe_at is not None and mailbox.park_reason == BY_HAND:
        parts.append(f"It sends again by itself at {_moment(mailbox.probe_at, now)}.")
    elif mailbox.probe_at is not None:
        parts.append(f"One mail tries whether it is solved at {_moment(mailbox.probe_at, now)}.")
    return " ".join(part for part in parts if part)


def _not_due(delivery: DeliveryStanding, now: datetime) -> str:
    moment = _moment(delivery.due_at, now)
    if not delivery.attempts and delivery.reason is None:
        return f"Waits until {moment}, because the alert asked not to be sent before."
    words = QUOTA_WORDS.get(delivery.reason or "")
    if words:
        return f"Waits until {moment}: {words}."
    tries = {0: "a try that does not count", 1: "1 counted try"}.get(
        delivery.attempts, f"{delivery.attempts} counted tries"
    )
    return f"Will be tried again at {moment}, after {tries}{_cause(delivery)}."


def _settled(delivery: DeliveryStanding, now: datetime) -> str:
    at = "" if delivery.settled_at is None else f" at {_moment(delivery.settled_at, now)}"
    if delivery.state is State.ACCEPTED:
        sentence = f"Accepted by Exchange{at}"
        if delivery.settled_at is not None:
            took = span_text(delivery.settled_at - delivery.enqueued_at)
            sentence += f", {took} after it was enqueued"
        if delivery.refused:
            were = "was" if delivery.refused == 1 else "were"
            sentence += f"; {delivery.refused} of {delivery.recipients} recipients {were} refused"
        if delivery.uncertain:
            sentence += "; an earlier try may have arrived too"
        return f"{sentence}."
    if delivery.state is State.DEAD:
        which = delivery.id or "ID"
        return (
            f"Died{at}{_cause(delivery)}. It is kept until someone replays or discards it: "
            f"`alertpost dead replay {which}`, or `alertpost dead discard {which}`."
        )
    if delivery.state is State.EXPIRED:
        return f"Expired{at}: it was not to be sent later than its expiry{_cause(delivery)}."
    if delivery.state is State.CANCELLED:
        return f"Cancelled{at}{_cause(delivery)}; it will not be sent."
    return f"Went out as part of a digest{at}."


def _cause(delivery: DeliveryStanding) -> str:
    reply = " ".join(
        part for part in (str(delivery.reply_code or ""), delivery.reply_text or "") if part
    )
    if delivery.reason == delivery.state.value:
        # "Cancelled because of cancelled" would tell nothing.
        return ""
    if delivery.reason and reply:
        return f" because of {delivery.reason} ({reply})"
    if delivery.reason or reply:
        return f" because of {delivery.reason or reply}"
    return ""


def _because(reason: str | None) -> str:
    if reason == BY_HAND:
        return ", by hand"
    return f" because of {reason}" if reason else ""


def _ended(text: str | None) -> str:
    text = (text or "").strip()
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def _minutes(ahead: int) -> str:
    minutes = ahead // PER_MINUTE
    return f"about {span_text(timedelta(minutes=minutes))}" if minutes else "less than a minute"


def _moment(moment: datetime, now: datetime) -> str:
    form = "%H:%M:%S UTC" if moment.date() == now.date() else "%Y-%m-%d %H:%M:%S UTC"
    shown = moment.strftime(form)
    return f"{shown} (in {span_text(moment - now)})" if moment > now else shown


def span_text(span: timedelta) -> str:
    """Give a length of time in its one largest unit that still tells something."""
    seconds = round(span.total_seconds())
    if seconds < _ROUGHLY * _SECONDS_A_MINUTE:
        return f"{max(seconds, 0)} s"
    minutes = round(seconds / _SECONDS_A_MINUTE)
    if minutes < _ROUGHLY * _MINUTES_AN_HOUR:
        return f"{minutes} min"
    hours = round(minutes / _MINUTES_AN_HOUR)
    return f"{hours} h" if hours < _ROUGHLY * _HOURS_A_DAY else f"{round(hours / 24)} days"
