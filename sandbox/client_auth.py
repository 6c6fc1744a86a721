"""How an app proves at the token endpoint that it is itself."""

from __future__ import annotations

import binascii
import hmac
from base64 import b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import jwt

from sandbox.apps import secret_digest
from sandbox.entra_errors import EntraError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sandbox.apps import AppCertificate, AppRegistration

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_SKEW_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """What a token request says about who asks."""

    client_id: str
    secret: str = ""
    assertion: str = ""


def read_credentials(form: Mapping[str, str], authorization: str) -> ClientCredentials:
    """
    Read client_secret_post, client_secret_basic or private_key_jwt from a request.

    Args:
        form: The request's body.
        authorization: The header of that name; empty if there was none.

    Raises:
        EntraError: 900144 without a client id, 9002313 for a malformed header.
    """
    client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
    if authorization.lower().startswith("basic "):
        client_id, secret = _read_basic(authorization[6:])
    assertion = form.get("client_assertion", "")
    if assertion and form.get("client_assertion_type") != ASSERTION_TYPE:
        raise EntraError(50013, "The client_assertion_type is not known.")
    if not client_id:
        raise EntraError(900144, "The parameter is client_id.")
    return ClientCredentials(client_id.lower(), secret, assertion)


def check_credentials(
    app: AppRegistration,
    credentials: ClientCredentials,
    *,
    now: float,
    audiences: Collection[str],
) -> None:
    """
    Demand that the app proved who it is.

    Args:
        app: The registration.
        credentials: What the request held.
        now: Seconds since the epoch.
        audiences: URLs that an assertion may be made out to.

    Raises:
        EntraError: It did not.
    """
    if app.public:
        if credentials.secret or credentials.assertion:
            raise EntraError(700025)
        return
    if credentials.assertion:
        _check_assertion(app, credentials.assertion, now=now, audiences=audiences)
    elif credentials.secret:
        _check_secret(app, credentials.secret, now=now)
    else:
        raise EntraError(7000218)


def _read_basic(encoded: str) -> tuple[str, str]:
    try:
        plain = b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise EntraError(9002313, "The Authorization header cannot be read.") from error
    client_id, _, secret = plain.partition(":")
    return unquote_plus(client_id), unquote_plus(secret)


def _check_secret(app: AppRegistration, secret: str, *, now: float) -> None:
    digest = secret_digest(secret)
    matching = [
        known
        for known in app.client_secrets
        if hmac.compare_digest(secret_digest(known.value), digest)
    ]
    if not matching:
        raise EntraError(7000215, f"Application {app.client_id}.")
    if all(known.ends_at <= now for known in matching):
        raise EntraError(7000222, f"Application {app.client_id}.")


def _check_assertion(
    app: AppRegistration, assertion: str, *, now: float, audiences: Collection[str]
) -> None:
    certificate = _certificate_of(app, assertion)
    if certificate.ends_at <= now:
        raise EntraError(700030, "It has expired.")
    try:
        claims: dict[str, Any] = jwt.decode(
            assertion,
            certificate.public_key,
            algorithms=["RS256", "PS256"],
            options={
                # Time is the sandbox's own, see below.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_aud": False,
            },
        )
    except (jwt.InvalidTokenError, ValueError) as error:
        raise EntraError(700027, f"{error}.") from error
    if claims.get("iss") != app.client_id or claims.get("sub") != app.client_id:
        raise EntraError(50013, "Issuer and subject must be the client id.")
    if claims.get("aud") not in audiences:
        raise EntraError(50013, "The audience must be this token endpoint.")
    begins, ends = claims.get("nbf", 0), claims.get("exp", 0)
    if not isinstance(begins, int | float) or not isinstance(ends, int | float):
        raise EntraError(50013, "Its times cannot be read.")
    if not begins - _SKEW_SECONDS <= now < ends + _SKEW_SECONDS:
        raise EntraError(50013, "It is not within its time; compare the clocks.")


def _certificate_of(app: AppRegistration, assertion: str) -> AppCertificate:
    try:
        header = jwt.get_unverified_header(assertion)
    except (jwt.InvalidTokenError, ValueError) as error:
        raise EntraError(50013, "It cannot be read.") from error
    named = {str(header.get(field, "")).rstrip("=") for field in ("x5t", "x5t#S256", "kid")}
    for certificate in app.certificates:
        if certificate.thumbprints & named:
            return certificate
    raise EntraError(700027, "No certificate of the app has the thumbprint given.")
