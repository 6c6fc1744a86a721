"""What the token endpoint was asked and what it answered, counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenLedger:
    """
    Counts of token requests.

    Attributes:
        by_grant_type: (grant type, result) to number; a result is ``ok``, ``aadsts`` or a
            fault's kind.
        by_user: Address to result to number.
        refreshed_by_user: Address to number of refreshes that succeeded.
        aadsts: Code to number of answers with it.
        expiries: Tokens that had come to their end, or been recalled, when the next was asked for;
            a token counts as ended from its ``refresh_in`` on.
        needless: Tokens that were replaced although they were still young.
    """

    by_grant_type: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_user: dict[str, Counter[str]] = field(default_factory=dict)
    refreshed_by_user: Counter[str] = field(default_factory=Counter)
    aadsts: Counter[int] = field(default_factory=Counter)
    expiries: int = 0
    needless: int = 0
    _newest: dict[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def refreshes(self) -> int:
        """Refreshes that succeeded, over all users."""
        return self.refreshed_by_user.total()

    @property
    def aadsts_answers(self) -> int:
        """Answers that carried an AADSTS code."""
        return self.aadsts.total()

    def count(self, *, grant_type: str, result: str, user: str, code: int | None = None) -> None:
        """Count one answer of the token endpoint."""
        self.by_grant_type[grant_type, result] += 1
        if user:
            self.by_user.setdefault(user, Counter())[result] += 1
        if code is not None:
            self.aadsts[code] += 1
        if grant_type == "refresh_token" and result in {"ok", "slow", "cut_after"}:
            self.refreshed_by_user[user] += 1

    def issued(self, user: str, *, now: float, ends_at: float, recalls: int) -> None:
        """
        Note a token, and whether its predecessor had ended.

        Args:
            user: Whose.
            now: The moment.
            ends_at: From when on the next one may well be asked for.
            recalls: How often the user's tokens were recalled until now.
        """
        newest = self._newest.get(user)
        self._newest[user] = (ends_at, recalls)
        if newest is None:
            return
        if now >= newest[0] or recalls != newest[1]:
            self.expiries += 1
        else:
            self.needless += 1

    def clear(self) -> None:
        """Start counting anew; which tokens are out stays known."""
        self.expiries = self.needless = 0
        for counts in (self.by_grant_type, self.by_user, self.refreshed_by_user, self.aadsts):
            counts.clear()

    def as_json(self) -> dict[str, object]:
        """Give the counts as an object for JSON."""
        by_grant_type: dict[str, dict[str, int]] = {}
        for (grant_type, result), number in sorted(self.by_grant_type.items()):
            by_grant_type.setdefault(grant_type, {})[result] = number
        return {
            "token_requests": self.by_grant_type.total(),
            "by_grant_type": by_grant_type,
            "by_user": {user: dict(counts) for user, counts in sorted(self.by_user.items())},
            "refreshes": self.refreshes,
            "refreshed_by_user": dict(sorted(self.refreshed_by_user.items())),
            "aadsts_answers": self.aadsts_answers,
            "expiries": self.expiries,
            "needless": self.needless,
            "aadsts": {str(code): number for code, number in sorted(self.aadsts.items())},
        }
