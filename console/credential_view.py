"""Credentials of app registrations, for people: how they stand, what to upload and where."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from console.output import counted, out, print_table
from console.paths import typed_path
from models import credential_commands
from models.app_registrations import App, Given
from models.credential_standing import (
    Kind,
    Standing,
    dispensable,
    in_force,
    none_works,
    refused_beside,
    states,
)
from models.errors import ConfigurationError
from models.expiries import days_left

if TYPE_CHECKING:
    from console.credential_check import Tried

_SOON_DAYS = 30


def credential_text(entry: App) -> str:
    """Say in a cell by what kind of credential an app works, when that ends, and what else is."""
    now = datetime.now(UTC)
    used = in_force(entry.credentials, now)
    if used is None:
        return "none"
    others = [one for one in entry.credentials if one is not used]
    standing = states(entry.credentials, now)
    beside = "".join(f"; {one.kind} {one.number} {standing[one.number]}" for one in others)
    if none_works(entry.credentials, now) is not None:
        return f"{used.kind}, refused by Entra ({used.refused_code}), none works{beside}"
    return f"{used.kind}{_end(used, now)}{beside}"


def _end(one: Standing, now: datetime) -> str:
    if one.expires_at is None:
        return ""
    left = one.expires_at - now
    days = days_left(left)
    if left <= timedelta(0):
        return f", ended {one.expires_at:%Y-%m-%d}"
    text = f", ends {one.expires_at:%Y-%m-%d}"
    return f"{text} (in {counted(days, 'day', 'days')})" if days < _SOON_DAYS else text


def print_credentials(entry: App, hints: dict[int, str]) -> None:
    """
    Print a table of an app's credentials, and what there is to say about them.

    Args:
        entry: The app registration.
        hints: By number, the first characters of secrets.
    """
    now = datetime.now(UTC)
    standing = states(entry.credentials, now)
    print_table(
        ("credential", "kind", "thumbprint or hint", "added", "ends", "is", "worked", "refused"),
        [
            (
                one.number,
                one.kind,
                one.thumbprint or f"{hints.get(one.number, '???')}…",
                one.added_at,
                "not known" if one.expires_at is None else f"{one.expires_at:%Y-%m-%d}",
                standing[one.number],
                one.worked_at or "not yet",
                _refusal(one),
            )
            for one in entry.credentials
        ],
        spare=("added", "worked"),
        empty=f"There is none: `{credential_commands.new_secret(entry.name)}`.",
    )
    told = advice(entry, now)
    if told:
        out.print(told, markup=False)


def _refusal(one: Standing) -> str | None:
    if one.refused_at is None:
        return None
    at = one.refused_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    return f"{at} {one.refused_answer or ''} ({one.refused_rule})"


def advice(entry: App, now: datetime) -> str:
    """Say what there is to do about an app's credentials; empty where nothing is."""
    known = entry.credentials
    sentence = refused_beside(known, now)
    if sentence is not None:
        newest = max(known, key=lambda one: one.number)
        if newest.kind is Kind.CERTIFICATE:
            mend = (
                "If it was not uploaded yet: "
                f"`{credential_commands.show_certificate(entry.name)}` prints it."
            )
        else:
            mend = (
                "Give the right one: "
                f"`{credential_commands.retire(entry.name, newest.number)}`, then "
                f"`{credential_commands.new_secret(entry.name)}`."
            )
        return f"{sentence[0].upper()}{sentence[1:]}. {mend}"
    refused = none_works(known, now)
    if refused is not None:
        return (
            f"Entra refuses {refused.kind} {refused.number} ({refused.refused_code}) and no other "
            "one works: nothing is sent once the present tokens end. Give a new one: "
            f"`{credential_commands.new_secret(entry.name, replace=True)}`."
        )
    used = in_force(known, now)
    spare = dispensable(known, now)
    if used is not None and spare:
        return (
            f"Credential {used.number} works, so {spare[0].number} can go: "
            f"`{credential_commands.retire(entry.name, spare[0].number)}`, and delete it in Entra."
        )
    return ""


def tell_given(given: Given, *, asked: bool = False) -> None:
    """
    Say what became of a credential that an app registration was given.

    Args:
        given: What became of it.
        asked: Entra is asked about it next.
    """
    name, number = given.app.name, given.number
    if given.known:
        out.print(
            f"App registration {name} has this credential already, as {number}; its end is "
            "written down.",
            markup=False,
        )
        return
    out.print(
        f"App registration {name} has a new credential, {number}; {given.app.tenants} tenant(s) "
        "use it.",
        markup=False,
    )
    if given.dropped:
        gone = ", ".join(map(str, given.dropped))
        out.print(f"It took the place of {gone}.", markup=False)
    if given.beside is not None:
        out.print(
            f"It is tried first; where Entra refuses it, {given.beside} is used."
            + ("" if asked else f" `{credential_commands.ask_entra(name)}` asks at once."),
            markup=False,
        )


def print_tried(tried: Sequence[Tried], tenant: str) -> None:
    """Say what Entra said of each credential."""
    for one in tried:
        what = f"{one.standing.kind} {one.standing.number}"
        if one.works:
            text = "works."
        elif one.refusal is not None:
            text = f"is refused: {one.refusal.meaning} [{one.refusal.detail}]"
        else:
            text = f"could not be judged. {one.other}"
        out.print(f"Asked in the directory of {tenant}: {what} {text}", markup=False)


def hand_out(name: str, certificate_pem: str, file: str | None, *, client_id: str) -> None:
    """
    Write or print a certificate, and say where it is to be uploaded.

    Raises:
        ConfigurationError: The file cannot be written; the certificate is kept.
    """
    if file is None:
        out.print(certificate_pem.rstrip(), markup=False)
    else:
        try:
            typed_path(file).write_text(certificate_pem, "ascii")
        except OSError as error:
            raise ConfigurationError(
                f"{file}: {error.strerror or error}; the certificate is kept, "
                f"`{credential_commands.show_certificate(name)} --out FILE` writes it"
            ) from error
    where = "the lines above, in a file ending in .pem or .cer" if file is None else file
    out.print(
        f"Upload {where}: Entra admin center → App registrations → All applications → the one "
        f"with client id {client_id} → Certificates & secrets → Certificates → Upload "
        "certificate. Its private key stays here, sealed.",
        markup=False,
    )


def free_file(file: str | None) -> None:
    """
    Refuse a file that is there: it may be another certificate.

    Raises:
        ConfigurationError: It is there, or its folder is not.
    """
    if file is None:
        return
    path = typed_path(file)
    if path.exists():
        raise ConfigurationError(f"{file}: it exists already; name another file")
    if not path.parent.is_dir():
        raise ConfigurationError(f"{file}: there is no folder {path.parent}")
