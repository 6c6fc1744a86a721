"""
App registrations: client ids with their secret or certificate.

A credential is sealed before it becomes a parameter of a statement, so that neither SQL nor its
log ever sees it in clear.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy import delete as delete_from
from sqlalchemy.exc import IntegrityError

from models import directory_rules as rules
from models.errors import ConfigurationError, Conflict, NotFound
from models.ids import uuid7
from models.lookups import APP, TENANT, app_id
from models.vault import Vault, app_key_context, app_secret_context


@dataclass(frozen=True, slots=True)
class App:
    """An app registration as lists show it; never its secret."""

    id: UUID
    name: str
    client_id: str
    has_secret: bool
    has_certificate: bool
    credential_expires_at: datetime | None
    version: int
    tenants: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Credential:
    """
    What proves to Entra that we are the app: a secret, or a certificate with its private key.

    Attributes:
        client_secret: Clear text, None where a certificate is used.
        private_key_pem: Unencrypted PEM, None where a secret is used.
        certificate_pem: The certificate that was uploaded to the app registration.
        expires_at: When the credential ends, as far as it is known.
    """

    client_secret: str | None = field(default=None, repr=False)
    private_key_pem: str | None = field(default=None, repr=False)
    certificate_pem: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None

    @classmethod
    def secret(cls, value: str, *, expires_at: datetime | None = None) -> Credential:
        """
        Check a client secret.

        Raises:
            ConfigurationError: It is empty, or looks like the secret's id instead of its value.
        """
        value = value.strip()
        if not value:
            raise ConfigurationError("client secret: it is empty")
        if _is_guid(value):
            raise ConfigurationError(
                "client secret: this is the 'Secret ID'; give the 'Value', which the portal "
                "shows only once, when the secret is made"
            )
        return cls(client_secret=value, expires_at=_aware(expires_at))

    @classmethod
    def certificate(cls, *, certificate_pem: str, private_key_pem: str) -> Credential:
        """
        Check that a certificate can be read, is still valid and belongs to the private key.

        Raises:
            ConfigurationError: One of these is not so.
        """
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        except ValueError as error:
            raise ConfigurationError("certificate: it is not readable as PEM") from error
        try:
            key = serialization.load_pem_private_key(private_key_pem.encode(), password=None)
        except TypeError as error:
            raise ConfigurationError(
                "private key: it is protected by a passphrase; give it without one, it is "
                "encrypted before it is stored"
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigurationError("private key: it is not readable as PEM") from error
        if _spki(key.public_key()) != _spki(certificate.public_key()):
            raise ConfigurationError("certificate: it belongs to a different private key")
        expires_at = certificate.not_valid_after_utc
        if expires_at <= datetime.now(UTC):
            raise ConfigurationError(f"certificate: it ended on {expires_at:%Y-%m-%d}")
        return cls(
            private_key_pem=private_key_pem,
            certificate_pem=certificate_pem,
            expires_at=expires_at,
        )


@dataclass(frozen=True, slots=True)
class OpenedApp:
    """An app registration as a worker needs it, with its credential in clear."""

    id: UUID
    client_id: str
    version: int
    credential: Credential


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
        f"there is already an app registration {name!r}; 'alertpost apps secret' gives it a new "
        "credential, or choose another name"
    )
    if conn.scalar(select(APP.c.id).where(APP.c.name == name)) is not None:
        raise taken
    key = uuid7()
    try:
        conn.execute(
            insert(APP).values(
                id=key,
                name=name,
                client_id=rules.client_id(client_id),
                version=1,
                **_sealed(vault, key, credential),
            )
        )
    except IntegrityError as error:
        raise taken from error
    return app(conn, name)


def renew_credential(conn: Connection, vault: Vault, *, name: str, credential: Credential) -> App:
    """
    Replace the credential; workers see the grown version and rebuild their MSAL client.

    Raises:
        NotFound: No app registration has this name.
    """
    key = app_id(conn, name)
    conn.execute(
        update(APP)
        .where(APP.c.id == key)
        .values(version=APP.c.version + 1, **_sealed(vault, key, credential))
    )
    return app(conn, name)


def app(conn: Connection, name: str) -> App:
    """
    Return one app registration.

    Raises:
        NotFound: No app registration has this name.
    """
    key = app_id(conn, name)
    return _app(conn.execute(_listing().where(APP.c.id == key)).one())


def list_apps(conn: Connection) -> list[App]:
    """Return all app registrations by name."""
    return [_app(row) for row in conn.execute(_listing().order_by(APP.c.name))]


def remove_app(conn: Connection, name: str) -> None:
    """
    Delete an app registration with its credential.

    Raises:
        NotFound: No app registration has this name.
        Conflict: Tenants still use it.
    """
    entry = app(conn, name)
    in_use = Conflict(
        f"app registration {name!r} still serves {entry.tenants or 'some'} tenant(s); give them "
        "another with 'alertpost tenants edit SLUG --app NAME' or remove them first"
    )
    if entry.tenants:
        raise in_use
    try:
        conn.execute(delete_from(APP).where(APP.c.id == entry.id))
    except IntegrityError as error:
        raise in_use from error


def open_app(conn: Connection, vault: Vault, app_id: UUID) -> OpenedApp:
    """
    Return an app registration with its credential in clear, for the MSAL client.

    Raises:
        NotFound: It was removed.
        VaultError: No key opens its credential.
    """
    row = conn.execute(select(APP).where(APP.c.id == app_id)).one_or_none()
    if row is None:
        raise NotFound("the app registration was removed")
    secret, key = row.client_secret_encrypted, row.private_key_encrypted
    return OpenedApp(
        id=row.id,
        client_id=row.client_id,
        version=row.version,
        credential=Credential(
            client_secret=(
                vault.open(secret, context=app_secret_context(row.id)).decode() if secret else None
            ),
            private_key_pem=(
                vault.open(key, context=app_key_context(row.id)).decode() if key else None
            ),
            certificate_pem=row.certificate_pem,
            expires_at=row.credential_expires_at,
        ),
    )


def _listing() -> Any:
    tenants = (
        select(func.count())
        .select_from(TENANT)
        .where(TENANT.c.app_registration_id == APP.c.id)
        .scalar_subquery()
    )
    return select(
        APP.c.id,
        APP.c.name,
        APP.c.client_id,
        APP.c.client_secret_encrypted.is_not(None).label("has_secret"),
        APP.c.private_key_encrypted.is_not(None).label("has_certificate"),
        APP.c.credential_expires_at,
        APP.c.version,
        tenants.label("tenants"),
        APP.c.created_at,
    )


def _app(row: Any) -> App:
    return App(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name begins with an underscore


def _sealed(vault: Vault, key: UUID, credential: Credential) -> dict[str, Any]:
    """Seal a credential; what the other kind had stored is cleared."""
    secret, private_key = credential.client_secret, credential.private_key_pem
    return {
        "client_secret_encrypted": (
            vault.seal(secret.encode(), context=app_secret_context(key)) if secret else None
        ),
        "private_key_encrypted": (
            vault.seal(private_key.encode(), context=app_key_context(key)) if private_key else None
        ),
        "certificate_pem": credential.certificate_pem,
        "credential_expires_at": credential.expires_at,
    }


def _is_guid(value: str) -> bool:
    try:
        UUID(value)
    except ValueError:
        return False
    return "-" in value


def _aware(moment: datetime | None) -> datetime | None:
    if moment is not None and moment.tzinfo is None:
        raise ConfigurationError("the end date needs a time zone, such as 2027-03-01T00:00:00Z")
    return moment


def _spki(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded
