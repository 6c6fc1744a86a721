"""Secrets come from files or stdin, never from the command line, where ``ps`` shows them."""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from models.app_registrations import Credential
from models.errors import ConfigurationError

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


def read_credential(
    secret_file: str | None,
    certificate_file: str | None,
    private_key_file: str | None,
    expires: str | None,
) -> Credential | None:
    """
    Read what the four options name; None where none was given.

    Raises:
        ConfigurationError: They do not belong together, or what they name is no credential.
    """
    if secret_file and (certificate_file or private_key_file):
        raise ConfigurationError("give a client secret or a certificate, not both")
    if bool(certificate_file) != bool(private_key_file):
        raise ConfigurationError("--certificate-file and --private-key-file belong together")
    if certificate_file and private_key_file:
        if expires:
            raise ConfigurationError("--secret-expires: a certificate says itself when it ends")
        return Credential.certificate(
            certificate_pem=_read(certificate_file, "certificate"),
            private_key_pem=_read(private_key_file, "private key"),
        )
    if secret_file:
        ends_at = _moment(expires) if expires else None
        return Credential.secret(_read(secret_file, "client secret"), expires_at=ends_at)
    if expires:
        raise ConfigurationError("--secret-expires goes with --client-secret-file")
    return None


def _read(source: str, what: str) -> str:
    if source == "-":
        if sys.stdin.isatty():
            return getpass.getpass(f"{what.capitalize()} (it does not show): ")
        return sys.stdin.read()
    try:
        return Path(source).expanduser().read_text("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{what} file {source}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{what} file {source}: it is not text") from error


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ConfigurationError(
            f"--secret-expires {text!r}: write a date such as 2027-03-01"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
