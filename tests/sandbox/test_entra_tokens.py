import base64
from concurrent.futures import ThreadPoolExecutor

import jwt
import pytest

from sandbox.grants import CodeRequest, challenge_of
from tests.sandbox.entra_setting import ADMIN, ALERTS, CALLBACK, SCOPE, certificate

APP_SCOPE = "https://outlook.office365.com/.default"


def code_for(setting, **changes):
    """Give a code as the consent page would."""
    setting.contoso.admit(setting.app.client_id).consent([SCOPE])
    given = {
        "tenant_id": setting.contoso.tenant_id,
        "client_id": setting.app.client_id,
        "object_id": setting.contoso.user(ALERTS).object_id,
        "redirect_uri": CALLBACK,
        "oidc": frozenset({"openid", "offline_access"}),
        "permissions": (SCOPE,),
    }
    return setting.world.grants.issue_code(CodeRequest(**given | changes))


def redeem(setting, code, **changes):
    form = {
        "grant_type": "authorization_code",
        "client_id": setting.app.client_id,
        "client_secret": setting.app.client_secrets[0].value,
        "redirect_uri": CALLBACK,
        "code": code,
    } | changes
    return setting.post_token(**form).json()


def app_only(setting, **kw):
    """Ask for a token as the app itself."""
    return setting.client(**kw).acquire_token_for_client([APP_SCOPE])


def admit_app(setting):
    presence = setting.contoso.admit(setting.app.client_id)
    presence.roles.add("https://outlook.office365.com/SMTP.SendAsApp")
    return presence


# Codes


def test_code_works_once(setting):
    """A code that is presented again is refused."""
    code = code_for(setting)

    assert "refresh_token" in redeem(setting, code)
    assert redeem(setting, code)["error_codes"] == [54005]


@pytest.mark.parametrize(
    ("asked", "changes", "error"),
    [
        pytest.param({}, {"code": "x"}, 70000, id="unknown"),
        pytest.param({}, {"code": ""}, 900144, id="missing"),
        pytest.param({}, {"redirect_uri": CALLBACK + "/"}, 50011, id="redirect mismatch"),
        pytest.param({}, {"tenant": "fabrikam.example"}, 700005, id="tenant"),
        pytest.param(
            {"challenge": challenge_of("v" * 43), "challenge_method": "S256"},
            {"code_verifier": "w" * 43},
            501481,
            id="PKCE",
        ),
        pytest.param(
            {"challenge": challenge_of("v" * 43), "challenge_method": "S256"},
            {},
            501481,
            id="PKCE without verifier",
        ),
    ],
)
def test_code_is_bound_to_its_request(setting, asked, changes, error):
    """A code counts only for the request that it was given for."""
    changes = {"code": code_for(setting, **asked)} | changes

    assert redeem(setting, **changes)["error_codes"] == [error]


def test_code_ends_after_ten_minutes(setting):
    """An old code is refused."""
    code = code_for(setting)
    setting.clock.now += 600

    assert redeem(setting, code)["error_codes"] == [70008]


# Refreshing


def test_refresh_rotates_and_the_old_token_stays(setting):
    """Each refresh gives a new refresh token; the old one stays good, as with Entra."""
    first = setting.grant()
    second = setting.refresh(first)["refresh_token"]

    assert second != first
    assert "access_token" in setting.refresh(first)
    assert "access_token" in setting.refresh(second)
    assert setting.world.ledger.refreshes == 3


def test_msal_refreshes_silently(setting):
    """MSAL finds the account in its cache and refreshes with what the code flow gave."""
    client = setting.client()
    setting.sign_in(client)
    result = client.acquire_token_silent_with_error(
        [SCOPE], client.get_accounts()[0], force_refresh=True
    )

    assert result["token_source"] == "identity_provider"
    assert setting.world.check_token(result["access_token"], ALERTS).ok


def test_strict_rotation_revokes_on_reuse(setting):
    """Where rotation is strict, a token presented twice ends the whole grant."""
    setting.contoso.strict_rotation = True
    first = setting.grant()
    second = setting.refresh(first)["refresh_token"]

    assert setting.refresh(first)["error_codes"] == [50173]
    assert setting.refresh(second)["error_codes"] == [50173]


def test_refused_refresh_does_not_use_the_token_up(setting):
    """Withdrawn consent under strict rotation leaves the token for the time when it is restored."""
    setting.contoso.strict_rotation = True
    token = setting.grant()
    presence = setting.contoso.enterprise_apps[setting.app.client_id]
    presence.withdrawn = True

    assert setting.refresh(token)["error_codes"] == [65001]
    presence.withdrawn = False
    assert "access_token" in setting.refresh(token)


def test_refresh_token_ends_after_ninety_idle_days(setting):
    """Use restarts the clock; without use for 90 days the token has expired."""
    first = setting.grant()
    setting.clock.now += 89 * 86400
    setting.app.client_secrets[0].ends_at += 365 * 86400
    second = setting.refresh(first)["refresh_token"]
    setting.clock.now += 2 * 86400

    assert setting.refresh(first)["error_codes"] == [700082]
    assert "access_token" in setting.refresh(second)


def revoke(setting):
    setting.world.revoke_grants(ALERTS, recall_access_tokens=False)


def withdraw(setting):
    setting.contoso.enterprise_apps[setting.app.client_id].withdrawn = True


def remove(setting):
    del setting.contoso.enterprise_apps[setting.app.client_id]


def switch_off(setting):
    setting.contoso.enterprise_apps[setting.app.client_id].enabled = False


def disable(setting):
    setting.contoso.user(ALERTS).enabled = False


def delete(setting):
    del setting.contoso.users[ALERTS]


@pytest.mark.parametrize(
    ("deed", "code", "suberror"),
    [
        pytest.param(revoke, 50173, "bad_token", id="sessions revoked"),
        pytest.param(withdraw, 65001, "consent_required", id="consent withdrawn"),
        pytest.param(remove, 700016, None, id="enterprise app removed"),
        pytest.param(switch_off, 7000112, None, id="enterprise app switched off"),
        pytest.param(disable, 50057, None, id="account disabled"),
        pytest.param(delete, 50034, None, id="account deleted"),
    ],
)
def test_tenant_can_end_a_grant(setting, deed, code, suberror):
    """What a customer's administrator does shows at the next refresh, and only there."""
    token = setting.grant()
    access = setting.world.access_token(ALERTS)
    deed(setting)
    refused = setting.refresh(token)

    assert refused["error_codes"] == [code]
    assert refused.get("suberror") == suberror
    if deed is not delete:
        assert setting.world.check_token(access, ALERTS).ok
    assert setting.world.ledger.aadsts == {code: 1}


def test_refresh_token_is_of_one_app(setting):
    """Another app cannot use it."""
    refused = setting.post_token(
        grant_type="refresh_token", client_id=setting.app.client_id, refresh_token="no such"
    )
    assert refused.status_code == 401
    assert refused.json()["error_codes"] == [7000218]


@pytest.mark.parametrize(
    ("scope", "code"),
    [
        pytest.param("https://graph.microsoft.com/Mail.Send", 65001, id="not consented"),
        pytest.param(f"{SCOPE} https://graph.microsoft.com/Mail.Send", 700022, id="two resources"),
        pytest.param("https://api.test/Do", 500011, id="unknown resource"),
    ],
)
def test_scope_is_judged(setting, scope, code):
    """A refresh gets only what was consented to, for one resource."""
    answer = setting.post_token(
        grant_type="refresh_token",
        client_id=setting.app.client_id,
        client_secret=setting.app.client_secrets[0].value,
        refresh_token=setting.grant(),
        scope=scope,
    )
    assert answer.json()["error_codes"] == [code]


def test_graph_token_is_none_for_smtp(setting):
    """A token for Graph is good, and Exchange refuses it."""
    graph = "https://graph.microsoft.com/Mail.Send"
    token = setting.world.give_grant(ALERTS, setting.app.client_id, permissions=(SCOPE, graph))
    result = setting.client().acquire_token_by_refresh_token(token, [graph])
    verdict = setting.world.check_token(result["access_token"], ALERTS)

    assert not verdict.ok
    assert verdict.reason == "wrong audience https://graph.microsoft.com"


def test_concurrent_refreshes_all_succeed(setting):
    """Losing a race costs a token, not the grant."""
    token = setting.grant()
    client = setting.client()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: setting.refresh(token, client=client), range(8)))

    assert all("access_token" in result for result in results)
    assert len({result["refresh_token"] for result in results}) == 8
    assert setting.world.ledger.refreshed_by_user == {ALERTS: 8}


def test_lifetime_is_the_directorys(setting):
    """A directory may give short-lived tokens, with refresh_in at half time."""
    setting.contoso.access_token_seconds = (40, 40)
    answer = setting.post_token(
        grant_type="refresh_token",
        client_id=setting.app.client_id,
        client_secret=setting.app.client_secrets[0].value,
        refresh_token=setting.grant(),
    ).json()

    assert (answer["expires_in"], answer["refresh_in"]) == (40, 20)
    setting.clock.now += 41
    assert setting.world.check_token(answer["access_token"], ALERTS).reason == "expired"


# The app's credential


def test_wrong_secret(setting):
    """A wrong secret is told as such."""
    refused = setting.refresh(setting.grant(), client=setting.client(credential="wrong"))

    assert refused["error"] == "invalid_client"
    assert refused["error_codes"] == [7000215]


def test_expired_secret_and_its_successor(setting):
    """An expired secret is refused as expired; a new one beside it works at once."""
    token = setting.grant()
    old = setting.client()
    setting.app.client_secrets[0].ends_at = setting.clock.now
    new = setting.app.add_secret(ends_at=setting.clock.now + 86400)

    assert setting.refresh(token, client=old)["error_codes"] == [7000222]
    assert "access_token" in setting.refresh(token, client=setting.client(credential=new.value))


def test_secret_by_http_basic(setting):
    """The secret may come in the Authorization header."""
    app = setting.app
    pair = f"{app.client_id}:{app.client_secrets[0].value}".encode()
    answer = setting.http.post(
        f"{setting.server.entra_url}/contoso.example/oauth2/v2.0/token",
        data={"grant_type": "refresh_token", "refresh_token": setting.grant()},
        headers={"Authorization": f"Basic {base64.b64encode(pair).decode()}"},
    )
    assert answer.status_code == 200


def test_app_acts_for_itself_by_secret(setting):
    """Client credentials give a token that opens the mailboxes the app was given, no others."""
    admit_app(setting).mailboxes.add(ALERTS)
    token = app_only(setting)["access_token"]

    assert setting.world.check_token(token, ALERTS).ok
    assert setting.world.check_token(token, ALERTS).actor == f"app:{setting.app.client_id}"
    refused = setting.world.check_token(token, "admin@contoso.example")
    assert refused.reason == "the app has no right to the mailbox"


def test_app_without_role(setting):
    """Without consent to the role the token is given, and Exchange refuses it."""
    setting.contoso.admit(setting.app.client_id).mailboxes.add(ALERTS)
    token = app_only(setting)["access_token"]

    assert setting.world.check_token(token, ALERTS).reason == "no role SMTP.SendAsApp"


@pytest.mark.parametrize(
    ("scope", "opens"),
    [
        ({ALERTS}, {ALERTS}),
        ({"*"}, {ALERTS, ADMIN}),
        (set(), set()),
    ],
    ids=["mailbox", "everything", "nothing"],
)
def test_app_by_a_role_assignment(setting, scope, opens):
    """RBAC for Applications opens what its scope reaches, to a token without the role."""
    setting.contoso.admit(setting.app.client_id).scope |= scope
    token = app_only(setting)["access_token"]

    assert {box for box in (ALERTS, ADMIN) if setting.world.check_token(token, box).ok} == opens


def test_the_role_asks_for_permissions_instead_of_the_scope(setting):
    """Whose token claims the role is judged by mailbox permissions alone."""
    admit_app(setting).scope.add("*")
    token = app_only(setting)["access_token"]

    assert not setting.world.check_token(token, ALERTS).ok


def test_full_access_opens_a_shared_mailbox(setting):
    """A delegate's token signs in as the mailbox it has Full Access to, and as no other."""
    token = setting.world.access_token(ADMIN)

    assert setting.world.check_token(token, ALERTS).reason == "token of another user"
    setting.world.mailboxes.get(ALERTS).full_access.add(ADMIN)
    assert setting.world.check_token(token, ALERTS).ok
    assert not setting.world.check_token(token, "alerts@fabrikam.example").ok


def test_exchange_has_two_names(setting):
    """Consent to SMTP.Send under one name of Exchange is consent under the other one."""
    other_name = "https://outlook.office365.com/SMTP.Send"
    token = setting.world.give_grant(ALERTS, setting.app.client_id, permissions=(other_name,))

    answer = setting.client().acquire_token_by_refresh_token(token, [SCOPE])

    assert setting.world.check_token(answer["access_token"], ALERTS).ok


def test_app_must_be_in_the_tenant(setting):
    """Without an enterprise app there is no app-only token."""
    assert app_only(setting)["error_codes"] == [700016]


@pytest.mark.filterwarnings("ignore")  # MSAL warns of the very mistake that is made here
def test_app_only_needs_a_tenant(setting):
    """The shared endpoints give no app-only tokens."""
    assert app_only(setting, tenant="common")["error_codes"] == [9001023]


def test_certificate_replaces_the_secret(setting):
    """MSAL's signed assertion is taken for an uploaded certificate, for both kinds of token."""
    admit_app(setting)
    pem, key = certificate()
    credential = {"private_key": key, "public_certificate": pem}
    setting.control("POST", f"/apps/{setting.app.client_id}/certificates", {"pem": pem})

    assert "access_token" in app_only(setting, credential=credential)
    client = setting.client(credential=credential)
    assert "access_token" in setting.refresh(setting.grant(), client=client)


@pytest.mark.parametrize(
    ("uploaded_days", "code"), [(None, 700027), (-1, 700030)], ids=["not uploaded", "expired"]
)
def test_certificate_is_refused(setting, uploaded_days, code):
    """A certificate that was not uploaded or has ended is refused."""
    admit_app(setting)
    pem, key = certificate(days=uploaded_days or 30)
    if uploaded_days is not None:
        setting.control("POST", f"/apps/{setting.app.client_id}/certificates", {"pem": pem})
    refused = app_only(setting, credential={"private_key": key, "public_certificate": pem})

    assert refused["error_codes"] == [code]


def test_clock_that_is_off_fails_the_assertion(setting):
    """An assertion from a machine whose clock is an hour off is refused."""
    admit_app(setting)
    pem, key = certificate()
    setting.control("POST", f"/apps/{setting.app.client_id}/certificates", {"pem": pem})
    setting.clock.now += 3600
    refused = app_only(setting, credential={"private_key": key, "public_certificate": pem})

    assert refused["error_codes"] == [50013]


@pytest.mark.parametrize(
    ("form", "code"),
    [
        pytest.param({}, 900144, id="no grant type"),
        pytest.param({"grant_type": "password"}, 70003, id="unknown grant type"),
        pytest.param({"grant_type": "refresh_token"}, 900144, id="no refresh token"),
        pytest.param({"grant_type": "refresh_token", "client_id": "x"}, 700016, id="no app"),
        pytest.param({"grant_type": "client_credentials", "scope": SCOPE}, 700023, id="no default"),
        pytest.param(
            {"grant_type": "refresh_token", "client_assertion": "x"}, 50013, id="assertion type"
        ),
        pytest.param({"grant_type": "refresh_token", "tenant": "nowhere"}, 90002, id="tenant"),
    ],
)
def test_bad_requests_have_their_codes(setting, form, code):
    """A request that makes no sense gets the code that says why."""
    given = {
        "client_id": setting.app.client_id,
        "client_secret": setting.app.client_secrets[0].value,
    } | form

    assert setting.post_token(**given).json()["error_codes"] == [code]


# What Exchange makes of tokens


@pytest.mark.parametrize(
    ("changes", "user", "reason"),
    [
        pytest.param({}, ALERTS, "", id="good"),
        pytest.param({}, ALERTS.upper(), "", id="case"),
        pytest.param({}, "admin@contoso.example", "token of another user", id="another user"),
        pytest.param(
            {"scopes": ("IMAP.AccessAsUser.All",)}, ALERTS, "no scope SMTP.Send", id="scope"
        ),
        pytest.param({"audience": "https://outlook.office365.us"}, ALERTS, "", id="GCC High"),
        pytest.param({"lifetime_seconds": 0}, ALERTS, "expired", id="expired"),
    ],
)
def test_token_is_judged(setting, changes, user, reason):
    """Audience, scope, expiry and user decide."""
    token = setting.world.access_token(ALERTS, **changes)

    for _ in range(2):  # the second time from the cache
        assert setting.world.check_token(token, user).reason == reason


@pytest.mark.parametrize("raw", ["", "x", "a.b.c", "\udcff", "é" * 10])
def test_rubbish_is_no_token(setting, raw):
    """Whatever comes over the wire gets a verdict."""
    assert not setting.world.check_token(raw, ALERTS).ok


def test_forged_token_is_refused(setting):
    """A token signed with another key, or with none, is refused."""
    claims = jwt.decode(
        setting.world.access_token(ALERTS), options={"verify_signature": False, "verify_aud": False}
    )
    unsigned = jwt.encode(claims, "", algorithm="none")
    other = jwt.encode(claims, "k" * 32, algorithm="HS256")

    assert not setting.world.check_token(unsigned, ALERTS).ok
    assert not setting.world.check_token(other, ALERTS).ok


def test_recall_ends_access_tokens(setting):
    """Recalled access tokens are refused at once; new ones are good."""
    before = setting.world.access_token(ALERTS)
    setting.world.revoke_grants(ALERTS, recall_access_tokens=True)

    assert setting.world.check_token(before, ALERTS).reason == "the token was recalled"
    assert setting.world.check_token(setting.world.access_token(ALERTS), ALERTS).ok


def test_instance_discovery_knows_its_own_host(setting):
    """A client that looks for the cloud's hosts finds this one and the tenant's configuration."""
    base = setting.server.entra_url
    answer = setting.http.get(
        f"{base}/common/discovery/instance",
        params={"authorization_endpoint": f"{base}/contoso.example/oauth2/v2.0/authorize"},
    ).json()

    document = setting.http.get(answer["tenant_discovery_endpoint"]).json()
    assert document["issuer"] == f"{base}/{setting.contoso.tenant_id}/v2.0"
    assert answer["metadata"][0]["aliases"] == [base.removeprefix("https://")]


def test_unknown_tenant_has_no_configuration(setting):
    """MSAL says that the authority is wrong."""
    with pytest.raises(ValueError, match="authority"):
        setting.client("nowhere.example")


def test_refresh_token_of_another_tenant(setting):
    """A grant of one tenant is worth nothing at another's endpoint."""
    fabrikam = setting.client("fabrikam.example")

    assert setting.refresh(setting.grant(), client=fabrikam)["error_codes"] == [50020]


def test_default_scope_means_what_the_app_lists(setting):
    """/.default stands for the registration's permissions of that resource, and fails without any."""
    token = setting.grant()
    client = setting.client()
    result = client.acquire_token_by_refresh_token(token, ["https://outlook.office.com/.default"])
    refused = client.acquire_token_by_refresh_token(token, ["https://graph.microsoft.com/.default"])

    assert setting.world.check_token(result["access_token"], ALERTS).ok
    assert refused["error_codes"] == [650056]


def test_public_client_must_not_send_a_secret(setting):
    """A public client refreshes without a secret and is refused with one."""
    setting.app.public = True
    form = {
        "grant_type": "refresh_token",
        "client_id": setting.app.client_id,
        "refresh_token": setting.grant(),
    }

    assert setting.post_token(**form).status_code == 200
    refused = setting.post_token(**form, client_secret="x").json()
    assert refused["error_codes"] == [700025]


def test_malformed_basic_header(setting):
    """A header that cannot be read is a malformed request."""
    answer = setting.http.post(
        f"{setting.server.entra_url}/contoso.example/oauth2/v2.0/token",
        data={"grant_type": "refresh_token"},
        headers={"Authorization": "Basic ***"},
    )
    assert answer.json()["error_codes"] == [9002313]


def test_huge_body_is_refused(setting):
    """Nobody can fill the sandbox's memory by the token endpoint."""
    answer = setting.post_token(grant_type="x" * 300_000)

    assert answer.json()["error_codes"] == [9002313]


@pytest.mark.parametrize(
    ("code", "status", "says"), [("50173", 200, "revoked"), ("1", 404, "known")]
)
def test_error_uri_explains(setting, code, status, says):
    """The address in a refusal leads to an explanation."""
    answer = setting.http.get(f"{setting.server.entra_url}/error", params={"code": code})

    assert answer.status_code == status
    assert says in answer.text
