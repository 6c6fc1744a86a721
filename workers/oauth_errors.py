"""What Entra's token endpoint said into one verdict. Pure; the rows are in ``oauth_rules``."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from workers import oauth_rules
from workers.verdict import Action, Remedy, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["classify_oauth", "parse_codes", "trace_id"]

_CODE = re.compile(r"\bAADSTS([0-9]{4,9})\b")
_TRACE = re.compile(r"\bTrace ID:\s*([0-9A-Za-z-]{8,64})", re.IGNORECASE)
_CLOCK = re.compile(
    r"(?:assertion|token|JWT|request|signature|time ?stamp)\b[^.]{0,60}"
    r"(?:(?:not|isn.t|outside)\b[^.]{0,20}\bvalid(?:ity)? (?:time|period|range)"
    r"|not yet valid|in the future|too old)|clock|time skew|\bnbf\b",
    re.IGNORECASE,
)
_LATER = re.compile(
    r"\btemporar|\btransient|try again|again later|retry later|throttl|too many requests",
    re.IGNORECASE,
)
_DETAIL_LENGTH = 300
_WORDS_LENGTH = 200
_LONGEST_RETRY_AFTER = 24 * 3600.0
_TOO_MANY_REQUESTS = 429
_OK = 200

# A suberror of these two names what the grant lacks better than the error does. [E-ERR]
_REFINED_BY_SUBERROR = frozenset({"invalid_grant", "interaction_required"})


def classify_oauth(
    error: str,
    codes: Sequence[int],
    suberror: str = "",
    description: str = "",
    *,
    http_status: int | None = None,
    retry_after: float | None = None,
) -> Verdict:
    """
    Decide what an answer without a token means: by code, else by error, else by HTTP status.

    Args:
        error: OAuth ``error``; empty where the answer had none or there was no answer.
        codes: AADSTS numbers, most telling first; those in ``description`` are used if empty.
        suberror: OAuth ``suberror``.
        description: Entra's own text; its codes and trace id go into the verdict's detail.
        http_status: Status of the answer; None where it is not known or there was no answer.
        retry_after: Seconds that the answer asked to wait, if it did.

    Returns:
        Exactly one verdict, whatever the endpoint says.

    Source:
        The tables in ``oauth_rules``; RFC 6749 section 5.2.
    """
    codes = tuple(codes) or parse_codes(description)
    verdict = _chosen(error, codes, suberror, http_status, description)
    if retry_after is not None and verdict.action is not Action.PARK:
        verdict = _honour(verdict, retry_after)
    return _explained(verdict, error, codes, description)


def parse_codes(description: str) -> tuple[int, ...]:
    """Read the AADSTS numbers out of a text, in order, each once."""
    return tuple(dict.fromkeys(int(number) for number in _CODE.findall(description)))


def trace_id(description: str) -> str:
    """Read Entra's trace id out of a text; empty if there is none."""
    found = _TRACE.search(description)
    return found[1] if found else ""


def _chosen(
    error: str, codes: tuple[int, ...], suberror: str, http_status: int | None, description: str
) -> Verdict:
    verdict = _by_code(codes, description) or _by_error(error, suberror)
    if verdict is not None and codes and not _is_known(codes):
        verdict = _by_words(description) or oauth_rules.UNKNOWN_CODES.get(error, verdict)
    if _is_busy(http_status) and (verdict is None or verdict.action is Action.PARK):
        # A refusal comes as 400 or 401. Whoever is overloaded is not believed about a consent.
        return oauth_rules.BUSY
    if verdict is not None:
        return verdict
    if error:
        return oauth_rules.UNKNOWN_ERROR
    if http_status is None:
        return oauth_rules.UNREACHABLE
    return oauth_rules.NOT_JSON if http_status == _OK else oauth_rules.UNKNOWN_ERROR


def _is_known(codes: tuple[int, ...]) -> bool:
    return any(code in oauth_rules.CODES for code in codes)


def _by_code(codes: tuple[int, ...], description: str) -> Verdict | None:
    verdict = next((oauth_rules.CODES[code] for code in codes if code in oauth_rules.CODES), None)
    if verdict is not None and verdict.remedy is Remedy.NEW_SECRET and _CLOCK.search(description):
        # 50013 and its like have many reasons. A new certificate would not mend this one.
        return oauth_rules.CLOCK_WRONG
    return verdict


def _by_words(description: str) -> Verdict | None:
    """Read what stands beside a number that nobody knows."""
    if _CLOCK.search(description):
        return oauth_rules.CLOCK_WRONG
    return oauth_rules.SAYS_LATER if _LATER.search(description) else None


def _by_error(error: str, suberror: str) -> Verdict | None:
    if error in _REFINED_BY_SUBERROR and suberror in oauth_rules.ERRORS:
        error = suberror
    return oauth_rules.ERRORS.get(error)


def _is_busy(http_status: int | None) -> bool:
    return http_status is not None and (http_status == _TOO_MANY_REQUESTS or http_status >= 500)  # noqa: PLR2004


def _honour(verdict: Verdict, retry_after: float) -> Verdict:
    """Wait as long as the server asks, within what a sane one would ask."""
    if not math.isfinite(retry_after) or retry_after <= 0:
        return verdict
    return oauth_rules.with_pause(verdict, min(retry_after, _LONGEST_RETRY_AFTER))


def _explained(verdict: Verdict, error: str, codes: tuple[int, ...], description: str) -> Verdict:
    """Add what an operator looks up: code, Entra's page about it, text and trace id."""
    telling = next((code for code in codes if code in oauth_rules.CODES), codes[0] if codes else 0)
    known = telling in oauth_rules.CODES
    parts = [f"AADSTS{telling}" if telling else error]
    # Entra's first line says it; what follows are ids and times.
    words = re.split(r"[\r\n]| Trace ID:", description, maxsplit=1)[0].strip()
    if not known and words:
        parts.append(words)
    text = " ".join(part for part in parts if part)[: _DETAIL_LENGTH - 80]
    trace = trace_id(description)
    detail = f"{text} (trace id {trace})" if trace else text
    next_step = verdict.next_step
    if telling and not known and words:
        shown = words if len(words) <= _WORDS_LENGTH else f"{words[:_WORDS_LENGTH]}…"
        next_step += f" AADSTS{telling} is not in our tables; Microsoft says: '{shown}'"
    if telling and verdict.remedy is not Remedy.WAIT:
        next_step += f" See https://login.microsoftonline.com/error?code={telling}"
    return replace(verdict, detail=detail, next_step=next_step)
