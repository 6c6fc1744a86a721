from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt
import pytest

from sandbox.person import StoppedAtPage
from tests.sandbox.entra_setting import ADMIN, ALERTS, CALLBACK, SCOPE


def authorize_url(setting, tenant="", **changes):
    asked = {
        "client_id": setting.app.client_id,
        "response_type": "code",
        "redirect_uri": CALLBACK,
        "scope": f"{SCOPE} offline_access openid profile",
        "state": "st",
    } | changes
    query = urlencode({name: value for name, value in asked.items() if value})
    tenant = tenant or setting.contoso.tenant_id
    return f"{setting.server.entra_url}/{tenant}/oauth2/v2.0/authorize?{query}"


def test_msal_completes_the_flow(setting):
    """The real MSAL gets tokens that Exchange takes, and an account to refresh for."""
    client = setting.client()
    result = setting.sign_in(client)

    assert result["scope"].split()[0] == SCOPE
    assert result["refresh_token"]
    assert result["id_token_claims"]["preferred_username"] == ALERTS
    assert result["id_token_claims"]["tid"] == setting.contoso.tenant_id
    assert setting.world.check_token(result["access_token"], ALERTS).ok
    assert [account["username"] for account in client.get_accounts()] == [ALERTS]


@pytest.mark.parametrize("path", ["v2.0", ""], ids=["v2 issuer", "bare tenant"])
def test_msal_takes_it_as_any_openid_provider(setting, path):
    """With oidc_authority the issuer matches the authority, and tokens carry it."""
    authority = f"{setting.server.entra_url}/{setting.contoso.tenant_id}/{path}".rstrip("/")
    result = setting.sign_in(setting.client(oidc_authority=authority))

    issuer = f"{setting.server.entra_url}/{setting.contoso.tenant_id}/v2.0"
    assert result["id_token_claims"]["iss"] == issuer


@pytest.mark.parametrize("tenant", ["common", "organizations", "contoso.example"])
def test_tenant_may_be_named_in_any_way(setting, tenant):
    """Shared endpoints find the tenant by the account, a domain stands for its GUID."""
    result = setting.sign_in(setting.client(tenant))

    assert result["id_token_claims"]["tid"] == setting.contoso.tenant_id
    assert setting.world.check_token(result["access_token"], ALERTS).ok


def test_tokens_verify_with_the_published_keys(setting):
    """Whoever reads the OpenID configuration can verify the ID token's signature and audience."""
    result = setting.sign_in(setting.client())
    base = f"{setting.server.entra_url}/{setting.contoso.tenant_id}"
    document = setting.http.get(f"{base}/v2.0/.well-known/openid-configuration").json()
    keys = jwt.PyJWKSet.from_dict(setting.http.get(document["jwks_uri"]).json())
    key = keys[jwt.get_unverified_header(result["id_token"])["kid"]]

    claims = jwt.decode(
        result["id_token"],
        key.key,
        algorithms=["RS256"],
        audience=setting.app.client_id,
        issuer=document["issuer"],
    )
    assert claims["oid"] == setting.contoso.user(ALERTS).object_id


@pytest.mark.filterwarnings("ignore:response_mode")  # MSAL would rather have form_post
@pytest.mark.parametrize("mode", ["query", "form_post"])
def test_state_and_nonce_come_back(setting, mode):
    """State is returned with the code in either response mode, the nonce inside the ID token."""
    flow = setting.client().initiate_auth_code_flow(
        [SCOPE], redirect_uri=CALLBACK, state="s p&c=<e>", response_mode=mode
    )
    back = setting.person().go_through(flow["auth_uri"])
    result = setting.client().acquire_token_by_auth_code_flow(flow, back)

    assert back["state"] == "s p&c=<e>"
    # MSAL sends the digest of the nonce it keeps, and compares.
    sent = dict(parse_qsl(urlsplit(flow["auth_uri"]).query))["nonce"]
    assert result["id_token_claims"]["nonce"] == sent


def test_login_hint_fills_in_the_account(setting):
    """The sign-in page shows the account that the app expects."""
    page = setting.http.get(authorize_url(setting, login_hint=ALERTS)).text

    assert f'name="account" value="{ALERTS}"' in page


def test_hostile_parameters_are_escaped(setting):
    """What comes with the request never becomes markup."""
    page = setting.http.get(authorize_url(setting, login_hint='"><script>x</script>')).text

    assert "<script>x" not in page


def test_second_sign_in_asks_no_consent(setting):
    """Consent that was given is remembered; prompt=consent asks again."""
    setting.sign_in(setting.client())
    cancelling = setting.person(decision="cancel")

    assert "code" in cancelling.go_through(authorize_url(setting))
    asked_again = cancelling.go_through(authorize_url(setting, prompt="consent"))
    assert asked_again["error"] == "access_denied"


def test_cancel_tells_the_app(setting):
    """A person who declines sends the app access_denied with the state it gave."""
    back = setting.person(decision="cancel").go_through(authorize_url(setting))

    assert back["error"] == "access_denied"
    assert back["error_subcode"] == "cancel"
    assert back["error_description"].startswith("AADSTS65004")
    assert back["state"] == "st"


def test_second_factor_is_asked(setting):
    """An account with a second factor gets an approval page and then the code."""
    setting.contoso.user(ALERTS).mfa = True

    assert "code" in setting.person().go_through(authorize_url(setting))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"redirect_uri": "https://evil.test/"}, 50011, id="foreign redirect"),
        pytest.param({"redirect_uri": "http://localhost.evil.test/"}, 50011, id="look-alike"),
        pytest.param({"redirect_uri": ""}, 900971, id="no redirect"),
        pytest.param({"client_id": "11111111-2222-3333-4444-555555555555"}, 700016, id="no app"),
        pytest.param({"client_id": ""}, 900144, id="no client id"),
        pytest.param({"tenant": "nowhere.example"}, 90002, id="no tenant"),
    ],
)
def test_page_says_what_must_not_go_to_the_app(setting, changes, code):
    """Where the redirect URI cannot be trusted, Entra shows a page and redirects nowhere."""
    answer = setting.http.get(authorize_url(setting, **changes), allow_redirects=False)

    assert answer.status_code == 400
    assert f"AADSTS{code}:" in answer.text


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"prompt": "none"}, 50058, id="silent"),
        pytest.param({"response_type": "token"}, 90100, id="response type"),
        pytest.param({"response_mode": "fragment"}, 90100, id="response mode"),
        pytest.param({"scope": "https://outlook.office.com/"}, 70011, id="no permission"),
        pytest.param({"scope": "https://api.test/Do"}, 500011, id="unknown resource"),
        pytest.param({"scope": ""}, 900144, id="no scope"),
        pytest.param({"code_challenge": "short"}, 50147, id="challenge length"),
    ],
)
def test_app_is_told_of_its_mistakes(setting, changes, code):
    """With a good redirect URI, mistakes in the request go back to the app."""
    back = setting.person().go_through(authorize_url(setting, **changes))

    assert back["error_description"].startswith(f"AADSTS{code}:")
    assert back["state"] == "st"


@pytest.mark.parametrize(
    ("address", "password", "code"),
    [
        pytest.param(ALERTS, "wrong", 50126, id="password"),
        pytest.param("nobody@contoso.example", "sandbox", 50034, id="no such user"),
        pytest.param("alerts@fabrikam.example", "sandbox", 50020, id="another tenant's"),
        pytest.param("someone@outlook.com", "sandbox", 50034, id="no such domain"),
    ],
)
def test_sign_in_is_refused(setting, address, password, code):
    """A wrong account or password stays on the sign-in page, with the reason."""
    with pytest.raises(StoppedAtPage, match=f"AADSTS{code}:"):
        setting.person(address, password=password).go_through(authorize_url(setting))


def test_disabled_account_cannot_sign_in(setting):
    """A disabled account is told so on the page."""
    setting.contoso.user(ALERTS).enabled = False

    with pytest.raises(StoppedAtPage, match="AADSTS50057:"):
        setting.person().go_through(authorize_url(setting))


def test_user_consent_may_need_an_administrator(setting):
    """Where users may not consent, only an administrator gets the consent page."""
    setting.contoso.user_consent_allowed = False

    back = setting.person().go_through(authorize_url(setting))
    assert back["error_description"].startswith("AADSTS90094:")
    assert "code" in setting.person(ADMIN).go_through(authorize_url(setting))


def test_admin_consent_covers_everyone(setting):
    """After an administrator's consent, users sign in without being asked."""
    setting.contoso.user_consent_allowed = False
    query = urlencode(
        {
            "client_id": setting.app.client_id,
            "redirect_uri": CALLBACK,
            "scope": f"{SCOPE} https://outlook.office365.com/.default",
            "state": "st",
        }
    )
    url = f"{setting.server.entra_url}/organizations/v2.0/adminconsent?{query}"

    back = setting.person(ADMIN).go_through(url)
    assert back["admin_consent"] == "True"
    assert back["tenant"] == setting.contoso.tenant_id
    assert back["state"] == "st"
    presence = setting.contoso.enterprise_apps[setting.app.client_id]
    assert presence.roles == {"https://outlook.office365.com/SMTP.SendAsApp"}
    assert "code" in setting.person(decision="cancel").go_through(authorize_url(setting))


def test_admin_consent_needs_an_administrator(setting):
    """Others are refused."""
    query = urlencode(
        {"client_id": setting.app.client_id, "redirect_uri": CALLBACK, "scope": SCOPE}
    )
    url = f"{setting.server.entra_url}/{setting.contoso.tenant_id}/v2.0/adminconsent?{query}"

    assert "AADSTS90094" in setting.person().go_through(url)["error_description"]


def test_single_tenant_app_stays_at_home(setting):
    """A single-tenant app works at its own tenant's endpoint only."""
    setting.app.multi_tenant = False

    assert "AADSTS50194:" in setting.http.get(authorize_url(setting, "common")).text
    assert "AADSTS700016:" in setting.http.get(authorize_url(setting, "fabrikam.example")).text
    assert "code" in setting.person().go_through(authorize_url(setting))


def test_sign_in_left_alone_ends(setting):
    """A sign-in page that was open for too long starts nothing any more."""
    page = setting.http.get(authorize_url(setting)).text
    key = page.partition('name="transaction" value="')[2].partition('"')[0]
    setting.clock.now += 901

    answer = setting.http.post(
        f"{setting.server.entra_url}/common/login", data={"transaction": key, "account": ALERTS}
    )
    assert answer.status_code == 400
    assert "AADSTS90100" in answer.text
