"""
Signing tokens as Entra does, and judging them as Exchange Online does.

An access token stays good until it expires, even after its grant was revoked: Exchange takes what
Entra signed. Only ``TokenPolicy`` may object earlier, which the sandbox uses for app-only rights
and for tokens recalled on demand.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sandbox.authority import write_private

if TYPE_CHECKING:
    from pathlib import Path

SMTP_RESOURCES = frozenset(
    {
        "https://outlook.office.com",
        "https://outlook.office365.com",
        "https://outlook.office365.us",
        "https://partner.outlook.cn",
    }
)
"""Audiences that Exchange Online takes at SMTP submission, over all clouds."""

DELEGATED_SMTP = "SMTP.Send"
APP_ONLY_SMTP = "SMTP.SendAsApp"
_CACHE_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class TokenVerdict:
    """
    What Exchange makes of a bearer token.

    Attributes:
        ok: Whether the user may submit with it.
        reason: Why not; empty if ok. For the sandbox's own books, a client never sees it.
        tenant_id: The token's tenant; empty if it could not be read.
        actor: Who acts: the user's address, or ``app:<client id>`` for an app that acts for itself.
    """

    ok: bool
    reason: str = ""
    tenant_id: str = ""
    actor: str = ""


Claims = dict[str, Any]
TokenPolicy = Callable[[Claims, str], str]
"""Takes claims and user, gives the reason why the token must not be used, or an empty string."""


class TokenSigner:
    """An RS256 key and the forms of token that are made with it."""

    def __init__(self, key: rsa.RSAPrivateKey | None = None) -> None:
        self._key = key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = self._key.public_key()
        self.public_key = public
        der = public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.key_id = base64.urlsafe_b64encode(hashlib.sha256(der).digest()[:20]).decode()

    @classmethod
    def kept_in(cls, path: Path) -> TokenSigner:
        """Read the key from a file, or make it there, so that tokens outlive a restart."""
        try:
            # We made this key: to check its primes at every start takes 75 ms.
            key = serialization.load_pem_private_key(
                path.read_bytes(), password=None, unsafe_skip_rsa_key_validation=True
            )
        except (OSError, ValueError):
            key = None
        if isinstance(key, rsa.RSAPrivateKey):
            return cls(key)
        signer = cls()
        pem = signer._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, pem)
        return signer

    def jwks(self) -> dict[str, object]:
        """Publish the key as Entra does at ``/discovery/v2.0/keys``."""
        key: dict[str, object] = jwt.algorithms.RSAAlgorithm.to_jwk(self.public_key, as_dict=True)
        return {"keys": [key | {"use": "sig", "kid": self.key_id, "alg": "RS256"}]}

    def sign(self, claims: Claims) -> str:
        """Sign claims as they are."""
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self.key_id})


def access_claims(
    *,
    issuer: str,
    audience: str,
    tenant_id: str,
    client_id: str,
    object_id: str,
    issued_at: float,
    lifetime_seconds: int,
    address: str = "",
    scopes: tuple[str, ...] = (),
    roles: tuple[str, ...] = (),
    recall: int = 0,
) -> Claims:
    """
    Write the claims of an access token.

    Args:
        issuer: URL of the tenant's issuer.
        audience: The resource that the token is for.
        tenant_id: GUID of the directory.
        client_id: The app that asked.
        object_id: The user's object id, or the service principal's for an app that acts for itself.
        issued_at: Seconds since the epoch.
        lifetime_seconds: Until it expires.
        address: The user's address; empty for an app that acts for itself.
        scopes: Delegated permissions, without the resource.
        roles: Application permissions.
        recall: How often the user's access tokens had been recalled when this was made.

    Returns:
        Claims for ``TokenSigner.sign``.
    """
    moment = int(issued_at)
    claims: Claims = {
        "aud": audience,
        "iss": issuer,
        "iat": moment,
        "nbf": moment,
        "exp": moment + lifetime_seconds,
        "tid": tenant_id,
        "oid": object_id,
        "sub": object_id,
        "appid": client_id,
        "azp": client_id,
        "idtyp": "user" if address else "app",
        "ver": "2.0",
        "jti": str(uuid.uuid4()),
        "sandbox_recall": recall,
    }
    if address:
        claims |= {"upn": address, "preferred_username": address, "scp": " ".join(scopes)}
    else:
        claims["roles"] = list(roles)
    return claims


class TokenChecker:
    """
    Judges bearer tokens at SMTP submission.

    A signature is verified once per token; what changes with time or policy is judged each time.
    What an app that acts for itself may do is for the policy alone.
    """

    def __init__(
        self,
        signer: TokenSigner,
        *,
        clock: Callable[[], float],
        policy: TokenPolicy,
        has_full_access: Callable[[str, str], bool] = lambda person, mailbox: False,  # noqa: ARG005
    ) -> None:
        self._has_full_access = has_full_access
        self._signer = signer
        self._clock = clock
        self._policy = policy
        self._seen: dict[bytes, Claims | str] = {}

    def check_smtp_token(self, raw_token: str, user: str) -> TokenVerdict:
        """
        Say whether a user may submit mail with a token.

        Args:
            raw_token: The bearer token as it came over the wire.
            user: The address in XOAUTH2's ``user=``.

        Returns:
            The verdict, with a reason if it is no.
        """
        claims = self._read(raw_token)
        if isinstance(claims, str):
            return TokenVerdict(ok=False, reason=claims)
        address = str(claims.get("upn", ""))
        tenant_id = str(claims.get("tid", ""))
        actor = address or f"app:{claims.get('appid', '')}"
        reason = self._objection(claims, address, user) or self._policy(claims, user)
        return TokenVerdict(ok=not reason, reason=reason, tenant_id=tenant_id, actor=actor)

    def _objection(self, claims: Claims, address: str, user: str) -> str:
        now = self._clock()
        if float(claims["exp"]) <= now:
            return "expired"
        if float(claims["nbf"]) > now:
            return "not yet valid"
        if claims["aud"] not in SMTP_RESOURCES:
            return f"wrong audience {claims['aud']}"
        if address and DELEGATED_SMTP not in str(claims.get("scp", "")).split():
            return f"no scope {DELEGATED_SMTP}"
        # A delegate signs in as himself, or as the shared mailbox where he has Full Access to it.
        itself = not address or address.casefold() == user.casefold()
        if itself or self._has_full_access(address, user):
            return ""
        return "token of another user"

    def _read(self, raw_token: str) -> Claims | str:
        digest = hashlib.sha256(raw_token.encode("utf-8", "surrogatepass")).digest()
        known = self._seen.get(digest)
        if known is None:
            if len(self._seen) >= _CACHE_LIMIT:
                self._seen.clear()
            known = self._seen[digest] = self._verify(raw_token)
        return known

    def _verify(self, raw_token: str) -> Claims | str:
        try:
            claims: Claims = jwt.decode(
                raw_token,
                self._signer.public_key,
                algorithms=["RS256"],
                # Expiry and audience are judged at each use, by the sandbox's own clock.
                options={
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_aud": False,
                    "require": ["exp", "nbf", "aud", "tid"],
                },
            )
        except (jwt.InvalidTokenError, ValueError) as error:
            return f"not a token of this directory: {error}"
        return claims
