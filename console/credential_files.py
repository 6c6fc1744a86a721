"""Secrets come from files or stdin, never from the command line, where ``ps`` shows them."""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from console.paths import typed_path
from models.app_registrations import Credential
from models.errors import ConfigurationError
from models.files import open_to_read

LARGEST = 1_000_000
"""Octets of a secret, a key or a certificate; real ones have some thousand at most."""

GENERATED_DAYS = 365
"""How long a certificate that is made here is good, unless somebody says otherwise."""

SecretFile = Annotated[
    str | None,
    typer.Option(metavar="FILE|-", help="File with the client secret's value; - for stdin."),
]
CertificateFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="Certificate in PEM, instead of a secret.")
]
PrivateKeyFile = Annotated[
    str | None, typer.Option(metavar="FILE|-", help="The certificate's private key in PEM.")
]
SecretExpires = Annotated[
    str | None,
    typer.Option(metavar="DATE", help="When the secret ends, such as 2027-03-01; shown in lists."),
]


PfxFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Certificate and key in one PFX file, instead of both."),
]
PfxPasswordFile = Annotated[
    str | None, typer.Option(metavar="FILE|-", help="File with the password of the PFX file.")
]
Generate = Annotated[
    bool,
    typer.Option(
        "--generate-certificate",
        help="Make a key and a certificate here; prints what to upload to Entra.",
    ),
]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace", help="Drop the old credential at once, instead of keeping it in reserve."
    ),
]


def read_credential(
    secret_file: str | None,
    certificate_file: str | None,
    private_key_file: str | None,
    expires: str | None,
    *,
    pfx_file: str | None = None,
    pfx_password_file: str | None = None,
) -> Credential | None:
    """
    Read what the options name; None where none was given.

    Raises:
        ConfigurationError: They do not belong together, or what they name is no credential.
    """
    pair = bool(certificate_file or private_key_file)
    if bool(secret_file) + pair + bool(pfx_file) > 1:
        raise ConfigurationError(
            "give a client secret, a certificate with its key, or a PFX file, not both"
        )
    if bool(certificate_file) != bool(private_key_file):
        raise ConfigurationError("--certificate-file and --private-key-file belong together")
    if pfx_password_file and not pfx_file:
        raise ConfigurationError("--pfx-password-file goes with --pfx-file")
    if expires and (pair or pfx_file):
        raise ConfigurationError("--secret-expires: a certificate says itself when it ends")
    if certificate_file and private_key_file:
        return Credential.certificate(
            certificate_pem=_read(certificate_file, "certificate"),
            private_key_pem=_read(private_key_file, "private key"),
        )
    if pfx_file:
        password = None
        if pfx_password_file:
            # The line's end is the editor's; blanks may belong to the password.
            password = _read(pfx_password_file, "PFX password").rstrip("\r\n")
        return Credential.pfx(_octets(pfx_file, "PFX"), password=password)
    if secret_file:
        ends_at = _moment(expires) if expires else None
        return Credential.secret(_read(secret_file, "client secret"), expires_at=ends_at)
    if expires:
        raise ConfigurationError("--secret-expires goes with --client-secret-file")
    return None


def or_generated(credential: Credential | None, *, generate: bool, name: str) -> Credential | None:
    """
    Make a certificate where that was asked for.

    Raises:
        ConfigurationError: A credential was given as well.
    """
    if not generate:
        return credential
    if credential is not None:
        raise ConfigurationError("--generate-certificate makes the credential: give no other")
    return Credential.generated(name, days=GENERATED_DAYS)


def _octets(source: str, what: str) -> bytes:
    try:
        with open_to_read(typed_path(source)) as file:
            # One more than is taken tells enough; /dev/zero has no end.
            octets = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigurationError(f"{what} file {source}: {error.strerror or error}") from error
    if len(octets) > LARGEST:
        raise _too_large(f"{what} file {source}")
    return octets


def _read(source: str, what: str) -> str:
    if source == "-":
        if sys.stdin.isatty():
            return getpass.getpass(f"{what.capitalize()} (it does not show): ")
        try:
            text = sys.stdin.read(LARGEST + 1)
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{what} on standard input: it is not text") from error
        if len(text) > LARGEST:
            raise _too_large(f"{what} on standard input")
        return text
    try:
        return _octets(source, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{what} file {source}: it is not text") from error


def _too_large(what: str) -> ConfigurationError:
    return ConfigurationError(f"{what} has more than {LARGEST:,} octets: it is another one")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ConfigurationError(
            f"--secret-expires {text!r}: write a date such as 2027-03-01"
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= datetime.now(UTC):
        raise ConfigurationError(
            f"--secret-expires {text!r} is past: such a secret is refused; give the date "
            "that Entra shows beside the secret"
        )
    return moment
