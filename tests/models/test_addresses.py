from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.addresses import Address, checked_name, parse_address

ACCEPTED = [
    pytest.param("ops@contoso.example", "", "ops@contoso.example", id="plain"),
    pytest.param("OPS@Contoso.EXAMPLE", "", "OPS@contoso.example", id="case"),
    pytest.param("  ops@contoso.example ", "", "ops@contoso.example", id="outer-spaces"),
    pytest.param("<ops@contoso.example>", "", "ops@contoso.example", id="brackets-only"),
    pytest.param("NOC <noc@contoso.example>", "NOC", "noc@contoso.example", id="name"),
    pytest.param('"Doe, Jane" <j@x.example>', "Doe, Jane", "j@x.example", id="quoted-comma"),
    pytest.param(r'"a \"b\" \\" <j@x.example>', 'a "b" \\', "j@x.example", id="escapes"),
    pytest.param("a@x.example <a@x.example>", "a@x.example", "a@x.example", id="address-as-name"),
    pytest.param("O'Neil+tag@x.example", "", "O'Neil+tag@x.example", id="atext"),
    pytest.param("a@bücher.example", "", "a@xn--bcher-kva.example", id="umlaut-domain"),
    pytest.param("a@BÜCHER.example", "", "a@xn--bcher-kva.example", id="uts46-case"),
    pytest.param("a@例え。jp", "", "a@xn--r8jz45g.jp", id="ideographic-dot"),
    pytest.param("a@xn--i-7iq.ws", "", "a@xn--i-7iq.ws", id="emoji-domain-as-a-label"),
    pytest.param("用户@例え.jp", "", "用户@xn--r8jz45g.jp", id="utf8-local"),
    pytest.param("שלום <a@x.example>", "שלום", "a@x.example", id="right-to-left-name"),
    pytest.param("👩‍🚒 <a@x.example>", "👩‍🚒", "a@x.example", id="joined-emoji-name"),
    pytest.param("u\u0308@x.example", "", "ü@x.example", id="nfc"),
]

REFUSED = [
    pytest.param("", id="empty"),
    pytest.param("nobody", id="no-at"),
    pytest.param("@x.example", id="no-local"),
    pytest.param("a@", id="no-domain"),
    pytest.param("a@localhost", id="single-label"),
    pytest.param("a@192.0.2.1", id="ip"),
    pytest.param("a@[192.0.2.1]", id="literal"),
    pytest.param("a@x..example", id="empty-label"),
    pytest.param("a@x.example.", id="root-dot"),
    pytest.param("a@-x.example", id="leading-hyphen"),
    pytest.param("a@x.example-", id="trailing-hyphen"),
    pytest.param("a@x_y.example", id="underscore"),
    pytest.param("a@" + "x" * 64 + ".example", id="long-label"),
    pytest.param("a@" + "x." * 126 + "xx", id="long-domain"),
    pytest.param("a" * 65 + "@x.example", id="long-local"),
    pytest.param("ü" * 33 + "@x.example", id="long-local-in-octets"),
    pytest.param("a" * 64 + "@" + "x." * 94 + "xx", id="long-address"),
    pytest.param("a" * 1001, id="very-long"),
    pytest.param("n" * 201 + " <a@x.example>", id="long-name"),
    pytest.param(".a@x.example", id="leading-dot"),
    pytest.param("a.@x.example", id="trailing-dot"),
    pytest.param("a..b@x.example", id="double-dot"),
    pytest.param("a b@x.example", id="space"),
    pytest.param('"a b"@x.example', id="quoted-local"),
    pytest.param("a@x.example, b@x.example", id="list"),
    pytest.param("a@x.example,b", id="comma-in-domain"),
    pytest.param("a;b@x.example", id="semicolon"),
    pytest.param("x, y <a@x.example>", id="unquoted-comma"),
    pytest.param("group: x <a@x.example>", id="group"),
    pytest.param('"x <b@y.example>" <a@x.example>', id="brackets-in-quotes"),
    pytest.param("<b@y.example> <a@x.example>", id="two-brackets"),
    pytest.param("a@x.example>", id="unopened"),
    pytest.param("a(b)@x.example", id="comment"),
    pytest.param("a@x.example\r\nBcc: b@y.example", id="header-injection"),
    pytest.param("a@x.example\n", id="line-feed"),
    pytest.param("x\r\nBcc: b@y.example\r\n <a@x.example>", id="injection-in-name"),
    pytest.param("x\x00 <a@x.example>", id="nul-in-name"),
    pytest.param("x\u2028 <a@x.example>", id="line-separator"),
    pytest.param("x\u202e <a@x.example>", id="override-in-name"),
    pytest.param("x\ud800 <a@x.example>", id="surrogate-in-name"),
    pytest.param("a\u202eb@x.example", id="override"),
    pytest.param("a\u200bb@x.example", id="zero-width"),
    pytest.param("a\ud800@x.example", id="surrogate"),
    pytest.param("a\x85@x.example", id="c1"),
    pytest.param("a@x\u202e.example", id="override-in-domain"),
    pytest.param("a@x\u200fé.example", id="mark-in-domain"),
    pytest.param("a@x\ud800.example", id="surrogate-in-domain"),
    pytest.param("a@x\u037e.example", id="greek-question-mark"),
    pytest.param("a@i❤.ws", id="emoji-domain"),
    pytest.param("a@\uff20.example", id="wide-at"),
]


@pytest.mark.parametrize(("text", "name", "spec"), ACCEPTED)
def test_reads(text: str, name: str, spec: str) -> None:
    """A usual address is read into its name and its envelope form."""
    address = parse_address(text)

    assert (address.name, address.spec) == (name, spec)


@pytest.mark.parametrize("text", REFUSED)
def test_refuses(text: str) -> None:
    """What is not exactly one safe address is refused, without being quoted."""
    with pytest.raises(ValueError, match=r"^(has|is) ") as caught:
        parse_address(text)

    assert len(text) < 8 or text not in str(caught.value)


def test_shows_u_labels() -> None:
    """People read the domain in its own script, the envelope has it in ASCII."""
    address = parse_address("a@xn--bcher-kva.example")

    assert address.unicode_spec == "a@bücher.example"
    assert not address.needs_smtputf8


def test_utf8_local_part_asks_for_smtputf8() -> None:
    """Only letters before the @ need the extension."""
    assert parse_address("jürgen@x.example").needs_smtputf8


def test_label_that_idna_cannot_decode_is_shown_as_it_is() -> None:
    """A domain from before IDNA 2008 can be mailed to."""
    assert parse_address("a@xn--i-7iq.ws").unicode_domain == "xn--i-7iq.ws"


@given(st.text(max_size=60), st.from_regex(r"[a-z]{1,9}@[a-z]{1,9}\.example", fullmatch=True))
def test_text_form_reads_back(name: str, spec: str) -> None:
    """Every address that was accepted reads back from its own text."""
    try:
        safe = checked_name(name)
    except ValueError:
        return
    local, _, domain = spec.partition("@")
    address = Address(safe, local, domain, domain)

    assert parse_address(str(address)) == address


@given(st.text(max_size=40))
def test_nothing_dangerous_gets_through(text: str) -> None:
    """Whatever is accepted holds one @ in its envelope form, and nothing that ends a command."""
    try:
        address = parse_address(text + "@x.example")
    except ValueError:
        return

    assert address.spec.count("@") == 1
    assert not set(address.spec) & set(' \r\n\t\0<>,;:"()[]\\\u2028\u2029\x85')
    assert address.spec.isprintable()
