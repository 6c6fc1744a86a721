from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import directory_rules as rules
from models.errors import ConfigurationError
from tests.models.directory_parts import CERTIFICATE, make_revocation_list

GOOD = [
    (rules.slug, "a", "a"),
    (rules.slug, "contoso-2", "contoso-2"),
    (rules.slug, "a" * 63, "a" * 63),
    (
        rules.directory_id,
        " 8F2E1D3C-0000-4000-8000-00000000ABCD ",
        "8f2e1d3c-0000-4000-8000-00000000abcd",
    ),
    (rules.directory_id, "Contoso.onmicrosoft.com", "contoso.onmicrosoft.com"),
    (rules.client_id, "alertpost", "alertpost"),
    (rules.app_name, "MSP main app", "MSP main app"),
    (rules.authority, "https://login.microsoftonline.us/", "https://login.microsoftonline.us"),
    (rules.authority, "https://Localhost:8443", "https://localhost:8443"),
    (rules.authority, "https://[::1]:8443", "https://[::1]:8443"),
    (rules.oidc_authority, "https://id.example/realms/a", "https://id.example/realms/a"),
    (rules.smtp_host, "Smtp.Office365.com", "smtp.office365.com"),
    (rules.smtp_host, "127.0.0.1", "127.0.0.1"),
    (rules.smtp_host, "[::1]", "::1"),
    (rules.smtp_host, "::1", "::1"),
    (rules.smtp_port, 1, 1),
    (rules.smtp_port, 65535, 65535),
    (rules.scope, "https://a/.default", "https://a/.default"),
    (rules.scope, "openid   mail", "openid mail"),
    (rules.uncertain_policy, "hold", "hold"),
    (rules.max_message_bytes, 36_700_160, 36_700_160),
    (rules.tenant_name, " Müller & Söhne ", "Müller & Söhne"),
    (rules.mailbox_address, "Alerts@Contoso.example", "alerts@contoso.example"),
    (rules.display_name, "Contoso alerts", "Contoso alerts"),
    (rules.auth_user, "Svc@Contoso.example", "svc@contoso.example"),
    (
        rules.notify,
        {"default": ["Ops <ops@contoso.example>"], "critical": []},
        {"default": ['"Ops" <ops@contoso.example>']},
    ),
]

BAD = [
    (rules.slug, "", "lower-case"),
    (rules.slug, "-a", "lower-case"),
    (rules.slug, "Contoso", "lower-case"),
    (rules.slug, "a" * 64, "63"),
    (rules.slug, "a\n", "lower-case"),
    (rules.directory_id, "common", "the customer's own"),
    (rules.directory_id, "contoso", "neither a GUID nor a domain"),
    (rules.directory_id, "contoso.com/x", "neither a GUID nor a domain"),
    (rules.client_id, "", "Application"),
    (rules.client_id, "a b", "without spaces"),
    (rules.app_name, "", "1 to 100"),
    (rules.authority, "http://login.microsoftonline.com", "begins with https://"),
    (rules.authority, "login.microsoftonline.com", "begins with https://"),
    (rules.authority, "https://login.microsoftonline.com/contoso", "without a path"),
    (rules.authority, "https://user:pw@host", "without user"),
    (rules.authority, "https://host:99999", "not a URL"),
    (rules.authority, "https://host?x=1", "question mark"),
    (rules.authority, "https://", "begins with https://"),
    (rules.oidc_authority, "https://id.example/realms/a/", "slash at the end"),
    (rules.oidc_authority, "http://id.example/realms/a", "begins with https://"),
    (rules.smtp_host, "smtp.office365.com:587", "port is a setting of its own"),
    (rules.smtp_host, "", "not a host name"),
    (rules.smtp_host, "a b", "not a host name"),
    (rules.smtp_port, 0, "between 1 and 65535"),
    (rules.smtp_port, 65536, "between 1 and 65535"),
    (rules.scope, "  ", "at least one"),
    (rules.uncertain_policy, "drop", "resend"),
    (rules.max_message_bytes, 5, "bytes"),
    (rules.tenant_name, "a\nb", "printable"),
    (rules.mailbox_address, "alerts", "no @"),
    (rules.mailbox_address, "Alerts <alerts@contoso.example>", "bare address"),
    (rules.mailbox_address, "somebody@Outlook.com", "personal accounts"),
    (rules.display_name, "a\r\nBcc: x", "line break"),
    (rules.auth_user, "svc", "may send as it"),
    (rules.notify, {"urgent": ["a@b.example"]}, "default, critical"),
    (rules.notify, {"default": ["a@b.example", "nobody"]}, "address 2"),
    (rules.ca_file, "/nowhere/at/all.pem", "cannot be read: No such file"),
    (rules.ca_file, "ca\x00.pem", "cannot be read"),
    (rules.ca_file, "~nobody-of-that-name/ca.pem", "cannot be read"),
]


def _name(value):
    return value.__name__ if callable(value) else None


@pytest.mark.parametrize(("rule", "given", "kept"), GOOD, ids=_name)
def test_good_values_are_kept_in_one_form(rule, given, kept):
    """A valid value enters the directory in its canonical form, which is valid in turn."""
    assert rule(given) == kept
    assert rule(kept) == kept


@pytest.mark.parametrize(("rule", "given", "part"), BAD, ids=_name)
def test_bad_values_say_what_would_be_right(rule, given, part):
    """An invalid value is refused with words that lead to a valid one."""
    with pytest.raises(ConfigurationError) as caught:
        rule(given)

    assert part in str(caught.value)


def test_an_authority_with_credentials_is_not_repeated():
    """What may hold a password does not end up in the error."""
    with pytest.raises(ConfigurationError) as caught:
        rules.authority("https://user:hunter2@host")

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n", make_revocation_list()],
    ids=["empty", "text", "cut", "revocation list"],
)
def test_a_ca_file_without_certificates_is_refused(tmp_path, content):
    """A file that would trust nobody is noticed when it is given, not at the first mail."""
    path = tmp_path / "ca.pem"
    path.write_text(content)

    with pytest.raises(ConfigurationError, match="certificate"):
        rules.ca_file(str(path))


def test_a_ca_file_is_kept_by_its_whole_path(tmp_path, monkeypatch):
    """A relative path still leads to the file when a worker runs elsewhere."""
    path = tmp_path / "ca.pem"
    path.write_text(f"# Autorité de Contoso\n{CERTIFICATE.pem}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    assert rules.ca_file("ca.pem") == str(path)


@given(st.text())
def test_no_text_gets_past_a_rule_unchecked(text):
    """Whatever is typed in is either refused in our words or kept."""
    checks = (
        rules.slug, rules.app_name, rules.directory_id, rules.client_id, rules.authority,
        rules.oidc_authority, rules.smtp_host, rules.scope, rules.tenant_name,
        rules.mailbox_address, rules.display_name, rules.auth_user,
    )  # fmt: skip
    for check in checks:
        try:
            kept = check(text)
        except ConfigurationError:
            continue
        assert "\n" not in kept
        assert check(kept) == kept


@given(st.text())
def test_every_address_kept_is_https(text):
    """No authority gets in that MSAL would refuse."""
    for check in (rules.authority, rules.oidc_authority):
        try:
            assert check("https://" + text).startswith("https://")
        except ConfigurationError:
            continue
