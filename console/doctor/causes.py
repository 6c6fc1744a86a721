"""What is wrong, one cause once: three hundred tenants behind one dead name are one line. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from console.doctor.checks import Check, Result

_WRONG = (Result.FAILED, Result.WARNING)
# What differs from one answer to the next though the cause is one: ids, traces, times.
_OWN = re.compile(
    r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|"
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?: ?Z| UTC)?)?|"
    r"\b\d+(?:\.\d+)? (?:ms|s|min)\b"
)
_ADDRESS = re.compile(r"[^\s<>()\[\],;:\"'`=@]+@[\w-]+(?:\.[\w-]+)+")


@dataclass(frozen=True, slots=True)
class Problem:
    """
    One cause.

    Attributes:
        check: Key in ``checks.NAMES``; ``name``: for people.
        seen: As it was seen first; so are ``meaning`` and ``mend``.
        subjects: Whom it concerns, in the order in which they were looked at.
    """

    check: str
    name: str
    result: Result
    seen: str
    meaning: str
    mend: str
    subjects: tuple[str, ...]


def by_cause(checks: Iterable[Check]) -> list[Problem]:
    """Gather what failed, then what is a warning; within these what concerns most comes first."""
    groups: dict[tuple[str, ...], list[Check]] = {}
    for check in checks:
        if check.result in _WRONG:
            groups.setdefault(_cause(check), []).append(check)
    found = [_problem(group) for group in groups.values()]
    return sorted(found, key=lambda one: (_WRONG.index(one.result), -len(one.subjects)))


def _problem(group: list[Check]) -> Problem:
    first = group[0]
    return Problem(
        check=first.check,
        name=first.name,
        result=first.result,
        seen=first.seen,
        meaning=first.meaning,
        mend=first.mend,
        subjects=tuple(dict.fromkeys(check.subject for check in group)),
    )


def _cause(check: Check) -> tuple[str, ...]:
    """Name the cause: what was seen and what it means, without what is this subject's own."""
    return (
        check.check,
        check.result,
        _common(check.seen, check.subject),
        _common(check.meaning, check.subject),
    )


def _common(text: str, subject: str) -> str:
    text = _ADDRESS.sub("@", _OWN.sub("#", text))
    return re.sub(rf"(?<![\w-]){re.escape(subject)}(?![\w-])", "*", text)
