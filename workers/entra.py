"""
Entra ID through MSAL: consent by authorization code, refresh, client credentials.

Blocking, as MSAL is: the lease calls it in a thread, the command line directly. MSAL's pitfalls
that this file works around:

* An application object is made for every call, so that MSAL's cache of refusals (an unchanged
  request is answered from memory for 60 seconds) cannot hide that the cause is gone. What an
  application costs at its making, a look at the tenant's OpenID configuration, is remembered here.
* The callback is redeemed into a throw-away cache: MSAL stores tokens before it checks the nonce.
* MSAL does not validate the ID token; ``complete`` checks what matters.
* ``requests`` would let REQUESTS_CA_BUNDLE from the environment win over our CA file.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msal
import requests

from models.app_registrations import Credential
from models.errors import ConfigurationError, CredentialRejected, TokenUnavailable
from models.senders import Sender

DISCOVERY_SECONDS = 24 * 3600.0
"""How long a tenant's OpenID configuration is remembered; it changes about never."""

UNAVAILABLE_RETRY_SECONDS = 5.0
TOO_MANY_REQUESTS = 429
SERVER_ERROR = 500


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
    """Who consented, and the grant that came of it."""

    tokens: Tokens
    account: str
    tenant_claim: str
    object_claim: str


class Entra:
    """One client for all tenants that trust the same CA file."""

    def __init__(self, *, ca_file: str, timeout_seconds: float) -> None:
        self._http = _Http(ca_file=ca_file, timeout_seconds=timeout_seconds)

    def refresh(self, sender: Sender, credential: Credential, cache: str) -> Tokens:
        """
        Redeem the grant's refresh token for another access token.

        Args:
            sender: Whose token.
            credential: The app's.
            cache: The grant's token cache as ``Tokens.cache`` gave it.

        Raises:
            CredentialRejected: The grant or the credential is not accepted; a person has to act.
            TokenUnavailable: Not now.
        """
        store = msal.SerializableTokenCache()
        store.deserialize(cache)
        http = self._http.recording()
        application = self._application(sender, credential, store, http)
        accounts = application.get_accounts()
        if not accounts:
            raise CredentialRejected("invalid_grant", description="the grant holds no account")
        answer = _call(
            http,
            lambda: application.acquire_token_silent_with_error(
                list(sender.scopes), account=accounts[0], force_refresh=True
            ),
        )
        if answer is None:
            raise CredentialRejected(
                "invalid_grant", description="the grant holds no refresh token"
            )
        return _tokens(answer, store, http)

    def client_credentials(self, sender: Sender, credential: Credential) -> Tokens:
        """
        Get a token for the app itself (``SMTP.SendAsApp``), without any user.

        Raises:
            CredentialRejected: As ``refresh``.
            TokenUnavailable: As ``refresh``.
        """
        store = msal.SerializableTokenCache()
        http = self._http.recording()
        application = self._application(sender, credential, store, http)
        answer = _call(
            http, lambda: application.acquire_token_for_client(scopes=list(sender.scopes))
        )
        return _tokens(answer or {}, store, http)

    def begin(self, sender: Sender, credential: Credential, *, redirect_uri: str) -> dict[str, Any]:
        """
        Start an authorization code flow with PKCE, state and nonce.

        Returns:
            MSAL's flow: keep it on the server side until the callback, use it once. Its
            ``auth_uri`` is the address a person opens.
        """
        http = self._http.recording()
        application = self._application(sender, credential, msal.SerializableTokenCache(), http)
        with warnings.catch_warnings():
            # MSAL prefers form_post. On loopback the answer stays in the address line instead,
            # from where it can be pasted; PKCE makes the code worthless to whoever reads it.
            warnings.simplefilter("ignore", UserWarning)
            flow: dict[str, Any] = _call(
                http,
                lambda: application.initiate_auth_code_flow(
                    list(sender.scopes),
                    redirect_uri=redirect_uri,
                    login_hint=sender.auth_user or sender.address,
                    prompt="select_account",
                    response_mode="form_post" if redirect_uri.startswith("https:") else "query",
                ),
            )
        return flow

    def complete(
        self,
        sender: Sender,
        credential: Credential,
        *,
        flow: dict[str, Any],
        callback: Mapping[str, str],
    ) -> Consent:
        """
        Redeem the callback and check who consented.

        Args:
            sender: The mailbox that was to be connected.
            credential: The app's.
            flow: What ``begin`` returned.
            callback: The parameters that came back.

        Raises:
            CredentialRejected: Declined, or given by another account, or refused by Entra.
            TokenUnavailable: Entra cannot answer now.
        """
        store = msal.SerializableTokenCache()
        http = self._http.recording()
        application = self._application(sender, credential, store, http)
        try:
            answer = _call(
                http,
                lambda: application.acquire_token_by_auth_code_flow(flow, dict(callback)),
            )
        except RuntimeError as error:
            raise CredentialRejected(
                "nonce_mismatch", description="the answer does not belong to this sign-in"
            ) from error
        except ValueError as error:
            raise CredentialRejected(
                "state_mismatch",
                description="the answer does not belong to this sign-in, or was used before: "
                "start again",
            ) from error
        tokens = _tokens(answer or {}, store, http)
        claims = (answer or {}).get("id_token_claims") or {}
        _check_claims(sender, claims)
        return Consent(
            tokens=tokens,
            account=str(claims.get("preferred_username", "")),
            tenant_claim=str(claims.get("tid", "")),
            object_claim=str(claims.get("oid", "")),
        )

    def _application(
        self,
        sender: Sender,
        credential: Credential,
        store: msal.SerializableTokenCache,
        http: _Recording,
    ) -> msal.ConfidentialClientApplication:
        where: dict[str, Any] = (
            {"oidc_authority": sender.oidc_authority}
            if sender.oidc_authority
            else {"authority": sender.authority_url, "instance_discovery": False}
        )
        try:
            return _call(
                http,
                lambda: msal.ConfidentialClientApplication(
                    sender.client_id,
                    client_credential=_for_msal(credential),
                    token_cache=store,
                    http_client=http,
                    **where,
                ),
            )
        except ValueError as error:
            # MSAL says so when the tenant is unknown to the authority, or the URL is no issuer.
            raise CredentialRejected(
                "invalid_tenant",
                description=f"{sender.oidc_authority or sender.authority_url} is not an OpenID "
                f"provider for this tenant: {_first_line(error)}",
            ) from error


@dataclass(slots=True)
class _Http:
    """Sessions with our CA file and time-outs, and the memory of OpenID configurations."""

    ca_file: str
    timeout_seconds: float
    discovered: dict[str, tuple[float, Any]] = field(default_factory=dict)
    sessions: threading.local = field(default_factory=threading.local)

    def recording(self) -> _Recording:
        return _Recording(self)

    def session(self) -> requests.Session:
        """Give this thread's session: requests' sessions are not made for several threads."""
        session: requests.Session | None = getattr(self.sessions, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False
            session.verify = self.ca_file
            self.sessions.session = session
        return session


class _Recording:
    """MSAL's ``http_client`` for one call; keeps the last answer, whose status MSAL hides."""

    def __init__(self, http: _Http) -> None:
        self._http = http
        self._session = http.session()
        self.status: int | None = None
        self.retry_after_seconds: float | None = None

    def post(self, url: str, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", self._http.timeout_seconds)
        return self._remember(self._session.post(url, **kwargs))

    def get(self, url: str, **kwargs: Any) -> Any:
        known = self._http.discovered.get(url)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        kwargs.setdefault("timeout", self._http.timeout_seconds)
        response = self._remember(self._session.get(url, **kwargs))
        if response.ok and _is_json_object(response.text):
            self._http.discovered[url] = (time.monotonic() + DISCOVERY_SECONDS, response)
        return response

    def _remember(self, response: requests.Response) -> requests.Response:
        self.status = response.status_code
        header = response.headers.get("Retry-After", "")
        self.retry_after_seconds = float(header) if header.isdigit() else None
        return response


def _call(http: _Recording, call: Any) -> Any:
    """Run one MSAL call; whatever says "not now" becomes ``TokenUnavailable``."""
    try:
        answer = call()
    except requests.RequestException as error:
        raise TokenUnavailable(
            f"the sign-in service cannot be reached: {_first_line(error)}",
            retry_after_seconds=UNAVAILABLE_RETRY_SECONDS,
        ) from error
    except (json.JSONDecodeError, msal.exceptions.MsalServiceError) as error:
        raise _unavailable(http) from error
    except ValueError:
        if http.status is not None and http.status >= SERVER_ERROR:
            raise _unavailable(http) from None
        raise
    if http.status == TOO_MANY_REQUESTS or (http.status or 0) >= SERVER_ERROR:
        raise _unavailable(http)
    return answer


def _unavailable(http: _Recording) -> TokenUnavailable:
    return TokenUnavailable(
        f"the sign-in service answered HTTP {http.status}"
        if http.status and http.status >= 400  # noqa: PLR2004
        else "the sign-in service answered something that is not JSON (a proxy in between?)",
        retry_after_seconds=http.retry_after_seconds or UNAVAILABLE_RETRY_SECONDS,
    )


def _tokens(
    answer: Mapping[str, Any], store: msal.SerializableTokenCache, http: _Recording
) -> Tokens:
    token = answer.get("access_token")
    if not token:
        raise CredentialRejected(
            str(answer.get("error") or "no_token"),
            codes=tuple(int(code) for code in answer.get("error_codes") or ()),
            description=str(answer.get("error_description") or ""),
            suberror=str(answer.get("suberror") or ""),
            http_status=http.status,
        )
    return Tokens(
        access_token=str(token),
        expires_in_seconds=float(answer.get("expires_in") or 0),
        cache=store.serialize(),
    )


def _check_claims(sender: Sender, claims: Mapping[str, Any]) -> None:
    """
    Refuse a consent by the wrong account, directory or app.

    The ID token came over TLS from the token endpoint, so its signature may go unchecked (OpenID
    Connect Core section 3.1.3.7); what it says may not.
    """
    if claims.get("aud") != sender.client_id:
        raise CredentialRejected("wrong_audience", description="the answer is for another app")
    tenant = str(claims.get("tid", ""))
    if tenant and _is_guid(sender.directory_id) and tenant.lower() != sender.directory_id.lower():
        raise CredentialRejected(
            "wrong_tenant",
            description=f"the account belongs to directory {tenant}, not to "
            f"{sender.directory_id}: sign in with an account of {sender.tenant_slug}",
        )
    expected = (sender.auth_user or sender.address).lower()
    account = str(claims.get("preferred_username") or claims.get("email") or "").lower()
    if account != expected:
        raise CredentialRejected(
            "wrong_account",
            description=f"consent was given by {account or 'an unnamed account'}, but the mailbox "
            f"sends as {expected}: sign in as {expected} (a private window helps)",
        )


def _is_guid(text: str) -> bool:
    return len(text) == 36 and text.count("-") == 4  # noqa: PLR2004


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
