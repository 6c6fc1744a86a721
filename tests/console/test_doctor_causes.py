"""``doctor --problems``: one cause is one line, however many it concerns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from console.doctor.causes import by_cause
from console.doctor.checks import NAMES, Check, Result

GUID = "11111111-2222-3333-4444-{:012d}"


def _check(subject: str, key: str, result: Result, seen: str, meaning: str = "") -> Check:
    return Check(
        subject=subject, check=key, name=NAMES[key], result=result, seen=seen, meaning=meaning,
        mend=f"`alertpost tenants edit {subject} --smtp-host H`", because="", seconds=0.1,
    )  # fmt: skip


def test_three_hundred_tenants_behind_one_dead_name_are_one_problem() -> None:
    """What is wrong is told once, with everybody whom it concerns."""
    checks = [
        _check(f"t{n}", "smtp_dns", Result.FAILED, "smtp.office365.com: not known", f"For t{n}.")
        for n in range(300)
    ]

    (problem,) = by_cause(checks)

    assert len(problem.subjects) == 300
    assert problem.subjects[:2] == ("t0", "t1")
    assert problem.seen == "smtp.office365.com: not known"


@pytest.mark.parametrize(
    "seen",
    [
        "AADSTS700082 trace {guid} at 2027-03-02 08:0{n}:00Z",
        "535 5.7.139 for a{n}@contoso.example after 1{n} ms",
    ],
)
def test_what_is_each_answers_own_makes_no_other_cause(seen: str) -> None:
    """Ids of traces, times and addresses differ; the cause is one."""
    checks = [
        _check(
            f"a{n}@contoso.example", "token", Result.FAILED, seen.format(guid=GUID.format(n), n=n)
        )
        for n in range(3)
    ]

    assert len(by_cause(checks)) == 1


def test_what_is_well_or_was_not_looked_at_is_left_out() -> None:
    """Failures come before warnings; another answer is another cause."""
    bad = _check("a", "credential", Result.FAILED, "refused")
    checks = [
        _check("a", "clock", Result.WARNING, "sent no Date"),
        replace(bad, result=Result.OK),
        replace(bad, result=Result.SKIPPED),
        bad,
        replace(bad, subject="b", seen="ended"),
    ]

    found = by_cause(checks)

    assert [(one.result, one.subjects) for one in found] == [
        (Result.FAILED, ("a",)),
        (Result.FAILED, ("b",)),
        (Result.WARNING, ("a",)),
    ]
