"""``alertpost status`` on one screen; lists that could be long show their beginning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from shlex import quote
from typing import TYPE_CHECKING

from rich.text import Text

from console.attention import Concern, command_of
from console.expiry_view import needed_by, print_expiries
from console.names import some_of
from console.output import cell, counted, out, print_fields, print_table
from models.backlog import WaitingLane
from models.expiries import Expiry, Level
from models.explain import span_text
from models.host_holds import HostHold
from models.operator_mailbox import NOT_SET, OperatorMailbox
from models.overview import Overview
from models.standings import Held
from workers.reasons import meaning_of

if TYPE_CHECKING:
    from console.live import Live

MOST = 10
"""So much of a list is shown; JSON has all of it."""


FEW = 3
"""So many things that need a person are told with all there is to say; more have a line each."""


def print_status(
    seen: Overview,
    live: Live,
    needed: Sequence[Concern],
    first_step: str | None,
    operator: OperatorMailbox | None,
) -> None:
    """
    Print everything that there is something to say of; arguments as for ``status_json``.

    What needs a person is told at the top, and nowhere below once more.
    """
    if first_step is not None:
        out.print(Text(f"Nothing can be sent yet. Next: `{first_step}`.", "bold"))
    _print_concerns(seen, needed, begun=first_step is None)
    _print_figures(seen, live, operator)
    for hold in seen.holds:
        _print_hold(hold)
    told = [concern.held for concern in needed[:MOST]]
    others = [held for held in seen.standings.held if held not in told]
    for held in others[:MOST]:
        _print_held(held)
    _tell_more(others, "`alertpost mailboxes list`")
    _print_lanes(seen, live, needed)
    _print_dead(seen, few=len(needed) <= FEW)
    _print_unsent(seen)
    _print_budgets(seen)
    above = [concern.expiry for concern in needed[:MOST]]
    near = [one for one in near_expiries(seen.expiries) if one not in above]
    if near:
        _head("Ends soon")
        print_expiries(near[:MOST])
        _tell_more(near, "`alertpost expiries`")


def near_expiries(all_of_them: Sequence[Expiry]) -> list[Expiry]:
    """Leave out what ends later than the first warning, and what no mailbox needs."""
    return [one for one in all_of_them if one.level is not Level.LATER and one.mailboxes]


def next_at(lane: WaitingLane, live: Live, now: datetime) -> datetime | None:
    """Say when a lane's next mail may go: not before SQL says so, nor without a permit."""
    if lane.next_at is None:
        return None
    window = live.windows.get(lane.mailbox_id)
    free = now if window is None else now + timedelta(milliseconds=window.wait_ms)
    return max(lane.next_at, free)


def _head(title: str) -> None:
    out.print()
    out.print(Text(title, "bold"))


def _tell_more(whole: Sequence[object], command: str) -> None:
    if len(whole) > MOST:
        out.print(f"and {len(whole) - MOST:,} more: {command}", markup=False)


def _print_concerns(seen: Overview, needed: Sequence[Concern], *, begun: bool) -> None:
    if needed:
        things = "1 thing needs" if len(needed) == 1 else f"{len(needed)} things need"
        out.print(Text(f"{things} a person at {cell(seen.now)}:", "bold"))
    elif begun and seen.unsent:
        out.print(Text(f"Nobody has to act at {cell(seen.now)}, but not all was sent.", "bold"))
    elif begun:
        out.print(Text(f"All is well at {cell(seen.now)}.", "bold"))
    for concern in needed[:MOST]:
        _print_concern(concern, few=len(needed) <= FEW)
    _tell_more(needed, "`alertpost status --json`")
    out.print()


def _print_concern(concern: Concern, *, few: bool) -> None:
    """Name who it is before the rule, and what to do before the command that ends it."""
    held, ends = concern.held, concern.expiry
    text, command = concern.text, concern.command
    if held is not None:
        are = "is" if len(held.mailboxes) == 1 else "are"
        text = f"{some_of(held.mailboxes)} {are} {held.standing}: {held.reason}"
    out.print(Text.assemble(("  ! ", "bold red"), cell(text)))
    if held is not None and few:
        out.print(Text(f"    {cell(_what_to_do(held))}"))
        if held.tries_at is not None:
            out.print(Text(f"    It tries by itself at {cell(held.tries_at)}."))
    elif held is not None and command is not None and " resume " in command:
        # Something has to be mended first; this says what.
        command = f"alertpost mailboxes show {quote(held.mailboxes[0])}"
    if ends is not None and few:
        out.print(Text(f"    Needed by {cell(needed_by(ends))}. {cell(ends.next_step)}"))
    if command is not None:
        out.print(Text(f"    {cell(command)}"))


def _what_to_do(held: Held) -> str:
    meaning = meaning_of(held.reason)
    parts = (
        held.meaning or (meaning and meaning.meaning),
        held.next_step or (meaning and meaning.next_step),
    )
    return " ".join(part for part in parts if part)


def _print_figures(seen: Overview, live: Live, operator: OperatorMailbox | None) -> None:
    who = seen.standings
    kinds = Counter({"ready": who.mailboxes_ready})
    for held in who.held:
        kinds[held.standing] += len(held.mailboxes)
    tenants = f"{who.tenants_ready:,} ready, {who.tenants_waiting:,} waiting"
    if who.tenants_empty:
        tenants += f", {who.tenants_empty:,} without a mailbox"
    lanes = f" in {counted(len(seen.lanes), 'lane', 'lanes')}" if seen.lanes else ""
    dead = sum(one.letters for one in seen.dead)
    print_fields(
        {
            "tenants": tenants,
            "mailboxes": ", ".join(f"{number:,} {kind}" for kind, number in kinds.items()),
            "mail": f"{seen.waiting:,} waiting{lanes}, {seen.in_hand:,} in hand, {dead:,} dead",
            "refused": _refused(seen),
            "suppressed": _suppressed(seen),
            "workers": _workers(live),
            "Redis": _redis(live),
            "SQL": live.sql.caveat if live.sql.trouble is None else "takes nothing that is written",
            "warnings": NOT_SET if operator is None else operator.sentence(),
        }
    )


def _suppressed(seen: Overview) -> str | None:
    if not seen.suppressed:
        return None
    return f"{counted(seen.suppressed, 'address', 'addresses')}: `alertpost suppressions list`"


def _refused(seen: Overview) -> str | None:
    refusals = seen.refusals
    if not refusals.recipients:
        return None
    recipients = counted(refusals.recipients, "recipient", "recipients")
    mails = counted(refusals.mails, "accepted mail", "accepted mails")
    return f"{recipients} of {mails} within 24 hours: `alertpost deliveries list --refused`"


def _redis(live: Live) -> str:
    if live.away is not None:
        return f"does not answer: {live.away}"
    if live.refuses is not None:
        return live.refuses.text.removeprefix("Redis ")
    return "answers" if live.risk is None else "answers, but may drop what it is told to keep"


def _workers(live: Live) -> str:
    if live.away is not None:
        return "not known, Redis tells"
    if not live.knows_workers:
        return "not known, Redis does not take what they say"
    names = [f"{one.host} (pid {one.pid}, {one.version})" for one in live.workers]
    return f"{len(names)} alive: {some_of(names)}" if names else "none alive"


def _print_hold(hold: HostHold) -> None:
    meaning = meaning_of(hold.rule)
    _head(f"{hold.smtp_host} refuses the address of {hold.sends_from}: {hold.rule}")
    print_fields(
        {
            "  since": hold.since,
            "  means": meaning and meaning.meaning,
            "  next": meaning and meaning.next_step,
            "  answer": hold.answer,
            "  tries itself": hold.probe_at,
        }
    )


def _print_held(held: Held) -> None:
    meaning = meaning_of(held.reason)
    boxes = counted(len(held.mailboxes), "mailbox", "mailboxes")
    _head(f"{boxes} {held.standing}{f': {held.reason}' if held.reason else ''}")
    print_fields(
        {
            "  which": some_of(held.mailboxes),
            "  means": held.meaning or (meaning and meaning.meaning),
            "  next": held.next_step or (meaning and meaning.next_step),
            "  command": command_of(held),
            "  tries itself": held.tries_at,
            "  continues": held.until,
        }
    )


def _print_lanes(seen: Overview, live: Live, needed: Sequence[Concern]) -> None:
    lanes = seen.lanes
    if len(needed) > FEW:
        # That nothing moves at a parked mailbox is said above.
        parked = {box for concern in needed if concern.held for box in concern.held.mailboxes}
        lanes = tuple(lane for lane in lanes if lane.mailbox not in parked)
    if not lanes:
        return
    _head("Lanes in which mail waits")
    print_table(
        ("Mailbox", "Tenant", "Waiting", "Critical", "Oldest", "Next may go", "Permits"),
        [
            (
                lane.mailbox, lane.tenant, f"{lane.waiting:,}", lane.critical,
                span_text(seen.now - lane.oldest_at), _when(lane, live, seen.now),
                _permits(lane, live),
            )
            for lane in lanes[:MOST]
        ],
        right=("Waiting", "Critical", "Oldest", "Permits"),
        # The tenant shows in the address, as a rule.
        spare=("Tenant", "Permits", "Critical", "Oldest"),
    )  # fmt: skip
    _tell_more(lanes, "`alertpost mailboxes list`")


def _when(lane: WaitingLane, live: Live, now: datetime) -> str:
    moment = next_at(lane, live, now)
    if moment is None:
        return f"not before a person acts ({lane.standing})"
    why = {"parked": " (parked: one mail tries)", "paused": " (paused)"}.get(lane.standing, "")
    return f"{'now' if moment <= now else f'in {span_text(moment - now)}'}{why}"


def _permits(lane: WaitingLane, live: Live) -> str:
    window = live.windows.get(lane.mailbox_id)
    return "?" if window is None else str(window.permits)


def _print_dead(seen: Overview, *, few: bool) -> None:
    if not seen.dead or not few:
        # `alertpost dead list`, which is named above, has them with what each means.
        return
    _head("Dead letters")
    rows = []
    for one in seen.dead:
        meaning = meaning_of(one.reason)
        said = f"{meaning.meaning} {meaning.next_step}" if meaning else None
        rows.append((f"{one.letters:,}", one.reason, said))
    print_table(("Letters", "Reason", "What it means, and what next"), rows, right=("Letters",))


def _print_unsent(seen: Overview) -> None:
    if not seen.unsent:
        return
    alerts = sum(one.alerts for one in seen.unsent)
    _head(f"{counted(alerts, 'alert', 'alerts')} ended unsent within 24 hours")
    print_table(
        ("Mailbox", "Tenant", "Alerts", "State", "Reason", "Last"),
        [
            (one.mailbox, one.tenant, f"{one.alerts:,}", one.state, one.reason, one.last_at)
            for one in seen.unsent[:MOST]
        ],
        right=("Alerts",),
    )
    command = f"alertpost deliveries list --state {seen.unsent[0].state}"
    out.print(f"Each of them: {command}", markup=False)
    _tell_more(seen.unsent, "`alertpost status --json`")


def _print_budgets(seen: Overview) -> None:
    if not seen.budgets:
        return
    _head("Recipients of 24 hours")
    print_table(
        ("Who", "Counted", "Used", "Of"),
        [(one.who, one.counted, f"{one.used:,}", f"{one.limit:,}") for one in seen.budgets],
        right=("Used", "Of"),
    )
