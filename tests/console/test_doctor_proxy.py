"""``alertpost doctor`` where the sign-in service is behind a proxy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.console.cli_setting import Cli
from tests.fixtures.connect_proxy import ConnectProxy, running

LINKS = ("sign_in_dns", "sign_in_connect", "sign_in_tls", "discovery")


@pytest.fixture
def proxy(cli: Cli) -> Iterator[ConnectProxy]:
    """One that alone knows the sign-in service's name."""
    port = urlsplit(cli.sandbox.entra_url).port or 0
    cli.monkeypatch.setenv("ALERTPOST_ALLOWED_HOSTS", "login.sandbox.test")
    with running(ConnectProxy(("127.0.0.1", port))) as one:
        assert cli.add_tenant().code == 0
        there = ("--authority", "https://login.sandbox.test", "--force")
        assert cli("tenants", "edit", "contoso", *there).code == 0
        assert cli("mailboxes", "add", "contoso", "alerts@contoso.example").code == 0
        cli.monkeypatch.setenv("HTTPS_PROXY", one.url)
        yield one


def looked(cli: Cli) -> dict[str, Any]:
    return {check["check"]: check for check in cli("doctor", "contoso", "--json").json}


def test_the_proxy_is_shown_and_used(cli: Cli, proxy: ConnectProxy) -> None:
    """A name that only the proxy knows is no fault; where the proxy's name comes from is told."""
    found = looked(cli)

    assert [found[link]["result"] for link in LINKS] == ["ok"] * len(LINKS)
    assert f"the proxy {proxy.url} (from HTTPS_PROXY)" in found["settings"]["seen"]
    assert "resolved by the proxy" in found["sign_in_dns"]["seen"]
    assert "certificate for" in found["sign_in_tls"]["seen"]


def test_a_proxy_that_demands_a_sign_in(cli: Cli, proxy: ConnectProxy) -> None:
    """The link fails, with the variable that takes user and password."""
    proxy.login = "me:right"
    cli.monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:hushhush@"))

    ran = cli("doctor", "contoso", "--json")

    found = {check["check"]: check for check in ran.json}
    assert (ran.code, found["sign_in_tls"]["result"]) == (1, "failed")
    assert "407" in found["sign_in_tls"]["seen"]
    assert "HTTPS_PROXY" in found["sign_in_tls"]["mend"]
    assert "hushhush" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("http://nowhere.invalid:3128", "sign_in_dns"),
        ("http://127.0.0.1:1", "sign_in_connect"),
        ("socks5://127.0.0.1:1080", "sign_in_dns"),
    ],
)
@pytest.mark.usefixtures("proxy")
def test_a_proxy_that_is_of_no_use(cli: Cli, url: str, link: str) -> None:
    """It is the proxy that is named, and how to change it."""
    cli.monkeypatch.setenv("HTTPS_PROXY", url)

    found = looked(cli)

    assert found[link]["result"] == "failed"
    assert f"proxy {url} (from HTTPS_PROXY)" in found[link]["seen"]
    assert "HTTPS_PROXY" in found[link]["mend"]
