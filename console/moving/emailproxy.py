"""
Configuration files of the Email OAuth 2.0 Proxy (``emailproxy.config``).

An INI file. A section with an ``@`` in its name is an account: ``token_url``, ``client_id``,
``client_secret`` or ``client_secret_encrypted``, ``oauth2_flow``, ``refresh_token`` and the like.
What is encrypted is a Fernet token, its key made by PBKDF2 (HMAC with SHA-256) from ``token_salt``
and the password of the account's mail client. With ``allow_catch_all_accounts`` an account takes
what it does not say from ``[@its.domain]``, then from ``[@]``. With ``--cache-store`` the proxy
keeps what it got in a second file of the same form.

Source:
    github.com/simonrob/email-oauth2-proxy: emailproxy.py (``Cryptographer``, ``AppConfig``,
    ``OAuth2Helper.get_oauth2_credentials``), emailproxy.config.
"""

from __future__ import annotations

import base64
import binascii
import configparser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from shlex import quote

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from console.moving.found import FoundGrant, read_endpoint
from console.moving.placeholders import is_placeholder
from console.moving.reading import read_text
from models import grants
from models.app_registrations import Credential
from models.errors import ConfigurationError

PROGRAM = "emailproxy"
_GLOBAL = "emailproxy"
_KEPT = (
    "refresh_token", "token_salt", "token_iterations", "client_secret_encrypted", "access_token",
)  # fmt: skip
"""What the proxy writes; with ``--cache-store`` into that file alone."""

_FIRST_ITERATIONS = 100_000
"""What the proxy took before it wrote the number down."""

_PRESENT_ITERATIONS = 1_200_000
_MOST_ITERATIONS = 50_000_000

Passwords = Callable[[str], Sequence[str]]
"""Gives passwords to try for an account; empty where nobody knows any."""


@dataclass(frozen=True, slots=True)
class BadAccount:
    """An account that cannot be taken over, and why."""

    address: str
    reason: str


class ProxyFile:
    """A configuration of the proxy, read once."""

    def __init__(self, path: str, *, cache_store: str | None = None) -> None:
        """
        Read the file.

        Args:
            path: The configuration.
            cache_store: What the proxy was given as ``--cache-store``: a second file; None: there
                is none.

        Raises:
            ConfigurationError: It cannot be read, or is no such file.
        """
        if cache_store is not None and cache_store.startswith("aws:"):
            raise ConfigurationError(
                "--cache-store: a secrets manager is not read from here; start the proxy once with "
                "--cache-store FILE, or save the secret as a file of the same form"
            )
        self._config = _parsed(path)
        if cache_store is not None:
            kept = _parsed(cache_store)
            for account in (name for name in kept.sections() if "@" in name):
                if not self._config.has_section(account):
                    self._config.add_section(account)
                for option in _KEPT:
                    if kept.has_option(account, option):
                        self._config.set(account, option, kept.get(account, option))
        self._catch_all = self._flag("allow_catch_all_accounts")
        self.accounts = [
            name
            for name in self._config.sections()
            if "@" in name and not (name.startswith("@") and self._catch_all)
        ]
        if not self.accounts:
            raise ConfigurationError(
                f"{path} has no account: no section is named by an address, such as "
                "[alerts@example.com]"
            )

    def needs_password(self, account: str) -> bool:
        """Whether something that is needed of an account is encrypted."""
        if self._kind(account) == grants.APP_ONLY:
            return not self._get(account, "client_secret") and bool(
                self._get(account, "client_secret_encrypted")
            )
        return bool(self._get(account, "refresh_token"))

    def find(self, account: str, passwords: Passwords) -> FoundGrant | BadAccount:
        """
        Read what the proxy keeps of an account.

        Args:
            account: One of ``accounts``.
            passwords: Asked only where something is encrypted.
        """
        try:
            return self._find(account, passwords)
        except ConfigurationError as error:
            return BadAccount(account, str(error))

    def _find(self, account: str, passwords: Passwords) -> FoundGrant:
        flow, client_id = self._get(account, "oauth2_flow"), self._get(account, "client_id")
        if flow == "service_account":
            raise ConfigurationError("it is a service account of Google; only Microsoft 365 moves")
        if not self._get(account, "token_url"):
            raise ConfigurationError("its section names no token_url")
        endpoint = read_endpoint(self._get(account, "token_url"))
        if not client_id:
            raise ConfigurationError("its section names no client_id")
        if is_placeholder(client_id):
            raise ConfigurationError(
                f"its client_id is still the placeholder of the packaged file ({client_id[:60]!r})"
            )
        kind = self._kind(account)
        sealed = self._get(account, "refresh_token")
        if kind == grants.DELEGATED and not sealed:
            raise ConfigurationError(
                "the proxy has no refresh token of it: it was never signed in, or the sign-in was "
                f"refused since; `alertpost mailboxes connect {quote(account)}` asks for consent"
            )
        opener = None
        if self.needs_password(account):
            proof = sealed if kind == grants.DELEGATED else ""
            opener = self._opener(
                account, passwords, proof or self._get(account, "client_secret_encrypted")
            )
        return FoundGrant(
            program=PROGRAM,
            address=account,
            kind=kind,
            client_id=client_id,
            credential=self._credential(account, opener),
            endpoint=endpoint,
            refresh_token=opener(sealed) if opener and kind == grants.DELEGATED else None,
        )

    def _kind(self, account: str) -> str:
        app_only = self._get(account, "oauth2_flow") == "client_credentials"
        return grants.APP_ONLY if app_only else grants.DELEGATED

    def _credential(self, account: str, opener: Callable[[str], str] | None) -> Credential | None:
        secret = self._get(account, "client_secret")
        if not secret and opener and (sealed := self._get(account, "client_secret_encrypted")):
            secret = opener(sealed)
        if secret:
            return None if is_placeholder(secret) else Credential.secret(secret)
        certificate = self._get(account, "jwt_certificate_path")
        key = self._get(account, "jwt_key_path")
        if certificate and key:
            return Credential.certificate(
                certificate_pem=read_text(certificate, "its certificate"),
                private_key_pem=read_text(key, "its private key"),
            )
        return None

    def _opener(self, account: str, passwords: Passwords, proof: str) -> Callable[[str], str]:
        """Find the password, and the number of iterations, that open what is encrypted."""
        try:
            salt = base64.b64decode(self._get(account, "token_salt"), validate=True)
        except (binascii.Error, ValueError):
            salt = b""
        if not salt:
            raise ConfigurationError(
                "its token_salt is missing or damaged, without which nothing can be decrypted; "
                "where the proxy runs with --cache-store FILE, give that file too"
            )
        tried = passwords(account)
        for password in tried:
            for iterations in self._iterations(account):
                fernet = Fernet(_key(password, salt, iterations))
                if _opened(fernet, proof) is not None:
                    return lambda sealed: _must_open(fernet, sealed)
        if not tried:
            raise ConfigurationError(
                "no password was given: it is the one that the mail client signs in to the proxy "
                "with"
            )
        raise ConfigurationError(
            "the password does not open what the proxy encrypted: it is the one that the mail "
            "client signs in to the proxy with, not the account's"
        )

    def _iterations(self, account: str) -> list[int]:
        written = self._get(account, "token_iterations")
        if written and not (written.isascii() and written.isdigit()):
            raise ConfigurationError("its token_iterations is not a number")
        first = int(written) if written else _FIRST_ITERATIONS
        if not 0 < first <= _MOST_ITERATIONS:
            raise ConfigurationError(
                f"its token_iterations is {first:,}, far more than the proxy takes"
            )
        return list(dict.fromkeys((first, _PRESENT_ITERATIONS, _FIRST_ITERATIONS)))

    def _get(self, account: str, option: str) -> str:
        places = [account]
        if self._catch_all:
            places += [f"@{account.rpartition('@')[2]}", "@"]
        for place in places:
            if self._config.has_option(place, option):
                return self._config.get(place, option).strip()
        return ""

    def _flag(self, name: str) -> bool:
        try:
            return self._config.getboolean(_GLOBAL, name, fallback=False)
        except ValueError:
            raise ConfigurationError(f"[{_GLOBAL}] {name} is neither True nor False") from None


def _parsed(path: str) -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None)
    text = read_text(path, "the proxy's configuration")
    try:
        config.read_string(text)
    except configparser.MissingSectionHeaderError as error:
        # The errors of this module quote lines, which may hold a secret.
        raise ConfigurationError(
            f"{path} is not a configuration of the proxy: line {error.lineno} is in no [section]"
        ) from None
    except (configparser.DuplicateSectionError, configparser.DuplicateOptionError) as error:
        what = getattr(error, "option", error.section)
        raise ConfigurationError(f"{path}, line {error.lineno}: {what!r} stands twice") from None
    except configparser.ParsingError as error:
        lines = ", ".join(str(number) for number, _ in error.errors[:5])
        raise ConfigurationError(
            f"{path} is not a configuration of the proxy: see line {lines}"
        ) from None
    return config


def _key(password: str, salt: bytes, iterations: int) -> bytes:
    derivation = PBKDF2HMAC(algorithm=hashes.SHA256(), length=32, salt=salt, iterations=iterations)
    return base64.urlsafe_b64encode(derivation.derive(password.encode("utf-8", "surrogateescape")))


def _opened(fernet: Fernet, sealed: str) -> str | None:
    try:
        return fernet.decrypt(sealed.encode("utf-8", "replace")).decode("utf-8")
    except (InvalidToken, UnicodeDecodeError):
        return None


def _must_open(fernet: Fernet, sealed: str) -> str:
    opened = _opened(fernet, sealed)
    if opened is None:
        raise ConfigurationError(
            "part of what the proxy encrypted does not open with the password that opens the rest"
        )
    return opened
