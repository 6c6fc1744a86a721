"""What the server said, or did not say, into one verdict. Pure; the rows are in ``reply_rules``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from models.stages import Stage
from workers import reply_rules
from workers.reply_rule import Reply, ReplyRule, parse_enhanced
from workers.reply_rules import RULES
from workers.reply_rules_words import ABOUT_OUR_ADDRESS, WORD_RULES
from workers.verdict import Action, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["classify", "classify_failure"]

_BEFORE_MAIL = frozenset(
    {Stage.TOKEN, Stage.CONNECT, Stage.STARTTLS, Stage.EHLO, Stage.AUTH, Stage.QUIT}
)
_WITH_RECIPIENTS = frozenset({Stage.RCPT, Stage.DATA, Stage.BODY})
_CHARGED = frozenset({Action.DEAD, Action.RECIPIENT_REJECTED, Action.SPLIT})
"""What a mail or a recipient pays for."""

_DETAIL_LENGTH = 200
_READ_LENGTH = 4000
"""More than any server has to say; a longer text would keep the patterns busy."""


def classify(
    stage: Stage,
    reply_code: int | None,
    text: str,
    *,
    fresh_token: bool,
) -> Verdict:
    """
    Decide what a reply means: stage, then words, then enhanced code, then basic code.

    Words of a row go before numbers. Words of no row are read where the number has none, or is one
    that says little; the basic code decides last, for it says least.

    At RCPT a final verdict concerns that recipient only.

    Args:
        stage: Where in the dialogue it came; ``BODY`` is after the final dot.
        reply_code: Basic code; None where the line ended without a reply.
        text: The reply's text without the code, lines joined by a newline; a 334's JSON that came
            before a refusal may stand in it too.
        fresh_token: The token of this session was fetched because of a refusal, or just now.

    Returns:
        Exactly one verdict, whatever the server says.

    Source:
        RFC 5321 section 4.2, RFC 3463; the tables in ``reply_rules``.
    """
    if reply_code is None:
        return classify_failure(stage, reply_rules.Failure.DISCONNECTED, text)
    if stage is Stage.BODY and reply_code == 250:  # noqa: PLR2004 - accepted is nothing else
        return reply_rules.ACCEPTED
    if stage is Stage.COMPOSE:
        return reply_rules.COMPOSE_FAILED
    if not 400 <= reply_code <= 599:  # noqa: PLR2004 - the classes of refusals
        return _at_stage(_out_of_class(stage), stage)
    reply = Reply(
        stage=stage,
        code=reply_code,
        enhanced=parse_enhanced(text[:_READ_LENGTH]),
        text=text[:_READ_LENGTH],
    )
    for rule in _matching(reply):
        verdict = _at_stage(rule.chosen(fresh_token=fresh_token), stage)
        if _fits(verdict.action, reply, rule):
            return _with_detail(verdict, rule, text)
    return _at_stage(_fallback(reply, fresh_token=fresh_token), stage)


def classify_failure(stage: Stage, failure: reply_rules.Failure, detail: str = "") -> Verdict:
    """
    Decide what a dialogue that ended without a reply means.

    Args:
        stage: Where it ended; ``BODY`` only if the final dot may have gone out.
        failure: What ended it.
        detail: What the system said; recorded, never interpreted.

    Source:
        RFC 5321 section 4.5.3.2: until the final reply nobody knows who has the mail.
    """
    if stage is Stage.BODY:
        unreadable = failure is reply_rules.Failure.GARBAGE
        verdict = reply_rules.UNREADABLE_AFTER_DOT if unreadable else reply_rules.LOST_AFTER_DOT
    elif stage is Stage.COMPOSE:
        verdict = reply_rules.COMPOSE_FAILED
    elif stage is Stage.QUIT:
        verdict = reply_rules.NO_MAIL_IN_HAND
    elif stage is Stage.CONNECT and failure is reply_rules.Failure.GARBAGE:
        verdict = reply_rules.WRONG_PROTOCOL
    else:
        verdict = reply_rules.FAILURES[failure]
    detail = f"{failure}: {detail}" if detail else str(failure)
    return replace(_at_stage(verdict, stage), detail=detail[:_DETAIL_LENGTH])


def _matching(reply: Reply) -> Iterator[ReplyRule]:
    """Give the rows that fit, best first: words, enhanced code, words of no row, basic code."""
    yield from (rule for rule in RULES if rule.by_text(reply))
    numbered = [rule for rule in RULES if rule.by_enhanced(reply)]
    our_address = [rule for rule in ABOUT_OUR_ADDRESS if rule.by_text(reply)]
    if not reply.number_says_little:
        # Whoever calls our address blocked blames neither mail nor recipient, by whatever number.
        yield from (
            rule for rule in numbered if not our_address or rule.verdict.action not in _CHARGED
        )
    yield from our_address
    yield from (rule for rule in WORD_RULES if rule.by_text(reply))
    yield from numbered
    yield from (rule for rule in RULES if rule.by_code(reply))


def _fits(action: Action, reply: Reply, rule: ReplyRule) -> bool:
    """Keep a row from ending what stage, code or enhanced code leave open."""
    final = reply.is_final or (reply.code >= 500 and rule.by_enhanced(reply))  # noqa: PLR2004
    match action:
        case Action.DEAD:
            return reply.stage not in _BEFORE_MAIL and final
        case Action.RECIPIENT_REJECTED:
            return reply.stage in _WITH_RECIPIENTS and final
        case Action.SPLIT:
            return reply.stage in _WITH_RECIPIENTS
        case _:
            return reply.stage is not Stage.QUIT


def _fallback(reply: Reply, *, fresh_token: bool) -> Verdict:
    if reply.stage is Stage.QUIT:
        return reply_rules.NO_MAIL_IN_HAND
    if not reply.is_final:
        return reply_rules.UNKNOWN_TRANSIENT
    unknown = reply_rules.UNKNOWN_AT_CONNECT
    stale, fresh = reply_rules.REFUSED_BY_STAGE.get(reply.stage, (unknown, unknown))
    verdict = fresh if fresh_token else stale
    return replace(verdict, next_step=f"{verdict.next_step} {_said(reply)}")


def _said(reply: Reply) -> str:
    """Quote a reply that nobody knows, for whoever has to act on it; one line of it will do."""
    words = " ".join(reply.text.split())
    shown = words if len(words) <= _DETAIL_LENGTH else f"{words[:_DETAIL_LENGTH]}…"
    return f"It said: '{reply.code} {shown}'."


def _out_of_class(stage: Stage) -> Verdict:
    """Answer for replies that neither accept nor refuse, and for codes that are none."""
    if stage is Stage.BODY:
        return reply_rules.UNREADABLE_AFTER_DOT
    return reply_rules.NO_MAIL_IN_HAND if stage is Stage.QUIT else reply_rules.UNEXPECTED


def _at_stage(verdict: Verdict, stage: Stage) -> Verdict:
    """
    Fit a verdict to its stage.

    Before MAIL no mail is in hand, so nothing is counted against one; at RCPT the end of a mail
    is the end of one recipient.
    """
    if stage in _BEFORE_MAIL and verdict.counts:
        return replace(verdict, counts=False)
    if stage is Stage.RCPT and verdict.action is Action.DEAD:
        return replace(verdict, action=Action.RECIPIENT_REJECTED)
    return verdict


def _with_detail(verdict: Verdict, rule: ReplyRule, text: str) -> Verdict:
    found = rule.detail.search(text) if rule.detail else None
    return replace(verdict, detail=found[1][:_DETAIL_LENGTH]) if found else verdict
