"""
Recipients a day: what a mailbox and a tenant may reach in any 24 hours. Pure.

What was sent is kept in buckets of a ninety-sixth of the window. A bucket counts as a whole until
its end has left the window, so a recipient counts for at least the window and at most one bucket
longer. See docs/decisions for why the limit is exact and what the buckets cost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

BUCKETS = 96
"""Buckets in a window: quarters of an hour in a day. One more than these can be counted, so the
rate that can be kept up is 96/97 of the limit."""

TRIAL_EXTERNAL = 5_000
"""External recipients a day of a tenant without paid licences."""

RECIPIENTS = "recipients-per-day"
"""Why a mailbox or a delivery waits whose account has reached its recipients of the day."""

EXTERNAL = "external-recipients-per-day"
"""Why a delivery waits whose tenant has reached its external recipients of the day."""

_OF_TENANT = "external:"


@dataclass(frozen=True, slots=True)
class DayLimits:
    """
    What holds for every mailbox.

    Attributes:
        recipients: Most recipients in any window; 0 does not limit them.
        critical_reserve: So many of them only criticals may use.
        window_seconds: Length of the window.
    """

    recipients: int = 10_000
    critical_reserve: int = 100
    window_seconds: float = 86_400.0

    @property
    def bucket_seconds(self) -> float:
        """Length of a bucket, in whole milliseconds, which is what SQLite's clock tells."""
        return max(1, round(self.window_seconds * 1000 / BUCKETS)) / 1000


@dataclass(frozen=True, slots=True)
class Bucket:
    """Recipients that stop counting after so many seconds."""

    leaves_in: float
    recipients: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What counts against a limit now: what was sent, first to leave first, and what is in hand."""

    buckets: Sequence[Bucket]
    in_hand: int

    @property
    def total(self) -> int:
        """All that counts."""
        return self.in_hand + sum(bucket.recipients for bucket in self.buckets)

    def seconds_until(self, room: int, *, limit: int, retry_seconds: float) -> float:
        """
        Say when there is room for so many recipients, if nothing more is sent until then.

        Where what is in hand stands in the way, which is decided soon: ``retry_seconds``.
        """
        missing = self.total + room - limit
        for bucket in self.buckets:
            if missing <= 0:
                break
            missing -= bucket.recipients
            if missing <= 0:
                return max(bucket.leaves_in, 0.0)
        return retry_seconds


@dataclass(frozen=True, slots=True)
class Spent:
    """
    What one mail counts.

    Attributes:
        counts: Account, or ``tenant_subject``, to recipients.
        bucket_seconds: Length of the bucket it goes into; the same for all of a group.
    """

    counts: Mapping[str, int]
    bucket_seconds: float


def charge(
    addresses: Sequence[str],
    *,
    account: str,
    tenant_id: UUID,
    accepted_domains: Collection[str] | None,
    bucket_seconds: float,
) -> Spent:
    """Say what a mail to these recipients counts; without accepted domains all are internal."""
    counts = {account: len(addresses)} if addresses else {}
    if accepted_domains is not None and (outside := external(addresses, accepted_domains)):
        counts[tenant_subject(tenant_id)] = outside
    return Spent(counts, bucket_seconds)


def external_limit(*, licences: int | None, trial: bool) -> int | None:
    """
    Return how many external recipients a tenant may reach in 24 hours; None: it is not counted.

    Source:
        Tenant External Recipient Rate Limit (TERRL), Exchange team blog 4372797:
        500 * licences^0.7 + 9500; a trial tenant 5,000.
    """
    if trial:
        return TRIAL_EXTERNAL
    if licences is None:
        return None
    return int(500 * licences**0.7 + 9500)


def external(addresses: Iterable[str], accepted_domains: Collection[str]) -> int:
    """Count the addresses whose domain is none of the tenant's own."""
    return sum(domain_of(address) not in accepted_domains for address in addresses)


def domain_of(address: str) -> str:
    """Return an address' domain in lower case."""
    return address.rpartition("@")[2].lower()


def tenant_subject(tenant_id: UUID) -> str:
    """Name the count of a tenant's external recipients; no address looks like it."""
    return f"{_OF_TENANT}{tenant_id.hex}"


def is_account(subject: str) -> bool:
    """Tell whether what is counted is an account's, not a tenant's."""
    return not subject.startswith(_OF_TENANT)
