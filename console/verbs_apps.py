"""App registrations and the rotation of their credentials; each is one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from uuid import UUID

from sqlalchemy import Connection

from console import park_causes
from console.context import Context
from console.credential_check import Tried, for_itself, record_all, try_all
from console.verbs_tenants import note, resume_waiting
from console.waking import wake
from models import app_registrations as apps
from models import senders, tenants
from models.app_registrations import App, Credential, Given
from models.credential_standing import Standing
from models.database import read, write
from models.errors import Conflict
from models.senders import Sender


@dataclass(frozen=True, slots=True)
class Checked:
    """
    What Entra said of an app's credentials.

    Attributes:
        tenant: Slug of the tenant in whose directory it was asked.
        resumed: Addresses of mailboxes that waited for it and go on.
    """

    app: App
    tenant: str
    tried: list[Tried]
    resumed: list[str]


def add_app(
    context: Context, *, actor: str, name: str, client_id: str, credential: Credential
) -> App:
    """Add an app registration that several tenants can share; raises as ``apps.add_app``."""
    with write(context.engine) as conn:
        entry = apps.add_app(
            conn, context.vault, name=name, client_id=client_id, credential=credential
        )
        note(conn, actor, "app-add", name, client_id=entry.client_id)
    return entry


def give_credential(
    context: Context,
    *,
    actor: str,
    name: str,
    credential: Credential,
    alone: bool = False,
    resume: bool = True,
) -> tuple[Given, list[str]]:
    """
    Give an app registration another secret or certificate, beside the one that it has.

    Args:
        context: Open resources.
        actor: Who does it.
        name: Of the app registration.
        credential: The new one.
        alone: It replaces those that are there at once.
        resume: What waited for one goes on at once; False: whoever calls asks Entra first.

    Returns:
        What became of it, and the addresses of mailboxes that waited for this and go on.

    Raises:
        NotFound: No app registration has this name.
        Conflict: It has two credentials already.
    """
    with write(context.engine) as conn:
        given = apps.give_credential(
            conn, context.vault, name=name, credential=credential, alone=alone
        )
        resumed = (
            resume_waiting(conn, app=name, reasons=park_causes.cured_by_credential())
            if resume
            else {}
        )
        note(
            conn,
            actor,
            "app-secret",
            name,
            credential=given.number,
            dropped=list(given.dropped),
            resumed=sorted(resumed.values()),
        )
    wake(context, resumed)
    return given, sorted(resumed.values())


def generate(context: Context, *, actor: str, name: str, days: int) -> tuple[Given, str]:
    """
    Make a key and a certificate; the key is sealed and never leaves.

    Returns:
        What became of it, and the certificate in PEM, to be uploaded to Entra.

    Raises:
        ConfigurationError: So many days make no sense.
        NotFound, Conflict: As ``give_credential``.
    """
    credential = Credential.generated(name, days=days)
    # Nothing resumes: until it is uploaded Entra takes it no more than what was there.
    with write(context.engine) as conn:
        given = apps.give_credential(conn, context.vault, name=name, credential=credential)
        note(
            conn,
            actor,
            "app-certificate",
            name,
            credential=given.number,
            dropped=list(given.dropped),
            days=days,
        )
    return given, credential.certificate_pem or ""


def retire(
    context: Context, *, actor: str, name: str, number: int, force: bool
) -> tuple[Standing, App]:
    """Delete one credential; raises as ``apps.retire_credential``."""
    with write(context.engine) as conn:
        gone = apps.retire_credential(conn, name=name, number=number, force=force)
        note(conn, actor, "app-retire", name, credential=number, kind=gone.kind.value, force=force)
        return gone, apps.app(conn, name)


def remove_app(context: Context, *, actor: str, name: str) -> None:
    """Delete an app registration; raises as ``apps.remove_app``."""
    with write(context.engine) as conn:
        apps.remove_app(conn, name)
        note(conn, actor, "app-remove", name)


def check(context: Context, *, actor: str, name: str) -> Checked:
    """
    Ask Entra about each credential of an app, and let go on what waited for one that works.

    Raises:
        NotFound: No app registration has this name.
        Conflict: No tenant with a mailbox uses it, so there is no directory to ask in.
        VaultError: No key opens any of its credentials.
    """
    with read(context.engine) as conn:
        entry = apps.app(conn, name)
        opened = apps.open_app(conn, context.vault, entry.id)
        asker = asker_of(conn, name)
    if asker is None:
        raise Conflict(
            f"no mailbox goes by app registration {name!r} yet, so there is no directory in which "
            "Entra could be asked: first `alertpost tenants add SLUG --directory-id ID --app "
            f"{quote(name)}` and `alertpost mailboxes add SLUG ADDRESS`"
        )
    tried = try_all(context, opened, asker)
    resumed: dict[UUID, str] = {}
    with write(context.engine) as conn:
        record_all(conn, tried)
        if any(one.works for one in tried):
            resumed = resume_waiting(conn, app=name, reasons=park_causes.cured_by_credential())
        if resumed:
            note(conn, actor, "app-check", name, resumed=sorted(resumed.values()))
        entry = apps.app(conn, name)
    wake(context, resumed)
    return Checked(entry, asker.tenant_slug, tried, sorted(resumed.values()))


def resume_waiting_for_credential(context: Context, name: str, *, actor: str) -> dict[UUID, str]:
    """Let go on what waited for another credential of an app, whether it works or not."""
    with write(context.engine) as conn:
        resumed = resume_waiting(conn, app=name, reasons=park_causes.cured_by_credential())
        if resumed:
            note(conn, actor, "app-check", name, resumed=sorted(resumed.values()))
    wake(context, resumed)
    return resumed


def asker_of(conn: Connection, name: str) -> Sender | None:
    """Find somebody in whose directory to ask; best one that has consented to the app."""
    found = [
        for_itself(sender, cloud=tenant.cloud, scope=tenant.scope)
        for tenant in tenants.list_tenants(conn)
        if tenant.app == name
        for sender in senders.senders(conn, tenant_id=tenant.id)
    ]
    return max(found, key=lambda sender: sender.connected, default=None)
