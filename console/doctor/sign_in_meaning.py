"""What a tenant's sign-in service says of it, its clock and our credential. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from console.doctor.checks import Finding, failed, ok, warning
from console.doctor.sign_in import Discovery, authority, configuration_url
from console.output import counted
from models import credential_commands
from models.app_registrations import Credential
from models.credential_standing import Kind, Standing, State, in_force, refused_beside, states
from models.expiries import days_left
from models.senders import Sender
from workers.oauth_errors import classify_oauth

CLOCK_FAILED_SECONDS = 300.0
"""Entra takes assertions, and everybody tokens, within about five minutes."""

CLOCK_WARNING_SECONDS = 60.0
SOON = timedelta(days=30)

_GUID_LENGTH = 36
_BAD_REQUEST = 400


def discovery(sender: Sender, found: Discovery) -> Finding:
    """Judge whether this tenant is known there, in this cloud."""
    url = configuration_url(sender)
    if found.error:
        return failed(
            f"{url}: {found.error}",
            "Without this document no token can be asked for.",
            f"open {url} in a browser; a proxy in between must let it through",
        )
    if found.status is None or found.status >= _BAD_REQUEST:
        return _unknown(sender, url, found)
    issuer = str(found.document.get("issuer") or "")
    ours, theirs = urlsplit(authority(sender)), urlsplit(issuer)
    if ours.hostname != theirs.hostname:
        return _other_issuer(sender, issuer)
    directory = theirs.path.strip("/").partition("/")[0].lower()
    wanted = sender.directory_id.lower()
    if not sender.oidc_authority and _is_guid(wanted) and _is_guid(directory) not in {"", wanted}:
        return failed(
            f"issuer {issuer}",
            f"This is the directory {directory}, not {wanted}.",
            f"`alertpost tenants edit {sender.tenant_slug} --directory-id {directory}`, if that "
            "one is meant",
        )
    return ok(f"issuer {issuer}")


def clock(found: Discovery) -> Finding:
    """Judge this machine's clock by that of the sign-in service."""
    ahead = found.clock_ahead_seconds
    if ahead is None:
        return warning(
            "the sign-in service sent no Date",
            "Nobody compared this machine's clock.",
            "compare it with a clock that is right: `date -u`",
        )
    seen = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the sign-in service's"
    if abs(ahead) < 2:  # noqa: PLR2004 - the header has whole seconds
        return ok("agrees with the sign-in service's")
    if abs(ahead) < CLOCK_WARNING_SECONDS:
        return ok(seen)
    mend = "synchronise this machine's clock with NTP (`timedatectl set-ntp true`)"
    if abs(ahead) < CLOCK_FAILED_SECONDS:
        return warning(seen, "More than five minutes and sign-ins are refused.", mend)
    return failed(
        seen,
        "Assertions that are signed with a certificate are refused (AADSTS700024 and the like), "
        "and tokens are held for good or for over at the wrong time.",
        mend,
    )


def credential(sender: Sender, given: Credential, app: str, now: datetime) -> Finding:
    """Judge the app registration's secret or certificate, as far as it shows from here."""
    if not (given.private_key_pem or given.client_secret):
        return failed(
            f"app registration {app} ({sender.client_id}) has neither secret nor certificate",
            "Entra gives no token to an app that cannot prove who it is.",
            _renewal(app, Kind.SECRET),
        )
    kind = Kind.CERTIFICATE if given.private_key_pem else Kind.SECRET
    return _until(sender, kind, given.expires_at, app, now)


def credentials(sender: Sender, known: Sequence[Standing], app: str, now: datetime) -> Finding:
    """Judge credentials by what Entra said of them last: two side by side, or one it refused."""
    standing = states(known, now)
    told = ", ".join(_told(one, standing[one.number]) for one in known)
    used = in_force(known, now)
    assert used is not None
    if standing[used.number] in {State.REFUSED, State.ENDED}:
        mend = (
            "make a new secret in the Entra portal, then "
            f"`{credential_commands.new_secret(app, replace=True)}`"
        )
        if used.kind is Kind.CERTIFICATE and standing[used.number] is State.REFUSED:
            mend = _upload(app)
        return failed(
            f"{app} ({sender.client_id}): {told}",
            "Entra takes none; mails go on at most until the present token ends.",
            mend,
        )
    refused = refused_beside(known, now)
    if refused is not None:
        newest = max(known, key=lambda one: one.number)
        mend = (
            f"`{credential_commands.retire(app, newest.number)}`, then {_renewal(app, Kind.SECRET)}"
        )
        if newest.kind is Kind.CERTIFICATE:
            mend = _upload(app)
        return warning(refused, "Mails go out by the old one, as long as that is good.", mend)
    found = _until(sender, used.kind, used.expires_at, app, now)
    return replace(found, seen=f"{found.seen}; {told}")


def _told(one: Standing, state: State) -> str:
    said = f" ({one.refused_code})" if state is State.REFUSED else ""
    return f"{one.kind} {one.number} {state}{said}"


def _upload(app: str) -> str:
    return (
        f"`{credential_commands.show_certificate(app)}` prints what is to be uploaded in the Entra "
        f"portal; then `{credential_commands.ask_entra(app)}`"
    )


def _renewal(app: str, kind: Kind) -> str:
    if kind is Kind.CERTIFICATE:
        return f"`{credential_commands.new_certificate(app)}`"
    return f"`{credential_commands.new_secret(app)}`"


def _until(
    sender: Sender, kind: Kind, expires_at: datetime | None, app: str, now: datetime
) -> Finding:
    renew = _renewal(app, kind)
    word = "certificate" if kind is Kind.CERTIFICATE else "client secret"
    seen = f"{word} of {app} ({sender.client_id})"
    if expires_at is None:
        return warning(
            f"{seen}, end date unknown",
            "When it ends, every tenant of this app stops at once, unannounced.",
            f"look it up in the Entra portal (App registrations, Certificates & secrets); {renew}",
        )
    left = expires_at - now
    if left <= timedelta(0):
        return failed(
            f"{seen}, ended on {expires_at:%Y-%m-%d}",
            "Entra gives no more tokens for it; mails go on at most until the present token ends.",
            f"make a new one in the Entra portal, then {renew}",
        )
    seen += f", good until {expires_at:%Y-%m-%d}"
    if left <= SOON:
        return warning(
            f"{seen} ({counted(days_left(left), 'day', 'days')})",
            "When it ends, every tenant of this app stops at once.",
            f"make a new one in the Entra portal, then {renew}",
        )
    return ok(seen)


def _unknown(sender: Sender, url: str, found: Discovery) -> Finding:
    said = found.document
    codes = said.get("error_codes")
    verdict = classify_oauth(
        str(said.get("error") or ""),
        tuple(code for code in codes if type(code) is int) if isinstance(codes, list) else (),
        str(said.get("suberror") or ""),
        str(said.get("error_description") or ""),
        http_status=found.status,
    )
    return failed(
        f"{url}: HTTP {found.status} {verdict.detail}".rstrip(),
        f"{verdict.meaning} ({verdict.rule})",
        f"{verdict.next_step} `alertpost tenants edit {sender.tenant_slug} --directory-id ID`, "
        "or `--cloud NAME`",
    )


def _other_issuer(sender: Sender, issuer: str) -> Finding:
    seen = f"{authority(sender)} says it is {issuer or 'nobody'}"
    if sender.oidc_authority:
        return failed(
            seen,
            "The issuer must be the address that was given, or tokens are not taken.",
            f"`alertpost tenants edit {sender.tenant_slug} --oidc-authority {issuer or 'URL'}`",
        )
    return warning(
        seen,
        "The tenant seems to live in another cloud, or the address is an old name of this one.",
        f"`alertpost tenants edit {sender.tenant_slug} --cloud NAME`, if it does",
    )


def _is_guid(text: str) -> str:
    """Give a directory's id back; empty for domains and words such as ``organizations``."""
    return text if len(text) == _GUID_LENGTH and text.count("-") == 4 else ""  # noqa: PLR2004
