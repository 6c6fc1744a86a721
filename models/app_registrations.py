"""
App registrations: client ids, each with its secrets and certificates.

At most two of these stand side by side, so that one can be rotated without a stop; see
``credential_standing``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy import delete as delete_from
from sqlalchemy.exc import IntegrityError

from models import app_credentials, credential_commands, database
from models import directory_rules as rules
from models.app_credentials import Opened
from models.credential import Credential
from models.credential_standing import Kind, Standing, State, dispensable, in_force, states
from models.errors import Conflict, NotFound
from models.ids import uuid7
from models.lookups import APP, TENANT, app_id
from models.vault import Vault

MOST = 2
"""Credentials of an app registration at once: the one that works, and the one that follows it."""


@dataclass(frozen=True, slots=True)
class App:
    """
    An app registration as lists show it; never its secret.

    Attributes:
        has_secret: The credential that it works by is a secret.
        has_certificate: It is a certificate.
        credential_expires_at: When that one ends, as far as it is known.
        credentials: All of them, the oldest first.
    """

    id: UUID
    name: str
    client_id: str
    has_secret: bool
    has_certificate: bool
    credential_expires_at: datetime | None
    version: int
    tenants: int
    created_at: datetime
    credentials: tuple[Standing, ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """
    A credential that an app registration was given.

    Attributes:
        number: Of the credential.
        known: It was there already; only its end date was written down.
        dropped: Numbers of those that made way for it.
        beside: The number of the one that it stands beside; None where it is alone.
    """

    app: App
    number: int
    known: bool
    dropped: tuple[int, ...]
    beside: int | None


@dataclass(frozen=True, slots=True)
class OpenedApp:
    """
    An app registration as a worker needs it.

    Attributes:
        credentials: In clear, in the order in which they are tried.
    """

    id: UUID
    name: str
    client_id: str
    version: int
    credentials: tuple[Opened, ...]

    @property
    def credential(self) -> Credential:
        """The one that is tried first; an empty one where there is none."""
        return self.credentials[0].credential if self.credentials else Credential()


def add_app(
    conn: Connection, vault: Vault, *, name: str, client_id: str, credential: Credential
) -> App:
    """
    Store a new app registration.

    Raises:
        ConfigurationError: The name or the client id is malformed.
        Conflict: The name is taken.
    """
    name = rules.app_name(name)
    taken = Conflict(
        f"there is already an app registration {name!r}; `{credential_commands.new_secret(name)}` "
        "gives it a new credential, or choose another name"
    )
    if conn.scalar(select(APP.c.id).where(APP.c.name == name)) is not None:
        raise taken
    key = uuid7()
    try:
        conn.execute(
            insert(APP).values(id=key, name=name, client_id=rules.client_id(client_id), version=1)
        )
    except IntegrityError as error:
        raise taken from error
    app_credentials.store(conn, vault, key, credential)
    return app(conn, name)


def give_credential(
    conn: Connection, vault: Vault, *, name: str, credential: Credential, alone: bool = False
) -> Given:
    """
    Add a credential beside the one that is there; workers try it first from now on.

    Where there are two already, one that has ended makes way, or the older once the newer works.
    The same credential once more only tells its end date.

    Args:
        conn: An open transaction.
        vault: Seals it.
        name: Of the app registration.
        credential: The new one.
        alone: Those that are there go at once.

    Raises:
        NotFound: No app registration has this name.
        Conflict: There are two already, and either may be needed.
    """
    key = _grown(conn, name)
    now = database.now(conn)
    before = app_credentials.standings(conn, key).get(key, [])
    same_id = app_credentials.find(conn, vault, key, credential)
    same = next((one for one in before if one.id == same_id), None)
    gone = [one for one in before if alone and one is not same]
    if same is None and not alone and len(before) >= MOST:
        gone = [one for one in before if one.has_ended(now)] or dispensable(before, now)
        if not gone:
            raise _full(name, before, now)
    if same is None:
        # Before the others go: it must not get the number of one of them.
        number = app_credentials.store(conn, vault, key, credential)
    else:
        number = same.number
        if credential.expires_at is not None:
            app_credentials.date(conn, same.id, credential.expires_at)
    app_credentials.drop(conn, [one.id for one in gone])
    after = app(conn, name)
    others = [one.number for one in after.credentials if one.number != number]
    return Given(
        app=after,
        number=number,
        known=same is not None,
        dropped=tuple(one.number for one in gone),
        beside=others[0] if others else None,
    )


def renew_credential(conn: Connection, vault: Vault, *, name: str, credential: Credential) -> App:
    """
    Replace all credentials by one; workers see the grown version.

    Raises:
        NotFound: No app registration has this name.
    """
    return give_credential(conn, vault, name=name, credential=credential, alone=True).app


def retire_credential(conn: Connection, *, name: str, number: int, force: bool = False) -> Standing:
    """
    Delete one credential.

    Returns:
        The one that is gone.

    Raises:
        NotFound: No app registration has this name, or it has no such credential.
        Conflict: Nothing that is known to work would be left, and force was not given.
    """
    _grown(conn, name)
    entry = app(conn, name)
    target = next((one for one in entry.credentials if one.number == number), None)
    if target is None:
        have = ", ".join(str(one.number) for one in entry.credentials) or "none"
        raise NotFound(f"app registration {name!r} has no credential {number}; it has {have}")
    if not force:
        _check_what_is_left(entry, target, database.now(conn))
    app_credentials.drop(conn, [target.id])
    return target


def app(conn: Connection, name: str) -> App:
    """
    Return one app registration.

    Raises:
        NotFound: No app registration has this name.
    """
    key = app_id(conn, name)
    return _entries(conn, _listing().where(APP.c.id == key), key)[0]


def list_apps(conn: Connection) -> list[App]:
    """Return all app registrations by name."""
    return _entries(conn, _listing().order_by(APP.c.name))


def remove_app(conn: Connection, name: str) -> None:
    """
    Delete an app registration with its credentials.

    Raises:
        NotFound: No app registration has this name.
        Conflict: Tenants still use it.
    """
    entry = app(conn, name)
    in_use = Conflict(
        f"app registration {name!r} still serves {entry.tenants or 'some'} tenant(s); give them "
        "another with `alertpost tenants edit SLUG --app NAME` or remove them first"
    )
    if entry.tenants:
        raise in_use
    try:
        app_credentials.drop(conn, [one.id for one in entry.credentials])
        conn.execute(delete_from(APP).where(APP.c.id == entry.id))
    except IntegrityError as error:
        raise in_use from error


def open_app(conn: Connection, vault: Vault, app_id: UUID) -> OpenedApp:
    """
    Return an app registration with its credentials in clear, for the MSAL client.

    Raises:
        NotFound: It was removed.
        VaultError: No key opens any of its credentials.
    """
    row = conn.execute(select(APP).where(APP.c.id == app_id)).one_or_none()
    if row is None:
        raise NotFound("the app registration was removed")
    return OpenedApp(
        id=row.id,
        name=row.name,
        client_id=row.client_id,
        version=row.version,
        credentials=app_credentials.opened(conn, vault, row.id),
    )


def _grown(conn: Connection, name: str) -> UUID:
    """Let the version grow, which also holds the row: two changes at once follow each other."""
    key = app_id(conn, name)
    conn.execute(update(APP).where(APP.c.id == key).values(version=APP.c.version + 1))
    return key


def _full(name: str, known: list[Standing], now: datetime) -> Conflict:
    standing = states(known, now)
    told = " and ".join(f"{one.number} ({one.kind}, {standing[one.number]})" for one in known)
    # What Entra refuses is the likeliest to be of no use, then what a newer one has followed.
    order = (State.REFUSED, State.STANDBY, State.UNTRIED, State.IN_USE)
    first = min(known, key=lambda one: (order.index(standing[one.number]), one.number))
    return Conflict(
        f"app registration {name!r} has two credentials already, {told}; first take one away, such "
        f"as with `{credential_commands.retire(name, first.number)}`, or put one that is "
        "known to work "
        f"in the place of both with `{credential_commands.new_secret(name, replace=True)}`"
    )


def _check_what_is_left(entry: App, target: Standing, now: datetime) -> None:
    known, name = entry.credentials, entry.name
    standing = states(known, now)
    others = [one for one in known if one != target]
    if not others:
        raise Conflict(
            f"credential {target.number} is the only one of app registration {name!r}: first give "
            f"another with `{credential_commands.new_secret(name)}`; --force removes it "
            "anyway, and "
            "every tenant of the app stops"
        )
    of_no_use = standing[target.number] in {State.REFUSED, State.ENDED}
    left = {standing[one.number] for one in others} & {State.IN_USE, State.STANDBY}
    # Of an app that nobody uses nothing is known, and nothing can be stopped.
    if of_no_use or left or not entry.tenants:
        return
    raise Conflict(
        f"no other credential of app registration {name!r} is known to work: {others[0].number} is "
        f"{standing[others[0].number]}; `{credential_commands.ask_entra(name)}` "
        "asks Entra, "
        "and --force removes it anyway"
    )


def _listing() -> Any:
    tenants = (
        select(func.count())
        .select_from(TENANT)
        .where(TENANT.c.app_registration_id == APP.c.id)
        .scalar_subquery()
    )
    return select(
        APP.c.id, APP.c.name, APP.c.client_id, APP.c.version, APP.c.created_at,
        tenants.label("tenants"),
    )  # fmt: skip


def _entries(conn: Connection, listing: Any, key: UUID | None = None) -> list[App]:
    now = database.now(conn)
    known = app_credentials.standings(conn, key)
    return [_app(row, known.get(row.id, []), now) for row in conn.execute(listing)]


def _app(row: Any, credentials: list[Standing], now: datetime) -> App:
    used = in_force(credentials, now)
    return App(
        **row._mapping,  # noqa: SLF001 - SQLAlchemy's public name begins with an underscore
        has_secret=used is not None and used.kind is Kind.SECRET,
        has_certificate=used is not None and used.kind is Kind.CERTIFICATE,
        credential_expires_at=None if used is None else used.expires_at,
        credentials=tuple(credentials),
    )


__all__ = [
    "MOST", "App", "Credential", "Given", "OpenedApp", "add_app", "app",
    "give_credential", "list_apps", "open_app", "remove_app", "renew_credential",
    "retire_credential",
]  # fmt: skip
