"""One row of the reply tables: what it looks for and what it means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from models.stages import Stage
    from workers.verdict import Verdict

EnhancedCode: TypeAlias = tuple[int, int, int]

# RFC 2034 places the enhanced code at the start of each line's text. The look-ahead keeps an
# address such as "5.7.3.1" out; a reply line handed in with its basic code still works.
_ENHANCED = re.compile(
    r"^(?:[0-9]{3}[ -])?([245])\.([0-9]{1,3})\.([0-9]{1,3})(?![0-9.])", re.MULTILINE
)


def parse_enhanced(text: str) -> EnhancedCode | None:
    """
    Read the enhanced status code from a reply's text, first line that has one.

    Source:
        RFC 2034 section 4, RFC 3463 section 2.
    """
    found = _ENHANCED.search(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def words(pattern: str) -> re.Pattern[str]:
    """Compile a text token; servers change the case of letters now and then."""
    return re.compile(pattern, re.IGNORECASE)


def enhanced(*codes: str) -> tuple[tuple[EnhancedCode, EnhancedCode], ...]:
    """
    Write enhanced codes as ranges: ``"5.1.1"``, ``"5.7.606-5.7.649"``.

    Numbers are compared as numbers, so 5.7.60 never swallows 5.7.606.
    """
    ranges = []
    for code in codes:
        first, _, last = code.partition("-")
        ranges.append((_triple(first), _triple(last or first)))
    return tuple(ranges)


def _is_in(code: EnhancedCode, ranges: tuple[tuple[EnhancedCode, EnhancedCode], ...]) -> bool:
    return any(first <= code <= last for first, last in ranges)


def _triple(code: str) -> EnhancedCode:
    first, second, third = (int(part) for part in code.split("."))
    return first, second, third


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """
    A server's answer, taken apart.

    Attributes:
        stage: Where in the dialogue it came.
        code: Basic reply code.
        enhanced: Enhanced status code, None where there was none.
        text: The text, lines joined by a newline.
    """

    stage: Stage
    code: int
    enhanced: EnhancedCode | None
    text: str

    @property
    def is_final(self) -> bool:
        """Whether code and enhanced code agree that nothing will change by waiting."""
        return self.code >= 500 and not (self.enhanced and self.enhanced[0] == 4)  # noqa: PLR2004

    @property
    def number_says_little(self) -> bool:
        """Whether the enhanced code stands for a whole class: x.y.0, or the x.7.1 of refusals."""
        return self.enhanced is not None and (self.enhanced[2] == 0 or self.enhanced[1:] == (7, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyRule:
    """
    One row: a reply is recognised by its words, else by its enhanced code, else by its code.

    The enhanced code says more than the code beside it: a row of a code alone does not hold where
    another enhanced code stands beside it than those it names.

    Attributes:
        verdict: What it means.
        text: Words that give it away; they beat the numbers.
        enhanced: Enhanced codes, for replies whose words nobody knows.
        codes: Basic codes the row is limited to; empty: any.
        stages: Stages the row is limited to; empty: any.
        with_fresh_token: What it means when the token was got just now.
        beside: Enhanced codes that a row of a code alone allows beside it; None: any.
        detail: Pattern whose first group is worth recording with the attempt.
    """

    verdict: Verdict
    text: re.Pattern[str] | None = None
    enhanced: tuple[tuple[EnhancedCode, EnhancedCode], ...] = ()
    codes: frozenset[int] = frozenset()
    stages: frozenset[Stage] = frozenset()
    with_fresh_token: Verdict | None = None
    beside: tuple[tuple[EnhancedCode, EnhancedCode], ...] | None = ()
    detail: re.Pattern[str] | None = None

    def by_text(self, reply: Reply) -> bool:
        """Say whether the words of a reply are this row's."""
        return self.text is not None and self._admits(reply) and bool(self.text.search(reply.text))

    def by_enhanced(self, reply: Reply) -> bool:
        """Say whether the enhanced code of a reply is this row's."""
        code = reply.enhanced
        return (
            code is not None
            # A 4xx may not be made final by a 5.x.x beside it; the basic class decides.
            and not (code[0] == 5 and reply.code < 500)  # noqa: PLR2004
            and _is_in(code, self.enhanced)
            and self._admits(reply)
        )

    def by_code(self, reply: Reply) -> bool:
        """Say whether a row without words and enhanced codes covers the reply."""
        code = reply.enhanced
        return (
            self.text is None
            and not self.enhanced
            and (code is None or self.beside is None or _is_in(code, self.beside))
            and self._admits(reply)
        )

    def _admits(self, reply: Reply) -> bool:
        return (not self.codes or reply.code in self.codes) and (
            not self.stages or reply.stage in self.stages
        )

    def chosen(self, *, fresh_token: bool) -> Verdict:
        """Give the verdict for a token that is fresh or not."""
        if fresh_token and self.with_fresh_token is not None:
            return self.with_fresh_token
        return self.verdict
