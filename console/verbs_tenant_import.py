"""
Bringing the tenants of a sheet into being: what is not there is added, what differs is changed.

Each line is a transaction of its own, so a bad one stops no other, and a sheet may be given again
after it was mended. What a cell does not say stays as it is. Nothing is ever removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from shlex import join, quote
from typing import cast
from uuid import UUID

from sqlalchemy import Connection

from console import verbs_tenants
from console.context import Context
from console.tenant_sheet import BadRow, Row
from console.verbs_mailboxes import note
from console.waking import wake
from models import mailboxes, tenants
from models.database import write
from models.errors import ConfigurationError, Conflict, NotFound
from models.mailboxes import MailboxChanges
from models.secret_routes import seal_route
from models.tenants import TenantChanges, TenantEntry, TenantOptions, WouldLoseConsents

_REFUSALS = (ConfigurationError, Conflict, NotFound)


class Fate(StrEnum):
    """What became of a line."""

    ADDED = "added"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Done:
    """
    What a line did, or would do.

    Attributes:
        number: Of the line.
        fate: What became of it.
        what: What was added or changed; why nothing was, where the line is bad.
    """

    number: int
    slug: str
    mailbox: str | None
    fate: Fate
    what: str


class _Rehearsed(Exception):  # noqa: N818 - ends a rehearsal, no error
    """Takes back what was only tried."""


def bring_in(
    context: Context,
    rows: Iterable[Row | BadRow],
    *,
    actor: str,
    on_done: Callable[[Done], None],
) -> None:
    """
    Bring in line after line; each is committed before the next is looked at.

    Raises:
        StoreUnavailable: The database is away; lines that were told of are in.
    """
    for row in rows:
        try:
            with write(context.engine) as conn:
                done, resumed = _line(context, conn, row, actor)
        except _REFUSALS as refusal:
            done, resumed = _bad(row, str(refusal)), {}
        wake(context, resumed)
        on_done(done)


def rehearse(
    context: Context,
    rows: Iterable[Row | BadRow],
    *,
    actor: str,
    on_done: Callable[[Done], None],
) -> None:
    """Find out what ``bring_in`` would do, and do nothing; later lines see what earlier ones do."""
    with suppress(_Rehearsed), write(context.engine) as conn:
        for row in rows:
            try:
                with conn.begin_nested():
                    done, _ = _line(context, conn, row, actor)
            except _REFUSALS as refusal:
                done = _bad(row, str(refusal))
            on_done(done)
        raise _Rehearsed


def _bad(row: Row | BadRow, reason: str) -> Done:
    if isinstance(row, BadRow):
        return Done(row.number, row.slug, row.mailbox, Fate.BAD, reason)
    return Done(row.number, row.slug, row.mailbox, Fate.BAD, reason)


def _line(
    context: Context, conn: Connection, row: Row | BadRow, actor: str
) -> tuple[Done, dict[UUID, str]]:
    if isinstance(row, BadRow):
        return _bad(row, row.reason), {}
    fate, what, resumed = _tenant(context, conn, row, actor)
    if row.mailbox is not None:
        fate_of_mailbox, more = _mailbox(conn, row, row.mailbox, actor)
        fate, what = (fate_of_mailbox if fate is Fate.UNCHANGED else fate), what + more
    return Done(row.number, row.slug, row.mailbox, fate, ", ".join(what)), resumed


def _tenant(
    context: Context, conn: Connection, row: Row, actor: str
) -> tuple[Fate, list[str], dict[UUID, str]]:
    try:
        before = tenants.tenant(conn, row.slug)
    except NotFound:
        entry = _new_tenant(conn, row)
        seal_route(conn, context.vault, entry, hosts=context.hosts, given=row.tenant.keys())
        verbs_tenants.note_added(conn, actor, entry)
        return Fate.ADDED, ["tenant"], {}
    try:
        after = tenants.edit_tenant(conn, row.slug, **cast("TenantChanges", row.tenant))
    except WouldLoseConsents as lost:
        # A sheet forces nothing: one tenant at a time, by its own command.
        columns = ("app" if name == "client_id" else name for name in lost.changed)
        options = [
            part
            for name in columns
            if name in row.tenant
            for part in (f"--{name.replace('_', '-')}", str(row.tenant[name]))
        ]
        command = join(["alertpost", "tenants", "edit", row.slug, *options, "--force"])
        raise Conflict(
            f"{lost.said}; `{command}` changes it anyway, reconnect them afterwards"
        ) from None
    seal_route(
        conn, context.vault, after, hosts=context.hosts, before=before, given=row.tenant.keys()
    )
    changed = [name for name in row.tenant if getattr(before, name) != getattr(after, name)]
    if not changed:
        return Fate.UNCHANGED, [], {}
    changes = cast("TenantChanges", {name: row.tenant[name] for name in changed})
    return Fate.CHANGED, changed, verbs_tenants.note_changes(conn, actor, row.slug, changes)


def _new_tenant(conn: Connection, row: Row) -> TenantEntry:
    given = dict(row.tenant)
    directory_id, app = given.pop("directory_id", None), given.pop("app", None)
    if directory_id is None:
        raise ConfigurationError(f"tenant {row.slug!r} is new and needs a directory_id")
    if app is None:
        raise ConfigurationError(
            f"tenant {row.slug!r} is new and needs an app registration: a column 'app', or "
            "--app NAME for all lines"
        )
    options = cast("TenantOptions", given)
    return tenants.add_tenant(conn, slug=row.slug, directory_id=directory_id, app=app, **options)


def _mailbox(conn: Connection, row: Row, address: str, actor: str) -> tuple[Fate, list[str]]:
    names = cast("MailboxChanges", row.names)
    try:
        before = mailboxes.mailbox(conn, address)
    except NotFound:
        entry = mailboxes.add_mailbox(conn, tenant_slug=row.slug, address=address, **row.names)
        note(conn, actor, "mailbox-add", entry.address, tenant=row.slug)
        return Fate.ADDED, ["mailbox"]
    if before.tenant_slug != row.slug:
        raise Conflict(
            f"mailbox {before.address!r} exists already, at tenant {before.tenant_slug!r}; "
            f"`alertpost mailboxes remove {quote(before.address)}` frees it"
        )
    after = mailboxes.edit_mailbox(conn, before.address, **names)
    changed = sorted(name for name in names if getattr(before, name) != getattr(after, name))
    if not changed:
        return Fate.UNCHANGED, []
    note(conn, actor, "mailbox-edit", before.address, changed=changed)
    return Fate.CHANGED, changed
