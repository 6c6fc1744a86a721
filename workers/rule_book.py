"""Every verdict that there is: all that an answer, or its repetition, may come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers import (
    oauth_rules,
    reply_rules,
    reply_rules_mail,
    reply_rules_recipient,
    reply_rules_session,
    reply_rules_words,
    weighing,
)
from workers.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


UNREACHED = {
    "after-the-mail": "nobody waits for the answer to QUIT; the rule makes the table whole",
    "too-many-recipients-always": "a mail has used up its attempts before so many halvings",
}
"""Rules that no answer of a server leads to, and why they stand there all the same."""


def every_verdict() -> Iterator[Verdict]:
    """Give each verdict once, what follows the repetition of one included."""
    yield from _once(_of_replies(), oauth_rules.every_verdict())


def every_reply_verdict() -> Iterator[Verdict]:
    """Give those on mail servers alone."""
    yield from _once(_of_replies())


def _of_replies() -> Iterator[Verdict]:
    rows = (
        *reply_rules.RULES,
        *reply_rules_words.ABOUT_OUR_ADDRESS,
        *reply_rules_words.WORD_RULES,
    )
    for row in rows:
        yield row.verdict
        if row.with_fresh_token is not None:
            yield row.with_fresh_token
    for pair in reply_rules.REFUSED_BY_STAGE.values():
        yield from pair
    yield from reply_rules.FAILURES.values()
    # What the tables fall back to stands beside them under a name each.
    for module in (
        reply_rules,
        reply_rules_mail,
        reply_rules_recipient,
        reply_rules_session,
        reply_rules_words,
        weighing,
    ):
        yield from _named_in(module)


def _named_in(module: ModuleType) -> Iterator[Verdict]:
    yield from (value for value in vars(module).values() if isinstance(value, Verdict))


def _once(*sources: Iterator[Verdict]) -> Iterator[Verdict]:
    seen: set[Verdict] = set()
    for source in sources:
        for first in source:
            verdict: Verdict | None = first
            while verdict is not None:
                if verdict not in seen:
                    seen.add(verdict)
                    yield verdict
                verdict = verdict.limit.then if verdict.limit else None
