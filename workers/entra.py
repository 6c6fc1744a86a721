"""
Entra ID through MSAL: consent by authorization code, refresh, client credentials.

Blocking, as MSAL is: the lease calls it in a thread, the command line directly. MSAL's pitfalls
that this file works around:

* An application object is made for every call, so that MSAL's cache of refusals (an unchanged
  request is answered from memory for 60 seconds) cannot hide that the cause is gone. What an
  application costs at its making, a look at the tenant's OpenID configuration, is remembered here.
* The callback is redeemed into a throw-away cache: MSAL stores tokens before it checks the nonce.
* MSAL does not validate the ID token; ``entra_claims`` checks what matters.
* MSAL wants a path in an issuer's address, which OpenID Connect does not ask for.
* MSAL hides the HTTP status and mixes up what is wrong with what is away; ``entra_http`` does not.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import msal

from models.app_registrations import Credential
from models.errors import ConfigurationError, CredentialRejected, TokenUnavailable
from models.proxies import Proxies
from models.scrubbing import scrub_values
from models.secret_routes import NO_OTHERS, AllowedHosts, RouteGuard
from models.senders import Sender
from workers.credential_turns import Proof, ask_in_turn, first_of
from workers.entra_claims import Consenter, consenter, unnamed
from workers.entra_http import UNAVAILABLE_RETRY_SECONDS, EntraCall, EntraHttp, refusal_in

ASSUMED_LIFETIME_SECONDS = 3599.0
"""Of a token whose answer does not say (RFC 6749 section 5.1 only recommends it); as MSAL does."""

_RESERVED_SCOPES = frozenset({"openid", "profile", "offline_access"})
"""MSAL adds these itself and refuses to be given one."""

_FLOW_SECRETS = ("state", "nonce", "code_verifier")

_ENTRA_PATH = "/oauth2/v2.0/"
"""In the addresses of Entra's endpoints, in every cloud."""

_warnings = threading.Lock()
"""Held while warnings are silenced: Python's filters are one list for all threads."""


def _for_msal(credential: Credential) -> str | dict[str, str]:
    """Shape what proves that we are the app as MSAL wants it."""
    if credential.private_key_pem and credential.certificate_pem:
        return {
            "private_key": credential.private_key_pem,
            "public_certificate": credential.certificate_pem,
        }
    if credential.client_secret:
        return credential.client_secret
    raise ConfigurationError(
        "the app registration has neither a client secret nor a certificate: "
        "give one with `alertpost tenants edit SLUG --client-secret-file FILE`"
    )


@dataclass(frozen=True, slots=True)
class Tokens:
    """
    What Entra gave.

    Attributes:
        access_token: For the SMTP server.
        expires_in_seconds: From now.
        cache: MSAL's token cache after the call, plain JSON: seal it before it is stored.
    """

    access_token: str = field(repr=False)
    expires_in_seconds: float
    cache: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Consent:
    """
    Who consented, and the grant that came of it.

    Attributes:
        tokens: The first of the grant.
        account: Who it was.
        tenant_claim: Their directory; empty where the provider has none.
        object_claim: Their id there; empty likewise.
        doubt: What could not be checked about the account; empty where everything was.
    """

    tokens: Tokens
    account: str
    tenant_claim: str
    object_claim: str
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class _Redeemed:
    """What a code gave: the first tokens, who signed in, and whether there is a refresh token."""

    tokens: Tokens
    claims: Mapping[str, Any]
    refreshable: bool


class Entra:
    """One client for all tenants that trust the same CA file."""

    def __init__(
        self,
        *,
        ca_file: str,
        timeout_seconds: float,
        hosts: AllowedHosts = NO_OTHERS,
        guard: RouteGuard | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self._http = EntraHttp(
            ca_file=ca_file, timeout_seconds=timeout_seconds, hosts=hosts, proxies=proxies
        )
        self._guard = guard

    def refresh(
        self, sender: Sender, proof: Proof, cache: str, post_until: float = math.inf
    ) -> Tokens:
        """
        Redeem the grant's refresh token for another access token.

        Args:
            sender: Whose token.
            proof: The app's credential, or its credentials in turn.
            cache: The grant's token cache as ``Tokens.cache`` gave it.
            post_until: After this moment of ``time.monotonic`` the token is not presented.

        Raises:
            CredentialRejected: The grant or the credential is not accepted; a person has to act.
            PostedTooLate: That moment has passed.
            TokenUnavailable: Not now.
        """
        return ask_in_turn(
            proof, lambda credential: self._refresh(sender, credential, cache, post_until)
        )

    def _refresh(
        self, sender: Sender, credential: Credential, cache: str, post_until: float
    ) -> Tokens:
        store = msal.SerializableTokenCache()
        try:
            store.deserialize(cache)
        except ValueError as error:
            raise CredentialRejected(
                "invalid_grant", description="the grant cannot be read: connect the mailbox again"
            ) from error
        http = self._http.call(post_until=post_until)
        application = self._application(sender, credential, store, http)
        accounts = application.get_accounts()
        if not accounts:
            raise CredentialRejected("invalid_grant", description="the grant holds no account")
        with _understood():
            answer = application.acquire_token_silent_with_error(
                _scopes(sender), account=accounts[0], force_refresh=True
            )
        if answer is None:
            raise CredentialRejected(
                "invalid_grant", description="the grant holds no refresh token"
            )
        return _tokens(answer, store, http)

    def client_credentials(self, sender: Sender, proof: Proof) -> Tokens:
        """
        Get a token for the app itself (``SMTP.SendAsApp``), without any user.

        Raises:
            CredentialRejected: As ``refresh``.
            TokenUnavailable: As ``refresh``.
        """
        return ask_in_turn(proof, lambda credential: self._own_token(sender, credential))

    def _own_token(self, sender: Sender, credential: Credential) -> Tokens:
        store = msal.SerializableTokenCache()
        http = self._http.call()
        application = self._application(sender, credential, store, http)
        with _understood():
            answer = application.acquire_token_for_client(scopes=_scopes(sender))
        return _tokens(answer or {}, store, http)

    def begin(self, sender: Sender, proof: Proof, *, redirect_uri: str) -> dict[str, Any]:
        """
        Start an authorization code flow with PKCE, state and nonce.

        Returns:
            MSAL's flow: keep it on the server side until the callback, use it once. Its
            ``auth_uri`` is the address a person opens.
        """
        http = self._http.call()
        application = self._application(
            sender, first_of(proof), msal.SerializableTokenCache(), http
        )
        with _warnings, warnings.catch_warnings():
            # MSAL prefers form_post. On loopback the answer stays in the address line instead,
            # from where it can be pasted; PKCE makes the code worthless to whoever reads it.
            warnings.simplefilter("ignore", UserWarning)
            flow: dict[str, Any] = application.initiate_auth_code_flow(
                _scopes(sender),
                redirect_uri=redirect_uri,
                login_hint=sender.auth_user or sender.address,
                prompt=_prompt(application.authority.authorization_endpoint),
                response_mode="form_post" if redirect_uri.startswith("https:") else "query",
            )
        return flow

    def complete(
        self,
        sender: Sender,
        proof: Proof,
        *,
        flow: dict[str, Any],
        callback: Mapping[str, str],
    ) -> Consent:
        """
        Redeem the callback and check who consented.

        Args:
            sender: The mailbox that was to be connected.
            proof: As for ``refresh``.
            flow: What ``begin`` returned.
            callback: The parameters that came back.

        Raises:
            CredentialRejected: Declined, or given by another account, or refused by Entra.
            TokenUnavailable: Entra cannot answer now.
        """
        if not flow.get("state") or callback.get("state") != flow["state"]:
            raise CredentialRejected(
                "state_mismatch",
                description="the answer does not belong to this sign-in, or was used before: "
                "start again",
            )
        redeemed = ask_in_turn(
            proof, lambda credential: self._redeem(sender, credential, flow, callback)
        )
        who = consenter(sender, redeemed.claims)
        if not redeemed.refreshable:
            raise CredentialRejected(
                "no_refresh_token",
                description="the consent brought no refresh token, so it would end within the "
                "hour: allow the app offline access, then connect again",
            )
        return _consent(redeemed, who)

    def _redeem(
        self,
        sender: Sender,
        credential: Credential,
        flow: dict[str, Any],
        callback: Mapping[str, str],
    ) -> _Redeemed:
        store = msal.SerializableTokenCache()
        http = self._http.call()
        # A refusal also comes by way of the browser, where nobody has looked at it.
        http.secrets |= {
            str(value)
            for value in (*(flow.get(name) for name in _FLOW_SECRETS), callback.get("code"))
            if value
        }
        application = self._application(sender, credential, store, http)
        with _understood():
            try:
                # MSAL takes parts out of the flow that it is given.
                answer = application.acquire_token_by_auth_code_flow(dict(flow), dict(callback))
            except RuntimeError as error:
                raise CredentialRejected(
                    "nonce_mismatch", description="the answer does not belong to this sign-in"
                ) from error
        return _redeemed(answer, store, http)

    def adopt(self, sender: Sender, proof: Proof, *, refresh_token: str) -> Consent:
        """
        Take over a grant that another program got for the same app, by one refresh.

        Args:
            sender: The mailbox that is to send under it.
            proof: As for ``refresh``.
            refresh_token: As the other program kept it; Entra leaves it good.

        Raises:
            CredentialRejected: It is another account's, or refused by Entra.
            TokenUnavailable: Entra cannot answer now.

        Source:
            MSAL: ``acquire_token_by_refresh_token`` puts what comes back into its cache.
        """
        adopted = ask_in_turn(
            proof, lambda credential: self._adopt(sender, credential, refresh_token)
        )
        who = consenter(sender, adopted.claims) if adopted.claims else unnamed(sender)
        if not adopted.refreshable:
            raise CredentialRejected(
                "no_refresh_token",
                description="the answer brought an access token, but no account with a refresh "
                "token to go on with: connect the mailbox instead",
            )
        return _consent(adopted, who)

    def _adopt(self, sender: Sender, credential: Credential, refresh_token: str) -> _Redeemed:
        store = msal.SerializableTokenCache()
        http = self._http.call()
        application = self._application(sender, credential, store, http)
        with _understood():
            answer = application.acquire_token_by_refresh_token(refresh_token, _scopes(sender))
        redeemed = _redeemed(answer, store, http)
        return replace(
            redeemed, refreshable=redeemed.refreshable and bool(application.get_accounts())
        )

    def _application(
        self,
        sender: Sender,
        credential: Credential,
        store: msal.SerializableTokenCache,
        http: EntraCall,
    ) -> msal.ConfidentialClientApplication:
        if self._guard is not None:
            self._guard.check(sender)
        where: dict[str, Any] = (
            {"oidc_authority": _issuer(sender.oidc_authority)}
            if sender.oidc_authority
            else {"authority": sender.authority_url, "instance_discovery": False}
        )
        try:
            return msal.ConfidentialClientApplication(
                sender.client_id,
                client_credential=_for_msal(credential),
                token_cache=store,
                http_client=http,
                **where,
            )
        except ValueError as error:
            # MSAL says so when the tenant is unknown to the authority, or the URL is no issuer.
            authority = sender.oidc_authority or sender.authority_url
            said = str(http.refusal.get("error_description") or error)
            raise CredentialRejected(
                "invalid_tenant",
                codes=refusal_in(http.refusal, status=http.status).codes,
                description=f"{authority} is not an OpenID provider for this tenant: "
                f"{said.splitlines()[0][:300]}",
                http_status=http.status,
            ) from error


def _redeemed(
    answer: Mapping[str, Any] | None, store: msal.SerializableTokenCache, http: EntraCall
) -> _Redeemed:
    return _Redeemed(
        tokens=_tokens(answer or {}, store, http),
        claims=(answer or {}).get("id_token_claims") or {},
        refreshable=bool(list(store.search(store.CredentialType.REFRESH_TOKEN))),
    )


def _consent(redeemed: _Redeemed, who: Consenter) -> Consent:
    return Consent(
        tokens=redeemed.tokens,
        account=who.account,
        tenant_claim=str(redeemed.claims.get("tid", "")),
        object_claim=str(redeemed.claims.get("oid", "")),
        doubt=who.doubt,
    )


def _issuer(address: str) -> str:
    """
    Give an issuer's address as MSAL takes it: with a path.

    The path of one that has none becomes a dot, which vanishes from every address made with it
    (RFC 3986 section 5.2.4).
    """
    address = address.rstrip("/")
    return address if urlsplit(address).path else f"{address}/."


def _prompt(authorization_endpoint: str) -> str:
    """
    Say what to put before the person who signs in.

    Entra: the choice of an account, since browsers like to take the administrator's own. It gives
    offline access without being asked twice, and where only administrators may consent, asking for
    the consent page would shut everybody else out. Elsewhere: the consent page, without which
    offline access is ignored (OpenID Connect Core section 11).
    """
    return "select_account" if _ENTRA_PATH in authorization_endpoint else "consent"


def _scopes(sender: Sender) -> list[str]:
    """
    Give what to ask for besides what MSAL adds.

    Raises:
        ConfigurationError: Nothing is left.
    """
    scopes = [scope for scope in sender.scopes if scope not in _RESERVED_SCOPES]
    if not scopes:
        raise ConfigurationError(
            f"the scope of tenant {sender.tenant_slug} names no permission: "
            f"`alertpost tenants edit {sender.tenant_slug} --scope SCOPE` gives it one"
        )
    return scopes


@contextmanager
def _understood() -> Iterator[None]:
    """Take what MSAL stumbles over in an answer for what it is: no answer of a sign-in service."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise TokenUnavailable(
            f"the sign-in service's answer cannot be understood ({type(error).__name__})",
            retry_after_seconds=UNAVAILABLE_RETRY_SECONDS,
        ) from error


def _tokens(
    answer: Mapping[str, Any], store: msal.SerializableTokenCache, http: EntraCall
) -> Tokens:
    token = answer.get("access_token")
    if not token:
        told = scrub_values(dict(answer), http.secrets)
        raise refusal_in(told, status=http.status, error="no_token")
    with _understood():
        return Tokens(
            access_token=str(token),
            expires_in_seconds=float(answer.get("expires_in") or ASSUMED_LIFETIME_SECONDS),
            cache=store.serialize(),
        )
