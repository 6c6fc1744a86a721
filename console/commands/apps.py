"""``alertpost apps``: app registrations that several tenants can share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from console import command_logs
from console import verbs_tenants as verbs
from console.actor import As, actor
from console.asking import Yes, ask
from console.context import opened
from console.credential_files import (
    CertificateFile,
    PrivateKeyFile,
    SecretExpires,
    SecretFile,
    read_credential,
)
from console.output import Json, jsonable, out, print_fields, print_json, print_table
from models import app_registrations
from models.app_registrations import App, Credential
from models.database import read
from models.errors import ConfigurationError

app = typer.Typer(
    help="App registrations that several tenants share.",
    no_args_is_help=True,
    callback=command_logs.set_up,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The app registration's name.")]
_SOON_DAYS = 30


@app.command("add")
def add(
    name: Name,
    *,
    client_id: Annotated[str, typer.Option(metavar="ID", help="Application (client) id.")],
    client_secret_file: SecretFile = None,
    certificate_file: CertificateFile = None,
    private_key_file: PrivateKeyFile = None,
    secret_expires: SecretExpires = None,
    who: As = None,
) -> None:
    """Add an app registration."""
    credential = _needed(
        read_credential(client_secret_file, certificate_file, private_key_file, secret_expires)
    )
    with opened() as context:
        verbs.add_app(
            context, actor=actor(who), name=name, client_id=client_id, credential=credential
        )
    out.print(
        f"App registration {name} is there. "
        f"Next: `alertpost tenants add SLUG --directory-id ID --app {name}`.",
        markup=False,
    )


@app.command("secret")
def secret(
    name: Name,
    *,
    client_secret_file: SecretFile = None,
    certificate_file: CertificateFile = None,
    private_key_file: PrivateKeyFile = None,
    secret_expires: SecretExpires = None,
    who: As = None,
) -> None:
    """Give an app registration a new secret or certificate; what waited for it goes on."""
    credential = _needed(
        read_credential(client_secret_file, certificate_file, private_key_file, secret_expires)
    )
    with opened() as context:
        entry, resumed = verbs.renew_credential(
            context, actor=actor(who), name=name, credential=credential
        )
    out.print(
        f"App registration {name} has a new credential; {entry.tenants} tenant(s) use it.",
        markup=False,
    )
    if resumed:
        out.print(f"Sends again: {', '.join(resumed)}.", markup=False)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List app registrations, with when their secrets end."""
    with opened() as context, read(context.engine) as conn:
        entries = app_registrations.list_apps(conn)
    if as_json:
        print_json([jsonable(entry) for entry in entries])
        return
    print_table(
        ("app", "client id", "credential", "tenants"),
        [(e.name, e.client_id, credential_text(e), e.tenants) for e in entries],
        right=("tenants",),
        empty="There are none yet; `alertpost tenants add` makes one for a tenant, "
        "`alertpost apps add` one to share.",
    )


@app.command("show")
def show(name: Name, as_json: Json = False) -> None:
    """Show an app registration; never its secret."""
    with opened() as context, read(context.engine) as conn:
        entry = app_registrations.app(conn, name)
    if as_json:
        print_json(jsonable(entry))
        return
    print_fields(
        {
            "app": entry.name,
            "client id": entry.client_id,
            "credential": credential_text(entry),
            "tenants": entry.tenants,
            "changes": entry.version - 1,
            "added": entry.created_at,
        }
    )


@app.command("remove")
def remove(name: Name, yes: Yes = False, who: As = None) -> None:
    """Delete an app registration that no tenant uses."""
    with opened() as context:
        with read(context.engine) as conn:
            entry = app_registrations.app(conn, name)
        if not entry.tenants:
            ask(f"Delete app registration {name} with its credential?", yes=yes)
        verbs.remove_app(context, actor=actor(who), name=name)
    out.print(f"App registration {name} is deleted.", markup=False)


def credential_text(entry: App) -> str:
    """Say what kind of credential an app has and when it ends."""
    kind = "certificate" if entry.has_certificate else "secret" if entry.has_secret else "none"
    if entry.credential_expires_at is None:
        return kind
    days = (entry.credential_expires_at - datetime.now(UTC)).days
    text = f"{kind}, ends {entry.credential_expires_at:%Y-%m-%d}"
    if days < 0:
        return f"{kind}, ended {entry.credential_expires_at:%Y-%m-%d}"
    return f"{text} (in {days} days)" if days < _SOON_DAYS else text


def _needed(credential: Credential | None) -> Credential:
    if credential is None:
        raise ConfigurationError(
            "give --client-secret-file FILE, or --certificate-file with --private-key-file"
        )
    return credential
