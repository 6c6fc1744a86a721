"""Whatever a host is called, what is said of it is legal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import host_name
from models.errors import ConfigurationError
from models.host_name import LITERAL, ehlo_name, is_domain, is_literal, shown_name
from models.settings import Settings

FULL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]*[A-Za-z0-9])?")


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("mail.example.com", "mail.example.com"),
        ("mail.example.com.", "mail.example.com"),
        ("Web-01.corp.example", "Web-01.corp.example"),
        ("3com.example", "3com.example"),
        ("b\u00fcro.example", "xn--bro-hoa.example"),
        ("localhost", LITERAL),
        ("", LITERAL),
        (" ", LITERAL),
        (".", LITERAL),
        ("web01", LITERAL),
        ("my_app.internal", LITERAL),
        ("_.example", LITERAL),
        ("a..example", LITERAL),
        (".example.com", LITERAL),
        ("mail.example.com..", LITERAL),
        ("-web.example", LITERAL),
        ("web-.example", LITERAL),
        ("my app.example", LITERAL),
        ("10.0.0.5", LITERAL),
        ("host.123", LITERAL),
        ("2001:db8::1", LITERAL),
        ("(none)", LITERAL),
        (f"{'a' * 64}.example", LITERAL),
        (f"{'a.' * 128}example", LITERAL),
        ("web.example\r\nMAIL FROM:<x>", LITERAL),
        ("\udcff.example", LITERAL),
        ("\u2603.example", LITERAL),
        ("b\u00fcro\u3002example", "xn--bro-hoa.example"),
        ("host.3com", LITERAL),
    ],
)
def test_a_host_name_is_taken_where_it_is_legal(host: str, said: str) -> None:
    """A full domain name, in ASCII, without the dot of the root; else the address literal."""
    assert ehlo_name(host) == said


@given(st.text(max_size=300))
def test_nothing_illegal_is_ever_said(host: str) -> None:
    """Whatever the host is called, EHLO says a full domain name or an address in brackets."""
    said = ehlo_name(host)

    assert said == LITERAL or (FULL.fullmatch(said) and len(said) <= 255)
    assert re.fullmatch(r"[A-Za-z0-9.-]+", shown_name(host))


def test_a_name_that_the_system_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Octets that are no text, or no answer: the literal."""

    def fails() -> str:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setattr(host_name.socket, "gethostname", fails)

    assert ehlo_name() == LITERAL
    assert shown_name() == "host"


@pytest.mark.parametrize(
    "name", ["mail.example.com", "mailhost", "[192.0.2.1]", "[IPv6:2001:db8::1]", "[ipv6:::1]"]
)
def test_a_legal_setting_is_taken(name: str) -> None:
    """A domain name or an address literal."""
    assert Settings.load(smtp={"ehlo_name": name}).smtp.ehlo_name == name
    assert is_domain(name) or is_literal(name)


@pytest.mark.parametrize(
    "name",
    [
        "my_app.internal", "a..b", "mail.example.com.", "10.0.0.5", "[10.0.0.500]", "[::1]",
        "[IPv6:fe80::1%eth0]", "[]", "b\u00fcro.example", "-a.example", "a b", f"{'a' * 64}.example",
        "[mail.example.com]",
    ],
)  # fmt: skip
def test_an_illegal_setting_is_refused_where_it_is_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text names the variable, and shows what would be right."""
    monkeypatch.setenv("ALERTPOST_SMTP__EHLO_NAME", name)

    with pytest.raises(ConfigurationError) as refused:
        Settings.load()

    assert str(refused.value).startswith("ALERTPOST_SMTP__EHLO_NAME: must be a domain name")
    assert "[192.0.2.1]" in str(refused.value)
