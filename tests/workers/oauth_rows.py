"""
What each answer of a token endpoint leads to, written down by hand: code or error to verdict.

Source:
    Codes: https://learn.microsoft.com/entra/identity-platform/reference-error-codes; ``error``: RFC
    6749 section 5.2 and OpenID Connect Core section 3.1.2.6. What follows from each is our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.verdict import Action, Remedy, Scope

PARK, BACKOFF = Action.PARK, Action.RETRY_BACKOFF
MAILBOX, TENANT, APP = Scope.MAILBOX, Scope.TENANT, Scope.APP


@dataclass(frozen=True)
class Row:
    codes: tuple[int, ...]
    error: str
    rule: str
    action: Action
    scope: Scope | None
    remedy: Remedy


def parked(codes, error, rule, scope, remedy):
    return Row(codes, error, rule, PARK, scope, remedy)


SIGN_IN, CONSENT, SECRET = Remedy.SIGN_IN_AGAIN, Remedy.ADMIN_CONSENT, Remedy.NEW_SECRET
SETTING, CONFIG, BUG, WAIT = (
    Remedy.ADMIN_SETTING,
    Remedy.FIX_CONFIGURATION,
    Remedy.REPORT_BUG,
    Remedy.WAIT,
)

BY_CODE = [
    parked((50173,), "invalid_grant", "tokens-revoked", MAILBOX, SIGN_IN),
    Row((700024, 500133), "invalid_client", "clock-wrong", BACKOFF, None, CONFIG),
    parked((50085, 50089, 50132, 50133, 50139, 50197, 51006), "invalid_grant", "sign-in-session-ended", MAILBOX, SIGN_IN),
    parked((50125, 50135), "invalid_grant", "password-change-required", MAILBOX, SIGN_IN),
    parked((70000,), "invalid_grant", "refresh-token-refused", MAILBOX, SIGN_IN),
    parked((70008, 700082), "invalid_grant", "refresh-token-expired", MAILBOX, SIGN_IN),
    parked((700084,), "invalid_grant", "callback-registered-as-spa", MAILBOX, CONFIG),
    parked((70043,), "invalid_grant", "sign-in-frequency", MAILBOX, SIGN_IN),
    parked((50076, 50074, 50078), "interaction_required", "mfa-required", MAILBOX, SIGN_IN),
    parked((50079, 50072, 53004, 53010), "interaction_required", "mfa-not-registered", MAILBOX, SIGN_IN),
    parked((50158, 50161), "interaction_required", "external-mfa-unsatisfied", TENANT, SETTING),
    parked((53003, 530032, 50131), "invalid_grant", "conditional-access", TENANT, SETTING),
    parked((53000, 53001, 53002, 50005, 50097, 50129, 50155, 50187), "invalid_grant", "device-required", TENANT, SETTING),
    parked((530035,), "invalid_grant", "security-defaults-blocked", TENANT, SETTING),
    parked((530034, 53011), "invalid_grant", "flagged-risky", TENANT, SETTING),
    Row((50053,), "invalid_grant", "account-locked", BACKOFF, None, WAIT),
    parked((50055, 50144), "invalid_grant", "password-expired", MAILBOX, SIGN_IN),
    parked((50056, 50126, 50064), "invalid_grant", "credentials-wrong", MAILBOX, SIGN_IN),
    parked((50057,), "invalid_grant", "account-disabled", MAILBOX, SETTING),
    parked((50034, 51004, 50014), "invalid_grant", "account-missing", MAILBOX, SETTING),
    parked((50020, 16000), "invalid_grant", "foreign-account", MAILBOX, SIGN_IN),
    parked((500208,), "invalid_grant", "personal-account", MAILBOX, SIGN_IN),
    parked((50105,), "access_denied", "assignment-required", TENANT, SETTING),
    parked((65001,), "invalid_grant", "consent-missing", MAILBOX, CONSENT),
    parked((65004,), "access_denied", "consent-declined", MAILBOX, CONSENT),
    parked((90094, 90095, 90008), "access_denied", "admin-consent-required", MAILBOX, CONSENT),
    parked(
        (650052, 650054, 650056, 650057, 65005, 500011, 50001),
        "invalid_resource",
        "exchange-permission-missing",
        TENANT,
        CONFIG,
    ),
    parked((700016,), "unauthorized_client", "app-unknown", TENANT, CONSENT),
    parked((70001, 7000112, 700011, 1000031), "unauthorized_client", "app-disabled", TENANT, SETTING),
    parked((7000215, 70002), "invalid_client", "secret-wrong", APP, SECRET),
    parked((7000222,), "invalid_client", "secret-expired", APP, SECRET),
    parked((700027, 700030, 50006, 50012, 50013, 50048, 1000502), "invalid_client", "certificate-refused", APP, SECRET),
    parked((7000218,), "invalid_client", "client-not-authenticated", APP, BUG),
    parked((700025,), "invalid_client", "public-client", APP, CONFIG),
    parked((54005,), "invalid_grant", "code-used", MAILBOX, SIGN_IN),
    parked((700005,), "invalid_grant", "code-of-other-tenant", MAILBOX, SIGN_IN),
    parked((501481, 50147), "invalid_grant", "pkce-mismatch", MAILBOX, SIGN_IN),
    parked((50011, 70004, 900971), "invalid_request", "callback-not-registered", MAILBOX, CONFIG),
    parked((70011, 28002, 28003, 700022), "invalid_scope", "scope-wrong", TENANT, BUG),
    parked((700023,), "invalid_client", "scope-or-audience-wrong", MAILBOX, BUG),
    parked((70003,), "unsupported_grant_type", "grant-type-unsupported", TENANT, BUG),
    parked((90002, 90019, 50059, 50128), "invalid_request", "tenant-unknown", TENANT, CONFIG),
    parked((90038, 900382, 900432, 90051), "invalid_request", "other-cloud", TENANT, CONFIG),
    parked((50194,), "unauthorized_client", "single-tenant-app", TENANT, CONFIG),
    parked((9001023, 90130, 90124), "invalid_request", "common-not-usable", TENANT, BUG),
    parked((500021, 500022, 500212, 500213, 50002), "access_denied", "tenant-restrictions", TENANT, SETTING),
    Row((90024, 90033, 90006, 90012, 90090, 50033, 50087, 50088, 50166, 40010, 70012), "server_error", "sign-in-failing", BACKOFF, None, WAIT),
    Row((20001, 20012, 20033, 40008, 40009, 40015, 50008, 50107, *range(80001, 80015)), "server_error", "customer-sign-in-failing", BACKOFF, None, WAIT),
    Row((50000, 50086, 90010), "server_error", "sign-in-broken", BACKOFF, None, WAIT),
    Row((90036,), "server_error", "directory-failure", BACKOFF, None, WAIT),
    Row((90055,), "temporarily_unavailable", "sign-in-throttled", Action.THROTTLE_TENANT, TENANT, WAIT),
    Row((50196,), "invalid_grant", "sign-in-loop", Action.THROTTLE_MAILBOX, MAILBOX, BUG),
    parked((9002313, 900144, 90004, 90013, 90014, 90015, 90023, 90100), "invalid_request", "request-malformed", MAILBOX, BUG),
]  # fmt: skip

BY_ERROR = [
    parked((), "invalid_grant", "grant-refused", MAILBOX, SIGN_IN),
    parked((), "interaction_required", "interaction-required", MAILBOX, SIGN_IN),
    parked((), "login_required", "login-required", MAILBOX, SIGN_IN),
    parked((), "consent_required", "consent-required", MAILBOX, CONSENT),
    parked((), "invalid_client", "client-refused", APP, SECRET),
    parked((), "unauthorized_client", "client-unauthorized", TENANT, CONSENT),
    parked((), "invalid_scope", "scope-invalid", TENANT, BUG),
    parked((), "invalid_resource", "resource-invalid", TENANT, CONFIG),
    parked((), "invalid_request", "request-invalid", MAILBOX, BUG),
    parked((), "unsupported_grant_type", "grant-type-unsupported", TENANT, BUG),
    Row((), "temporarily_unavailable", "sign-in-unavailable", BACKOFF, None, WAIT),
    Row((), "server_error", "sign-in-server-error", BACKOFF, None, WAIT),
    parked((), "access_denied", "access-denied", MAILBOX, CONSENT),
]
