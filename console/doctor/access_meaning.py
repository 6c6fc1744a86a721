"""What is seen of a mailbox's consent, token, sign-in and sender, and what it means. Pure."""

from __future__ import annotations

from functools import cache
from shlex import quote

from console import park_causes
from console.dialogue import Ending, oauth_verdict, reply_of
from console.doctor.checks import Finding, failed, ok, skipped, warning
from console.exchange_powershell import send_as
from console.next_commands import command_for
from console.output import counted
from console.verbs_mailboxes import Account
from models.errors import AlertpostError, CredentialRejected, SubmissionFailed, TokenUnavailable
from models.grants import APP_ONLY
from models.mailboxes import MailboxEntry
from models.stages import Stage
from workers import conclusion
from workers.cures import filled
from workers.reasons import meaning_of
from workers.reply_rules import REFUSED_BY_STAGE
from workers.reply_rules_mail import MAIL_RULES
from workers.verdict import Action, Verdict

_ONE_TRY = "Tried MAIL FROM and reset (RSET): no mail was sent, none was counted."


def prove(address: str) -> str:
    """Name the command that sends a mail, the only proof of what Exchange judges after DATA."""
    return f"`alertpost doctor {quote(address)} --to ADDRESS`"


def grant(entry: MailboxEntry) -> Finding:
    """Judge whether there is a consent."""
    if entry.connected_at is None or entry.grant_kind is None:
        return failed(
            "none",
            "Nobody has consented yet that this mailbox sends.",
            f"`alertpost mailboxes connect {quote(entry.address)}`",
        )
    if entry.grant_kind == APP_ONLY:
        kind = "app-only (the app's own permission)"
    else:
        kind = f"{entry.grant_kind}, by {entry.account}"
    used = f", last refreshed {entry.refreshed_at:%Y-%m-%d %H:%MZ}" if entry.refreshed_at else ""
    return ok(f"{kind}, {entry.granted_at:%Y-%m-%d %H:%MZ}{used}")


def token(*, fresh: bool, seen: str, shared: bool) -> Finding:
    """Judge a token that was got."""
    if fresh:
        alone = "" if shared else "; Redis is away or refuses, so nobody shares one"
        return ok(f"{seen}{alone}")
    return ok(
        seen,
        "Nothing was asked of Entra: what was changed or withdrawn there since shows at the next "
        "refresh.",
    )


def no_token(error: AlertpostError, entry: MailboxEntry) -> Finding:
    """Judge why there is no token."""
    if isinstance(error, CredentialRejected):
        verdict = oauth_verdict(error)
        return _by_verdict(verdict, verdict.detail or error.error, entry)
    if isinstance(error, TokenUnavailable):
        return failed(
            str(error),
            "No token can be had at the moment; workers ask again after a pause.",
            "see the checks of the sign-in service; else wait some minutes",
        )
    return failed(
        str(error),
        "The set-up of this mailbox cannot work.",
        f"`alertpost tenants show {entry.tenant_slug}`, then change what is "
        f"wrong: `alertpost tenants edit {entry.tenant_slug} --help`",
    )


def slot(*, asked: bool) -> Finding:
    """Say whether one of the mailbox's connections was taken."""
    if asked:
        return ok("one connection reserved for this check")
    return warning(
        "not asked: Redis is away or refuses",
        "Connections cannot be counted; no worker opens any meanwhile.",
        "see the check of Redis",
    )


def no_slot(reason: str) -> Finding:
    """Nobody may look now: the mailbox's connections are in use."""
    return skipped(
        "limits",
        reason,
        "The doctor keeps to the mailbox's connections as workers do; they are sending, it seems.",
        "run it again in a minute",
    )


def signed_in(who: Account, *, tokens: int, reply: str) -> Finding:
    """Judge a sign-in that succeeded, perhaps with a second token."""
    seen = f"{who.sender.signs_in_as}: {reply}"
    if tokens > 1:
        return warning(
            f"{seen} (after another token was refused)",
            "The token that the workers share was refused, and another one taken.",
            "nothing; if it happens again, see who revokes sessions of this account",
        )
    return ok(seen)


def not_signed_in(failure: SubmissionFailed, who: Account, *, fresh: bool) -> Finding:
    """Judge a sign-in that failed."""
    verdict = conclusion.judge(failure, fresh_token=fresh)
    return _by_verdict(verdict, f"{failure.stage}: {reply_of(failure)}", who.entry)


def sender_taken(who: Account, reply: str) -> Finding:
    """Judge a MAIL FROM that was taken; it proves less than it seems to."""
    address, user = who.sender.address, who.sender.auth_user
    if not who.sender.is_shared:
        return ok(
            f"{address}: {reply}",
            f"{_ONE_TRY} Licence, room and lock-outs are judged only when a mail is handed in: "
            f"{prove(address)}.",
        )
    return warning(
        f"{address}, signed in as {who.sender.signs_in_as}: {reply}",
        f"{_ONE_TRY} Exchange judges whether {user} may send as {address} only after DATA, so "
        "this proves nothing yet.",
        f"{prove(address)} proves it; the right is given in Exchange Online PowerShell by "
        f"{send_as(address, user)}",
    )


def sender_refused(failure: SubmissionFailed, who: Account) -> Finding:
    """Judge a MAIL FROM that was refused."""
    verdict = conclusion.judge(failure, fresh_token=True)
    found = _by_verdict(verdict, f"{who.sender.address}: {reply_of(failure)}", who.entry)
    return failed(
        found.seen,
        f"{found.meaning} It was tried only once: repeated refusals lock a mailbox out.",
        found.mend,
    )


def sender_left_alone(entry: MailboxEntry) -> Finding:
    """Do not provoke what a mailbox is parked for."""
    return skipped(
        "standing",
        f"not tried: it is parked for {entry.park_reason}",
        "One more refusal could lock the mailbox out, or prolong that.",
        f"once the cause is gone: {prove(entry.address)}",
    )


def standing(entry: MailboxEntry) -> Finding:
    """Judge whether the mailbox waits for somebody, and say what would let it send again."""
    if entry.parked_at is not None:
        mend = [entry.park_next_step or ""]
        command = command_for(entry.park_reason, entry)
        if command is not None and f"`{command}`" not in mend[0]:
            mend.append(f"Then `{command}`.")
        mend.append(_resumed_by(entry, said=" ".join(mend)))
        answer = f"; answer: {entry.park_answer}" if entry.park_answer else ""
        return failed(
            f"parked since {entry.parked_at:%Y-%m-%d %H:%MZ} for {entry.park_reason}{answer}",
            f"{entry.park_meaning or ''} {_waiting(entry)}".strip(),
            " ".join(part for part in mend if part),
        )
    if entry.standing == "paused" and entry.paused_until is not None:
        known = meaning_of(entry.pause_reason)
        return failed(
            f"paused until {entry.paused_until:%Y-%m-%d %H:%M:%SZ} for {entry.pause_reason}",
            f"{known.meaning if known else ''} {_waiting(entry)}".strip(),
            f"nothing: it continues by itself then. {known.next_step if known else ''}".strip(),
        )
    if entry.standing == "held" and entry.held_until is not None:
        known = meaning_of(entry.held_reason)
        return failed(
            f"held until {entry.held_until:%Y-%m-%d %H:%M:%SZ}: {entry.held_by} refuses "
            f"{entry.held_from} for {entry.held_reason}",
            f"{known.meaning if known else ''} {_waiting(entry)}".strip(),
            known.next_step if known else "",
        )
    return ok(f"{entry.standing}; {_waiting(entry)}")


def mail_sent(ending: Ending, who: Account, to: str) -> Finding:
    """Judge the mail that was sent."""
    entry = who.entry
    if ending.verdict is not None:
        return _by_verdict(ending.verdict, ending.reply, entry)
    seen = f"to {to}: {ending.reply}"
    if entry.parked_at is None:
        return ok(seen, "Exchange took it; it took one of the mailbox's mails of this minute.")
    return ok(
        seen,
        f"It works, though it is parked: `alertpost mailboxes resume {quote(entry.address)}` "
        "lets it send "
        "again.",
    )


@cache
def parked_over_a_mail() -> frozenset[str]:
    """Return the reasons that another refusal at MAIL or after it makes worse."""
    verdicts = [rule.chosen(fresh_token=True) for rule in MAIL_RULES]
    verdicts += [pair[1] for stage, pair in REFUSED_BY_STAGE.items() if stage is not Stage.AUTH]
    return frozenset(
        verdict.rule
        for first in verdicts
        for verdict in (first, first.limit.then if first.limit else first)
        if verdict.action is Action.PARK
    )


def _by_verdict(verdict: Verdict, seen: str, entry: MailboxEntry) -> Finding:
    command = command_for(verdict.rule, entry)
    mend = filled(
        verdict.next_step,
        address=entry.address,
        account=entry.auth_user,
        tenant=entry.tenant_slug,
        app=entry.app,
    )
    if command:
        mend = f"{mend} Then `{command}`" if mend else f"`{command}`"
    return failed(seen, f"{verdict.meaning} ({verdict.rule})", mend)


def _resumed_by(entry: MailboxEntry, *, said: str) -> str:
    ways = []
    if entry.park_reason in park_causes.cured_by_consent():
        ways.append("after a new consent")
    if entry.park_reason in park_causes.cured_by_credential():
        ways.append("after a new secret or certificate")
    if entry.park_reason in park_causes.cured_by_settings():
        ways.append(
            "after a change of the tenant's settings (`alertpost tenants edit "
            f"{entry.tenant_slug} --help`)"
        )
    if entry.probe_at is not None:
        ways.append(f"at {entry.probe_at:%Y-%m-%d %H:%MZ}, when one mail tries by itself")
    resume = f"`alertpost mailboxes resume {quote(entry.address)}`"
    if resume not in said:
        ways.append(f"now with {resume}" if entry.probe_at is not None else f"with {resume}")
    return f"It sends again {', or '.join(ways)}." if ways else ""


def _waiting(entry: MailboxEntry) -> str:
    waiting = counted(entry.waiting, "alert waits", "alerts wait")
    return f"{waiting}, {counted(entry.dead, 'is a dead letter', 'are dead letters')}."
