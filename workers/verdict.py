"""What an answer from Microsoft means for us: one value, read by the visit, SQL and people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

HOUR = 3600.0
DAY = 24 * HOUR


class Action(StrEnum):
    """What has to happen next; ``retry.next_step`` turns it into times."""

    ACCEPTED = "accepted"
    """The server took responsibility with a 250 after the final dot."""
    RETRY_SOON = "retry_soon"
    """On a new connection within seconds."""
    RETRY_BACKOFF = "retry_backoff"
    """Later, and later still each time."""
    THROTTLE_MAILBOX = "throttle_mailbox"
    THROTTLE_TENANT = "throttle_tenant"
    REAUTH = "reauth"
    """Drop the access token, get another, try once more. The grant stays."""
    SPLIT = "split"
    """Send the same mail to fewer recipients at a time."""
    PARK = "park"
    """A person has to act; the lane waits."""
    DEAD = "dead"
    """This mail will never be taken."""
    RECIPIENT_REJECTED = "recipient_rejected"
    """This recipient will never be taken; the others may."""
    STOP_WORKER = "stop_worker"
    """The way out of this host is blocked; no mailbox can send from here."""


class Scope(StrEnum):
    """How far a pause or a park reaches."""

    MAILBOX = "mailbox"
    TENANT = "tenant"
    APP = "app"
    """Every tenant that uses the same app registration."""


class Remedy(StrEnum):
    """Who cures it, and how; tells a lost consent from an expired secret."""

    SIGN_IN_AGAIN = "sign_in_again"
    NEW_SECRET = "new_secret"  # noqa: S105 - a kind of cure, no secret
    ADMIN_CONSENT = "admin_consent"
    ADMIN_SETTING = "admin_setting"
    """Something in the customer's tenant: a switch, a policy, a permission, a licence, DNS."""
    FIX_CONFIGURATION = "fix_configuration"
    """Something in our settings or in the app registration."""
    WAIT = "wait"
    FIX_RECIPIENT = "fix_recipient"
    REPORT_BUG = "report_bug"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """
    How long a verdict stands when the same answer keeps coming.

    Attributes:
        times: The verdict stands this many times in a row, ``then`` follows.
        duration: The verdict stands for this long of nothing but this answer, ``then`` follows.
        then: The verdict that takes over.
    """

    times: int | None = None
    duration: timedelta | None = None
    then: Verdict

    def __post_init__(self) -> None:
        if self.times is None and self.duration is None:
            raise ValueError(f"a limit without an end before {self.then.rule}")

    def is_reached(self, *, repeats: int, elapsed: timedelta) -> bool:
        """
        Say whether ``then`` takes over.

        Args:
            repeats: Answers of this rule in a row, the present one included.
            elapsed: Time since the first of them.
        """
        return (self.times is not None and repeats > self.times) or (
            self.duration is not None and elapsed >= self.duration
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """
    What one answer means.

    Attributes:
        rule: Stable kebab-case name of the row that decided; the reason code everywhere.
        action: What has to happen.
        meaning: One plain sentence for the operator.
        next_step: One plain sentence that says what to do.
        remedy: What kind of cure it needs.
        scope: How far a park or a throttle reaches; None for everything else.
        pause_seconds: First and longest wait. (0, 0) leaves it to the retry policy.
        probe_after_seconds: A park tries one mail by itself after this; None: only a person
            resumes it.
        probe_again_seconds: Wait after the first probe that failed; None: twice the one before.
        probe_longest_seconds: The waits double up to this.
        uncertain: The mail may or may not have been taken.
        counts: It uses up one of the delivery's attempts.
        limit: What follows when the same answer keeps coming.
        suppress_after: Refusals of one recipient after which its address should not be used.
        detail: What the answer itself named: an exception, a status, a code with its trace id.
    """

    rule: str
    action: Action
    meaning: str
    next_step: str
    remedy: Remedy = Remedy.NONE
    scope: Scope | None = None
    pause_seconds: tuple[float, float] = (0.0, 0.0)
    probe_after_seconds: float | None = None
    probe_again_seconds: float | None = None
    probe_longest_seconds: float = DAY
    uncertain: bool = False
    counts: bool = False
    limit: Limit | None = None
    suppress_after: int | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        # A row that promises something it cannot keep should fail on import, not at three at night.
        if not (self.meaning and self.next_step):
            raise ValueError(f"{self.rule}: an operator needs a meaning and a next step")
        if self.action in _SCOPED and self.scope is None:
            raise ValueError(f"{self.rule}: {self.action} needs a scope")
        first, longest = self.pause_seconds
        if not 0 <= first <= longest:
            raise ValueError(f"{self.rule}: pauses must grow, not {first} to {longest}")
        if self.action in _PAUSING and first <= 0:
            raise ValueError(f"{self.rule}: {self.action} needs a pause")

    def probe_in(self, failed_probes: int) -> float | None:
        """
        Give the seconds until a parked mailbox tries one mail by itself; None: it does not.

        A refusal that is taken back ends soon by itself; one that is not is met ever more rarely.

        Args:
            failed_probes: Those in a row that met the same again.
        """
        first = self.probe_after_seconds
        if first is None or failed_probes == 0:
            return first
        again = self.probe_again_seconds or 2 * first
        # Thirty doublings exceed any distance; a larger exponent would overflow a float in the end.
        grown = again * 2.0 ** min(failed_probes - 1, 30)
        return min(grown, max(self.probe_longest_seconds, first))

    @property
    def needs_consent(self) -> bool:
        """Whether somebody of the tenant has to consent before this mailbox sends again."""
        return self.remedy is Remedy.ADMIN_CONSENT

    @property
    def needs_new_secret(self) -> bool:
        """Whether the app registration needs another secret or certificate."""
        return self.remedy is Remedy.NEW_SECRET


_PAUSING = frozenset({Action.THROTTLE_MAILBOX, Action.THROTTLE_TENANT, Action.STOP_WORKER})
_SCOPED = frozenset({Action.PARK, Action.THROTTLE_MAILBOX, Action.THROTTLE_TENANT})


def park(
    rule: str,
    scope: Scope,
    remedy: Remedy,
    meaning: str,
    next_step: str,
    *,
    probe: float = HOUR,
    probe_again: float | None = None,
    probe_longest: float = DAY,
) -> Verdict:
    """
    Build a verdict that waits for a person, and looks by itself whether that is still needed.

    Args:
        rule: Name of the row.
        scope: What waits.
        remedy: Who cures it, and how.
        meaning: One sentence.
        next_step: One sentence.
        probe: Seconds until it tries one mail by itself. Where each error may prolong a lock-out
            at Microsoft's this is long.
        probe_again: Seconds after the first probe that failed; None: twice the first wait.
        probe_longest: The waits double up to this.
    """
    return Verdict(
        rule=rule,
        action=Action.PARK,
        scope=scope,
        remedy=remedy,
        meaning=meaning,
        next_step=next_step,
        probe_after_seconds=probe,
        probe_again_seconds=probe_again,
        probe_longest_seconds=probe_longest,
    )


def retry_soon(
    rule: str,
    meaning: str,
    next_step: str = "Nothing to do; it is sent again within seconds.",
    *,
    limit: Limit | None = None,
    counts: bool = True,
) -> Verdict:
    """Build a verdict that tries again on a new connection within seconds."""
    return Verdict(
        rule=rule,
        action=Action.RETRY_SOON,
        remedy=Remedy.WAIT,
        meaning=meaning,
        next_step=next_step,
        counts=counts,
        limit=limit,
    )


def retry_backoff(
    rule: str,
    meaning: str,
    next_step: str = "Nothing to do; it is tried again with growing pauses.",
    *,
    pause: tuple[float, float] = (0.0, 0.0),
    limit: Limit | None = None,
    uncertain: bool = False,
    counts: bool = True,
    remedy: Remedy = Remedy.WAIT,
) -> Verdict:
    """Build a verdict that tries again later; ``pause`` replaces the policy's own waits."""
    return Verdict(
        rule=rule,
        action=Action.RETRY_BACKOFF,
        remedy=remedy,
        meaning=meaning,
        next_step=next_step,
        pause_seconds=pause,
        limit=limit,
        uncertain=uncertain,
        counts=counts,
    )


def throttle(
    rule: str,
    scope: Scope,
    pause: tuple[float, float],
    meaning: str,
    next_step: str = "Nothing to do; sending continues by itself after the pause.",
    *,
    limit: Limit | None = None,
    remedy: Remedy = Remedy.WAIT,
) -> Verdict:
    """Build a verdict that pauses a mailbox or a whole tenant; it costs no attempt."""
    tenant_wide = scope is Scope.TENANT
    return Verdict(
        rule=rule,
        action=Action.THROTTLE_TENANT if tenant_wide else Action.THROTTLE_MAILBOX,
        scope=scope,
        remedy=remedy,
        meaning=meaning,
        next_step=next_step,
        pause_seconds=pause,
        limit=limit,
    )


def dead(rule: str, remedy: Remedy, meaning: str, next_step: str) -> Verdict:
    """Build a verdict that ends a mail for good."""
    return Verdict(
        rule=rule,
        action=Action.DEAD,
        remedy=remedy,
        meaning=meaning,
        next_step=next_step,
        counts=True,
    )


def rejected(
    rule: str,
    meaning: str,
    next_step: str,
    *,
    suppress_after: int | None = None,
) -> Verdict:
    """Build a verdict that ends one recipient; the mail still goes to the others."""
    return Verdict(
        rule=rule,
        action=Action.RECIPIENT_REJECTED,
        remedy=Remedy.FIX_RECIPIENT,
        meaning=meaning,
        next_step=next_step,
        counts=True,
        suppress_after=suppress_after,
    )
