"""
Answers of Entra's token endpoint, row by row: by ``error``, refined by AADSTS code.

Microsoft's own rule is to react to ``error`` and not to depend on the numbers, which change. So
every ``error`` has a default, and a number only says it better.

Source:
    Meanings of codes [E-ERR]; the tags stand in docs/sources.md. What follows is our choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from workers.verdict import HOUR, Limit, Remedy, Scope, Verdict, park, retry_backoff, throttle

GRANT_PROBE = 60.0
"""A grant that was refused is presented again after a minute, then ever more rarely."""

_SIGN_IN = "Have somebody sign in with this mailbox again through the consent link."
_CONSENT = "Send the tenant's administrator the admin-consent link."
_POLICY = "Have the tenant's administrator change that policy for this mailbox or app."
_NEW_SECRET = "Enter the new one for this app registration; all its tenants go on by themselves."  # noqa: S105
_BUG = "Report this as a bug with code, text and trace id."
_AUTOMATIC = "Nothing to do; it is tried again with growing pauses."
_SET_CLOCK = (
    "Set this server's clock (`timedatectl` shows whether it is synchronised). Secret, certificate"
    " and consents are good; nothing has to be renewed."
)


def _sign_in(rule: str, meaning: str, next_step: str = _SIGN_IN) -> Verdict:
    """Build a park of one mailbox that a new sign-in ends, or Entra by taking its refusal back."""
    return park(rule, Scope.MAILBOX, Remedy.SIGN_IN_AGAIN, meaning, next_step, probe=GRANT_PROBE)


def _policy(
    rule: str, meaning: str, next_step: str = _POLICY, scope: Scope = Scope.TENANT
) -> Verdict:
    """Build a park that a setting of the tenant ends; to look again costs one refresh."""
    return park(rule, scope, Remedy.ADMIN_SETTING, meaning, next_step)


def _consent(
    rule: str, meaning: str, next_step: str = _CONSENT, scope: Scope = Scope.MAILBOX
) -> Verdict:
    """Build a park that a consent ends, wherever it is given."""
    return park(rule, scope, Remedy.ADMIN_CONSENT, meaning, next_step)


def _secret(rule: str, meaning: str, next_step: str) -> Verdict:
    """Build a park of everything that uses the app registration."""
    return park(rule, Scope.APP, Remedy.NEW_SECRET, meaning, f"{next_step} {_NEW_SECRET}")


def _configuration(rule: str, meaning: str, next_step: str, scope: Scope = Scope.TENANT) -> Verdict:
    return park(rule, scope, Remedy.FIX_CONFIGURATION, meaning, next_step)


def _bug(rule: str, meaning: str, scope: Scope = Scope.TENANT) -> Verdict:
    return park(rule, scope, Remedy.REPORT_BUG, meaning, _BUG)


def _later(
    rule: str,
    meaning: str,
    next_step: str = _AUTOMATIC,
    *,
    pause: tuple[float, float] = (5.0, 900.0),
    limit: Limit | None = None,
    remedy: Remedy = Remedy.WAIT,
) -> Verdict:
    """Build a retry; no mail is in hand while a token is fetched, so nothing is counted."""
    return retry_backoff(
        rule, meaning, next_step, pause=pause, limit=limit, counts=False, remedy=remedy
    )


# --- 5.1: by error --------------------------------------------------------------------------------

GRANT_REFUSED = _sign_in(
    "grant-refused", "Entra does not accept the stored consent of this mailbox any more."
)
_CONSENT_REQUIRED = _consent("consent-required", "Consent for this mailbox is missing.")

ERRORS = {
    # [E-ERR] [E-FLOW]
    "invalid_grant": GRANT_REFUSED,
    # [E-FLOW]
    "interaction_required": _sign_in(
        "interaction-required", "Entra wants somebody to sign in with this mailbox."
    ),
    "login_required": _sign_in(
        "login-required", "Entra wants somebody to sign in with this mailbox again."
    ),
    # [E-FLOW]
    "consent_required": _CONSENT_REQUIRED,
    # [E-ERR]
    "invalid_client": _secret(
        "client-refused",
        "Entra does not accept the secret or certificate of the app registration.",
        "Create a new secret or upload the certificate.",
    ),
    # [E-ERR]
    "unauthorized_client": _consent(
        "client-unauthorized",
        "The app is not known in this tenant, or its client id is wrong.",
        f"{_CONSENT} If all tenants show this, correct the client id.",
        Scope.TENANT,
    ),
    # [E-ERR] configuration or bug: stop, alarm, no retry
    "invalid_scope": _bug("scope-invalid", "Entra does not accept the scope that we ask for."),
    "invalid_resource": _configuration(
        "resource-invalid",
        "Entra does not know the resource that we ask for.",
        "Check the scopes of this tenant's cloud and the permissions of the app registration.",
    ),
    "invalid_request": _bug("request-invalid", "Entra calls our request malformed.", Scope.MAILBOX),
    "unsupported_grant_type": _bug(
        "grant-type-unsupported", "Entra does not support the grant type that we ask for."
    ),
    # [E-ERR] [E-FLOW]
    "temporarily_unavailable": _later(
        "sign-in-unavailable", "Microsoft's sign-in is unavailable for the moment."
    ),
    "server_error": _later("sign-in-server-error", "Microsoft's sign-in failed by itself."),
    # [E-FLOW] at the callback
    "access_denied": _consent(
        "access-denied", "The user or the administrator said no to the consent."
    ),
}
"""The default for every ``error``."""

# [SRC-MSAL] HTTP 429 or 5xx
BUSY = _later("sign-in-busy", "Microsoft's sign-in is overloaded or out of order.")
# [TEST] HTTP 200 that is not JSON
NOT_JSON = _later(
    "sign-in-not-json",
    "Something other than Microsoft answers for its sign-in: a proxy or a captive portal.",
    "Check proxy and firewall between this server and the tenant's authority.",
)
UNREACHABLE = _later(
    "sign-in-unreachable",
    "Microsoft's sign-in could not be reached.",
    "Nothing to do for one tenant; if all show it, check our network and firewall.",
)
UNKNOWN_ERROR = _later(
    "sign-in-unknown-error",
    "Microsoft's sign-in answered with an error that is not in our tables.",
    limit=Limit(
        times=3,
        then=park(
            "sign-in-unknown-error-again",
            Scope.MAILBOX,
            Remedy.REPORT_BUG,
            "Microsoft's sign-in keeps answering with an error that is not in our tables.",
            "Read code, text and trace id and act on them; the grant is kept.",
        ),
    ),
)

# Entra's clock is right: what it calls outside its time was made by a clock that is not.
CLOCK_WRONG = _later(
    "clock-wrong",
    "This server's clock has to be set: Entra says that what we signed is not within its time.",
    _SET_CLOCK,
    pause=(30.0, 300.0),
    limit=Limit(
        times=3,
        then=park(
            "clock-still-wrong",
            Scope.MAILBOX,
            Remedy.FIX_CONFIGURATION,
            "This server's clock has to be set: Entra keeps saying that what we sign is not within"
            " its time.",
            _SET_CLOCK,
            probe=300.0,
            probe_longest=HOUR,
        ),
    ),
    remedy=Remedy.FIX_CONFIGURATION,
)

# --- a code that is not in our tables: the narrowest scope, no remedy that may be the wrong one ---

_WORDS = "Read Microsoft's words and act on them."
_UNKNOWN_CLIENT = park(
    "client-refused-unknown-code",
    Scope.MAILBOX,
    Remedy.FIX_CONFIGURATION,
    "Entra refuses the app's sign-in by a code that is not in our tables.",
    f"{_WORDS} The secret or certificate may be good; other tenants of the app are not held back.",
    probe=600.0,
)
_UNKNOWN_REQUEST = park(
    "request-refused-unknown-code",
    Scope.MAILBOX,
    Remedy.FIX_CONFIGURATION,
    "Entra refuses our request by a code that is not in our tables.",
    f"{_WORDS} Other mailboxes of the tenant are not held back.",
    probe=600.0,
)
UNKNOWN_CODES = {
    "invalid_client": _UNKNOWN_CLIENT,
    "unauthorized_client": _UNKNOWN_CLIENT,
    "invalid_scope": _UNKNOWN_REQUEST,
    "invalid_resource": _UNKNOWN_REQUEST,
    "unsupported_grant_type": _UNKNOWN_REQUEST,
}
"""
In place of an ``error`` whose row reaches beyond the mailbox, where a number stands beside it that
nobody knows: it means something else than what the row was written for.
"""

SAYS_LATER = _later(
    "sign-in-refused-for-now",
    "Entra refuses by a code that is not in our tables, and says that it passes.",
    limit=Limit(
        times=20,
        then=park(
            "sign-in-refused-still",
            Scope.MAILBOX,
            Remedy.FIX_CONFIGURATION,
            "Entra keeps refusing by a code that is not in our tables, and says that it passes.",
            _WORDS,
        ),
    ),
)

# --- 5.2: by code ---------------------------------------------------------------------------------

_ROWS: tuple[tuple[tuple[int, ...], Verdict], ...] = (
    # suberror bad_token seen [OBS]
    (
        (50173,),
        _sign_in(
            "tokens-revoked",
            "The tokens of this mailbox were revoked: an administrator reset the password or"
            " chose to revoke sessions.",
        ),
    ),
    # [E-ERR] 700024: on the wire, "Client assertion is not within its valid time range" [OBS]
    ((700024, 500133), CLOCK_WRONG),
    # [E-ERR] the session behind the grant ended: password, device or provider
    (
        (50085, 50089, 50132, 50133, 50139, 50197, 51006),
        _sign_in(
            "sign-in-session-ended", "The session that the stored consent came from has ended."
        ),
    ),
    # [E-ERR]
    (
        (50125, 50135),
        _sign_in(
            "password-change-required",
            "The account has to change its password first, or register for doing so.",
            f"Do that at a sign-in in the browser. {_SIGN_IN}",
        ),
    ),
    ((70000,), _sign_in("refresh-token-refused", "The stored refresh token is not accepted.")),
    (
        (70008, 700082),
        _sign_in(
            "refresh-token-expired", "The refresh token was not used for 90 days and has expired."
        ),
    ),
    (
        (700084,),
        _configuration(
            "callback-registered-as-spa",
            "The callback URL is registered as single-page app, whose tokens end after a day.",
            "Register it as type Web, then have the mailbox sign in again.",
            Scope.MAILBOX,
        ),
    ),
    (
        (70043,),
        _sign_in(
            "sign-in-frequency",
            "A sign-in-frequency policy of the tenant ended the session.",
            "Have this mailbox or app excluded from the policy, then sign in again.",
        ),
    ),
    (
        (50076, 50074, 50078),
        _sign_in(
            "mfa-required",
            "Multi-factor authentication is now required, or has expired.",
            f"{_SIGN_IN} Complete the second factor while at it.",
        ),
    ),
    (
        (50079, 50072, 53004, 53010),
        _sign_in(
            "mfa-not-registered",
            "The account has to register for multi-factor authentication first.",
            f"Register a second factor. {_SIGN_IN}",
        ),
    ),
    (
        (50158, 50161),
        _policy(
            "external-mfa-unsatisfied",
            "A second factor of another provider was asked for and not given.",
            "Have the administrator check the custom controls in Conditional Access.",
        ),
    ),
    (
        (53003, 530032, 50131),
        _policy(
            "conditional-access",
            "Conditional Access blocks this sign-in.",
            "Have the administrator allow this app, or this server's address, for the mailbox.",
        ),
    ),
    (
        (53000, 53001, 53002, 50005, 50097, 50129, 50155, 50187),
        _policy(
            "device-required",
            "A policy asks for a managed or approved device, which a server cannot be.",
            "Have the administrator exclude this mailbox or app from the policy.",
        ),
    ),
    (
        (530035,),
        _policy(
            "security-defaults-blocked",
            "The tenant's security defaults blocked the request as unsafe or legacy.",
        ),
    ),
    (
        (530034, 53011),
        _policy(
            "flagged-risky",
            "The account or the tenant is flagged as risky.",
            "Have the administrator look into the risk and clear it.",
        ),
    ),
    # an hour, three times: our choice
    (
        (50053,),
        _later(
            "account-locked",
            "The account is locked after failed sign-ins, or the request came from an address"
            " with a bad name.",
            "Check the sign-in log of the mailbox; it is tried again every hour.",
            pause=(HOUR, HOUR),
            limit=Limit(
                times=3,
                then=_policy(
                    "account-stays-locked",
                    "The account stays locked.",
                    "Check the sign-in log of the mailbox for who else tries to sign in; unlock"
                    " the account.",
                    Scope.MAILBOX,
                ),
            ),
        ),
    ),
    (
        (50055, 50144),
        _sign_in(
            "password-expired", "The password has expired.", f"Set a new password. {_SIGN_IN}"
        ),
    ),
    (
        (50056, 50126, 50064),
        _sign_in(
            "credentials-wrong",
            "Entra calls the credentials wrong, which should not happen on a refresh.",
        ),
    ),
    (
        (50057,),
        _policy(
            "account-disabled",
            "The account is disabled.",
            "Have the administrator enable it, or choose another mailbox.",
            Scope.MAILBOX,
        ),
    ),
    (
        (50034, 51004, 50014),
        _policy(
            "account-missing",
            "The account does not exist in this tenant: deleted, renamed, or the wrong tenant.",
            "Choose another mailbox, or have the account restored.",
            Scope.MAILBOX,
        ),
    ),
    (
        (50020, 16000),
        _sign_in(
            "foreign-account",
            "Somebody signed in with an account of another tenant, or a personal one.",
            "Sign in with the tenant's own mailbox.",
        ),
    ),
    (
        (500208,),
        _sign_in(
            "personal-account",
            "Somebody signed in with a personal account where only work accounts are allowed.",
            "Sign in with the tenant's own mailbox.",
        ),
    ),
    (
        (50105,),
        _policy(
            "assignment-required",
            "The app admits only users who are assigned to it.",
            "Have the administrator assign the mailbox's user to the enterprise app.",
        ),
    ),
    ((65001,), _consent("consent-missing", "Consent is missing or was withdrawn.")),
    ((65004,), _consent("consent-declined", "The user declined the consent.")),
    (
        (90094, 90095, 90008),
        _consent("admin-consent-required", "An administrator has to approve the app."),
    ),
    (
        (650052, 650054, 650056, 650057, 65005, 500011, 50001),
        _configuration(
            "exchange-permission-missing",
            "The app registration lacks the Exchange permission, or the tenant has no Exchange"
            " Online.",
            "Add the permission to the app registration and consent again; check the tenant's"
            " licences.",
        ),
    ),
    (
        (700016,),
        _consent(
            "app-unknown",
            "The app is unknown in this tenant: removed, never consented, or another id or cloud.",
            f"{_CONSENT} `alertpost tenants link SLUG` prints it, with --app-only the one for the "
            "app's own permission. If all tenants show this, correct the client id.",
            Scope.TENANT,
        ),
    ),
    (
        (70001, 7000112, 700011, 1000031),
        _policy(
            "app-disabled",
            "The app is disabled in this tenant, or not present.",
            "Have the administrator enable the enterprise app; if all tenants show this, check"
            " the app registration.",
        ),
    ),
    (
        (7000215, 70002),
        _secret(
            "secret-wrong",
            "The client secret is wrong; often the secret's id was copied instead of its value.",
            "Create a new secret and copy its value.",
        ),
    ),
    (
        (7000222,),
        _secret(
            "secret-expired",
            "The client secret has expired; nothing is sent until there is another.",
            "Create a new secret now.",
        ),
    ),
    (
        # 1000502: the certificate's own time is over, or has not come [OBS]
        (700027, 700030, 50006, 50012, 50013, 50048, 1000502),
        _secret(
            "certificate-refused",
            "The app's certificate or assertion was refused: wrong, expired or not uploaded.",
            "Upload the certificate that we sign with (`alertpost apps certificate APP --show`"
            " prints it), then run `alertpost apps credentials APP --check`; and check this"
            " server's clock. Or give another one.",
        ),
    ),
    (
        (7000218,),
        _bug(
            "client-not-authenticated", "Our request carried no secret and no assertion.", Scope.APP
        ),
    ),
    (
        (700025,),
        _configuration(
            "public-client",
            "The app is registered as public client, but a secret was sent.",
            "Register it as a confidential client: platform Web.",
            Scope.APP,
        ),
    ),
    (
        (54005,),
        _sign_in("code-used", "The authorization code was used already, as by a double callback."),
    ),
    (
        (700005,),
        _sign_in("code-of-other-tenant", "The authorization code was issued for another tenant."),
    ),
    (
        (501481, 50147),
        _sign_in(
            "pkce-mismatch",
            "The code does not fit the sign-in that we began.",
            f"{_SIGN_IN} If it happens again, report it as a bug.",
        ),
    ),
    (
        (50011, 70004, 900971),
        _configuration(
            "callback-not-registered",
            "The callback URL is not registered exactly like this.",
            "Register the callback URL letter by letter as our settings have it.",
            Scope.MAILBOX,
        ),
    ),
    (
        (70011, 28002, 28003, 700022),
        _bug("scope-wrong", "The scope is wrong, empty, or for several resources."),
    ),
    # [E-ERR] a scope without its resource; on the wire the number is also given to an assertion for
    # another audience [OBS]: either way our request, and no fault of the tenant's
    (
        (700023,),
        _bug(
            "scope-or-audience-wrong",
            "Our request names the wrong scope, or its assertion the wrong audience.",
            Scope.MAILBOX,
        ),
    ),
    ((70003,), ERRORS["unsupported_grant_type"]),
    (
        (90002, 90019, 50059, 50128),
        _configuration(
            "tenant-unknown",
            "There is no such tenant: a typing error, a deleted tenant or the wrong cloud.",
            "Correct tenant id and cloud in our settings.",
        ),
    ),
    (
        (90038, 900382, 900432, 90051),
        _configuration(
            "other-cloud",
            "The tenant lives in another national cloud.",
            "Use the app registration and the endpoints of that cloud.",
        ),
    ),
    (
        (50194,),
        _configuration(
            "single-tenant-app",
            "The app is registered for a single tenant.",
            "Use the tenant's own authority, or make the app multi-tenant.",
        ),
    ),
    (
        (9001023, 90130, 90124),
        _bug("common-not-usable", "The authority /common cannot be used for this."),
    ),
    (
        (500021, 500022, 500212, 500213, 50002),
        _policy(
            "tenant-restrictions",
            "Tenant restrictions or a cross-tenant policy deny access.",
            "Have the administrator allow this app in the tenant restrictions.",
        ),
    ),
    (
        (90024, 90033, 90006, 90012, 90090, 50033, 50087, 50088, 50166, 40010, 70012),
        _later("sign-in-failing", "Microsoft's sign-in is failing for a while."),
    ),
    # [E-ERR] the customer's own identity provider, or the agents that check passwords on his side
    (
        (20001, 20012, 20033, 40008, 40009, 40015, 50008, 50107, *range(80001, 80015)),
        _later(
            "customer-sign-in-failing",
            "The customer's own identity provider or password agent fails, so Entra cannot sign the"
            " mailbox in.",
            "Have the customer look at that provider or agent; it is tried again with growing"
            " pauses.",
            limit=Limit(
                times=20,
                then=_policy(
                    "customer-sign-in-broken",
                    "The customer's own identity provider or password agent keeps failing.",
                    "Have the customer fix that provider or agent; AADSTS80013 is about the"
                    " clocks of its machines.",
                    Scope.MAILBOX,
                ),
            ),
        ),
    ),
    # [E-ERR] 50000 names a failure of the service itself
    (
        (50000, 50086, 90010),
        _later(
            "sign-in-broken",
            "Microsoft's sign-in reports a failure of its own.",
            limit=Limit(
                times=20,
                then=_policy(
                    "sign-in-stays-broken",
                    "Microsoft's sign-in keeps reporting a failure of its own.",
                    "Open a ticket with Microsoft and give code and trace id.",
                    Scope.MAILBOX,
                ),
            ),
        ),
    ),
    (
        (90036,),
        _later(
            "directory-failure",
            "Entra reports a failure in the tenant's directory.",
            limit=Limit(
                times=3,
                then=_policy(
                    "directory-failing",
                    "Entra keeps reporting a failure in the tenant's directory.",
                    "Open a ticket with Microsoft and give code and trace id.",
                ),
            ),
        ),
    ),
    # temporarily_unavailable / 429: Retry-After, else five minutes
    (
        (90055,),
        throttle(
            "sign-in-throttled",
            Scope.TENANT,
            (300.0, 300.0),
            "Microsoft throttles the sign-ins of this tenant.",
        ),
    ),
    (
        (50196,),
        throttle(
            "sign-in-loop",
            Scope.MAILBOX,
            (600.0, 600.0),
            "Microsoft sees us asking for the same token in a loop.",
            f"Check that all workers share one Redis. {_BUG}",
            remedy=Remedy.REPORT_BUG,
        ),
    ),
    (
        (9002313, 900144, 90004, 90013, 90014, 90015, 90023, 90100),
        _bug("request-malformed", "Entra calls our request malformed.", Scope.MAILBOX),
    ),
)

CODES = {code: verdict for codes, verdict in _ROWS for code in codes}
"""AADSTS number to verdict."""

assert len(CODES) == sum(len(codes) for codes, _ in _ROWS), "a code stands in two rows"


def every_verdict() -> Iterator[Verdict]:
    """Give all that may come of a token endpoint's answer, what follows repetition included."""
    rows = [*CODES.values(), *ERRORS.values(), *UNKNOWN_CODES.values()]
    rows += [value for value in globals().values() if isinstance(value, Verdict)]
    for row in rows:
        verdict: Verdict | None = row
        while verdict is not None:
            yield verdict
            verdict = verdict.limit.then if verdict.limit else None


def with_pause(verdict: Verdict, seconds: float) -> Verdict:
    """Give a verdict the pause that the server itself asked for."""
    return replace(verdict, pause_seconds=(seconds, max(seconds, verdict.pause_seconds[1])))
