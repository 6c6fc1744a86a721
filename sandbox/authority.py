"""A throw-away certificate authority, so that the sandbox speaks real TLS and clients verify it."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAMES = ("localhost", "127.0.0.1", "::1", "*.sandbox.test")
_CA_DAYS = 3650
_SERVER_DAYS = 397
"""Public clients refuse server certificates that live longer than 398 days."""
_RENEW_BEFORE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """
    Where the authority's files are.

    Attributes:
        ca_file: PEM of the authority; what a client must trust.
        cert_file: PEM of the server's certificate.
        key_file: PEM of the server's key, mode 0600.
    """

    ca_file: Path
    cert_file: Path
    key_file: Path

    def server_context(self) -> ssl.SSLContext:
        """Give a context for servers; TLS 1.2 is the least, as Exchange Online demands."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.cert_file, self.key_file)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Give a context for clients that trusts this authority and no other."""
        return ssl.create_default_context(cafile=str(self.ca_file))


def throwaway_authority(directory: Path, *, names: Sequence[str] = ()) -> CertificateAuthority:
    """
    Make an authority and a server certificate, or take those of an earlier run that still hold.

    Args:
        directory: Where the files are kept; made if missing.
        names: Further host names or addresses that the server is reached by.

    Returns:
        The files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    wanted = tuple(dict.fromkeys((*_NAMES, *names)))
    files = CertificateAuthority(
        ca_file=directory / "ca.pem",
        cert_file=directory / "server.pem",
        key_file=directory / "server.key",
    )
    ca_key_file = directory / "ca.key"
    ca = _read_pair(files.ca_file, ca_key_file)
    if ca is None:
        ca = _new_ca()
        _write_pair(files.ca_file, ca_key_file, *ca)
    server = _read_pair(files.cert_file, files.key_file)
    if server is None or not _covers(server[0], wanted) or server[0].issuer != ca[0].subject:
        _write_pair(files.cert_file, files.key_file, *_new_server(wanted, *ca))
    return files


_Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _read_pair(cert_file: Path, key_file: Path) -> _Pair | None:
    try:
        cert = x509.load_pem_x509_certificate(cert_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError):
        return None
    fresh = cert.not_valid_after_utc > datetime.now(UTC) + _RENEW_BEFORE
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not fresh:
        return None
    return (cert, key) if cert.public_key() == key.public_key() else None


def _write_pair(
    cert_file: Path, key_file: Path, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_private(key_file, key_pem)
    cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, never readable by others even for a moment."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _covers(cert: x509.Certificate, names: Sequence[str]) -> bool:
    held = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(_general_names(names)) <= set(held)


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    return [_general_name(name) for name in names]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # An hour back: machines that talk to each other do not agree on the second.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _new_ca() -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # The name is unique: two sandboxes' authorities in one trust store must not be confused.
    subject = _name(f"Throw-away sandbox authority {x509.random_serial_number():x}"[:60])
    cert = (
        _builder(subject, subject, key, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return cert, key


def _new_server(
    names: Sequence[str], ca_cert: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey
) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    cert = (
        _builder(_name("Sandbox"), ca_cert.subject, key, _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return cert, key
