"""Two credentials side by side: which is tried first, how each stands, what is said of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.credential_standing import (
    REFUSAL_MEMORY,
    Kind,
    Standing,
    State,
    dispensable,
    in_force,
    in_turn,
    refused_beside,
    states,
)

NOW = datetime(2027, 3, 2, 8, tzinfo=UTC)
DAY = timedelta(days=1)
JUST_NOW, BEFORE = NOW - REFUSAL_MEMORY / 2, NOW - 2 * REFUSAL_MEMORY


def one(number: int, **changes: Any) -> Standing:
    new = Standing(UUID(int=number), number, Kind.SECRET, None, NOW + 100 * DAY, NOW - DAY)
    return replace(new, **changes)


WORKED = {"worked_at": NOW - DAY}
REFUSED = {"refused_at": BEFORE, "refused_rule": "secret-wrong"}
REFUSED_NOW = REFUSED | {"refused_at": JUST_NOW}
ENDED = {"expires_at": NOW - DAY}


@pytest.mark.parametrize(
    ("old", "new", "order", "standing", "needed"),
    [
        ({}, {}, [2, 1], ("not tried yet", "not tried yet"), 2),
        (WORKED, {}, [2, 1], ("in use", "not tried yet"), 1),
        (WORKED, WORKED, [2, 1], ("standby", "in use"), 2),
        (WORKED, REFUSED, [2, 1], ("in use", "refused"), 1),
        (WORKED, REFUSED_NOW, [1, 2], ("in use", "refused"), 1),
        (REFUSED_NOW, REFUSED_NOW, [2, 1], ("refused", "refused"), 2),
        (REFUSED_NOW, WORKED, [2, 1], ("refused", "in use"), 2),
        (WORKED | ENDED, REFUSED_NOW, [2], ("ended", "refused"), 2),
        (WORKED, ENDED, [1], ("in use", "ended"), 1),
        (ENDED, ENDED, [2, 1], ("ended", "ended"), 2),
        ({"expires_at": None}, {}, [2, 1], ("not tried yet", "not tried yet"), 2),
    ],
)
def test_how_two_stand(
    old: dict[str, Any], new: dict[str, Any], order: list[int], standing: tuple[str, str],
    needed: int,
) -> None:  # fmt: skip
    """The newest first; what was refused just now last; what has ended only where all have."""
    known = [one(1, **old), one(2, **new)]

    assert [each.number for each in in_turn(known, NOW)] == order
    found = states(known, NOW)
    assert (found[1], found[2]) == standing
    used = in_force(known, NOW)
    assert used is not None
    assert used.number == needed


@pytest.mark.parametrize(
    ("old", "new", "gone"),
    [
        (WORKED, WORKED, [1]),
        ({}, WORKED, [1]),
        (REFUSED, WORKED, [1]),
        (WORKED, REFUSED, []),
        (WORKED, {}, []),
        (WORKED, ENDED, [2]),
        ({}, {}, []),
    ],
)
def test_what_can_go(old: dict[str, Any], new: dict[str, Any], gone: list[int]) -> None:
    """What is older than the one that works, or has ended; nothing while none is known to work."""
    known = [one(1, **old), one(2, **new)]

    assert [each.number for each in dispensable(known, NOW)] == gone


def test_none_stands_alone() -> None:
    """An app may be without any, after somebody forced it."""
    assert in_turn([], NOW) == []
    assert in_force([], NOW) is None
    assert refused_beside([], NOW) is None


def test_a_refusal_is_told_with_what_is_used_instead() -> None:
    """The sentence names both, Entra's code, and when the old one ends."""
    new = one(2, **REFUSED, refused_answer="AADSTS7000215 (trace id x)")

    assert refused_beside([one(1, **WORKED), new], NOW) == (
        "the new secret 2 is refused by Entra (AADSTS7000215): the old one, secret 1, which ends "
        "on 2027-06-10, is used"
    )
    assert refused_beside([one(1, **WORKED), one(2, **WORKED)], NOW) is None
    assert refused_beside([one(1, **REFUSED), one(2, **WORKED)], NOW) is None
    assert refused_beside([one(1, **ENDED), new], NOW) is None


moments = st.one_of(
    st.none(), st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
)  # fmt: skip


@given(
    st.lists(
        st.tuples(moments, moments, moments, st.booleans()), min_size=1, max_size=3
    )
)  # fmt: skip
def test_one_that_may_work_is_always_tried(found: list[tuple[Any, ...]]) -> None:
    """Whatever was seen: somebody is tried, each once, and none that ended beside one that did not."""
    known = [
        one(
            number, expires_at=ends, worked_at=worked, refused_at=refused,
            refused_rule="secret-wrong" if refused and told else None,
        )
        for number, (ends, worked, refused, told) in enumerate(found, 1)
    ]  # fmt: skip

    order = in_turn(known, NOW)

    assert order
    assert len({each.number for each in order}) == len(order)
    ended = [each.has_ended(NOW) for each in order]
    assert not any(ended) or all(each.has_ended(NOW) for each in known)
    assert list(states(known, NOW).values()).count(State.IN_USE) <= 1
    assert in_force(known, NOW) in known
