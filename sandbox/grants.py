"""Authorization codes and refresh tokens."""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandbox.entra_errors import EntraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CODE_SECONDS = 600.0
IDLE_SECONDS = 90 * 86400.0
"""A web app's refresh token ends after 90 days without use; there is no fixed age."""

KEPT_TOKENS = 20_000
"""Refresh tokens that outlive a restart: some 4 MB, written in some hundredths of a second."""


@dataclass(frozen=True, slots=True)
class CodeRequest:
    """What a person agreed to on the sign-in page, bound to the code."""

    tenant_id: str
    client_id: str
    object_id: str
    redirect_uri: str
    oidc: frozenset[str]
    permissions: tuple[str, ...]
    nonce: str = ""
    challenge: str = ""
    challenge_method: str = ""


@dataclass(slots=True)
class AuthorizationCode:
    """A code on its way to the app."""

    request: CodeRequest
    issued_at: float
    used: bool = False


@dataclass(slots=True)
class Grant:
    """
    What one consent of one user gave to one app; all refresh tokens of it share its fate.

    Attributes:
        revoked: No refresh token of it is good any more.
    """

    tenant_id: str
    client_id: str
    object_id: str
    oidc: frozenset[str]
    permissions: tuple[str, ...]
    revoked: bool = False


@dataclass(slots=True)
class RefreshToken:
    """One refresh token of a grant."""

    grant: Grant
    issued_at: float
    used: bool = False


@dataclass(frozen=True, slots=True)
class KeptGrant:
    """
    A grant as it outlives a restart.

    Attributes:
        grant: The grant.
        tokens: Refresh token, when it was issued, whether it was used; oldest first.
    """

    grant: Grant
    tokens: tuple[tuple[str, float, bool], ...]


@dataclass(slots=True)
class GrantStore:
    """
    All codes and refresh tokens of the sandbox.

    Attributes:
        clock: Gives seconds since the epoch.
    """

    clock: Callable[[], float]
    _codes: dict[str, AuthorizationCode] = field(default_factory=dict)
    _tokens: dict[str, RefreshToken] = field(default_factory=dict)
    _grants: list[Grant] = field(default_factory=list)

    def issue_code(self, request: CodeRequest) -> str:
        """Make a code for what a person agreed to."""
        code = f"0.A{secrets.token_urlsafe(64)}"
        self._codes[code] = AuthorizationCode(request, self.clock())
        return code

    def code_request(self, code: str) -> CodeRequest | None:
        """Look at what a code stands for, without redeeming it."""
        held = self._codes.get(code)
        return held.request if held else None

    def grant_of(self, refresh_token: str) -> Grant | None:
        """Look at the grant of a refresh token, without using it."""
        held = self._tokens.get(refresh_token)
        return held.grant if held else None

    def redeem_code(
        self, code: str, *, tenant_id: str, client_id: str, redirect_uri: str, verifier: str
    ) -> CodeRequest:
        """
        Take a code in; it works once.

        Args:
            code: The code.
            tenant_id: The tenant whose endpoint was called; empty for the common ones.
            client_id: The app that presents it.
            redirect_uri: Must be the one it was sent to.
            verifier: PKCE's code verifier (RFC 7636).

        Raises:
            EntraError: It is unknown, used, too old, or another request's.
        """
        held = self._codes.get(code)
        if held is None or held.request.client_id != client_id:
            raise EntraError(70000, "The code is not known.")
        request = held.request
        if held.used:
            raise EntraError(54005)
        if self.clock() - held.issued_at >= CODE_SECONDS:
            raise EntraError(70008, "The code is older than ten minutes.")
        if tenant_id and tenant_id != request.tenant_id:
            raise EntraError(700005)
        if redirect_uri != request.redirect_uri:
            raise EntraError(50011, "It is not the one that the code was sent to.")
        _check_verifier(request, verifier)
        held.used = True
        return request

    def begin(self, request: CodeRequest) -> Grant:
        """Make the grant that a redeemed code stands for."""
        grant = Grant(
            tenant_id=request.tenant_id,
            client_id=request.client_id,
            object_id=request.object_id,
            oidc=request.oidc,
            permissions=request.permissions,
        )
        self._grants.append(grant)
        return grant

    def issue_refresh_token(self, grant: Grant) -> str:
        """Make a further refresh token of a grant."""
        token = f"1.A{secrets.token_urlsafe(96)}"
        self._tokens[token] = RefreshToken(grant, self.clock())
        return token

    def redeem_refresh_token(self, token: str, *, client_id: str, strict: bool) -> Grant:
        """
        Use a refresh token; it stays good, as with Entra, unless rotation is strict.

        Args:
            token: The refresh token.
            client_id: The app that presents it.
            strict: A token that was used before revokes its grant.

        Raises:
            EntraError: It is unknown, revoked, unused for too long or, if strict, used before.
        """
        held = self._tokens.get(token)
        if held is None or held.grant.client_id != client_id:
            raise EntraError(70000, "The refresh token is not known.")
        if strict and held.used:
            held.grant.revoked = True
            raise EntraError(50173, "A refresh token was presented twice.")
        if held.grant.revoked:
            raise EntraError(50173)
        if self.clock() - held.issued_at >= IDLE_SECONDS:
            raise EntraError(700082)
        held.used = True
        # Last in line again: what is in use is kept over a restart, however old it is.
        self._tokens[token] = self._tokens.pop(token)
        return held.grant

    def revoke(self, *, tenant_id: str, object_id: str = "", client_id: str = "") -> int:
        """
        Revoke grants of a tenant.

        Args:
            tenant_id: The tenant.
            object_id: Only this user's; empty for all.
            client_id: Only this app's; empty for all.

        Returns:
            How many were good until now.
        """
        struck = [
            grant
            for grant in self._grants
            if grant.tenant_id == tenant_id
            and object_id in {"", grant.object_id}
            and client_id in {"", grant.client_id}
            and not grant.revoked
        ]
        for grant in struck:
            grant.revoked = True
        return len(struck)

    def kept(self, *, at_most: int = KEPT_TOKENS) -> list[KeptGrant]:
        """
        Give what must outlive a restart; codes, which end within minutes, are not part of it.

        Args:
            at_most: Refresh tokens in all. Each grant gets its share: those that were issued or
                used last, two at least, so that a client that is one behind still fits.
        """
        share = max(2, at_most // max(1, len(self._grants)))
        tokens: dict[int, list[tuple[str, float, bool]]] = {id(grant): [] for grant in self._grants}
        for value, held in reversed(self._tokens.items()):
            mine = tokens[id(held.grant)]
            if len(mine) < share:
                mine.append((value, held.issued_at, held.used))
        return [KeptGrant(grant, tuple(reversed(tokens[id(grant)]))) for grant in self._grants]

    def take_back(self, kept: Iterable[KeptGrant]) -> None:
        """Go on with what an earlier run kept."""
        for each in kept:
            self._grants.append(each.grant)
            for value, issued_at, used in each.tokens:
                self._tokens[value] = RefreshToken(each.grant, issued_at, used)

    def clear(self) -> None:
        """Forget everything."""
        self._codes.clear()
        self._tokens.clear()
        self._grants.clear()


def challenge_of(verifier: str) -> str:
    """Give the S256 challenge of a verifier (RFC 7636 section 4.2)."""
    digest = hashlib.sha256(verifier.encode("utf-8", "surrogatepass")).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _check_verifier(request: CodeRequest, verifier: str) -> None:
    if not request.challenge:
        return
    expected = challenge_of(verifier) if request.challenge_method == "S256" else verifier
    if not secrets.compare_digest(expected.encode(), request.challenge.encode()):
        raise EntraError(501481)
