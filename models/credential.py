"""
What proves to Entra that we are the app: a secret, or a certificate with its private key.

Checked when it is given, so that nobody learns a day later what Entra thinks of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from models.errors import ConfigurationError

LEAST_KEY_BITS = 2048
"""Of an RSA key; Microsoft's guide for certificates of apps makes none smaller."""

LONGEST_DAYS = 3650
_CLOCKS_DIFFER = timedelta(minutes=10)
_HINT_LENGTH = 3


@dataclass(frozen=True, slots=True)
class Credential:
    """
    A credential in clear.

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
            raise ConfigurationError("the client secret is empty")
        if _is_guid(value):
            raise ConfigurationError(
                "the client secret given is the 'Secret ID'; give the 'Value', which the portal "
                "shows only once, when the secret is made"
            )
        return cls(client_secret=value, expires_at=_aware(expires_at))

    @classmethod
    def certificate(cls, *, certificate_pem: str, private_key_pem: str) -> Credential:
        """
        Check that a certificate can be read, is valid, and belongs to the private key.

        Args:
            certificate_pem: One certificate, or several of which one belongs to the key.
            private_key_pem: Without a passphrase.

        Raises:
            ConfigurationError: One of these is not so, or Entra does not take such a key.
        """
        try:
            certificates = x509.load_pem_x509_certificates(certificate_pem.encode())
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
        return cls._of_pair(key, certificates, key_pem=private_key_pem)

    @classmethod
    def pfx(cls, content: bytes, *, password: str | None) -> Credential:
        """
        Take certificate and key out of a PFX file (PKCS #12).

        Of several certificates the one that belongs to the key is taken; the chain is not needed.

        Args:
            content: The file.
            password: None or empty where it has none.

        Raises:
            ConfigurationError: It does not open, holds no key, or as ``certificate``.
        """
        key, first, others = _opened_pfx(content, password)
        if key is None:
            raise ConfigurationError(
                "PFX file: there is no private key in it; export it again and choose 'Yes, export "
                "the private key'"
            )
        certificates = [*([first] if first is not None else []), *others]
        if not certificates:
            raise ConfigurationError("PFX file: there is no certificate in it")
        return cls._of_pair(key, certificates)

    @classmethod
    def generated(cls, name: str, *, days: int) -> Credential:
        """
        Make a key and a certificate that it signs itself, as Entra takes them.

        Args:
            name: Of the app registration; stands in the certificate for people.
            days: How long it is to be good.

        Raises:
            ConfigurationError: So many days make no sense.

        Source:
            learn.microsoft.com/entra/identity-platform/howto-create-self-signed-certificate: RSA
            with 2048 bits and SHA-256.
        """
        if not 1 <= days <= LONGEST_DAYS:
            raise ConfigurationError(f"a certificate can be good for 1 to {LONGEST_DAYS} days")
        key = rsa.generate_private_key(public_exponent=65537, key_size=LEAST_KEY_BITS)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"alertpost {name}"[:64])])
        now = datetime.now(UTC).replace(microsecond=0)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            # Entra's clock may be behind ours.
            .not_valid_before(now - _CLOCKS_DIFFER)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_SIGNS_ONLY, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(key, hashes.SHA256())
        )
        return cls._of_pair(key, [certificate])

    @classmethod
    def _of_pair(
        cls, key: Any, certificates: Sequence[x509.Certificate], *, key_pem: str | None = None
    ) -> Credential:
        ours = _spki(key.public_key())
        certificate = next((one for one in certificates if _spki(one.public_key()) == ours), None)
        if certificate is None:
            raise ConfigurationError("certificate: it belongs to a different private key")
        if not isinstance(key, rsa.RSAPrivateKey):
            # learn.microsoft.com/entra/identity-platform/certificate-credentials: assertions are
            # signed with PS256, which is RSA.
            raise ConfigurationError(
                "certificate: its key is not RSA, and Entra takes no other for an app; make an RSA "
                f"key of {LEAST_KEY_BITS} bits or more, or have one made with "
                "`alertpost apps certificate NAME`"
            )
        if key.key_size < LEAST_KEY_BITS:
            raise ConfigurationError(
                f"certificate: its key has {key.key_size} bits; make one of {LEAST_KEY_BITS} or "
                "more"
            )
        expires_at = certificate.not_valid_after_utc
        if expires_at <= datetime.now(UTC):
            raise ConfigurationError(f"certificate: it ended on {expires_at:%Y-%m-%d}")
        return cls(
            private_key_pem=key_pem
            or key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode(),
            certificate_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            expires_at=expires_at,
        )

    @property
    def hint(self) -> str:
        """The first characters of a secret, which Entra's portal shows too; else empty."""
        return (self.client_secret or "")[:_HINT_LENGTH]


def thumbprint(certificate_pem: str) -> str:
    """Give a certificate's SHA-1 thumbprint, by which Entra's portal lists it."""
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    return certificate.fingerprint(hashes.SHA1()).hex().upper()  # noqa: S303 - a name, no proof


_SIGNS_ONLY = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _opened_pfx(
    content: bytes, password: str | None
) -> tuple[Any, x509.Certificate | None, list[x509.Certificate]]:
    # "No password" is written into files in two ways.
    tries = [password.encode()] if password else [None, b""]
    for position, one in enumerate(tries, 1):
        try:
            return pkcs12.load_key_and_certificates(content, one)
        except UnsupportedAlgorithm as error:
            raise ConfigurationError(
                "PFX file: it is encrypted in an old way that is not supported; export it again "
                "with AES256-SHA256"
            ) from error
        except ValueError as error:
            if position < len(tries):
                continue
            if not _looks_like_pfx(content):
                raise ConfigurationError(
                    "PFX file: it is none; for PEM files there are --certificate-file and "
                    "--private-key-file"
                ) from error
            if password:
                raise ConfigurationError(
                    "PFX file: the password is wrong, or the file is damaged"
                ) from error
            raise ConfigurationError(
                "PFX file: it needs a password; give it with --pfx-password-file FILE"
            ) from error
    raise AssertionError("there is always a try")


def _looks_like_pfx(content: bytes) -> bool:
    """Tell whether it begins as PKCS #12 does: a sequence whose first part is the number 3."""
    return content[:1] == b"\x30" and b"\x02\x01\x03" in content[:12]


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
