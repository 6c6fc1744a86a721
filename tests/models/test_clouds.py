from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from models.clouds import CLOUDS, DEFAULT_CLOUD, resolve
from models.errors import ConfigurationError

# learn.microsoft.com/entra/identity-platform/authentication-national-cloud
HOSTS = [
    ("worldwide", "login.microsoftonline.com", "smtp.office365.com", "outlook.office.com"),
    ("gcc", "login.microsoftonline.com", "smtp.office365.com", "outlook.office.com"),
    ("gcc-high", "login.microsoftonline.us", "smtp.office365.us", "outlook.office365.us"),
    ("dod", "login.microsoftonline.us", "outlook-dod.office365.us", "outlook.office365.us"),
    (
        "china",
        "login.partner.microsoftonline.cn",
        "smtp.partner.outlook.cn",
        "partner.outlook.cn",
    ),
]


@pytest.mark.parametrize(("name", "authority", "smtp", "audience"), HOSTS, ids=lambda v: v)
def test_each_cloud_has_its_own_hosts(name, authority, smtp, audience):
    """A cloud's name leads to the authority, host and audience that Microsoft runs there."""
    cloud = resolve(name)

    assert cloud.authority == f"https://{authority}"
    assert (cloud.smtp_host, cloud.smtp_port) == (smtp, 587)
    assert cloud.delegated_scope == f"https://{audience}/SMTP.Send"


def test_no_cloud_is_left_out_of_the_table():
    """Every cloud in the code stands in the table above, and the default is one of them."""
    assert set(CLOUDS) == {name for name, *_ in HOSTS}
    assert DEFAULT_CLOUD in CLOUDS


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=list(CLOUDS))
def test_every_address_is_one_that_msal_takes(cloud):
    """Authorities are bare https addresses, and scopes are whole URLs."""
    assert cloud.authority == f"https://{urlsplit(cloud.authority).hostname}"
    assert urlsplit(cloud.graph).scheme == "https"
    assert cloud.app_scope.startswith("https://")
    assert cloud.app_scope.endswith("/.default")


def test_an_unknown_cloud_names_the_known_ones():
    """Whoever misspells a cloud reads which ones there are."""
    with pytest.raises(ConfigurationError, match="worldwide, gcc, gcc-high, dod, china"):
        resolve("germany")
