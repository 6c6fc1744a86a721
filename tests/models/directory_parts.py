"""Parts for the directory's tests: a vault, certificates, a tenant with all that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from sqlalchemy import Connection

from models import directory
from models.vault import Vault


@dataclass(frozen=True)
class Certificate:
    pem: str
    key_pem: str
    ends: datetime


def make_certificate(*, days: int = 30) -> Certificate:
    """Make a self-signed certificate that ends after so many days (or has ended)."""
    return certificate_of(rsa.generate_private_key(65537, 2048), days=days)


def certificate_of(key: Any, *, days: int = 30) -> Certificate:
    """Make one for a key of any kind."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alertpost test")])
    ends = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - timedelta(days=365))
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )
    return Certificate(
        pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
        ends=ends,
    )


def make_revocation_list() -> str:
    """Make a list of revoked certificates: readable PEM, but nothing to trust."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alertpost test")])
    now = datetime.now(UTC)
    revoked = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name)
        .last_update(now)
        .next_update(now + timedelta(days=1))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    return revoked.public_bytes(serialization.Encoding.PEM).decode()


VAULT = Vault([Vault.new_key()])
CERTIFICATE = make_certificate()
DIRECTORY_ID = "8f2e1d3c-0000-4000-8000-00000000abcd"


def add_contoso(
    conn: Connection, *, slug: str = "contoso", **options: Any
) -> directory.TenantEntry:
    """Add the app registration ``main``, if it is missing, and a tenant that trusts it."""
    if not directory.list_apps(conn):
        directory.add_app(
            conn,
            VAULT,
            name="main",
            client_id="11111111-2222-4333-8444-555555555555",
            credential=directory.Credential.secret("hunter2"),
        )
    return directory.add_tenant(conn, slug=slug, directory_id=DIRECTORY_ID, app="main", **options)


def connect(conn: Connection, address: str, *, cache: str = "{}") -> directory.StoredGrant:
    """Let a mailbox's owner consent."""
    return directory.connect_mailbox(
        conn,
        VAULT,
        mailbox_id=directory.mailbox(conn, address).id,
        kind=directory.DELEGATED,
        cache=cache,
        account=address,
    )
