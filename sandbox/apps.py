"""App registrations and their credentials."""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

_LOOPBACK = frozenset({"localhost", "127.0.0.1"})


@dataclass(slots=True)
class ClientSecret:
    """
    One secret of an app; several may hold at once.

    Attributes:
        secret_id: What people mistake for the value.
        value: The secret itself.
        ends_at: Seconds since the epoch; from then on it is refused as expired.
    """

    value: str
    ends_at: float
    secret_id: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class AppCertificate:
    """An uploaded certificate; only RSA is taken, as Entra does."""

    certificate: x509.Certificate

    @classmethod
    def from_pem(cls, pem: str) -> AppCertificate:
        """
        Read a certificate from PEM.

        Raises:
            ValueError: It cannot be read, or its key is not RSA.
        """
        certificate = x509.load_pem_x509_certificate(pem.encode())
        if not isinstance(certificate.public_key(), rsa.RSAPublicKey):
            raise ValueError("the certificate's key must be RSA")  # noqa: TRY004 - its content
        return cls(certificate)

    def as_pem(self) -> str:
        """Give what ``from_pem`` read."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def ends_at(self) -> float:
        """When it expires, in seconds since the epoch."""
        return self.certificate.not_valid_after_utc.timestamp()

    @property
    def thumbprints(self) -> frozenset[str]:
        """What an assertion's ``x5t`` or ``x5t#S256`` may hold."""
        sha1 = self.certificate.fingerprint(hashes.SHA1())  # noqa: S303 - x5t
        sha256 = self.certificate.fingerprint(hashes.SHA256())
        return frozenset(urlsafe_b64encode(raw).rstrip(b"=").decode() for raw in (sha1, sha256))

    @property
    def names(self) -> frozenset[str]:
        """The thumbprints, and SHA-1 in hexadecimal digits, as the portal shows it."""
        sha1 = self.certificate.fingerprint(hashes.SHA1()).hex()  # noqa: S303 - a name
        return self.thumbprints | {sha1, sha1.upper()}

    @property
    def public_key(self) -> rsa.RSAPublicKey:
        """The key that verifies the app's assertions."""
        key = self.certificate.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        return key


@dataclass(slots=True)
class AppRegistration:
    """
    One app registration.

    Attributes:
        client_id: GUID.
        name: Shown on the consent page.
        home_tenant_id: The directory it is registered in.
        client_secrets: Secrets that were made, expired ones included.
        certificates: Certificates that were uploaded.
        redirect_uris: Registered callbacks.
        multi_tenant: Whether other directories may consent to it.
        public: A public client, which must not present a credential.
        any_loopback_path: Take any path on http://localhost; the real Entra compares it.
        permissions: Delegated permissions listed in the registration, for ``/.default``.
        roles: Application permissions listed in the registration, granted by admin consent.
    """

    client_id: str
    name: str
    home_tenant_id: str
    client_secrets: list[ClientSecret] = field(default_factory=list)
    certificates: list[AppCertificate] = field(default_factory=list)
    redirect_uris: list[str] = field(default_factory=list)
    multi_tenant: bool = True
    public: bool = False
    any_loopback_path: bool = False
    permissions: set[str] = field(default_factory=set)
    roles: set[str] = field(default_factory=set)

    def add_secret(self, *, ends_at: float, value: str = "") -> ClientSecret:
        """Make a further secret; the older ones stay."""
        secret = ClientSecret(value=value or f"sbx~{secrets.token_urlsafe(24)}", ends_at=ends_at)
        self.client_secrets.append(secret)
        return secret

    def remove_certificate(self, thumbprint: str) -> bool:
        """Delete the certificate of a thumbprint; tells whether there was one."""
        kept = [each for each in self.certificates if thumbprint not in each.names]
        removed = len(kept) < len(self.certificates)
        self.certificates = kept
        return removed

    def knows_redirect(self, uri: str) -> bool:
        """
        Say whether a redirect URI is registered.

        Source:
            Redirect URI restrictions (reply-url): compared literally, the path's case included;
            only for http on this machine the port is ignored.
        """
        if any(
            _without_loopback_port(uri) == _without_loopback_port(k) for k in self.redirect_uris
        ):
            return True
        return self.any_loopback_path and _is_loopback(uri)

    def as_json(self) -> dict[str, object]:
        """Give the app as an object for JSON; secrets included, since it is a sandbox."""
        return {
            "client_id": self.client_id,
            "name": self.name,
            "home_tenant_id": self.home_tenant_id,
            "multi_tenant": self.multi_tenant,
            "secrets": [
                {"id": secret.secret_id, "value": secret.value, "ends_at": secret.ends_at}
                for secret in self.client_secrets
            ],
            "certificates": [
                {"thumbprints": sorted(cert.thumbprints), "ends_at": cert.ends_at}
                for cert in self.certificates
            ],
            "redirect_uris": list(self.redirect_uris),
            "any_loopback_path": self.any_loopback_path,
            "permissions": sorted(self.permissions),
            "roles": sorted(self.roles),
        }


def secret_digest(value: str) -> bytes:
    """Digest a secret, so that comparing takes the same time for every length."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()


def _is_loopback(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    return parts.scheme == "http" and parts.hostname in _LOOPBACK and parts.username is None


def _without_loopback_port(uri: str) -> str:
    if not _is_loopback(uri):
        return uri
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.hostname or "").geturl()
