"""``mailboxes import-grant``, ``tenants import-emailproxy``: consents that other programs have."""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from shlex import quote
from typing import Annotated

import typer

from console import verbs_mailboxes as verbs
from console.actor import As, actor
from console.borrowed_slot import MustWait
from console.context import Context, opened
from console.moving import sasl_xoauth2
from console.moving.adopting import Plan, Wish, adopt, rehearse, rehearse_all
from console.moving.emailproxy import BadAccount, ProxyFile
from console.moving.found import FoundGrant
from console.moving.reading import LARGEST, read_text
from console.output import Json, counted, jsonable, out, print_json, print_table
from console.resumed_view import tell_resumed
from console.shared_forms import FormsTried, has_forms, try_both
from console.verbs_mailboxes import Connected
from models.auth_forms import AuthForm
from models.errors import (
    AlertpostError,
    ConfigurationError,
    Conflict,
    CredentialRejected,
    NotFound,
    TokenUnavailable,
)
from workers.reply_rules_mail import SEND_AS_DENIED

_REFUSALS = (ConfigurationError, Conflict, NotFound, CredentialRejected, TokenUnavailable)

Slug = Annotated[
    str | None,
    typer.Option("--tenant", metavar="SLUG", help="For a mailbox that is not here yet; a new "
                 "tenant is made from the file."),
]  # fmt: skip
DirectoryId = Annotated[
    str | None,
    typer.Option(metavar="ID", help="For a new tenant, where the file names no directory."),
]
AuthUser = Annotated[
    str | None,
    typer.Option(metavar="USER", help="Whose grant it is, where the mailbox is a shared one."),
]
Again = Annotated[bool, typer.Option("--again", help="Also where a mailbox is connected already.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only tell what would be done; Entra is not asked.")
]


class Fate(StrEnum):
    """What became of an account."""

    CONNECTED = "connected"
    UNCHANGED = "unchanged"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Done:
    """
    What became of an account, or would; the form of ``--json``.

    Attributes:
        what: What was made; why nothing was, where it is bad.
    """

    account: str
    tenant: str | None
    fate: Fate
    what: str


def import_grant(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The mailbox.")],
    *,
    token_file: Annotated[
        str, typer.Option("--sasl-xoauth2", metavar="FILE", help="Its token file.")
    ],
    sasl_config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help=f"The plugin's configuration; else {sasl_xoauth2.CONFIGURATION} if it is there.",
        ),
    ] = None,
    tenant: Slug = None,
    directory_id: DirectoryId = None,
    auth_user: AuthUser = None,
    again: Again = False,
    dry_run: DryRun = False,
    who: As = None,
) -> None:
    """
    Take over the consent that Postfix' sasl-xoauth2 has, instead of asking for another.

    It works for the same app registration only, and is proved by one token from Entra before
    anything is stored. The plugin's files are read and never written.
    """
    me = actor(who)
    found = sasl_xoauth2.read_token_file(token_file, configuration=sasl_config, address=address)
    wish = Wish(tenant, directory_id, auth_user, again)
    with opened() as context:
        if dry_run:
            _tell_plan(found, rehearse(context, found, wish))
            return
        plan, connected = adopt(context, found, wish, actor=me)
        if plan.made:
            out.print(f"Made: {', '.join(plan.made)}.", markup=False)
        tell_connected(connected)
        tell_forms(context, connected.address, actor=me)
    _tell_to_stop(found.program, [connected.address])


def import_emailproxy(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The proxy's configuration, emailproxy.config.")
    ],
    *,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="ADDRESS", help="Only this account; repeatable."),
    ] = None,
    password_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-",
            help="The passwords that the mail clients sign in to the proxy with, a line each; else "
            "they are asked for.",
        ),
    ] = None,
    cache_store: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The file that the proxy was given as --cache-store."),
    ] = None,
    tenant: Slug = None,
    directory_id: DirectoryId = None,
    auth_user: AuthUser = None,
    again: Again = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    who: As = None,
) -> None:
    """
    Take over the consents that an Email OAuth 2.0 Proxy has, instead of asking for others.

    Each is proved by one token from Entra before anything of it is stored; one that fails stops no
    other. The proxy's files are read and never written. Exit code 1: some were bad.
    """
    me = actor(who)
    proxy = ProxyFile(file, cache_store=cache_store)
    accounts = _chosen(proxy.accounts, only or [], auth_user)
    passwords = _Passwords(password_file)
    wish = Wish(tenant, directory_id, auth_user, again)
    found = [proxy.find(account, passwords) for account in accounts]
    good = [one for one in found if isinstance(one, FoundGrant)]
    with opened() as context:
        if dry_run:
            plans = rehearse_all(context, good, wish)
            fates = [_rehearsed(one, plan, wish) for one, plan in zip(good, plans, strict=True)]
        else:
            fates = [_taken_over(context, one, wish, actor=me) for one in good]
    in_turn = iter(fates)
    done = [
        Done(one.address, None, Fate.BAD, one.reason)
        if isinstance(one, BadAccount)
        else next(in_turn)
        for one in found
    ]
    _tell_done(done, dry_run=dry_run, as_json=as_json)
    if any(one.fate is Fate.BAD for one in done):
        raise typer.Exit(1)


def tell_connected(done: Connected) -> None:
    """Tell what a consent brought."""
    out.print(f"Mailbox {done.address} is connected, by {done.account}.", markup=False)
    if done.doubt:
        out.print(
            f"Not checked: {done.doubt}. `alertpost mailboxes test {quote(done.address)} --to "
            "ADDRESS` "
            "tells.",
            markup=False,
        )
    tell_resumed(done.resumed)
    if done.still_parked is not None:
        out.print(
            f"It is still parked ({done.still_parked.park_reason}): "
            f"{done.still_parked.park_meaning} {done.still_parked.park_next_step}",
            markup=False,
        )


def tell_forms(context: Context, address: str, *, actor: str) -> None:
    """Where somebody consented for a shared mailbox: try both ways to sign in, and tell."""
    if (told := _forms(context, address, actor=actor)) is not None:
        out.print(f"{told}.", markup=False)


def _forms(context: Context, address: str, *, actor: str) -> str | None:
    who = verbs.account(context, address)
    if not has_forms(who.sender):
        return None
    try:
        done = asyncio.run(try_both(context, who, actor=actor))
    except (MustWait, CredentialRejected, TokenUnavailable) as error:
        return (
            f"How to sign in was not tried ({error}); `alertpost doctor {quote(address)}` tries it"
        )
    told = _forms_text(done, address, who.sender.auth_user)
    if done.chosen is AuthForm.MAILBOX and who.entry.park_reason == SEND_AS_DENIED.rule:
        told += f"; `alertpost mailboxes resume {quote(address)}` lets it send that way"
    return told


def _forms_text(done: FormsTried, address: str, user: str) -> str:
    if done.chosen is AuthForm.MAILBOX:
        return f"It signs in as {address}, with the token of {user}"
    if done.chosen is AuthForm.DELEGATE:
        return (
            f"It signs in as {user}; whether {user} may send as {address} shows with a mail: "
            f"`alertpost doctor {quote(address)} --to ADDRESS`"
        )
    replies = "; ".join(f"as {tried.user}: {tried.reply}" for tried in done.tries)
    return (
        f"It cannot sign in yet ({replies}); `alertpost doctor {quote(address)}` says what fixes it"
    )


def _chosen(accounts: Sequence[str], only: Sequence[str], auth_user: str | None) -> list[str]:
    known = {account.lower(): account for account in accounts}
    for address in only:
        if address.lower() not in known:
            raise ConfigurationError(
                f"--only {address}: the file has no such account; it has {', '.join(accounts)}"
            )
    chosen = [known[address.lower()] for address in dict.fromkeys(only)] or list(accounts)
    if auth_user is not None and len(chosen) > 1:
        raise ConfigurationError(
            "--auth-user is one account's: name that account with --only ADDRESS"
        )
    return chosen


def _standard_input() -> str:
    try:
        return sys.stdin.read(LARGEST)
    except UnicodeDecodeError as error:
        raise ConfigurationError("the passwords on standard input are no text in UTF-8") from error


class _Passwords:
    """Gives the passwords to try for an account: those of a file, or what somebody types."""

    def __init__(self, file: str | None) -> None:
        self._given: list[str] = []
        self._asks = file is None and sys.stdin.isatty()
        if file is not None:
            text = _standard_input() if file == "-" else read_text(file, "the password file")
            self._given = list(dict.fromkeys(filter(None, text.splitlines())))
            if not self._given:
                raise ConfigurationError(f"the password file {file} is empty")

    def __call__(self, account: str) -> Sequence[str]:
        if self._asks:
            before = ", empty: as before" if self._given else ""
            typed = getpass.getpass(f"Proxy password of {account} (it does not show{before}): ")
            if typed:
                self._given = [typed]
        return self._given


def _rehearsed(found: FoundGrant, plan: Plan | AlertpostError, wish: Wish) -> Done:
    if not isinstance(plan, Plan):
        return Done(found.address, wish.tenant, Fate.BAD, str(plan))
    return _unchanged(found, plan) if plan.connected else _connected(found, plan, plan.made)


def _taken_over(context: Context, found: FoundGrant, wish: Wish, *, actor: str) -> Done:
    try:
        plan = rehearse(context, found, wish)
        if plan.connected:
            return _unchanged(found, plan)
        plan, connected = adopt(context, found, wish, actor=actor)
    except _REFUSALS as refusal:
        return Done(found.address, wish.tenant, Fate.BAD, str(refusal))
    more = [f"not checked: {connected.doubt}"] if connected.doubt else []
    if (forms := _forms(context, connected.address, actor=actor)) is not None:
        more.append(forms)
    return _connected(found, plan, [*plan.made, *more])


def _unchanged(found: FoundGrant, plan: Plan) -> Done:
    entry = plan.who.entry
    what = f"connected already, by {entry.account}; --again replaces that"
    return Done(found.address, entry.tenant_slug, Fate.UNCHANGED, what)


def _connected(found: FoundGrant, plan: Plan, made: Sequence[str]) -> Done:
    what = ", ".join([*made, f"{plan.who.sender.auth_user} consented" if found.refresh_token
                      else "the app itself"])  # fmt: skip
    return Done(found.address, plan.who.entry.tenant_slug, Fate.CONNECTED, what)


def _tell_plan(found: FoundGrant, plan: Plan) -> None:
    if plan.connected:
        out.print(
            f"Nothing would be done: {found.address} is connected already, by "
            f"{plan.who.entry.account}; --again replaces that.",
            markup=False,
        )
        return
    made = f"{', '.join(plan.made)} made, " if plan.made else ""
    out.print(
        f"Nothing was done. It would be: {made}the grant of app {found.client_id} proved by one "
        f"token from {found.endpoint.host} and stored for {found.address}.",
        markup=False,
    )


def _tell_done(done: Sequence[Done], *, dry_run: bool, as_json: bool) -> None:
    counts = {fate.value: sum(one.fate is fate for one in done) for fate in Fate}
    if as_json:
        accounts = [jsonable(one) for one in done]
        print_json({"dry_run": dry_run, **counts, "accounts": accounts})
        return
    print_table(
        ("account", "tenant", "would be" if dry_run else "is", "what"),
        [(one.account, one.tenant, one.fate, one.what) for one in done],
        spare=("tenant",),
    )
    told = ", ".join(f"{number} {name}" for name, number in counts.items())
    out.print(f"{'Nothing was done. It would be: ' if dry_run else ''}{told}.", markup=False)
    moved = [one.account for one in done if one.fate is Fate.CONNECTED]
    if moved and not dry_run:
        _tell_to_stop("emailproxy", moved)


def _tell_to_stop(program: str, addresses: Sequence[str]) -> None:
    whom = addresses[0] if len(addresses) == 1 else counted(len(addresses), "account", "accounts")
    out.print(
        f"Now stop {program} for {whom}: two programs that refresh one grant get in each other's "
        "way. Its files are as they were and still open the mailbox: delete the tokens in them.",
        markup=False,
    )
