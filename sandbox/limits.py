from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What Exchange Online allows one mailbox. None means no limit.

    Attributes:
        messages_per_window: Mails in any window, judged by the server's clock at the final dot.
        window_seconds: Length of the window; shorter where the clock shall run faster.
        over_rate: Beyond the rate a mail is accepted and delivered later (what Microsoft documents
            today), or refused with ``over_rate_reply``. Either counts as a violation.
        over_rate_reply: Name of the reply for ``refuse``.
        connections: Authenticated connections at once.
        connections_judged_at: Where one too many is refused; at DATA it has been let in.
        slot_linger_seconds: How long a connection that went without QUIT keeps its slot.
        recipients_per_day: Recipients of all mails in a rolling day.
        day_seconds: Length of that day.
        recipients_per_message: Recipients of one mail.
        message_bytes: Size of one mail; the 150 MiB in EHLO is the service's ceiling, not this.
        lock_out_errors: So many errors of one kind within ``lock_out_window_seconds`` lock the
            mailbox out. Microsoft publishes neither number nor time.
        lock_out_window_seconds: Errors older than this are forgotten.
        lock_out_seconds: How long a lock-out lasts.

    Source:
        Exchange Online limits; 3 connections and 30 messages a minute are hard for SMTP submission.
    """

    messages_per_window: int | None = 30
    window_seconds: float = 60.0
    over_rate: Literal["delay", "refuse"] = "delay"
    over_rate_reply: str = "sender_thread_limit"
    connections: int | None = 3
    connections_judged_at: Literal["auth", "data"] = "auth"
    slot_linger_seconds: float = 0.0
    recipients_per_day: int | None = 10_000
    day_seconds: float = 86_400.0
    recipients_per_message: int | None = 500
    message_bytes: int | None = 35 * 1024 * 1024
    lock_out_errors: int | None = 5
    lock_out_window_seconds: float = 3600.0
    lock_out_seconds: float = 3600.0

    @classmethod
    def open(cls) -> Limits:
        """Give limits that nothing reaches, for benchmarks of what feeds the sandbox."""
        return cls(
            messages_per_window=None,
            connections=None,
            recipients_per_day=None,
            recipients_per_message=None,
            message_bytes=157_286_400,
            lock_out_errors=None,
        )


class Violation(NamedTuple):
    """
    One time that a limit was not respected.

    Attributes:
        kind: ``message_rate``, ``connections``, ``recipients_per_day``, ``recipients_per_message``,
            ``external_recipients_per_day``, ``message_size`` or ``lock_out``.
        mailbox: Whose limit.
        time: By the server's clock.
        detail: What came, and what would have been right.
    """

    kind: str
    mailbox: str
    time: float
    detail: str
