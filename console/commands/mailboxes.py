"""``alertpost mailboxes``: sender accounts, their consents, and whether they can send."""

from __future__ import annotations

import asyncio
import os
import sys
import webbrowser
from dataclasses import replace
from datetime import timedelta
from shlex import quote
from typing import Annotated, Any, cast

import typer

from console import command_logs, dialogue, when
from console import verbs_mailboxes as verbs
from console.actor import As, actor
from console.asking import Force, Yes, ask
from console.borrowed_slot import MustWait
from console.commands import consent_links, mailboxes_list
from console.commands.moving import import_grant, tell_connected, tell_forms
from console.consent import CALLBACK_PATH, Callback, Redirect, pasted_parameters
from console.context import Context, opened
from console.dialogue import Ending
from console.dialogue_lines import Line
from console.exchange_powershell import (
    checked_object_id,
    with_least_privilege,
    with_permissions,
)
from console.next_commands import command_for
from console.output import (
    Json,
    cell,
    complain,
    counted,
    jsonable,
    out,
    print_fields,
    print_json,
)
from console.resumed_view import tell_resumed
from console.verbs_mailboxes import Connected
from models import grants, mailboxes
from models.auth_forms import AuthForm
from models.database import read, write
from models.errors import ConfigurationError
from models.lookups import BY_HAND
from models.mailboxes import MailboxChanges, MailboxEntry
from models.quota_counts import account_usage
from workers.cures import filled
from workers.reasons import meaning_of
from workers.verdict import Action

app = typer.Typer(help="Sender accounts.", no_args_is_help=True, callback=command_logs.set_up)

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="The mailbox.")]
DisplayName = Annotated[
    str | None, typer.Option(metavar="NAME", help="The name that recipients see.")
]
AuthUser = Annotated[
    str | None,
    typer.Option(metavar="USER", help="Who authenticates, for a shared mailbox."),
]

_TRY_LATER = 5
_EXIT_CONFLICT = 4
_WAIT_SECONDS = 600.0
_SOLVES_ITSELF = frozenset(
    {Action.RETRY_SOON, Action.RETRY_BACKOFF, Action.THROTTLE_MAILBOX, Action.THROTTLE_TENANT}
)


@app.command("add")
def add(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's short name.")],
    address: Address,
    display_name: DisplayName = None,
    auth_user: AuthUser = None,
    who: As = None,
) -> None:
    """Add a mailbox; the first of a tenant takes the alerts that name none."""
    with opened() as context, write(context.engine) as conn:
        entry = mailboxes.add_mailbox(
            conn,
            tenant_slug=tenant,
            address=address,
            display_name=display_name,
            auth_user=auth_user,
        )
        verbs.note(conn, actor(who), "mailbox-add", entry.address, tenant=tenant)
    default = " It is the tenant's default sender." if entry.is_default else ""
    out.print(f"Mailbox {entry.address} added.{default}", markup=False)
    out.print(f"Next: `alertpost mailboxes connect {quote(entry.address)}`.", markup=False)


@app.command("edit")
def edit(
    address: Address,
    *,
    display_name: DisplayName = None,
    auth_user: AuthUser = None,
    default: Annotated[
        bool, typer.Option("--default", help="Takes its tenant's alerts that name no mailbox.")
    ] = False,
    max_recipients: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=1000, help="Recipients of one mail; 0: no limit."),
    ] = None,
    who: As = None,
) -> None:
    """Change a mailbox; an empty name ("") takes a name away."""
    changes: dict[str, str | int | None] = {}
    if max_recipients is not None:
        changes["max_recipients"] = max_recipients or None
    if display_name is not None:
        changes["display_name"] = display_name or None
    if auth_user is not None:
        changes["auth_user"] = auth_user or None
    if not changes and not default:
        raise ConfigurationError("nothing to change: give at least one option, see --help")
    with opened() as context, write(context.engine) as conn:
        entry = mailboxes.edit_mailbox(conn, address, **cast("MailboxChanges", changes))
        if default:
            entry = mailboxes.set_default(conn, address)
        changed = sorted([*changes, *(["is_default"] if default else [])])
        verbs.note(conn, actor(who), "mailbox-edit", entry.address, changed=changed)
    out.print(f"Mailbox {entry.address} is changed.", markup=False)
    if default:
        _print_default(entry)
    if auth_user is not None and entry.connected_at is not None:
        out.print(
            "Somebody else authenticates now: `alertpost mailboxes connect "
            f"{quote(entry.address)}`.",
            markup=False,
        )


def _print_default(entry: MailboxEntry) -> None:
    """Tell from where a tenant's alerts go out now, and that they wait if that cannot send."""
    out.print(
        f"Alerts of {entry.tenant_slug} that name no mailbox go out from {entry.address} now.",
        markup=False,
    )
    if entry.standing not in {"ready", "paused", "held"}:
        command = "resume" if entry.connected_at else "connect"
        complain(
            f"{entry.address} is {entry.standing}, so they wait: "
            f"`alertpost mailboxes {command} {quote(entry.address)}`, or name another default"
        )


@app.command("remove")
def remove(
    address: Address,
    force: Force = False,  # noqa: ARG001
    yes: Yes = False,
    who: As = None,
) -> None:
    """
    Take a mailbox out of service: what waits is cancelled, its consent is deleted.

    What it sent stays on record.
    """
    with opened() as context:
        with read(context.engine) as conn:
            entry = mailboxes.mailbox(conn, address)
        ask(
            f"Remove mailbox {entry.address}? Its consent is deleted, and what waits is "
            f"cancelled: {counted(entry.waiting)}.",
            yes=yes,
        )
        with write(context.engine) as conn:
            removal = mailboxes.remove_mailbox(conn, address, force=True)
            verbs.note(
                conn, actor(who), "mailbox-remove", entry.address, cancelled=removal.cancelled,
                default=removal.heir,
            )  # fmt: skip
            heir = mailboxes.mailbox(conn, removal.heir) if removal.heir else None
    out.print(
        f"Mailbox {entry.address} is removed: {counted(removal.cancelled)} cancelled, "
        f"{removal.kept} kept on record.",
        markup=False,
    )
    if heir is not None:
        _print_default(heir)
    elif entry.is_default:
        complain(
            f"tenant {entry.tenant_slug} has no mailbox any more: its alerts are refused until "
            f"`alertpost mailboxes add {entry.tenant_slug} ADDRESS`"
        )


@app.command("connect")
def connect(
    address: Address,
    *,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=65535, help="Port of 127.0.0.1 for the callback."),
    ] = None,
    redirect_uri: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help=f"As registered with the app; else http://localhost{CALLBACK_PATH}.",
        ),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Only print the address.")
    ] = False,
    paste: Annotated[
        bool,
        typer.Option("--paste", help="Paste the callback's address here, for machines without "
                     "a browser."),
    ] = False,
    app_only: Annotated[
        bool,
        typer.Option("--app-only", help="Use the app's own permission (SMTP.SendAsApp), nobody "
                     "signs in."),
    ] = False,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="How long the sign-in may take.")
    ] = _WAIT_SECONDS,
    who: As = None,
) -> None:  # fmt: skip
    """Get the consent under which a mailbox sends; also a new one, after it was revoked."""
    me = actor(who)
    with opened() as context:
        if app_only:
            tell_connected(verbs.connect_app_only(context, address, actor=me))
            return
        redirect = Redirect.choose(redirect_uri, port, pasted=paste)
        if paste:
            done = _connect_pasted(context, address, redirect, me)
        else:
            done = _connect_called(
                context, address, redirect, me, browser=not no_browser, wait=wait
            )
        tell_connected(done)
        tell_forms(context, done.address, actor=me)


app.command("import-grant")(import_grant)


consent_links.register(app)


@app.command("powershell")
def powershell(
    addresses: Annotated[
        list[str], typer.Argument(metavar="ADDRESS...", help="Mailboxes of one tenant.")
    ],
    *,
    least_privilege: Annotated[
        bool,
        typer.Option("--least-privilege", help="RBAC for Applications: these mailboxes alone, and "
                     "no right to read them."),
    ] = False,
    object_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Of the enterprise application; else it is asked for."),
    ] = None,
) -> None:  # fmt: skip
    """
    Print what lets the app submit by itself, for the customer's Exchange administrator.

    Needed before `mailboxes connect --app-only`. It goes to standard output, with the right ids
    in it; nothing is changed.
    """
    with opened() as context:
        with read(context.engine) as conn:
            boxes = [mailboxes.mailbox(conn, address) for address in dict.fromkeys(addresses)]
        tenants = sorted({box.tenant_slug for box in boxes})
        if len(tenants) > 1:
            raise ConfigurationError(
                f"these mailboxes belong to {' and '.join(tenants)}, each with an Exchange of its "
                "own: ask for each tenant's by itself"
            )
        given = None if object_id is None else checked_object_id(object_id)
        known, why_not = verbs.known_app(context, boxes[0].address)
    known = replace(known, object_id=given or known.object_id)
    write_down = with_least_privilege if least_privilege else with_permissions
    out.print(write_down(known, [box.address for box in boxes]), markup=False)
    if known.object_id is None:
        complain(f"the object id is not known, put it in by hand: {why_not}")


def _connect_called(
    context: Context, address: str, redirect: Redirect, me: str, *, browser: bool, wait: float
) -> Connected:
    """Listen on loopback, let somebody sign in, and redeem what the browser brings."""
    who = verbs.account(context, address, kind=grants.DELEGATED)
    client = verbs.entra(context, who.sender)
    connected: list[Connected] = []
    with Callback(redirect) as callback:
        flow = verbs.begin(client, who, redirect_uri=callback.redirect_uri)

        def finish(parameters: Any) -> str:
            done = verbs.complete(context, client, who, flow=flow, callback=parameters, actor=me)
            connected.append(done)
            return f"{done.address} can send now; {done.account} consented."

        _print_address(flow["auth_uri"], who.sender.auth_user, callback.redirect_uri)
        if callback.redirect_uri.startswith("http:"):
            complain(
                "open it in a browser on this machine; from elsewhere forward the port "
                "(ssh -L) or use --paste"
            )
        if browser and _has_browser():
            webbrowser.open(flow["auth_uri"])
        callback.wait(state=flow["state"], finish=finish, seconds=wait)
    return connected[0]


def _connect_pasted(context: Context, address: str, redirect: Redirect, me: str) -> Connected:
    who = verbs.account(context, address, kind=grants.DELEGATED)
    client = verbs.entra(context, who.sender)
    uri = redirect.uri or f"http://localhost{redirect.path}"
    flow = verbs.begin(client, who, redirect_uri=uri)
    _print_address(flow["auth_uri"], who.sender.auth_user, uri)
    complain(
        "open it in any browser; at the end that shows an error, because nothing listens at "
        f"{uri} there: copy the whole address from its address bar and paste it here"
    )
    try:
        pasted = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise ConfigurationError("what was pasted is no text in UTF-8") from error
    return verbs.complete(
        context, client, who, flow=flow, callback=pasted_parameters(pasted), actor=me
    )


@app.command("test")
def try_it(
    address: Address,
    *,
    to: Annotated[str, typer.Option("--to", metavar="ADDRESS", help="Who gets the mail.")],
    resume: Annotated[
        bool,
        typer.Option("--resume", help="If it works, end a park by hand too."),
    ] = False,
    as_json: Json = False,
    who: As = None,
) -> None:
    """Send one mail now and show every step. Takes one of the mailbox's mails of this minute."""
    me = actor(who)
    lines: list[Line] = []

    def tell(line: Line) -> None:
        lines.append(line)
        if not as_json:
            _print_line(line)

    with opened() as context:
        account = verbs.account(context, address)
        command = f"alertpost mailboxes test {quote(account.entry.address)} --to {quote(to)}"
        alert = dialogue.alert_for_test(account.sender, to, command=command)
        try:
            ending = asyncio.run(dialogue.send_test(context, account, alert, tell=tell))
        except MustWait as waiting:
            complain(str(waiting))
            raise typer.Exit(_TRY_LATER) from waiting
        with write(context.engine) as conn:
            rule = ending.verdict.rule if ending.verdict else "accepted"
            verbs.note(conn, me, "mailbox-test", account.entry.address, rule=rule)
        parked = ending.verdict is None and account.entry.parked_at is not None
        # A park by hand has no cause that a mail could disprove.
        ends = resume or account.entry.park_reason != BY_HAND
        resumed = verbs.resume(context, address, actor=me) if parked and ends else []
    if as_json:
        print_json(_ending_json(ending, lines, resumed))
    else:
        _print_ending(ending, account.entry)
        if resumed:
            # Of the others that waited for the same cause nobody knows.
            tell_resumed([one for one in resumed if one == account.entry.address], proven=True)
            tell_resumed([one for one in resumed if one != account.entry.address])
        elif parked:
            out.print(
                "It is parked by hand but works: "
                f"`alertpost mailboxes resume {quote(account.entry.address)}` lets it send again.",
                markup=False,
            )
    if ending.verdict is not None:
        raise typer.Exit(1)


app.command("list")(mailboxes_list.list_)


@app.command("show")
def show(address: Address, as_json: Json = False) -> None:
    """Show a mailbox: whether it can send, and what to do if not."""
    with opened() as context, read(context.engine) as conn:
        entry = mailboxes.mailbox(conn, address)
        day = context.settings.pacing.day_limits
        used = account_usage(
            conn, entry.auth_user or entry.address, window_seconds=day.window_seconds
        ).total
    if as_json:
        print_json(cast("dict[str, object]", jsonable(entry)) | {"recipients_of_the_day": used})
        return
    print_fields(
        {
            "mailbox": entry.address,
            "tenant": entry.tenant_slug,
            "name": entry.display_name,
            "authenticates": _authenticates(entry),
            "default": entry.is_default,
            "standing": entry.standing,
            "since": entry.parked_at,
            "reason": entry.park_reason,
            "meaning": entry.park_meaning,
            "next step": entry.park_next_step or _next_step(entry),
            "command": command_for(entry.park_reason, entry),
            "answer": entry.park_answer or None,
            "tries itself": None if entry.park_reason == BY_HAND else entry.probe_at,
            "sends again": entry.probe_at if entry.park_reason == BY_HAND else None,
            "paused until": entry.paused_until if entry.standing == "paused" else None,
            "pause reason": _pause_reason(entry),
            "held by": _held_by(entry),
            "held until": entry.held_until,
            "consent": _consent_text(entry),
            "refreshed": entry.refreshed_at,
            "recipients of a mail": _most_recipients(entry),
            "recipients of 24 hours": f"{used:,} of {day.recipients:,}" if day.recipients else used,
            "waiting": entry.waiting,
            "dead letters": entry.dead,
        }
    )


@app.command("park")
def park(
    addresses: Annotated[
        list[str] | None, typer.Argument(metavar="ADDRESS", help="Mailboxes.")
    ] = None,
    *,
    tenant: Annotated[
        str | None, typer.Option(metavar="SLUG", help="All mailboxes of this tenant.")
    ] = None,
    length: Annotated[
        timedelta | None,
        typer.Option("--for", parser=when.span, metavar="SPAN", help="Ends by itself after 30m, 2h "
                     "or 1d; else somebody has to resume."),
    ] = None,
    reason: Annotated[
        str, typer.Option("--why", metavar="TEXT", help="Why, for whoever looks.")
    ] = "",
    who: As = None,
) -> None:  # fmt: skip
    """
    Let mailboxes wait, for a maintenance window or until somebody resumes them.

    What is accepted meanwhile waits too.
    """
    if not addresses and tenant is None:
        raise typer.BadParameter("give addresses, or --tenant", param_hint="ADDRESS")
    seconds = None if length is None else length.total_seconds()
    me = actor(who)
    with opened() as context:
        done = verbs.park(
            context, addresses or [], tenant=tenant, text=reason, actor=me, seconds=seconds
        )
    for entry in done.parked:
        until = "" if entry.probe_at is None else f" until {cell(entry.probe_at)}"
        out.print(
            f"Mailbox {entry.address} is parked{until}; {counted(entry.waiting)} waiting. "
            f"`alertpost mailboxes resume {quote(entry.address)}` ends that.",
            markup=False,
        )
    for entry in done.kept:
        complain(
            f"mailbox {entry.address} is parked already ({entry.park_reason}) and stays so: "
            f"{entry.park_meaning}"
        )
    if not done.parked and not done.kept:
        out.print(f"Tenant {tenant} has no mailboxes.", markup=False)
    if done.kept and not done.parked:
        raise typer.Exit(_EXIT_CONFLICT)


@app.command("resume")
def resume_(
    address: Address,
    yes: Yes = False,
    reason: Annotated[
        str | None, typer.Option("--why", metavar="TEXT", help="For the audit trail.")
    ] = None,
    who: As = None,
) -> None:
    """Let a parked mailbox send again, and all that wait for the same cause."""
    me = actor(who)
    with opened() as context:
        waiting = verbs.same_cause(context, address)
        if len(waiting) > 1:
            ask(
                f"{len(waiting)} mailboxes wait for the same cause: {', '.join(waiting)}. "
                "Let all of them send again?",
                yes=yes,
            )
        resumed = verbs.resume(context, address, actor=me, reason=reason)
        with read(context.engine) as conn:
            entry = mailboxes.mailbox(conn, address)
    tell_resumed(resumed)
    if entry.grant_kind is None:
        out.print(
            f"Mailbox {entry.address} is not parked any more, but not connected: "
            f"`alertpost mailboxes connect {quote(entry.address)}`.",
            markup=False,
        )


def _has_browser() -> bool:
    """Tell whether a window can open; a text browser in this terminal helps nobody."""
    if not sys.stdout.isatty():
        return False
    return sys.platform in {"darwin", "win32"} or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def _print_address(address: str, user: str, redirect_uri: str) -> None:
    complain(f"sign in as {user} and accept, at this address:")
    # Alone on standard output, unbroken, and at once: somebody or something waits for it.
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    complain(f"if it says AADSTS50011, register {redirect_uri} with the app (platform Web)")


def _print_line(line: Line) -> None:
    first, *rest = line.received.splitlines() or [""]
    out.print(f"{line.seconds * 1000:8.1f} ms  {line.stage:<9}{line.sent}", markup=False)
    for text in (first, *rest):
        if text:
            out.print(f"{'':>13}{'':<9}  {text}", markup=False)
    if line.detail:
        out.print(f"{'':>13}{'':<9}  ({line.detail})", markup=False)


def _print_ending(ending: Ending, entry: MailboxEntry) -> None:
    if ending.verdict is None:
        out.print(f"Accepted in {ending.seconds * 1000:.0f} ms: {ending.reply}", markup=False)
        for address, reply in ending.refused.items():
            out.print(f"Refused for {address}: {reply}", markup=False)
        return
    verdict = ending.verdict
    began = "It is not known whether it was sent" if verdict.uncertain else "Not sent"
    out.print(f"{began}: {ending.reply}", markup=False)
    out.print(f"  what it means  {verdict.meaning} ({verdict.rule})", markup=False)
    # This mail is not tried again; what a worker does about such an answer, it does for alerts.
    step = "for alerts" if verdict.action in _SOLVES_ITSELF else "what to do"
    known = filled(
        verdict.next_step,
        address=entry.address,
        account=entry.auth_user,
        tenant=entry.tenant_slug,
        app=entry.app,
    )
    out.print(f"  {step:<15}{known}", markup=False)
    if (command := command_for(verdict.rule, entry)) is not None:
        out.print(f"  {'command':<15}{command}", markup=False)


def _ending_json(ending: Ending, lines: list[Line], resumed: list[str]) -> dict[str, object]:
    verdict = ending.verdict
    return {
        "accepted": verdict is None,
        "reply": ending.reply,
        "refused": ending.refused,
        "seconds": ending.seconds,
        "message_id": ending.message_id,
        "rule": verdict.rule if verdict else None,
        "meaning": verdict.meaning if verdict else None,
        "next_step": verdict.next_step if verdict else None,
        "resumed": resumed,
        "steps": [jsonable(line) for line in lines],
    }


def _pause_reason(entry: MailboxEntry) -> str | None:
    if entry.standing != "paused" or entry.pause_reason is None:
        return None
    meaning = meaning_of(entry.pause_reason)
    return f"{entry.pause_reason}: {meaning.meaning}" if meaning else entry.pause_reason


def _held_by(entry: MailboxEntry) -> str | None:
    if entry.held_by is None:
        return None
    meaning = meaning_of(entry.held_reason)
    says = f": {meaning.meaning}" if meaning else ""
    return f"{entry.held_by}, which refuses {entry.held_from} ({entry.held_reason}){says}"


def _most_recipients(entry: MailboxEntry) -> str | None:
    if entry.max_recipients is None:
        return None
    learned = entry.recipients_learned_at
    how = "set" if learned is None else f"learned from the server on {learned:%Y-%m-%d}"
    return f"at most {entry.max_recipients:,} ({how}); more go out in parts"


def _authenticates(entry: MailboxEntry) -> str | None:
    if entry.auth_user is None:
        return None
    names = {AuthForm.MAILBOX: entry.address, AuthForm.DELEGATE: entry.auth_user}
    known = names[AuthForm(entry.auth_form)] if entry.auth_form in set(AuthForm) else None
    return f"{entry.auth_user}, signing in as {known or 'itself (not tried yet)'}"


def _next_step(entry: MailboxEntry) -> str | None:
    if entry.connected_at is None:
        return f"`alertpost mailboxes connect {quote(entry.address)}`"
    return None


def _consent_text(entry: MailboxEntry) -> str | None:
    if entry.grant_kind is None or entry.granted_at is None:
        return None
    return f"{entry.grant_kind}, by {entry.account}, {entry.granted_at:%Y-%m-%d %H:%M}Z"
