"""The mail that warns the operator: everything that is new at one look, the most urgent first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from html import escape
from itertools import groupby
from math import ceil
from shlex import quote

from models.alert import AlertEmail
from models.expiries import Expiry, Kind, Level, days_left
from models.explain import span_text
from models.losses import BackMailbox, Lost
from models.operator_mailbox import OperatorMailbox
from models.operator_news import News
from models.redaction import redact_secrets
from models.severity import Severity
from models.unsent import Unsent
from workers.cures import cure_of
from workers.reasons import meaning_of

NAMED = 20
"""So many mailboxes or tenants are named, and how many others there are."""

_escape = partial(escape, quote=False)  # it stands in elements, never in attributes
_AT_ONCE = frozenset({Level.ENDED, Level.DAY})
_OTHERS = "   (and so on for the others)"
_LONGEST_SUBJECT = 255
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Block:
    """
    One thing that is told.

    Attributes:
        title: What happened, as the subject says it.
        fields: Further words, each under its name.
        severity: How urgent it is.
        label: Stands before the title where it is not said by it.
    """

    title: str
    fields: tuple[tuple[str, str], ...]
    severity: Severity
    label: str = ""

    @property
    def heading(self) -> str:
        """The title with its label."""
        return f"{self.label}: {self.title}" if self.label else self.title


def warning_mail(news: News, operator: OperatorMailbox) -> AlertEmail:
    """
    Write the mail.

    Args:
        news: What is new; there is something to mail.
        operator: Where it goes from and to; it is connected.

    Raises:
        InvalidAlert: It breaks a rule of alert e-mails, which is a fault of ours.
    """
    blocks = list(_blocks(news))
    return _mail(operator, _subject(blocks), blocks, footer=_FOOTER)


def trial_mail(operator: OperatorMailbox) -> AlertEmail:
    """
    Write the mail that shows that warnings arrive.

    Raises:
        InvalidAlert: As ``warning_mail``.
    """
    block = Block(
        "test of the warnings; nobody has to do anything",
        (
            ("From", operator.address),
            ("To", ", ".join(operator.recipients)),
            ("What", "Warnings of what ends and of what was lost go out as this mail did."),
        ),
        Severity.ELEVATED,
    )
    return _mail(operator, f"alertpost: {block.title}", [block], footer=_FOOTER)


_FOOTER = (
    "`alertpost status` shows everything, `alertpost warnings` what was sent before. This warning "
    "travels like any alert: if that mailbox is stuck, so is the warning. So let monitoring watch "
    "the exit codes of `alertpost status` and `alertpost expiries` too."
)


def _blocks(news: News) -> Iterator[Block]:
    yield from (_lost(one) for one in news.lost)
    if news.unsent:
        yield _unsent(news.unsent)
    yield from _ending(news)
    yield from (_lost(one, again=True) for one in news.repeated)
    together = sorted(news.back, key=lambda one: one.cause)
    yield from (_back(list(group)) for _, group in groupby(together, key=lambda one: one.cause))


def _ending(news: News) -> Iterator[Block]:
    """Tell the first to end first; grants of one level are one thing."""
    ends = sorted(news.ends, key=_end)
    told: set[Level] = set()
    for one in ends:
        if one.kind is not Kind.GRANT:
            yield _credential(one, news.now)
        elif one.level not in told:
            told.add(one.level)
            alike = [o for o in ends if o.kind is Kind.GRANT and o.level is one.level]
            yield _grants(alike, news.now)


def _end(one: Expiry) -> datetime:
    assert one.ends_at is not None
    return one.ends_at


def _subject(blocks: Sequence[Block]) -> str:
    more = f", and {len(blocks) - 1:,} more" if len(blocks) > 1 else ""
    head = f"alertpost: {blocks[0].heading}"
    return head[: _LONGEST_SUBJECT - len(more)] + more


def _lost(lost: Lost, *, again: bool = False) -> Block:
    first = lost.first
    command = cure_of(
        first.reason,
        address=first.address,
        tenant=first.tenant,
        parked=True,
        app=first.app,
    )
    command = command or f"alertpost mailboxes show {quote(first.address)}"
    if len(lost.mailboxes) > 1 and first.scope == "mailbox":
        command += _OTHERS
    waiting = _alerts(lost.waiting, "waits", "wait")
    addresses = [one.address for one in lost.mailboxes]
    return Block(
        f"{_who(first.cause, addresses)} cannot send: {first.reason}",
        (
            ("What", _plain(first.meaning) or first.reason),
            ("Since", f"{_moment(first.parked_at)}; {waiting}"),
            ("Mailboxes", _some(addresses)),
            ("Tenants", _some([one.tenant for one in lost.mailboxes])),
            ("Do", _plain(first.next_step) or "See what the command says."),
            ("Command", command),
        ),
        Severity.ELEVATED if again else Severity.CRITICAL,
        "still lost" if again else "lost",
    )


def _unsent(unsent: Sequence[Unsent]) -> Block:
    alerts = sum(one.alerts for one in unsent)
    first = min(one.first_at for one in unsent)
    last = max(one.last_at for one in unsent)
    each = [_ended(one) for one in unsent[:NAMED]]
    if len(unsent) > NAMED:
        each.append(f"and {len(unsent) - NAMED:,} more")
    meaning = meaning_of(unsent[0].reason)
    return Block(
        f"{'1 alert' if alerts == 1 else f'{alerts:,} alerts'} ended without being sent",
        (
            ("What", "; ".join(each)),
            ("When", f"{_moment(first)} to {_moment(last)}" if first != last else _moment(first)),
            ("Means", meaning.meaning if meaning else "They were not sent before their deadline."),
            ("Do", meaning.next_step if meaning else "See what held them up."),
            ("Command", f"alertpost deliveries list --state {unsent[0].state}"),
        ),
        Severity.ELEVATED,
        "unsent",
    )


def _ended(one: Unsent) -> str:
    return f"{one.alerts:,} of {one.mailbox} ({one.tenant}): {_plain(one.reason or one.state)}"


def _credential(one: Expiry, now: datetime) -> Block:
    when = _when(_end(one) - now)
    what = f"{one.kind} of app '{one.name}' {when} ({_boxes(one.mailboxes)})"
    return _ends([one], what, one.command)


def _grants(grants: Sequence[Expiry], now: datetime) -> Block:
    first = grants[0]
    when = _when(_end(first) - now)
    if len(grants) == 1:
        return _ends(grants, f"grant of {first.name} {when}", first.command)
    what = f"grants of {len(grants):,} mailboxes end: the first {when}"
    return _ends(grants, what, f"{first.command}{_OTHERS}")


def _ends(alike: Sequence[Expiry], what: str, command: str) -> Block:
    first = alike[0]
    return Block(
        what,
        (
            ("When", _moment(_end(first))),
            ("Mailboxes", _some([name for one in alike for name in one.mailboxes])),
            ("Tenants", _some([name for one in alike for name in one.tenants])),
            ("Do", first.next_step),
            ("Command", command),
        ),
        Severity.CRITICAL if first.level in _AT_ONCE else Severity.ELEVATED,
    )


def _back(mailboxes: Sequence[BackMailbox]) -> Block:
    addresses = [one.address for one in mailboxes]
    since = min(one.parked_at for one in mailboxes)
    until = max(one.resumed_at for one in mailboxes)
    waited = sum(one.waited for one in mailboxes)
    due = "; what is due goes out now, the most severe first" if waited else ""
    return Block(
        f"{_who(mailboxes[0].cause, addresses)} can send",
        (
            ("Was", mailboxes[0].reason),
            ("Parked", f"for {span_text(until - since)}, {_moment(since)} to {_moment(until)}"),
            ("Alerts", _alerts(waited, "waited", "waited") + due),
            ("Mailboxes", _some(addresses)),
            ("Tenants", _some([one.tenant for one in mailboxes])),
        ),
        Severity.NORMAL,
        "back again",
    )


def _who(cause: str, addresses: Sequence[str]) -> str:
    """Name the app or the tenant that the cause concerns; else the mailbox, or how many."""
    where = cause.partition(":")[0]
    kind, _, name = where.partition(" ")
    if name:
        return f"{kind} '{name}' ({_boxes(addresses)})"
    return addresses[0] if len(addresses) == 1 else _boxes(addresses)


def _when(left: timedelta) -> str:
    """Say how soon, rounded up: who is told at seven days is told of seven."""
    if left <= timedelta(0):
        return "has ended"
    if left > _DAY:
        return f"ends in {days_left(left)} days"
    hours = ceil(left / _HOUR)
    return f"ends in {hours} {'hour' if hours == 1 else 'hours'}"


def _boxes(addresses: Sequence[str]) -> str:
    return "1 mailbox" if len(addresses) == 1 else f"{len(addresses):,} mailboxes"


def _alerts(number: int, one: str, many: str) -> str:
    if not number:
        return f"no alert {one}"
    return f"1 alert {one}" if number == 1 else f"{number:,} alerts {many}"


def _some(names: Sequence[str]) -> str:
    each = list(dict.fromkeys(names))
    left = len(each) - NAMED
    return ", ".join(each[:NAMED]) + (f", and {left:,} more" if left > 0 else "")


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _plain(text: str) -> str:
    """Keep words that came from elsewhere on one line, and free of what looks like a secret."""
    return " ".join(redact_secrets(text).split())


def _mail(
    operator: OperatorMailbox, subject: str, blocks: Sequence[Block], *, footer: str
) -> AlertEmail:
    assert operator.sender is not None
    severity = min((block.severity for block in blocks), key=int)
    return AlertEmail.parse(
        {
            "tenant": operator.sender.tenant_slug,
            "mailbox": operator.sender.address,
            "to": list(operator.recipients),
            "subject": subject,
            "text": "\n\n".join([*map(_as_text, blocks), footer]) + "\n",
            "html": "\n".join([*map(_as_html, blocks), f"<p>{_escape(footer)}</p>"]) + "\n",
            "severity": severity.label,
        }
    )


def _as_text(block: Block) -> str:
    width = max(len(name) for name, _ in block.fields) + 2
    lines = [f"  {f'{name}:'.ljust(width)}{value}" for name, value in block.fields]
    return "\n".join([_capital(block.heading), *lines])


def _as_html(block: Block) -> str:
    rows = "".join(
        f"<tr><td valign=top>{_escape(name)}</td><td>{_value_as_html(name, value)}</td></tr>"
        for name, value in block.fields
    )
    return f"<h3>{_escape(_capital(block.heading))}</h3>\n<table>{rows}</table>"


def _value_as_html(name: str, value: str) -> str:
    return f"<code>{_escape(value)}</code>" if name == "Command" else _escape(value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
