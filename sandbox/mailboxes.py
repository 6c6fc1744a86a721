"""Mailboxes as Exchange Online sees them: switches, rights, limits, and what they handed in."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sandbox.limits import Limits, Violation
from sandbox.outbox import Headers, MailRecord, Outbox, Shelf, author_address

__all__ = ["Limits", "Mailbox", "MailboxStore", "Organisation", "Submission", "Violation"]

_VIOLATIONS_KEPT = 100_000
_LOCKED_BY = {
    "mailbox_full": "locked_mailbox_full",
    "send_as_denied": "locked_send_as_denied",
    "invalid_license": "locked_invalid_license",
    "too_many_recipients": "locked_too_many_recipients",
    "invalid_recipients": "locked_invalid_recipients",
}
"""Kind of error to the reply that follows when it is repeated."""


@dataclass(slots=True)
class Organisation:
    """
    One tenant's switches.

    Attributes:
        tenant_id: As in its tokens.
        smtp_auth: SMTP AUTH for all its mailboxes that do not say otherwise.
        conditional_access: A policy refuses this client's sign-in.
        accepted_domains: Its own; recipients elsewhere are external.
        external_recipients_per_day: Beyond it Exchange takes a mail and bounces it afterwards;
            that counts as a violation. None means no limit.
        trial: Has no paid licences, which the bounce tells.
    """

    tenant_id: str
    smtp_auth: bool = True
    conditional_access: bool = False
    accepted_domains: frozenset[str] = frozenset()
    external_recipients_per_day: int | None = None
    trial: bool = False
    max_external_in_day: int = 0
    """Most external recipients ever reached within any one day."""
    _day: deque[tuple[float, int]] = field(default_factory=deque)
    _day_recipients: int = 0

    def reach(self, recipients: Iterable[str], now: float, *, day_seconds: float) -> str:
        """
        Count a mail's external recipients; return what is wrong with their number, if anything.

        What is bounced does not count: nobody outside was reached.
        """
        allowed = self.external_recipients_per_day
        if allowed is None:
            return ""
        domains = (address.rpartition("@")[2].lower() for address in recipients)
        outside = sum(domain not in self.accepted_domains for domain in domains)
        while self._day and self._day[0][0] + day_seconds <= now:
            self._day_recipients -= self._day.popleft()[1]
        total = self._day_recipients + outside
        if outside and total > allowed:
            return f"{total} external recipients, {allowed} allowed"
        self._day.append((now, outside))
        self._day_recipients = total
        self.max_external_in_day = max(self.max_external_in_day, total)
        return ""


class Submission(NamedTuple):
    """A mail as it stands after the final dot."""

    sender: str
    recipients: tuple[str, ...]
    size: int
    headers: Headers
    raw: bytes
    binary: bool = False
    """Came with BODY=BINARYMIME, where line feeds are content."""
    bare_line_feeds: bool | None = None
    """Whether there are any; None where it was not looked for while it came."""


class Mailbox:
    """
    One sender account.

    Attributes:
        address: In lower case.
        organisation: Whose it is.
        limits: What it may do; may be replaced at any time.
        smtp_auth: SMTP AUTH for this mailbox; None takes the organisation's.
        licensed: Whether it may send at all.
        conditional_access: A policy refuses this client's sign-in.
        send_as: Other addresses it may send as, in lower case.
        full_access: Whose delegated tokens sign in as this mailbox, in lower case. Microsoft's
            page says that Full Access does that; where SMTP refuses it all the same, as was seen
            in the field, nobody stands here.
        quota_bytes: Room for Sent Items; None has no end.
        used_bytes: Grows with each mail accepted.
        outbox: What it handed in.
        violations: Kind to number.
        max_sent_in_window: Most mails ever accepted within any one window.
        max_recipients_in_day: Most recipients ever reached within any one day.
        max_connections: Most authenticated connections ever open or asked for at once.
    """

    def __init__(
        self,
        address: str,
        *,
        store: MailboxStore,
        organisation: Organisation,
        limits: Limits,
        smtp_auth: bool | None = None,
        licensed: bool = True,
        conditional_access: bool = False,
        send_as: Iterable[str] = (),
        full_access: Iterable[str] = (),
        quota_bytes: int | None = None,
        used_bytes: int = 0,
    ) -> None:
        self.address = address.lower()
        self.organisation = organisation
        self.limits = limits
        self.smtp_auth = smtp_auth
        self.licensed = licensed
        self.conditional_access = conditional_access
        self.send_as = {each.lower() for each in send_as}
        self.full_access = {each.lower() for each in full_access}
        self.quota_bytes = quota_bytes
        self.used_bytes = used_bytes
        self.outbox = Outbox(store.shelf, keep_records=store.keep_records)
        self.violations: Counter[str] = Counter()
        self.max_sent_in_window = 0
        self.max_recipients_in_day = 0
        self.max_connections = 0
        self._store = store
        self._connections: list[object] = []
        self._lingering: deque[float] = deque()
        self._window: deque[float] = deque()
        self._day: deque[tuple[float, int]] = deque()
        self._day_recipients = 0
        self._deliveries: deque[float] = deque()
        self._errors: dict[str, deque[float]] = {}
        self._locked_until = float("-inf")
        self._locked_by = ""

    # Signing in

    def sign_in_refusal(self) -> str | None:
        """Name the reply by which a switch or policy refuses a good token; None if none."""
        if self.smtp_auth is False:
            return "smtp_auth_disabled_mailbox"
        if self.smtp_auth is None and not self.organisation.smtp_auth:
            return "smtp_auth_disabled_tenant"
        if self.conditional_access or self.organisation.conditional_access:
            return "criteria_not_met"
        return None

    @property
    def connections(self) -> int:
        """Authenticated connections that are open now."""
        return len(self._connections)

    def connect(self, connection: object) -> bool:
        """
        Count a connection in.

        Args:
            connection: Anything that stands for it.

        Returns:
            False if it is one too many and must be refused; it is then not counted in.
        """
        limits = self.limits
        used = len(self._connections) + self._lingering_slots()
        self.max_connections = max(self.max_connections, used + 1)
        if limits.connections is not None and used >= limits.connections:
            self._violate("connections", f"{used + 1} connections, {limits.connections} allowed")
            if limits.connections_judged_at == "auth":
                return False
        self._connections.append(connection)
        return True

    def disconnect(self, connection: object, *, quit_said: bool) -> None:
        """Count a connection out; one that went without QUIT may keep its slot for a while."""
        if connection in self._connections:
            self._connections.remove(connection)
            if not quit_said and self.limits.slot_linger_seconds > 0:
                self._lingering.append(self._store.clock() + self.limits.slot_linger_seconds)

    def one_too_many(self, connection: object) -> bool:
        """Say whether a connection that was let in must be refused at DATA; counts it if so."""
        allowed = self.limits.connections
        if allowed is None or len(self._connections) <= allowed:
            return False
        rank = self._connections.index(connection) + self._lingering_slots()
        if rank < allowed:
            return False
        self._violate("connections", f"DATA on connection {rank + 1}, {allowed} allowed")
        return True

    def _lingering_slots(self) -> int:
        while self._lingering and self._lingering[0] <= self._store.clock():
            self._lingering.popleft()
        return len(self._lingering)

    # Submitting

    def note_error(self, kind: str) -> None:
        """Count an error that is punished when repeated; lock the mailbox out at the last."""
        limits = self.limits
        if limits.lock_out_errors is None:
            return
        now = self._store.clock()
        times = self._errors.setdefault(kind, deque())
        times.append(now)
        _forget(times, now, limits.lock_out_window_seconds)
        if len(times) >= limits.lock_out_errors:
            times.clear()
            self._locked_until = now + limits.lock_out_seconds
            self._locked_by = _LOCKED_BY[kind]
            self._violate("lock_out", f"{limits.lock_out_errors} times {kind}")

    @property
    def locked_by(self) -> str:
        """Name of the reply that every mail gets in a lock-out; empty if there is none."""
        return self._locked_by if self._store.clock() < self._locked_until else ""

    def unlock(self) -> None:
        """End a lock-out and forget the errors that led to it."""
        self._locked_until = float("-inf")
        self._errors.clear()

    def empty_sent_items(self) -> None:
        """Make room, as a retention rule or a person would."""
        self.used_bytes = 0

    def too_many_recipients(self, recipients: int) -> bool:
        """Say whether one more is too many after so many recipients; counts it if so."""
        allowed = self.limits.recipients_per_message
        if allowed is None or recipients < allowed:
            return False
        self._violate("recipients_per_message", f"{recipients + 1} recipients, {allowed} allowed")
        return True

    def too_large(self, size: int) -> bool:
        """Say whether a mail of so many bytes is too large; counts it if so."""
        allowed = self.limits.message_bytes
        if allowed is None or size <= allowed:
            return False
        self._violate("message_size", f"{size} bytes, {allowed} allowed")
        return True

    def submit(self, mail: Submission, *, answered: bool = True) -> MailRecord | str:
        """
        Take a mail or refuse it; this is the moment by which all limits are judged.

        Args:
            mail: What came.
            answered: False if the client will not hear about it.

        Returns:
            The record of what was taken, or the name of the reply that refuses it.
        """
        now = self._store.clock()
        if now < self._locked_until:
            return self._locked_by
        if self.too_large(mail.size):
            return "message_too_large"
        error = self._standing_error(mail)
        if error is not None:
            self.note_error(error)
            return error
        if self._over_quota(len(mail.recipients), now):
            return "submission_quota"
        if self._over_rate(now) and self.limits.over_rate == "refuse":
            return self.limits.over_rate_reply
        return self._take(mail, now, answered=answered)

    def lose(self, mail: Submission) -> None:
        """Record a mail that arrived in full and that a fault threw away."""
        self.outbox.lost.append(self._record(mail, 0, self._store.clock(), 0.0, answered=False))

    def _standing_error(self, mail: Submission) -> str | None:
        """Name the error that will be there again until a person acts."""
        if not self.licensed:
            return "invalid_license"
        own = self.address
        if mail.sender != own and mail.sender not in self.send_as:
            return "send_as_denied"
        author = author_address(mail.headers.author)
        if author and author != own and author not in self.send_as:
            return "send_as_denied"
        if self.quota_bytes is not None and self.used_bytes + mail.size > self.quota_bytes:
            return "mailbox_full"
        return None

    def _over_quota(self, recipients: int, now: float) -> bool:
        allowed = self.limits.recipients_per_day
        if allowed is None:
            return False
        day = self._day
        while day and day[0][0] + self.limits.day_seconds <= now:
            self._day_recipients -= day.popleft()[1]
        total = self._day_recipients + recipients
        if total <= allowed:
            return False
        self._violate("recipients_per_day", f"{total} recipients, {allowed} allowed")
        return True

    def _over_rate(self, now: float) -> bool:
        allowed = self.limits.messages_per_window
        window = self._window
        _forget(window, now, self.limits.window_seconds)
        if allowed is None or len(window) < allowed:
            return False
        self._violate(
            "message_rate",
            f"{len(window) + 1} mails in {self.limits.window_seconds:g} s, {allowed} allowed",
        )
        return True

    def _take(self, mail: Submission, now: float, *, answered: bool) -> MailRecord:
        window = self._window
        window.append(now)
        self.max_sent_in_window = max(self.max_sent_in_window, len(window))
        if self.limits.recipients_per_day is not None:
            self._day.append((now, len(mail.recipients)))
            self._day_recipients += len(mail.recipients)
            self.max_recipients_in_day = max(self.max_recipients_in_day, self._day_recipients)
        self.used_bytes += mail.size
        organisation = self.organisation
        excess = organisation.reach(mail.recipients, now, day_seconds=self.limits.day_seconds)
        bounce = _later_bounce(mail)
        if excess:
            self._violate("external_recipients_per_day", excess)
            bounce = bounce or (
                "trial_external_limit" if organisation.trial else "tenant_external_limit"
            )
        record = self._record(
            mail,
            self._store.next_sequence(),
            now,
            self._delivery_time(now),
            answered=answered,
            later_bounce=bounce,
        )
        self.outbox.put(record, mail.raw)
        return record

    def _delivery_time(self, now: float) -> float:
        """Say when a mail leaves: the surplus goes first in, first out, at the permitted rate."""
        allowed = self.limits.messages_per_window
        if allowed is None:
            return now
        leaving = self._deliveries
        while len(leaving) > allowed:
            leaving.popleft()
        if len(leaving) == allowed:
            now = max(now, leaving.popleft() + self.limits.window_seconds)
        leaving.append(now)
        return now

    def _record(
        self,
        mail: Submission,
        sequence: int,
        now: float,
        delivered_at: float,
        *,
        answered: bool,
        later_bounce: str = "",
    ) -> MailRecord:
        headers = mail.headers
        assigned = headers.message_id
        if not assigned or self._store.rewrite_message_ids:
            assigned = f"<{sequence:012X}@{self._store.host_name}>"
        return MailRecord(
            sequence,
            now,
            delivered_at,
            self.address,
            mail.sender,
            mail.recipients,
            mail.size,
            headers.message_id,
            assigned,
            headers.alert_id,
            headers.subject,
            answered,
            later_bounce,
        )

    def _violate(self, kind: str, detail: str) -> None:
        self.violations[kind] += 1
        self._store.violations.append(Violation(kind, self.address, self._store.clock(), detail))
        self._store.violation_counts[kind] += 1

    def snapshot(self) -> dict[str, Any]:
        """Give what happened here, as data for JSON."""
        outbox = self.outbox
        return {
            "address": self.address,
            "tenant_id": self.organisation.tenant_id,
            "taken": outbox.taken,
            "recipients": outbox.recipients,
            "lost": len(outbox.lost),
            "unanswered": sum(not mail.answered for mail in outbox.mails),
            "duplicate_message_ids": len(outbox.duplicate_message_ids()),
            "duplicate_alert_ids": len(outbox.duplicate_alert_ids()),
            "violations": dict(self.violations),
            "max_sent_in_window": self.max_sent_in_window,
            "max_connections": self.max_connections,
            "connections": self.connections,
            "used_bytes": self.used_bytes,
            "quota_bytes": self.quota_bytes,
            "locked_by": self.locked_by,
            "smtp_auth": self.smtp_auth,
            "licensed": self.licensed,
        }


class MailboxStore:
    """
    All mailboxes of one sandbox.

    Attributes:
        clock: The server's clock, in seconds.
        limits: For mailboxes that are given none of their own.
        violations: The last of them, oldest first.
        violation_counts: Kind to number, of all.
        refusals: Name of a reply to how often it was said.
        token_refusals: Reason to number; what a client is never told.
        rewrite_message_ids: Whether mails get a new Message-ID, as Outlook does.
        host_name: What follows the @ in a Message-ID given here.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        limits: Limits | None = None,
        keep_bodies: bool = False,
        keep_last: int = 100,
        keep_records: int | None = None,
        rewrite_message_ids: bool = False,
        host_name: str = "sandbox.prod.outlook.com",
    ) -> None:
        """
        Make an empty store.

        Args:
            clock: The server's clock.
            limits: What a mailbox may do unless it says otherwise; None for Microsoft's.
            keep_bodies: Keep the content of all mails.
            keep_last: Keep the content of the last so many mails of the store.
            keep_records: Keep so many records for each mailbox; None keeps all.
            rewrite_message_ids: Give each mail a new Message-ID.
            host_name: Right-hand side of Message-IDs given here.
        """
        self.clock = clock
        self.limits = limits or Limits()
        self.shelf = Shelf(keep=None if keep_bodies else keep_last)
        self.keep_records = keep_records
        self.rewrite_message_ids = rewrite_message_ids
        self.host_name = host_name
        self.violations: deque[Violation] = deque(maxlen=_VIOLATIONS_KEPT)
        self.violation_counts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.token_refusals: Counter[str] = Counter()
        self._sequence = 0
        self._mailboxes: dict[str, Mailbox] = {}
        self._organisations: dict[str, Organisation] = {}

    def __iter__(self) -> Iterator[Mailbox]:
        return iter(list(self._mailboxes.values()))

    def organisation(self, tenant_id: str) -> Organisation:
        """Give a tenant's switches; a tenant nobody named before has everything on."""
        return self._organisations.setdefault(tenant_id, Organisation(tenant_id))

    def add(
        self,
        address: str,
        *,
        tenant_id: str = "",
        limits: Limits | None = None,
        smtp_auth: bool | None = None,
        licensed: bool = True,
        conditional_access: bool = False,
        send_as: Iterable[str] = (),
        full_access: Iterable[str] = (),
        quota_bytes: int | None = None,
        used_bytes: int = 0,
    ) -> Mailbox:
        """
        Open a mailbox.

        Args:
            address: Compared without regard to case.
            tenant_id: Whose it is; a token of another tenant does not open it.
            limits: Its own limits; None takes the store's.
            smtp_auth: None takes the organisation's switch.
            licensed: Whether it may send at all.
            conditional_access: A policy refuses this client's sign-in.
            send_as: Other addresses it may send as.
            full_access: Whose delegated tokens sign in as this mailbox.
            quota_bytes: Room for Sent Items; None has no end.
            used_bytes: How much of it is used.

        Raises:
            ValueError: There is one of this address.
        """
        key = address.lower()
        if key in self._mailboxes:
            raise ValueError(f"mailbox {key} exists")
        mailbox = self._mailboxes[key] = Mailbox(
            key,
            store=self,
            organisation=self.organisation(tenant_id),
            limits=limits or self.limits,
            smtp_auth=smtp_auth,
            licensed=licensed,
            conditional_access=conditional_access,
            send_as=send_as,
            full_access=full_access,
            quota_bytes=quota_bytes,
            used_bytes=used_bytes,
        )
        return mailbox

    def get(self, address: str) -> Mailbox | None:
        """Find a mailbox, None if there is none."""
        return self._mailboxes.get(address.lower())

    def outbox(self, address: str) -> Outbox:
        """
        Give what a mailbox handed in.

        Raises:
            KeyError: There is no such mailbox.
        """
        return self._mailboxes[address.lower()].outbox

    def next_sequence(self) -> int:
        """Number the next mail."""
        self._sequence += 1
        return self._sequence

    @property
    def taken(self) -> int:
        """Mails taken from all mailboxes."""
        return self._sequence

    def snapshot(self) -> dict[str, Any]:
        """Give what happened in all mailboxes, as data for JSON."""
        mailboxes = [mailbox.snapshot() for mailbox in self]
        return {
            "taken": self._sequence,
            "lost": sum(each["lost"] for each in mailboxes),
            "duplicate_message_ids": sum(each["duplicate_message_ids"] for each in mailboxes),
            "duplicate_alert_ids": sum(each["duplicate_alert_ids"] for each in mailboxes),
            "violations": dict(self.violation_counts),
            "max_sent_in_window": max(
                (each["max_sent_in_window"] for each in mailboxes), default=0
            ),
            "max_connections": max((each["max_connections"] for each in mailboxes), default=0),
            "refusals": dict(self.refusals),
            "token_refusals": dict(self.token_refusals),
            "mailboxes": {each["address"]: each for each in mailboxes},
        }


def _forget(times: deque[float], now: float, span: float) -> None:
    """Drop what is a whole span old: who sends at 0 s may send again at exactly 60 s."""
    while times and times[0] + span <= now:
        times.popleft()


def _later_bounce(mail: Submission) -> str:
    """Name what Exchange says only after its 250, in a bounce to the sender; empty if nothing."""
    if not mail.headers.author:
        return "from_header_not_compliant"
    bare = mail.bare_line_feeds
    if bare is None:
        bare = mail.raw.count(b"\n") != mail.raw.count(b"\r\n")
    return "bare_line_feeds" if bare and not mail.binary else ""
