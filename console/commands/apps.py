"""``alertpost apps``: app registrations that several tenants can share, and their credentials."""

from __future__ import annotations

from shlex import quote
from typing import Annotated

import typer

from console import command_logs
from console import verbs_apps as verbs
from console.actor import As, actor
from console.asking import Yes, ask
from console.commands import apps_list
from console.context import Context, opened
from console.credential_files import (
    GENERATED_DAYS,
    CertificateFile,
    Generate,
    PfxFile,
    PfxPasswordFile,
    PrivateKeyFile,
    Replace,
    SecretExpires,
    SecretFile,
    or_generated,
    read_credential,
)
from console.credential_given import NoCheck, asks, check_given
from console.credential_view import (
    advice,
    credential_text,
    free_file,
    hand_out,
    print_credentials,
    print_tried,
    tell_given,
)
from console.output import Json, jsonable, out, print_fields, print_json
from console.resumed_view import tell_resumed
from models import app_credentials, app_registrations, database
from models.app_registrations import App, Credential
from models.credential_standing import states
from models.database import read
from models.errors import ConfigurationError, NotFound, VaultError

app = typer.Typer(
    help="App registrations that several tenants share.",
    no_args_is_help=True,
    callback=command_logs.set_up,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The app registration's name.")]
OutFile = Annotated[
    str | None,
    typer.Option("--out", metavar="FILE.pem|FILE.cer", help="Write the certificate there."),
]


@app.command("add")
def add(
    name: Name,
    *,
    client_id: Annotated[str, typer.Option(metavar="ID", help="Application (client) id.")],
    client_secret_file: SecretFile = None,
    certificate_file: CertificateFile = None,
    private_key_file: PrivateKeyFile = None,
    pfx_file: PfxFile = None,
    pfx_password_file: PfxPasswordFile = None,
    generate_certificate: Generate = False,
    secret_expires: SecretExpires = None,
    who: As = None,
) -> None:
    """Add an app registration."""
    credential = _needed(
        or_generated(
            read_credential(
                client_secret_file,
                certificate_file,
                private_key_file,
                secret_expires,
                pfx_file=pfx_file,
                pfx_password_file=pfx_password_file,
            ),
            generate=generate_certificate,
            name=name,
        )
    )
    with opened() as context:
        entry = verbs.add_app(
            context, actor=actor(who), name=name, client_id=client_id, credential=credential
        )
    if generate_certificate:
        hand_out(name, credential.certificate_pem or "", None, client_id=entry.client_id)
    out.print(
        f"App registration {name} added. "
        f"Next: `alertpost tenants add SLUG --directory-id ID --app {quote(name)}`.",
        markup=False,
    )


@app.command("secret")
def secret(
    name: Name,
    *,
    client_secret_file: SecretFile = None,
    certificate_file: CertificateFile = None,
    private_key_file: PrivateKeyFile = None,
    pfx_file: PfxFile = None,
    pfx_password_file: PfxPasswordFile = None,
    secret_expires: SecretExpires = None,
    replace: Replace = False,
    no_check: NoCheck = False,
    who: As = None,
) -> None:
    """
    Give an app registration a new secret or certificate; what waited for it is sent.

    The old one stays in reserve beside it: where Entra refuses the new one, it is used. Where a
    mailbox is connected, Entra is asked at once; the exit code is 1 if it takes none of them.
    """
    credential = _needed(
        read_credential(
            client_secret_file,
            certificate_file,
            private_key_file,
            secret_expires,
            pfx_file=pfx_file,
            pfx_password_file=pfx_password_file,
        )
    )
    me = actor(who)
    with opened() as context:
        ask_entra = asks(context, name, no_check=no_check)
        given, resumed = verbs.give_credential(
            context,
            actor=me,
            name=name,
            credential=credential,
            alone=replace,
            resume=not ask_entra,
        )
        tell_given(given, asked=ask_entra)
        tell_resumed(resumed)
        works = check_given(context, given, actor=me) if ask_entra else True
    if not works:
        raise typer.Exit(1)


@app.command("certificate")
def certificate(
    name: Name,
    *,
    days: Annotated[
        int, typer.Option(metavar="N", help="How many days it is to be good.")
    ] = GENERATED_DAYS,
    out_file: OutFile = None,
    show_again: Annotated[
        bool, typer.Option("--show", help="Make none; print the newest one again.")
    ] = False,
    who: As = None,
) -> None:
    """
    Make a certificate for an app registration, to be uploaded to Entra.

    Its private key is made and sealed here, and no command prints it. The old credential goes on
    working until the certificate is uploaded; from then on the certificate is used.
    """
    free_file(out_file)
    with opened() as context:
        if show_again:
            entry, pem = _newest_certificate(context, name)
        else:
            given, pem = verbs.generate(context, actor=actor(who), name=name, days=days)
            entry = given.app
    hand_out(name, pem, out_file, client_id=entry.client_id)
    if not show_again:
        tell_given(given)


@app.command("credentials")
def credentials(
    name: Name,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Ask Entra about each of them now.")
    ] = False,
    as_json: Json = False,
    who: As = None,
) -> None:
    """
    Show the secrets and certificates of an app registration, and which of them is used.

    With --check what waited for one that works is sent; the exit code is 1 unless
    Entra takes each of them.
    """
    with opened() as context:
        checked = verbs.check(context, actor=actor(who), name=name) if check else None
        with read(context.engine) as conn:
            entry = app_registrations.app(conn, name)
            now = database.now(conn)
        hints = _hints(context, entry)
    if as_json:
        standing = states(entry.credentials, now)
        print_json(
            [
                {
                    **_as_object(one),
                    "hint": hints.get(one.number),
                    "state": standing[one.number],
                }
                for one in entry.credentials
            ]
        )
    else:
        if checked is not None:
            print_tried(checked.tried, checked.tenant)
        print_credentials(entry, hints)
        tell_resumed(checked.resumed if checked is not None else [])
    if checked is not None and not (checked.tried and all(one.works for one in checked.tried)):
        raise typer.Exit(1)


@app.command("retire")
def retire(
    name: Name,
    credential: Annotated[
        int, typer.Argument(metavar="CREDENTIAL", help="Its number, see `apps credentials`.")
    ],
    *,
    force: Annotated[bool, typer.Option("--force", help="Even the last one that works.")] = False,
    who: As = None,
) -> None:
    """Delete a secret or certificate that is not needed any more."""
    with opened() as context:
        gone, entry = verbs.retire(
            context, actor=actor(who), name=name, number=credential, force=force
        )
    out.print(
        f"Credential {gone.number} of {name}, a {gone.kind}, is deleted here; delete it in Entra "
        "too (Certificates & secrets).",
        markup=False,
    )
    if not entry.credentials:
        out.print(
            f"Nothing is left: `alertpost apps secret {quote(name)} --client-secret-file FILE`.",
            markup=False,
        )


app.command("list")(apps_list.list_)


@app.command("show")
def show(name: Name, as_json: Json = False) -> None:
    """Show an app registration; never its secret."""
    with opened() as context, read(context.engine) as conn:
        entry = app_registrations.app(conn, name)
        now = database.now(conn)
    if as_json:
        print_json(jsonable(entry))
        return
    print_fields(
        {
            "app": entry.name,
            "client id": entry.client_id,
            "credential": credential_text(entry),
            "note": advice(entry, now) or None,
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
            ask(f"Delete app registration {name} with its credentials?", yes=yes)
        verbs.remove_app(context, actor=actor(who), name=name)
    out.print(f"App registration {name} is deleted.", markup=False)


def _needed(credential: Credential | None) -> Credential:
    if credential is None:
        raise ConfigurationError(
            "give --client-secret-file FILE, --pfx-file FILE, or --certificate-file with "
            "--private-key-file; or let a certificate be made, see `alertpost apps --help`"
        )
    return credential


def _hints(context: Context, entry: App) -> dict[int, str]:
    """Open the secrets for their first characters, which Entra's portal shows too."""
    try:
        with read(context.engine) as conn:
            held = app_credentials.all_opened(conn, context.vault, entry.id)
    except VaultError:
        # The table is worth showing without.
        return {}
    return {
        one.standing.number: one.credential.hint for one in held if one.credential.client_secret
    }


def _newest_certificate(context: Context, name: str) -> tuple[App, str]:
    with read(context.engine) as conn:
        entry = app_registrations.app(conn, name)
        held = app_credentials.all_opened(conn, context.vault, entry.id)
    found = [one.credential.certificate_pem for one in held if one.credential.certificate_pem]
    if not found:
        raise NotFound(f"app registration {name!r} has no certificate; without --show one is made")
    return entry, found[-1]


def _as_object(value: object) -> dict[str, object]:
    shaped = jsonable(value)
    assert isinstance(shaped, dict)
    return shaped
