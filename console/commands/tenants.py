"""``alertpost tenants``: customer organisations."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from console import admin_consent, command_logs
from console import verbs_tenants as verbs
from console.actor import As, actor
from console.app_allowed import after_allowed, allowed_at, how_allowed
from console.asking import Force, Yes, ask
from console.commands import tenants_list
from console.commands.moving import import_emailproxy
from console.context import Context, opened
from console.credential_files import (
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
from console.credential_given import NoCheck, asks, check_given, resume_for_credential
from console.credential_view import credential_text, hand_out, tell_given
from console.line_source import LineSource
from console.output import (
    Json,
    complain,
    counted,
    jsonable,
    out,
    print_fields,
    print_json,
    print_table,
)
from console.resumed_view import tell_resumed
from console.tenant_sheet import LARGEST, read_sheet
from console.verbs_tenant_import import Done, Fate, bring_in, rehearse
from models import app_registrations, mailboxes, tenants
from models.app_registrations import Given
from models.clouds import CLOUDS, resolve
from models.database import read
from models.errors import ConfigurationError, NotFound
from models.grants import APP_ONLY, DELEGATED
from models.senders import authority_url, scopes
from models.tenants import TenantChanges, TenantEntry, TenantOptions

app = typer.Typer(
    help="Customer organisations.", no_args_is_help=True, callback=command_logs.set_up
)

Slug = Annotated[str, typer.Argument(metavar="SLUG", help="The tenant's short name.")]
Notify = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[SEVERITY=]ADDRESS",
        help="Who gets alerts that name nobody; repeat it. With critical=, elevated=, normal= or "
        "low= before the address: those of that severity.",
    ),
]
Cloud = Annotated[str | None, typer.Option(metavar="|".join(CLOUDS), help="Microsoft's cloud.")]
Authority = Annotated[
    str | None,
    typer.Option(metavar="URL", help="https://host[:port]; the directory id is appended."),
]
OidcAuthority = Annotated[
    str | None, typer.Option(metavar="URL", help="A whole issuer, instead of --authority.")
]
SmtpHost = Annotated[str | None, typer.Option(metavar="H", help="Submission server.")]
SmtpPort = Annotated[int | None, typer.Option(metavar="P", help="Its port.")]
CaFile = Annotated[
    str | None, typer.Option(metavar="F", help="Certificates to trust for Entra and SMTP, PEM.")
]
Scope = Annotated[str | None, typer.Option(metavar="S", help="OAuth scope to ask for.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="The customer's name, for people.")]
App = Annotated[
    str | None, typer.Option(metavar="NAME", help="Share this app registration, see `apps list`.")
]
Uncertain = Annotated[
    str | None,
    typer.Option(
        metavar="resend|hold",
        help="A mail whose fate is unknown: send it again, or keep it as a dead letter.",
    ),
]
MaxBytes = Annotated[
    int | None, typer.Option(metavar="N", help="Largest mail, if not the settings' own limit.")
]
Licences = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Paid mail licences: external recipients are kept below 500 × N^0.7 + 9500 a day.",
    ),
]
Trial = Annotated[
    bool | None,
    typer.Option("--trial/--no-trial", help="A trial tenant: 5,000 external recipients a day."),
]
AcceptedDomain = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DOMAIN",
        help="Its recipients are internal; repeatable. Default: the domains of its mailboxes.",
    ),
]
_RESETTABLE = (
    "authority", "oidc-authority", "smtp-host", "smtp-port", "ca-file", "scope",
    "max-message-bytes", "licences", "accepted-domains",
)  # fmt: skip


@app.command("add")
def add(
    slug: Slug,
    *,
    directory_id: Annotated[
        str, typer.Option(metavar="ID", help="Entra tenant id, a GUID or a domain.")
    ],
    client_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Application (client) id.")
    ] = None,
    client_secret_file: SecretFile = None,
    certificate_file: CertificateFile = None,
    private_key_file: PrivateKeyFile = None,
    pfx_file: PfxFile = None,
    pfx_password_file: PfxPasswordFile = None,
    generate_certificate: Generate = False,
    secret_expires: SecretExpires = None,
    app_name: Annotated[
        str | None,
        typer.Option("--app", metavar="NAME", help="Share this app registration instead."),
    ] = None,
    notify: Notify = None,
    cloud: Cloud = None,
    authority: Authority = None,
    oidc_authority: OidcAuthority = None,
    smtp_host: SmtpHost = None,
    smtp_port: SmtpPort = None,
    ca_file: CaFile = None,
    scope: Scope = None,
    name: Name = None,
    uncertain: Uncertain = None,
    max_message_bytes: MaxBytes = None,
    licences: Licences = None,
    trial: Trial = None,
    accepted_domain: AcceptedDomain = None,
    who: As = None,
) -> None:
    """Add a customer, and the app registration that it trusts."""
    given = read_credential(
        client_secret_file,
        certificate_file,
        private_key_file,
        secret_expires,
        pfx_file=pfx_file,
        pfx_password_file=pfx_password_file,
    )
    credential = or_generated(given, generate=generate_certificate, name=slug)
    options = _given(
        name=name,
        cloud=cloud,
        authority=authority,
        oidc_authority=oidc_authority,
        smtp_host=smtp_host,
        smtp_port=smtp_port,
        ca_file=ca_file,
        scope=scope,
        uncertain_policy=uncertain,
        max_message_bytes=max_message_bytes,
        licences=licences,
        trial=trial,
        accepted_domains=accepted_domain or None,
        notify=verbs.notification_lists(notify) if notify else None,
    )
    with opened() as context:
        added = verbs.add(
            context,
            actor=actor(who),
            slug=slug,
            directory_id=directory_id,
            app=app_name,
            client_id=client_id,
            credential=credential,
            options=cast("TenantOptions", options),
        )
    if generate_certificate and credential is not None:
        pem = credential.certificate_pem or ""
        hand_out(added.app.name, pem, None, client_id=added.app.client_id)
    out.print(f"Tenant {slug} added, with app registration {added.app.name}.", markup=False)
    if not added.tenant.notify:
        out.print(
            f"It has no notification list: `alertpost tenants edit {slug} --notify ADDRESS`.",
            markup=False,
        )
    out.print(f"Next: `alertpost mailboxes add {slug} ADDRESS`.", markup=False)


@app.command("edit")
def edit(
    slug: Slug,
    *,
    directory_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Entra tenant id, a GUID or a domain.")
    ] = None,
    client_secret_file: SecretFile = None,
    certificate_file: CertificateFile = None,
    private_key_file: PrivateKeyFile = None,
    pfx_file: PfxFile = None,
    pfx_password_file: PfxPasswordFile = None,
    secret_expires: SecretExpires = None,
    replace: Replace = False,
    no_check: NoCheck = False,
    app_name: Annotated[
        str | None, typer.Option("--app", metavar="NAME", help="Use this app registration.")
    ] = None,
    notify: Notify = None,
    cloud: Cloud = None,
    authority: Authority = None,
    oidc_authority: OidcAuthority = None,
    smtp_host: SmtpHost = None,
    smtp_port: SmtpPort = None,
    ca_file: CaFile = None,
    scope: Scope = None,
    name: Name = None,
    uncertain: Uncertain = None,
    max_message_bytes: MaxBytes = None,
    licences: Licences = None,
    trial: Trial = None,
    accepted_domain: AcceptedDomain = None,
    reset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help=f"Back to the cloud's own value: {', '.join(_RESETTABLE)}."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if consents become worthless by it.")
    ] = False,
    who: As = None,
) -> None:
    """
    Change a tenant, or give its app registration a new secret beside the old one.

    --notify replaces the whole notification list. What waited for the change is sent by itself.
    """
    credential = read_credential(
        client_secret_file,
        certificate_file,
        private_key_file,
        secret_expires,
        pfx_file=pfx_file,
        pfx_password_file=pfx_password_file,
    )
    if replace and credential is None:
        raise ConfigurationError("--replace goes with a new secret or certificate")
    changes = _given(
        directory_id=directory_id,
        app=app_name,
        name=name,
        cloud=cloud,
        authority=authority,
        oidc_authority=oidc_authority,
        smtp_host=smtp_host,
        smtp_port=smtp_port,
        ca_file=ca_file,
        scope=scope,
        uncertain_policy=uncertain,
        max_message_bytes=max_message_bytes,
        licences=licences,
        trial=trial,
        accepted_domains=accepted_domain or None,
        notify=verbs.notification_lists(notify) if notify else None,
    ) | _cleared(reset or [])
    me = actor(who)
    with opened() as context:
        changed = verbs.edit(
            context,
            actor=me,
            slug=slug,
            changes=cast("TenantChanges", changes),
            credential=credential,
            alone=replace,
            force=force,
            resume=no_check,
        )
        out.print(f"Tenant {slug} is changed.", markup=False)
        works = True
        if changed.given is not None:
            works = _tell_new_credential(context, changed.given, actor=me, no_check=no_check)
    if credential is not None and changed.app.tenants > 1:
        out.print(
            f"App registration {changed.app.name} serves {changed.app.tenants} tenants; the new "
            "credential holds for all of them.",
            markup=False,
        )
    tell_resumed(changed.resumed)
    if not works:
        raise typer.Exit(1)


app.command("list")(tenants_list.list_)


@app.command("show")
def show(slug: Slug, as_json: Json = False) -> None:
    """Show a tenant, with the values that hold for it."""
    with opened() as context, read(context.engine) as conn:
        entry = tenants.tenant(conn, slug)
        registration = app_registrations.app(conn, entry.app)
        boxes = mailboxes.list_mailboxes(conn, tenant_slug=slug)
    if as_json:
        whole = cast("dict[str, object]", jsonable(entry))
        in_force = _in_force(context, entry)
        registration_and_boxes = {"app_registration": registration, "mailboxes": boxes}
        print_json(whole | {"in_force": in_force} | registration_and_boxes)
        return
    in_force = _in_force(context, entry)
    print_fields(
        {
            "tenant": entry.slug,
            "name": entry.name or None,
            "directory": entry.directory_id,
            "app": f"{entry.app} (client id {entry.client_id})",
            "credential": credential_text(registration),
            "admin consent": in_force["admin_consent"],
            "for app-only": in_force["admin_consent_app_only"],
            "cloud": entry.cloud,
            "authority": in_force["authority"],
            "SMTP": f"{in_force['smtp_host']}:{in_force['smtp_port']}",
            "scope": in_force["scope"],
            "CA file": entry.ca_file,
            "notify": entry.notify or "nobody",
            "uncertain": entry.uncertain_policy,
            "largest mail": entry.max_message_bytes,
            "external recipients a day": _external(entry),
            "mailboxes": [f"{box.address} ({box.standing})" for box in boxes] or "none",
            "waiting": entry.waiting,
            "added": entry.created_at,
        }
    )


@app.command("link")
def link(
    slug: Slug,
    app_only: Annotated[
        bool, typer.Option("--app-only", help="For the app's own permission (SMTP.SendAsApp).")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Print it also where the app is allowed already.")
    ] = False,
) -> None:
    """
    Print the address at which the customer's administrator allows the app for everybody.

    Where that was done already, as far as is known, say so and what is next instead.
    """
    with opened() as context:
        with read(context.engine) as conn:
            entry = tenants.tenant(conn, slug)
            boxes = mailboxes.list_mailboxes(conn, tenant_slug=slug)
            since = allowed_at(conn, entry)
        address = admin_consent.address_for_tenant(
            context.settings, context.vault, entry, kind=APP_ONLY if app_only else DELEGATED
        )
        allowed = (
            ""
            if again or address is None
            else how_allowed(context, boxes, since, app_only=app_only)
        )
    if address is None:
        raise ConfigurationError(
            f"tenant {slug} signs in at {entry.oidc_authority}, which knows no consent for a whole "
            "directory"
        )
    if allowed:
        complain(f"{allowed} {after_allowed(entry, boxes, app_only=app_only)}")
        return
    # Alone on standard output, for scripts.
    out.print(address, markup=False)


@app.command("import")
def import_(
    file: Annotated[
        str, typer.Argument(metavar="FILE.csv|-", help="A sheet; its first line names columns.")
    ],
    *,
    app_name: Annotated[
        str | None,
        typer.Option("--app", metavar="NAME", help="The app registration of lines without one."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Do nothing if any line is bad.")
    ] = False,
    as_json: Json = False,
    who: As = None,
) -> None:
    """
    Add or change many tenants and their mailboxes from a sheet.

    A line is a tenant, or one more of its mailboxes. What a cell does not say stays as it is,
    nothing is removed, and the same sheet may be given again. Columns: slug, and any of name,
    directory_id, app, cloud, notify, mailbox, display_name, auth_user, licences, trial,
    accepted_domains, smtp_host, smtp_port, authority, oidc_authority, ca_file, scope,
    uncertain_policy, max_message_bytes.
    """
    with LineSource.open(file).closing() as source:
        octets = source.stream.read(LARGEST + 1)
    rows = list(read_sheet(octets, app=app_name))
    done: list[Done] = []
    with opened() as context:
        if app_name is not None:
            _check_app(context, app_name)
        if dry_run or strict:
            rehearse(context, rows, actor=actor(who), on_done=done.append)
        bad = any(one.fate is Fate.BAD for one in done)
        if not dry_run and not bad:
            done.clear()
            bring_in(context, rows, actor=actor(who), on_done=done.append)
    _tell_import(done, done_nothing=dry_run or (strict and bad), as_json=as_json)
    if any(one.fate is Fate.BAD for one in done):
        raise typer.Exit(1)


def _check_app(context: Context, name: str) -> None:
    """Refuse a misspelt name once, not line by line."""
    try:
        with read(context.engine) as conn:
            app_registrations.app(conn, name)
    except NotFound as unknown:
        raise ConfigurationError(f"--app: {unknown}; nothing was imported") from None


app.command("import-emailproxy")(import_emailproxy)


def _tell_import(done: list[Done], *, done_nothing: bool, as_json: bool) -> None:
    counts = {fate.value: sum(one.fate is fate for one in done) for fate in Fate}
    if as_json:
        print_json({"dry_run": done_nothing, **counts, "lines": [jsonable(one) for one in done]})
        return
    print_table(
        ("line", "tenant", "mailbox", "would be" if done_nothing else "is", "what"),
        [
            (one.number, one.slug, one.mailbox, one.fate, one.what)
            for one in done
            if one.fate is not Fate.UNCHANGED
        ],
        right=("line",),
        spare=("tenant",),
        empty="Everything is as the sheet says." if done else "The sheet names no tenant.",
    )
    told = ", ".join(f"{number} {name}" for name, number in counts.items())
    out.print(f"{'Nothing was done. It would be: ' if done_nothing else ''}{told}.", markup=False)
    if counts["added"] and not done_nothing:
        out.print("Next: `alertpost mailboxes connect ADDRESS` for each mailbox.", markup=False)


def _external(entry: tenants.TenantEntry) -> str:
    limit = tenants.external_in_force(entry)
    if limit is None:
        return "not counted (set --licences or --trial)"
    source = "trial" if entry.trial else f"{entry.licences} licences"
    domains = ", ".join(entry.accepted_domains or []) or "the domains of its mailboxes"
    return f"{limit:,} ({source}); internal: {domains}"


@app.command("remove")
def remove(
    slug: Slug,
    force: Force = False,  # noqa: ARG001
    yes: Yes = False,
    who: As = None,
) -> None:
    """
    Remove a tenant, also one that is in use: what waits is cancelled, its consents are deleted.

    What it sent stays on record.
    """
    with opened() as context:
        with read(context.engine) as conn:
            entry = tenants.tenant(conn, slug)
        ask(
            f"Remove tenant {slug}? {counted(entry.mailboxes, 'mailbox', 'mailboxes')} would go "
            f"out of service, {counted(entry.connected, 'consent', 'consents')} be deleted, "
            f"{counted(entry.waiting)} be cancelled.",
            yes=yes,
        )
        removal = verbs.remove(context, actor=actor(who), slug=slug, force=True)
    out.print(
        f"Tenant {slug} is removed: {removal.cancelled} deliveries cancelled, {removal.grants} "
        f"consents deleted, {removal.kept} deliveries kept on record.",
        markup=False,
    )


def _tell_new_credential(context: Context, given: Given, *, actor: str, no_check: bool) -> bool:
    """Say what became of a new credential, and what Entra says of it; False: it takes none."""
    if not asks(context, given.app.name, no_check=no_check):
        tell_given(given)
        if not no_check:
            tell_resumed(resume_for_credential(context, given.app.name, actor=actor))
        return True
    tell_given(given, asked=True)
    return check_given(context, given, actor=actor)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _cleared(names: list[str]) -> dict[str, None]:
    unknown = [name for name in names if name not in _RESETTABLE]
    if unknown:
        raise ConfigurationError(f"--reset {unknown[0]!r}: choose one of {', '.join(_RESETTABLE)}")
    return {name.replace("-", "_"): None for name in names}


def _in_force(context: Context, entry: TenantEntry) -> dict[str, object]:
    """Fill in what the tenant's cloud says where it has no value of its own."""
    cloud = resolve(entry.cloud)
    authority = entry.oidc_authority or authority_url(
        cloud=cloud,
        directory_id=entry.directory_id,
        authority=entry.authority,
        oidc_authority=None,
    )
    asked = " ".join(scopes(cloud=cloud, grant_kind=None, override=entry.scope))
    return {
        "authority": authority,
        "admin_consent": admin_consent.address_for_tenant(context.settings, context.vault, entry),
        "admin_consent_app_only": admin_consent.address_for_tenant(
            context.settings, context.vault, entry, kind=APP_ONLY
        ),
        "smtp_host": entry.smtp_host or cloud.smtp_host,
        "smtp_port": entry.smtp_port or cloud.smtp_port,
        "scope": asked,
        "external_recipients_per_day": tenants.external_in_force(entry),
    }
