"""Counting recipients in SQL: what was sent, what is in hand, and one claim at a time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Float,
    FromClause,
    Integer,
    Select,
    Uuid,
    and_,
    bindparam,
    delete,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)

from models.batches import as_parameter, table_of_rows
from models.clock import utc_after, utc_bucket_end, utc_now
from models.lifecycle import State
from models.lookups import MAILBOX, TENANT, live_mailbox
from models.moves import DELIVERY, in_state
from models.quota import (
    EXTERNAL,
    Bucket,
    Spent,
    Usage,
    charge,
    domain_of,
    external,
    external_limit,
    tenant_subject,
)
from models.tables import METADATA
from models.upserts import upsert_into

KEPT_SECONDS = 2 * 86_400.0
"""Counts older than this are deleted; no window is longer."""

_COUNT = METADATA.tables["recipient_count"]
_C = _COUNT.c
_D = DELIVERY.c


def spend(conn: Connection, spent: Iterable[Spent | None]) -> None:
    """
    Count recipients that were reached, or may have been, as of now; one statement for all.

    Call it in the transaction that settles them: until that is committed they are in hand.
    """
    total: Counter[str] = Counter()
    bucket_seconds = 0.0
    for one in spent:
        if one is not None:
            total.update(one.counts)
            bucket_seconds = one.bucket_seconds
    if not total:
        return
    rows = [{"subject": subject, "recipients": number} for subject, number in total.items()]
    conn.execute(_spend(conn.dialect.name), {**as_parameter(rows), "bucket": bucket_seconds})


def spend_abandoned(conn: Connection, ids: Sequence[UUID], *, bucket_seconds: float) -> None:
    """Count mails as sent that dead visits had in hand: each may be out."""
    if not ids:
        return
    rows = conn.execute(_ABANDONED, {"ids": list(ids)}).all()
    spend(
        conn,
        [
            charge(
                [one for one in row.recipients if one not in row.refused and one not in row.taken],
                account=(row.auth_user or row.address),
                tenant_id=row.tenant_id,
                accepted_domains=accepted_domains(conn, row.tenant_id),
                bucket_seconds=bucket_seconds,
            )
            for row in rows
        ],
    )


def accepted_domains(conn: Connection, tenant_id: UUID) -> frozenset[str] | None:
    """Return a tenant's own domains; None where its external recipients are not counted."""
    row = conn.execute(_TENANT, {"tenant": tenant_id}).one()
    if external_limit(licences=row.licences, trial=row.trial) is None:
        return None
    if row.accepted_domains:
        return frozenset(row.accepted_domains)
    return frozenset(domain_of(one) for one in conn.scalars(_ADDRESSES, {"tenant": tenant_id}))


def alone(conn: Connection, subjects: Sequence[str]) -> bool:
    """
    Keep other claims of these subjects out until the transaction ends; False: one is under way.

    Nobody waits: transactions of many visits lock in any order, and would block each other.
    """
    return alone_among(conn, subjects) == set(subjects)


def alone_among(conn: Connection, subjects: Sequence[str]) -> set[str]:
    """Do the same for many subjects at once; returns those for which it came about."""
    if conn.dialect.name != "postgresql":
        # On SQLite there is one writer at a time.
        return set(subjects)
    given = as_parameter([{"subject": one, "key": _lock_key(one)} for one in subjects])
    return set(conn.scalars(_TRY_LOCKS, given))


def account_totals(
    conn: Connection, accounts: Sequence[str], *, window_seconds: float
) -> dict[str, int]:
    """Say how much counts against each of many accounts; see ``account_usage``."""
    given = as_parameter([{"subject": one} for one in accounts])
    since = {"since": -float(window_seconds)}
    rows = conn.execute(_totals(conn.dialect.name), {**given, **since})
    return {row.subject: row.used + row.in_hand for row in rows}


def account_usage(conn: Connection, account: str, *, window_seconds: float) -> Usage:
    """Say what counts against an account; call it alone (see ``alone``) to build upon it."""
    given = {"subject": account, "since": -float(window_seconds)}
    buckets, in_hand = [], 0
    # One statement: what is settled at this moment is either still in hand or already counted.
    for ends_at, recipients, now in conn.execute(_USED_AND_IN_HAND, given):
        if ends_at is None:
            in_hand = recipients
        else:
            buckets.append(Bucket(_left(ends_at, now, window_seconds), recipients))
    return Usage(sorted(buckets, key=lambda bucket: bucket.leaves_in), in_hand)


def external_usage(
    conn: Connection, tenant_id: UUID, domains: frozenset[str], *, window_seconds: float
) -> Usage:
    """Say likewise what counts against a tenant's external recipients."""
    # In hand first: what is settled in between then counts twice, never not at all.
    lists = conn.scalars(_TENANT_IN_HAND, {"tenant": tenant_id}).all()
    in_hand = sum(external(addresses, domains) for addresses in lists)
    given = {"subject": tenant_subject(tenant_id), "since": -float(window_seconds)}
    rows = conn.execute(_USED.order_by(_C.ends_at), given)
    return Usage([Bucket(_left(end, now, window_seconds), n) for end, n, now in rows], in_hand)


def release(conn: Connection, tenant_id: UUID) -> None:
    """Let what waits for the tenant's external limit be looked at now: the limit has changed."""
    conn.execute(_RELEASE, {"tenant": tenant_id})


def prune(conn: Connection) -> int:
    """Delete counts that no window reaches any more; return how many."""
    return conn.execute(_PRUNE).rowcount


def _left(ends_at: datetime, now: datetime, window_seconds: float) -> float:
    return (ends_at - now).total_seconds() + window_seconds


def _lock_key(subject: str) -> int:
    digest = hashlib.blake2b(subject.encode(), digest_size=8, person=b"recipients").digest()
    return int.from_bytes(digest, "big", signed=True)


@cache
def _spend(dialect: str) -> Any:
    given = table_of_rows(dialect, {"subject": _C.subject.type, "recipients": Integer()})
    if dialect == "postgresql":
        writer: Any = func.pg_backend_pid()
    else:
        writer = literal_column("0")
    rows = select(
        given.c.subject, utc_bucket_end(bindparam("bucket", type_=Float())), writer,
        given.c.recipients,
        # SQLite would take the ON of ON CONFLICT for that of a join.
    ).where(true())  # fmt: skip
    insert = upsert_into(dialect, _COUNT).from_select(
        ["subject", "ends_at", "writer", "recipients"], rows
    )
    return insert.on_conflict_do_update(
        index_elements=["subject", "ends_at", "writer"],
        set_={"recipients": _C.recipients + insert.excluded.recipients},
    )


_SUBJECT = bindparam("subject", type_=_C.subject.type)

_SINCE = utc_after(bindparam("since", type_=Float()))

_USED = (
    select(
        _C.ends_at.label("ends_at"),
        func.sum(_C.recipients).label("recipients"),
        utc_now().label("now"),
    )
    .where(_C.subject == _SUBJECT, _C.ends_at > _SINCE)
    .group_by(_C.ends_at)
)


def _in_hand_of(account: ColumnElement[str], *outer: FromClause) -> list[ColumnElement[bool]]:
    mine = or_(
        and_(MAILBOX.c.address == account, MAILBOX.c.auth_user.is_(None)),
        MAILBOX.c.auth_user == account,
    )
    # By itself the inner query would take the accounts of ``outer`` anew, all of them.
    mailboxes = select(MAILBOX.c.id).where(mine).correlate(*outer)
    return [in_state(State.SENDING), _D.mailbox_id.in_(mailboxes)]


_RECIPIENTS_IN_HAND = func.coalesce(func.sum(func.json_array_length(_D.recipients)), 0)

_IN_HAND = select(
    null().label("ends_at"),
    _RECIPIENTS_IN_HAND.label("recipients"),
    utc_now().label("now"),
).where(*_in_hand_of(_SUBJECT))

_USED_AND_IN_HAND = union_all(_USED, _IN_HAND)


@cache
def _totals(dialect: str) -> Select[Any]:
    given = table_of_rows(dialect, {"subject": _C.subject.type})
    subject = given.c.subject
    used = select(func.coalesce(func.sum(_C.recipients), 0)).where(
        _C.subject == subject, _C.ends_at > _SINCE
    )
    in_hand = select(_RECIPIENTS_IN_HAND).where(*_in_hand_of(subject, given))
    return select(
        subject,
        used.correlate(given).scalar_subquery().label("used"),
        in_hand.correlate(given).scalar_subquery().label("in_hand"),
    )


_locks = table_of_rows("postgresql", {"subject": _C.subject.type, "key": BigInteger()})
_TRY_LOCKS = select(_locks.c.subject).where(func.pg_try_advisory_xact_lock(_locks.c.key))

_OF_TENANT = bindparam("tenant", type_=Uuid())

_TENANT_IN_HAND = select(_D.recipients).where(
    in_state(State.SENDING),
    _D.mailbox_id.in_(select(MAILBOX.c.id).where(MAILBOX.c.tenant_id == _OF_TENANT)),
)

_TENANT = select(TENANT.c.licences, TENANT.c.trial, TENANT.c.accepted_domains).where(
    TENANT.c.id == _OF_TENANT
)

_ADDRESSES = select(MAILBOX.c.address).where(MAILBOX.c.tenant_id == _OF_TENANT, live_mailbox())

_ABANDONED = (
    select(
        _D.recipients, _D.refused, _D.taken, _D.tenant_id, MAILBOX.c.address, MAILBOX.c.auth_user
    )
    .join(MAILBOX, MAILBOX.c.id == _D.mailbox_id)
    .where(_D.id.in_(bindparam("ids", type_=Uuid(), expanding=True)))
)

_RELEASE = (
    update(DELIVERY)
    .where(in_state(State.QUEUED), _D.tenant_id == _OF_TENANT, _D.reason == EXTERNAL)
    .values(due_at=utc_now())
)

_PRUNE = delete(_COUNT).where(_C.ends_at < utc_after(-KEPT_SECONDS))
