import json
import time

import pytest
import requests
from msal.exceptions import MsalServiceError

from sandbox.entra_errors import REFUSALS
from sandbox.entra_faults import EntraFault, EntraFaultKind
from tests.sandbox.entra_setting import ALERTS


def inject(setting, kind, **kw):
    return setting.world.entra_faults.add(EntraFault(EntraFaultKind(kind), **kw))


@pytest.mark.parametrize("row", REFUSALS.values(), ids=lambda row: str(row.code))
def test_every_row_on_demand(shared_setting, row):
    """MSAL gets each AADSTS answer as Entra gives it: as an error, or as a failure of the service."""
    inject(shared_setting, "aadsts", code=row.code, remaining=1)
    client, token = shared_setting.client(), shared_setting.grant()

    if row.status >= 500:
        with pytest.raises(MsalServiceError):
            shared_setting.refresh(token, client=client)
    else:
        refused = shared_setting.refresh(token, client=client)
        assert refused["error"] == row.error
        assert refused["error_codes"] == [row.code]
        assert refused["error_description"].startswith(f"AADSTS{row.code}: {row.text} Trace ID: ")
        assert refused.get("suberror", "") == row.suberror
        assert refused["trace_id"] in refused["error_description"]
    assert shared_setting.world.entra_faults.as_json() == []


def test_correlation_id_is_the_callers(setting):
    """The id that the client sent with its request comes back in the answer."""
    inject(setting, "aadsts", code=50076)
    answer = setting.http.post(
        f"{setting.server.entra_url}/contoso.example/oauth2/v2.0/token",
        headers={"client-request-id": "my-own"},
    )
    assert answer.json()["correlation_id"] == "my-own"


def test_status_and_error_may_be_overridden(setting):
    """The same code is seen with another OAuth error or status."""
    inject(setting, "aadsts", code=50076, error="invalid_grant", status=401)
    answer = setting.post_token(grant_type="refresh_token")

    assert answer.status_code == 401
    assert answer.json()["error"] == "invalid_grant"


def test_throttling_tells_when_to_come_back(setting):
    """429 carries Retry-After; MSAL then asks no more until that time."""
    inject(setting, "throttled", retry_after_seconds=17)
    answer = setting.post_token(grant_type="refresh_token")
    client, token = setting.client(), setting.grant()
    first = setting.refresh(token, client=client)
    setting.world.entra_faults.clear()
    second = setting.refresh(token, client=client)

    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "17")
    assert first["error"] == second["error"] == "temporarily_unavailable"
    assert setting.world.ledger.by_grant_type["refresh_token", "throttled"] == 2
    assert setting.world.ledger.refreshes == 0


def test_unavailable(setting):
    """503 without an OAuth error makes MSAL raise."""
    inject(setting, "unavailable", retry_after_seconds=3)

    assert setting.post_token().headers["Retry-After"] == "3"
    with pytest.raises(MsalServiceError):
        setting.refresh(setting.grant())


def test_answer_that_is_no_json(setting):
    """A page instead of JSON, as captive portals send it, makes MSAL fail to read."""
    inject(setting, "not_json")

    with pytest.raises(json.JSONDecodeError):
        setting.refresh(setting.grant())


@pytest.mark.parametrize(("kind", "refreshes"), [("cut", 0), ("cut_after", 1)])
def test_line_is_cut(setting, kind, refreshes):
    """The line is cut without an answer, before or after the token was rotated."""
    token = setting.grant()
    client = setting.client()
    inject(setting, kind, remaining=1)

    with pytest.raises(requests.ConnectionError):
        setting.refresh(token, client=client)
    assert setting.world.ledger.refreshes == refreshes
    assert "access_token" in setting.refresh(token)


def test_lost_answer_under_strict_rotation_ends_the_grant(setting):
    """Where the answer with the new token was lost and rotation is strict, the old token is dead."""
    setting.contoso.strict_rotation = True
    token = setting.grant()
    client = setting.client()
    inject(setting, "cut_after", remaining=1)

    with pytest.raises(requests.ConnectionError):
        setting.refresh(token, client=client)
    assert setting.refresh(token)["error_codes"] == [50173]


def test_slow_answer(setting):
    """A slow answer comes after its time, and a client that gave up earlier has been served."""
    token = setting.grant()
    inject(setting, "slow", seconds=0.3)
    began = time.monotonic()

    assert "access_token" in setting.refresh(token)
    assert time.monotonic() - began >= 0.3
    setting.world.entra_faults.clear()
    inject(setting, "slow", seconds=60)
    with pytest.raises(requests.Timeout):
        setting.http.post(
            f"{setting.server.entra_url}/contoso.example/oauth2/v2.0/token",
            data={
                "grant_type": "refresh_token",
                "client_id": setting.app.client_id,
                "client_secret": setting.app.client_secrets[0].value,
                "refresh_token": token,
            },
            timeout=0.2,
        )
    assert setting.world.ledger.refreshes == 2


def test_outage_reaches_discovery(setting):
    """Faults may strike the OpenID configuration, so that not even a client can be made."""
    inject(setting, "unavailable", endpoint="discovery")

    with pytest.raises(MsalServiceError):
        setting.client()


def test_fault_strikes_whom_it_names(setting):
    """A fault for one user, counted, leaves the others alone and ends by itself."""
    inject(setting, "aadsts", code=50173, user=ALERTS.upper(), remaining=2)
    mine, other = setting.grant(), setting.grant("alerts@fabrikam.example")
    fabrikam = setting.client("fabrikam.example")

    assert "access_token" in setting.refresh(other, client=fabrikam)
    assert [setting.refresh(mine).get("error_codes") for _ in range(3)] == [[50173], [50173], None]
    assert setting.world.ledger.aadsts == {50173: 2}
    assert setting.world.ledger.by_user[ALERTS] == {"aadsts": 2, "ok": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "aadsts", "code": 1},
        {"kind": "slow", "remaining": 0},
        {"kind": "cut", "endpoint": "authorize"},
        {"kind": "cut", "endpoint": "discovery", "user": ALERTS},
    ],
)
def test_fault_that_makes_no_sense(setting, wrong):
    """A fault that could never strike is refused where it is made."""
    with pytest.raises(ValueError, match=r"code|remaining|endpoint|discovery"):
        inject(setting, wrong.pop("kind"), **wrong)


def test_a_code_that_the_table_lacks_is_made_up(setting):
    """Numbers appear without notice; what a client makes of one can be tried beforehand."""
    inject(setting, "aadsts", code=59999, error="invalid_grant", text="Something new.")
    answer = setting.post_token(grant_type="refresh_token")

    assert answer.json()["error_codes"] == [59999]
    assert answer.json()["error_description"].startswith("AADSTS59999: Something new. Trace ID: ")
    with pytest.raises(ValueError, match="59999"):
        inject(setting, "aadsts", code=59999)


def test_another_provider_gives_no_number(setting):
    """RFC 6749 knows an error and a sentence."""
    inject(setting, "oauth", error="invalid_client", text="No.", status=401)
    answer = setting.post_token(grant_type="refresh_token")

    assert answer.status_code == 401
    assert answer.json() == {"error": "invalid_client", "error_description": "No."}
    with pytest.raises(ValueError, match="error"):
        inject(setting, "oauth")
