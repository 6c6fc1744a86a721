"""The sign-in service asked through a proxy: real TLS through CONNECT, and each way it can fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from models.errors import ConfigurationError, TokenUnavailable
from models.proxies import Proxies
from models.secret_routes import AllowedHosts
from models.settings import Settings
from sandbox.authority import throwaway_authority
from tests.console.cli_setting import SandboxThread
from tests.fixtures.connect_proxy import ConnectProxy, running
from workers.entra_http import EntraHttp

NAME = "login.sandbox.test"
"""Known to the proxy alone."""


@pytest.fixture
def sandbox(sandbox_directory: Path) -> Iterator[SandboxThread]:
    thread = SandboxThread(sandbox_directory)
    yield thread
    thread.close()


@pytest.fixture
def proxy(sandbox: SandboxThread) -> Iterator[ConnectProxy]:
    with running(ConnectProxy(("127.0.0.1", port_of(sandbox)))) as one:
        yield one


def port_of(sandbox: SandboxThread) -> int:
    return urlsplit(sandbox.server.entra_url).port or 0


def ask(sandbox: SandboxThread, *, setting: str = "", host: str = NAME, **environment: str) -> int:
    """Fetch a tenant's configuration; the environment is what a shell would export."""
    http = EntraHttp(
        ca_file=str(sandbox.server.ca_file),
        timeout_seconds=5,
        hosts=AllowedHosts({NAME}),
        proxies=Proxies.of(setting, environment),
    )
    (directory, *_) = sandbox.server.world.directories.values()
    path = f"/{directory.tenant_id}/v2.0/.well-known/openid-configuration"
    return http.call().get(f"https://{host}{path}").status_code


def refused(sandbox: SandboxThread, **given: str) -> str:
    with pytest.raises(TokenUnavailable) as told:
        ask(sandbox, **given)
    return str(told.value)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_the_environments_proxy_is_used(
    sandbox: SandboxThread, proxy: ConnectProxy, variable: str
) -> None:
    """In either case of letters; the server's certificate is verified behind it."""
    assert ask(sandbox, **{variable: proxy.url}) == 200
    assert [line.rpartition(" ")[0] for line in proxy.asked] == [f"CONNECT {NAME}:443"]


def test_the_setting_beats_the_environment(sandbox: SandboxThread, proxy: ConnectProxy) -> None:
    """It names another, also without a scheme, or none at all."""
    away = "http://127.0.0.1:1"
    bare = proxy.url.removeprefix("http://")

    assert ask(sandbox, setting=bare, HTTPS_PROXY=away) == 200
    assert len(proxy.asked) == 1
    assert "proxy" not in refused(sandbox, setting="none", HTTPS_PROXY=proxy.url)
    assert len(proxy.asked) == 1


def test_a_proxy_that_speaks_tls(sandbox: SandboxThread, sandbox_directory: Path) -> None:
    """It is verified as well, and what it carries is verified within."""
    files = throwaway_authority(sandbox_directory)
    there = ("127.0.0.1", port_of(sandbox))
    with running(ConnectProxy(there, tls=files.server_context())) as proxy:
        assert ask(sandbox, HTTPS_PROXY=proxy.url) == 200


def test_a_proxy_that_demands_a_sign_in(sandbox: SandboxThread, proxy: ConnectProxy) -> None:
    """With it all is well; without, or with a wrong one, the text names proxy and variable."""
    proxy.login = "me:s3cret word"
    address = f"127.0.0.1:{proxy.port}"

    assert ask(sandbox, HTTPS_PROXY=f"http://me:s3cret%20word@{address}") == 200
    without = refused(sandbox, HTTPS_PROXY=proxy.url)
    wrong = refused(sandbox, HTTPS_PROXY=f"http://me:hushhush@{address}")

    for said in (without, wrong):
        assert "407" in said
        assert address in said
        assert "HTTPS_PROXY" in said
        assert "user:PASSWORD" in said
        assert "hushhush" not in said


@pytest.mark.parametrize("answer", ["502 No way", "403 Forbidden", "503 Later"])
def test_a_proxy_that_does_not_connect_us(
    sandbox: SandboxThread, proxy: ConnectProxy, answer: str
) -> None:
    """It is the proxy that is named, with what it said, not the sign-in service alone."""
    proxy.answer = answer

    said = refused(sandbox, HTTPS_PROXY=proxy.url)

    assert f"the proxy http://127.0.0.1:{proxy.port} (from HTTPS_PROXY)" in said
    assert answer in said
    assert NAME in said


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://me:hushhush@nowhere.invalid:3128"])
def test_a_proxy_that_cannot_be_reached(sandbox: SandboxThread, url: str) -> None:
    """The text says that it is the proxy, and no password."""
    said = refused(sandbox, ALL_PROXY=url)

    assert "the proxy http://" in said
    assert "(from ALL_PROXY)" in said
    assert "cannot be reached" in said
    assert "hushhush" not in said


def test_a_certificate_behind_a_proxy_is_verified(
    sandbox: SandboxThread, proxy: ConnectProxy, tmp_path: Path
) -> None:
    """One whose TLS is opened on the way is not trusted, and the proxy is named as the suspect."""
    http = EntraHttp(
        ca_file=str(throwaway_authority(tmp_path).ca_file),
        timeout_seconds=5,
        hosts=AllowedHosts({NAME}),
        proxies=Proxies.of("", {"HTTPS_PROXY": proxy.url}),
    )

    with pytest.raises(TokenUnavailable, match=r"no certificate that we trust.*proxy http://"):
        http.call().get(f"https://{NAME}/x")


@pytest.mark.parametrize("socks", ["socks5://127.0.0.1:1080", "socks5h://me:hushhush@x:1080"])
def test_a_socks_proxy_is_told(sandbox: SandboxThread, socks: str) -> None:
    """What cannot be used is named, not passed over in silence."""
    said = refused(sandbox, ALL_PROXY=socks)

    assert "ALL_PROXY" in said
    assert "SOCKS" in said
    assert "hushhush" not in said


def test_who_is_excepted_is_asked_directly(sandbox: SandboxThread, proxy: ConnectProxy) -> None:
    """NO_PROXY is heeded; loopback needs no exception."""
    here = f"127.0.0.1:{port_of(sandbox)}"

    assert ask(sandbox, host=here, HTTPS_PROXY=proxy.url) == 200
    assert ask(sandbox, host=here.replace("127.0.0.1", "localhost"), HTTPS_PROXY=proxy.url) == 200
    assert "proxy" not in refused(sandbox, HTTPS_PROXY=proxy.url, NO_PROXY="x, .sandbox.test")
    assert proxy.asked == []


def proxied(host: str, besides: str, port: int = 443) -> bool:
    given = Proxies.of("", {"https_proxy": "proxy:3128", "NO_PROXY": besides})
    return given.for_host(host, port) is not None


@pytest.mark.parametrize(
    ("host", "besides", "through"),
    [
        ("login.microsoftonline.com", "", True),
        ("login.microsoftonline.com", "*", False),
        ("login.microsoftonline.com", "microsoftonline.com", False),
        ("login.microsoftonline.com", ".microsoftonline.com", False),
        ("login.microsoftonline.com", "*.microsoftonline.com", False),
        ("login.microsoftonline.com", "softonline.com", True),
        ("LOGIN.MicrosoftOnline.com.", "a, Login.microsoftonline.COM", False),
        ("login.microsoftonline.com", "login.microsoftonline.com:443", False),
        ("login.microsoftonline.com", "login.microsoftonline.com:8443", True),
        ("10.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", False),
        ("11.1.2.3", "10.0.0.0/8", True),
        ("fd00::5", "fd00::/8", False),
        ("10.1.2.3", "not/a/network", True),
        ("localhost", "", False),
        ("127.8.8.8", "", False),
        ("::1", "", False),
        ("x.localhost", "", False),
    ],
)
def test_what_no_proxy_excepts(host: str, besides: str, through: bool) -> None:
    """Names with what is below them, ports, addresses, networks; as curl and Go read it."""
    assert proxied(host, besides) is through


@pytest.mark.parametrize(
    "value", ["socks5://x:1", "ftp://x", "http://", "http://me:hush@h:port", "http://[::1"]
)
def test_a_wrong_setting_is_refused_where_it_is_read(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """The line names the variable and repeats no password."""
    monkeypatch.setenv("ALERTPOST_HTTPS_PROXY", value)

    with pytest.raises(ConfigurationError, match=r"^ALERTPOST_HTTPS_PROXY: ") as told:
        Settings.load()

    assert "hush" not in str(told.value)


def test_the_setting_is_masked() -> None:
    """Of user and password either may be the secret."""
    settings = Settings.load(https_proxy="http://user:hushhush@proxy.example:3128")

    assert settings.masked()["https_proxy"] == "http://***@proxy.example:3128"
    assert "hushhush" not in repr(settings)
    assert "hushhush" not in repr(Proxies.of(settings.https_proxy))
