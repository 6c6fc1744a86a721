"""
Entra's refusals as data, and the JSON form in which they are given.

Source:
    Microsoft Entra authentication and authorization error codes (reference-error-codes). The
    texts are our own; clients must not read them anyway. Which OAuth ``error`` and status a code
    comes with is not published for all of them: there the most likely one stands here, and a fault
    may override both.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    One AADSTS code.

    Attributes:
        code: The number after ``AADSTS``.
        error: OAuth ``error`` (RFC 6749 section 5.2 and OpenID Connect).
        status: HTTP status at the token endpoint.
        text: One sentence for people.
        suberror: Entra's refinement of ``error``; empty where none is given.
    """

    code: int
    error: str
    status: int
    text: str
    suberror: str = ""


class EntraError(Exception):
    """
    A request that Entra refuses.

    Attributes:
        refusal: The row of ``REFUSALS``.
        detail: What exactly was wrong, appended to the row's text.
    """

    def __init__(self, code: int, detail: str = "", *, row: Refusal | None = None) -> None:
        self.refusal = row or REFUSALS[code]
        self.detail = detail
        super().__init__(f"AADSTS{code}: {self.text}")

    @property
    def text(self) -> str:
        """The row's sentence and what exactly was wrong."""
        return f"{self.refusal.text} {self.detail}".strip()


_GRANT = "invalid_grant"
_CLIENT = "invalid_client"
_REQUEST = "invalid_request"
_SCOPE = "invalid_scope"
_RESOURCE = "invalid_resource"
_UNAUTHORIZED = "unauthorized_client"
_INTERACTION = "interaction_required"
_CONSENT = "consent_required"
_DENIED = "access_denied"
_LATER = "temporarily_unavailable"
_SERVER = "server_error"

_ROWS: tuple[Refusal, ...] = (
    # The grant is no longer good.
    Refusal(50173, _GRANT, 400, "The grant was revoked; sign in again.", "bad_token"),
    Refusal(70000, _GRANT, 400, "The refresh token or code is malformed, unknown or not valid."),
    Refusal(70008, _GRANT, 400, "The authorization code or refresh token is past its time."),
    Refusal(700082, _GRANT, 400, "The refresh token was not used for too long and has expired."),
    Refusal(700084, _GRANT, 400, "The refresh token of a single-page app ended after its day."),
    Refusal(70043, _GRANT, 400, "A sign-in frequency policy ended the refresh token."),
    Refusal(54005, _GRANT, 400, "The authorization code was redeemed before."),
    Refusal(700005, _GRANT, 400, "The authorization code belongs to another tenant."),
    Refusal(501481, _GRANT, 400, "The code verifier does not match the code challenge."),
    Refusal(50147, _GRANT, 400, "The size of the code challenge is wrong."),
    Refusal(50085, _GRANT, 400, "The refresh token needs a sign-in at a social provider."),
    Refusal(50089, _GRANT, 400, "The flow token has expired."),
    Refusal(50132, _GRANT, 400, "The session ended with its password."),
    Refusal(50133, _GRANT, 400, "The session was revoked with its password."),
    Refusal(50139, _GRANT, 400, "The external refresh token of the session is missing."),
    Refusal(50197, _GRANT, 400, "The user could not be found."),
    Refusal(51006, _INTERACTION, 400, "Integrated Windows authentication is needed."),
    # Something is wanted of the person.
    Refusal(50125, _INTERACTION, 400, "A password reset or registration is due."),
    Refusal(50135, _INTERACTION, 400, "The password must be changed because of risk."),
    Refusal(53004, _INTERACTION, 400, "The user must register for multi-factor authentication."),
    Refusal(53010, _INTERACTION, 400, "Methods can be registered from certain places only."),
    Refusal(50076, _INTERACTION, 400, "Multi-factor authentication is needed.", "basic_action"),
    Refusal(50074, _INTERACTION, 400, "Strong authentication is needed and was not passed."),
    Refusal(50078, _INTERACTION, 400, "The multi-factor authentication has expired."),
    Refusal(50079, _INTERACTION, 400, "The user must enrol in multi-factor authentication."),
    Refusal(50072, _INTERACTION, 400, "The user must enrol a second factor for this resource."),
    Refusal(50158, _INTERACTION, 400, "An external security challenge was not satisfied."),
    Refusal(50161, _INTERACTION, 400, "The external provider's claims could not be validated."),
    Refusal(50058, "login_required", 400, "Silent sign-in was asked for but nobody is signed in."),
    # Policies.
    Refusal(53003, _GRANT, 400, "A Conditional Access policy blocks this.", "message_only"),
    Refusal(530032, _GRANT, 400, "A tenant security policy blocks this."),
    Refusal(50131, _INTERACTION, 400, "Conditional Access blocked this at sign-in time."),
    Refusal(53000, _INTERACTION, 400, "The device does not comply with policy."),
    Refusal(53001, _INTERACTION, 400, "The device is not joined to the domain."),
    Refusal(53002, _INTERACTION, 400, "The application is not on the approved list."),
    Refusal(50097, _INTERACTION, 400, "The device must authenticate."),
    Refusal(50005, _INTERACTION, 400, "The device's platform is not supported by policy."),
    Refusal(50155, _INTERACTION, 400, "The device could not be authenticated."),
    Refusal(50187, _INTERACTION, 400, "The device gave no information about itself."),
    Refusal(50129, _INTERACTION, 400, "The device is not joined to the workplace."),
    Refusal(530035, _GRANT, 400, "Security defaults refused the request as unsafe."),
    Refusal(530034, _GRANT, 400, "A delegated administrator was blocked because of risk."),
    Refusal(53011, _GRANT, 400, "The user is blocked because of risk in the home tenant."),
    # The account.
    Refusal(50053, _GRANT, 400, "The account is locked, or the address signed in from is bad."),
    Refusal(50055, _GRANT, 400, "The password has expired."),
    Refusal(50144, _GRANT, 400, "The directory password has expired."),
    Refusal(50056, _GRANT, 400, "The password is wrong or missing."),
    Refusal(50126, _GRANT, 400, "User name or password is wrong."),
    Refusal(50064, _GRANT, 400, "The credentials could not be validated."),
    Refusal(50057, _GRANT, 400, "The user account is disabled."),
    Refusal(50034, _GRANT, 400, "The user account does not exist in this directory."),
    Refusal(51004, _GRANT, 400, "The user account is not in the directory."),
    Refusal(50014, _GRANT, 400, "The guest's redemption is pending or the user is gone."),
    Refusal(50020, _GRANT, 400, "The account is of another tenant and no guest in this one."),
    Refusal(16000, _INTERACTION, 400, "The selected account does not exist in this tenant."),
    Refusal(500208, _GRANT, 400, "This account's domain cannot sign in here."),
    Refusal(50105, _GRANT, 400, "The user is not assigned to a role of the application."),
    # Consent.
    Refusal(65001, _GRANT, 400, "User or administrator has not consented.", "consent_required"),
    Refusal(65004, _DENIED, 400, "The user declined to consent."),
    Refusal(90094, _DENIED, 400, "An administrator must consent."),
    Refusal(90095, _DENIED, 400, "An administrator's approval was asked for."),
    Refusal(90008, _CONSENT, 400, "The app must require access to the directory."),
    # What the app may ask for.
    Refusal(650052, _CLIENT, 400, "The tenant has no subscription for the resource."),
    Refusal(650054, _RESOURCE, 400, "The resource was removed or is no longer available."),
    Refusal(650056, _CLIENT, 400, "The app registration lists no permission for the resource."),
    Refusal(650057, _RESOURCE, 400, "The resource is not among the app's permissions."),
    Refusal(65005, _RESOURCE, 400, "The resources that the app requires cannot be had."),
    Refusal(500011, _RESOURCE, 400, "The resource was not found in the tenant."),
    Refusal(50001, _RESOURCE, 400, "The resource is disabled or does not exist."),
    # The app in the tenant.
    Refusal(700016, _UNAUTHORIZED, 400, "The application was not found in the directory."),
    Refusal(70001, _UNAUTHORIZED, 400, "The application is disabled."),
    Refusal(7000112, _UNAUTHORIZED, 400, "The application is disabled in this tenant."),
    Refusal(700011, _UNAUTHORIZED, 400, "The application of the token was not found."),
    Refusal(1000031, _UNAUTHORIZED, 400, "The application cannot be used now."),
    # The app's credential.
    Refusal(7000215, _CLIENT, 401, "The client secret is wrong; send its value, not its id."),
    Refusal(70002, _CLIENT, 401, "The client's credentials are wrong."),
    Refusal(7000222, _CLIENT, 401, "The client secret has expired."),
    Refusal(700027, _CLIENT, 401, "The client assertion's signature could not be verified."),
    Refusal(700030, _CLIENT, 401, "The certificate is not valid."),
    Refusal(50012, _CLIENT, 401, "The client could not be authenticated."),
    Refusal(50013, _CLIENT, 401, "The client assertion is not valid."),
    Refusal(50006, _CLIENT, 401, "The signature is not valid."),
    Refusal(50048, _CLIENT, 401, "Subject and issuer of the client assertion differ."),
    Refusal(1000502, _CLIENT, 401, "The certificate is not within its validity window."),
    Refusal(700023, _CLIENT, 401, "The assertion's audience does not match the realm's issuer."),
    Refusal(700024, _CLIENT, 401, "Client assertion is not within its valid time range."),
    Refusal(500133, _GRANT, 400, "The assertion is not within its valid time range."),
    Refusal(7000218, _CLIENT, 401, "The request must hold a client secret or a client assertion."),
    Refusal(700025, _CLIENT, 401, "The client is public and must not present a secret."),
    # The request.
    Refusal(50011, _REQUEST, 400, "The redirect URI is not registered for the application."),
    Refusal(70004, _REQUEST, 400, "The redirect URI is not valid."),
    Refusal(900971, _REQUEST, 400, "No redirect URI was given."),
    Refusal(70011, _SCOPE, 400, "The scope is not valid."),
    Refusal(28002, _SCOPE, 400, "The scope is not valid for this request."),
    Refusal(28003, _SCOPE, 400, "The scope must not be empty."),
    Refusal(700022, _SCOPE, 400, "The scope names more than one resource."),
    Refusal(70003, "unsupported_grant_type", 400, "The grant type is not supported."),
    Refusal(9002313, _REQUEST, 400, "The request is malformed."),
    Refusal(900144, _REQUEST, 400, "A required parameter is missing from the body."),
    Refusal(90014, _REQUEST, 400, "A required field is missing."),
    Refusal(90004, _REQUEST, 400, "The request's form is not right."),
    Refusal(90013, _REQUEST, 400, "The input is not valid."),
    Refusal(90015, _REQUEST, 400, "The query is too long."),
    Refusal(90023, _REQUEST, 400, "The request to the sign-in service is not valid."),
    Refusal(90100, _REQUEST, 400, "A parameter is empty or not valid."),
    # The tenant.
    Refusal(90002, _REQUEST, 400, "The tenant was not found."),
    Refusal(90019, _REQUEST, 400, "The request does not say which tenant is meant."),
    Refusal(50059, _REQUEST, 400, "No tenant could be told from request or credentials."),
    Refusal(50128, _REQUEST, 400, "The domain name is not valid; no tenant was found."),
    Refusal(90038, _REQUEST, 400, "The tenant is in another national cloud."),
    Refusal(900382, _REQUEST, 400, "The client is not supported across clouds."),
    Refusal(900432, _REQUEST, 400, "A confidential client is not supported across clouds."),
    Refusal(90051, _REQUEST, 400, "The national cloud's name is not valid."),
    Refusal(50194, _UNAUTHORIZED, 400, "The app is single-tenant; use the tenant's endpoint."),
    Refusal(9001023, _REQUEST, 400, "The grant type needs the endpoint of one tenant."),
    Refusal(90130, _REQUEST, 400, "The application cannot use the common endpoint."),
    Refusal(90124, _REQUEST, 400, "The resource cannot be used at the common endpoint."),
    Refusal(500021, _DENIED, 400, "Tenant restrictions deny access."),
    Refusal(500022, _DENIED, 400, "Tenant restrictions deny access by header."),
    Refusal(500212, _DENIED, 400, "The user's tenant forbids access to the resource's tenant."),
    Refusal(500213, _DENIED, 400, "The resource's tenant forbids access from the user's tenant."),
    Refusal(50002, _DENIED, 400, "The tenant's proxy denies access."),
    # Entra itself.
    Refusal(90024, _LATER, 503, "The request's budget was exceeded; try again."),
    Refusal(90033, _LATER, 503, "The directory service is temporarily unavailable."),
    Refusal(90006, _LATER, 503, "An external server asked for a new try."),
    Refusal(90012, _LATER, 503, "The request took too long."),
    Refusal(90090, _LATER, 503, "The graph of the directory asked for a new try."),
    Refusal(50033, _LATER, 503, "A transient error occurred."),
    Refusal(50087, _LATER, 503, "A transient error occurred at sign-in; try again."),
    Refusal(40010, _LATER, 503, "An identity provider asked for a new try."),
    Refusal(50088, _LATER, 503, "The limit on telephone calls is reached; try again."),
    Refusal(50166, _LATER, 503, "The request to the claims provider was throttled."),
    Refusal(70012, _SERVER, 500, "A server failed while a consumer signed in."),
    Refusal(50000, _SERVER, 400, "The sign-in service has an issue."),
    Refusal(50086, _SERVER, 400, "Strong authentication failed in a way that stays."),
    Refusal(90010, _SERVER, 400, "An algorithm could not be created."),
    # The customer's own identity provider, and the agents on his side that check passwords.
    Refusal(20001, _SERVER, 400, "The federated provider's sign-in response is wrong."),
    Refusal(20012, _SERVER, 400, "The federated provider's message is wrong."),
    Refusal(20033, _SERVER, 400, "The federated provider's metadata names a wrong tenant."),
    Refusal(40008, _SERVER, 400, "The federated provider failed for good."),
    Refusal(40009, _SERVER, 400, "The federated provider failed at the refresh token."),
    Refusal(40015, _SERVER, 400, "The federated provider failed at the code."),
    Refusal(50008, _SERVER, 400, "The SAML assertion is missing or wrong."),
    Refusal(50107, _SERVER, 400, "The federation realm does not exist."),
    *(
        Refusal(code, _SERVER, 400, "The customer's password agent failed.")
        for code in range(80001, 80013)
    ),
    Refusal(80013, _SERVER, 400, "The clocks of the customer's agent and directory differ."),
    Refusal(80014, _SERVER, 400, "The customer's password agent answered too late."),
    Refusal(90036, _SERVER, 500, "The directory failed in a way that a new try does not help."),
    Refusal(90055, _LATER, 429, "The tenant is throttled."),
    Refusal(50196, _GRANT, 400, "The client asks for the same token in a loop."),
)

REFUSALS: dict[int, Refusal] = {row.code: row for row in _ROWS}


def error_body(
    error: EntraError, *, host_url: str, now: float, correlation_id: str = "", oauth_error: str = ""
) -> dict[str, object]:
    """
    Write a refusal as Entra's token endpoint does.

    Args:
        error: What is refused and why.
        host_url: Where this sandbox's Entra listens; the ``error_uri`` points there.
        now: Seconds since the epoch.
        correlation_id: The caller's ``client-request-id``; a new one where it gave none.
        oauth_error: Overrides the ``error`` of the table.

    Returns:
        The JSON object.
    """
    row = error.refusal
    trace_id = str(uuid.uuid4())
    correlation = correlation_id or str(uuid.uuid4())
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    body: dict[str, object] = {
        "error": oauth_error or row.error,
        "error_description": (
            f"AADSTS{row.code}: {error.text} Trace ID: {trace_id} "
            f"Correlation ID: {correlation} Timestamp: {stamp}"
        ),
        "error_codes": [row.code],
        "timestamp": stamp,
        "trace_id": trace_id,
        "correlation_id": correlation,
        "error_uri": f"{host_url}/error?code={row.code}",
    }
    if row.suberror:
        body["suberror"] = row.suberror
    return body
