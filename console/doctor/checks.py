"""A check of the doctor, and the chain in which checks of one thing follow each other."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

NAMES = {
    "settings": "settings",
    "data_dir": "data directory",
    "keys": "keys at rest",
    "sql": "SQL",
    "schema": "tables",
    "sql_clock": "clock of SQL",
    "redis": "Redis",
    "redis_clock": "clock of Redis",
    "redis_memory": "memory of Redis",
    "workers": "workers",
    "warnings": "warnings by mail",
    "mailboxes": "mailboxes",
    "sign_in_dns": "sign-in: name",
    "sign_in_connect": "sign-in: connection",
    "sign_in_tls": "sign-in: TLS",
    "discovery": "sign-in: tenant",
    "clock": "clock of this machine",
    "credential": "app credential",
    "smtp_dns": "SMTP: name",
    "smtp_connect": "SMTP: connection",
    "smtp_tls": "SMTP: STARTTLS",
    "smtp_features": "SMTP: what it offers",
    "grant": "consent",
    "token": "access token",
    "token_claims": "token: what for",
    "slot": "connection slot",
    "smtp_auth": "SMTP: AUTH",
    "sender": "MAIL FROM",
    "auth_form": "shared: signs in as",
    "app_scope": "app: other mailboxes",
    "standing": "standing",
    "test_mail": "test mail",
}
"""Every check by its key, in the order in which they are made, with its name for people."""


class Result(StrEnum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"
    """Mails go out; somebody should look at it all the same."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not looked at, and so not known."""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What was found.

    Attributes:
        result: What came of it.
        seen: What was seen, in words of the world.
        meaning: What it means; empty where that is plain.
        mend: The command, or the page, that mends it.
        because: Why it was not looked at: the key of another check, or a word.
    """

    result: Result
    seen: str = ""
    meaning: str = ""
    mend: str = ""
    because: str = ""


def ok(seen: str, meaning: str = "") -> Finding:
    """Find that all is well."""
    return Finding(Result.OK, seen, meaning)


def warning(seen: str, meaning: str, mend: str) -> Finding:
    """Find what does not keep mails from going out."""
    return Finding(Result.WARNING, seen, meaning, mend)


def failed(seen: str, meaning: str, mend: str) -> Finding:
    """Find what keeps mails from going out."""
    return Finding(Result.FAILED, seen, meaning, mend)


def skipped(because: str, seen: str = "", meaning: str = "", mend: str = "") -> Finding:
    """Say that nobody looked, and why."""
    return Finding(Result.SKIPPED, seen, meaning, mend, because)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """
    A finding with its place; the form of ``--json``.

    Attributes:
        subject: ``here``, a tenant, or a mailbox.
        check: Key in ``NAMES``.
        name: For people.
        seconds: How long the look took.
    """

    subject: str
    check: str
    name: str
    result: Result
    seen: str
    meaning: str
    mend: str
    because: str
    seconds: float


class Chain:
    """The checks of one subject, in order; what depends on a failed one is skipped."""

    def __init__(self, subject: str, before: Chain | None = None) -> None:
        """
        Begin a chain.

        Args:
            subject: What it is about.
            before: A chain that this one depends on.
        """
        self.subject = subject
        self.checks: list[Check] = []
        self._before = before
        self._since = time.perf_counter()

    def add(self, key: str, finding: Finding) -> bool:
        """Keep a finding; tell whether what depends on it can be looked at."""
        now = time.perf_counter()
        self.checks.append(
            Check(
                subject=self.subject,
                check=key,
                name=NAMES[key],
                result=finding.result,
                seen=finding.seen,
                meaning=finding.meaning,
                mend=finding.mend,
                because=finding.because,
                seconds=round(now - self._since, 3),
            )
        )
        self._since = now
        return finding.result in {Result.OK, Result.WARNING}

    def missing(self, *keys: str) -> str | None:
        """Name the first of these checks that failed or was skipped, here or before."""
        known = [*(self._before.checks if self._before else ()), *self.checks]
        bad = {check.check for check in known if check.result in {Result.FAILED, Result.SKIPPED}}
        return next((key for key in keys if key in bad), None)

    def skip(self, keys: Iterable[str], *, because: str) -> None:
        """Skip these checks for one reason."""
        for key in keys:
            self.add(key, skipped(because))


def exit_code(checks: Iterable[Check]) -> int:
    """
    Give the exit code: 0 where mails go out, 1 where something failed, 5 where nobody could look.

    Warnings are no failures.
    """
    results = {check.result for check in checks}
    if Result.FAILED in results:
        return 1
    return 5 if Result.SKIPPED in results else 0
