"""
Encryption at rest: what a thief of the database or of Redis gets to see.

A sealed value is laid out as::

    1 byte    version of this layout
    4 bytes   id of the key: the head of a hash of it
    16 bytes  chance, from which the value's own key is derived
    12 bytes  nonce
    rest      AES-256-GCM ciphertext and its 16-byte tag

Each value has a key of its own, HMAC-SHA256(key, chance), so the limit of AES-GCM on messages
under one key (NIST SP 800-38D section 8.3) is of no concern at any number of deliveries. The
first five bytes tell which key sealed a value, so finding what a rotation still has to do is a
comparison of prefixes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from models.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

KEY_BYTES = 32
PREFIX_BYTES = 5
_VERSION = b"\x01"
_CHANCE_END = PREFIX_BYTES + 16
HEAD_BYTES = _CHANCE_END + 12
"""So much of a sealed value tells it from every other one: no two share their chance."""
_TAG_BYTES = 16


class Vault:
    """
    Seals values under the first key and opens them under every key it knows.

    Args:
        keys: 32 raw bytes each, or their base64 text (either alphabet); the first one encrypts.

    Raises:
        VaultError: No key at all, or one that is not 32 bytes long.
    """

    __slots__ = ("_current", "_keys", "prefix")

    prefix: bytes
    """How every value begins that needs no rotation."""

    def __init__(self, keys: Sequence[bytes | str]) -> None:
        if not keys:
            raise VaultError(
                "no encryption key is known; give ALERTPOST_SECRET_KEYS the key of the workers "
                "(beside `alertpost up`: ALERTPOST_SECRET_KEYS_FILE=var/secret.key), or to begin "
                "with one made with 'openssl rand -base64 32', and keep it safe: nothing opens "
                "without it"
            )
        self._keys: dict[bytes, bytes] = {}
        for key in map(parse_key, keys):
            if self._keys.setdefault(_key_id(key), key) != key:
                raise VaultError("two different keys share one id; make a new one instead of one")
        self._current = parse_key(keys[0])
        self.prefix = _VERSION + _key_id(self._current)

    def __repr__(self) -> str:
        return f"Vault(keys={[key_id.hex() for key_id in self._keys]})"

    def seal(self, plaintext: bytes, *, context: str) -> bytes:
        """
        Encrypt a value for one place.

        Args:
            plaintext: What to protect.
            context: Where the value belongs, from one of the functions below. It is authenticated
                but not stored: a value copied to another row does not open there.
        """
        head = self.prefix + os.urandom(HEAD_BYTES - PREFIX_BYTES)
        return head + _cipher(self._current, head).encrypt(
            head[_CHANCE_END:], plaintext, _associated(head, context)
        )

    def open(self, sealed: bytes, *, context: str) -> bytes:
        """
        Decrypt a value.

        Args:
            sealed: What ``seal`` returned.
            context: The same as at sealing.

        Raises:
            VaultError: Its key is not known here, it was damaged, or it belongs elsewhere.
        """
        if len(sealed) < HEAD_BYTES + _TAG_BYTES or sealed[:1] != _VERSION:
            raise VaultError(
                f"the value of {context} was not sealed by this version of alertpost, or it was "
                "cut; restore it from a backup"
            )
        key = self._keys.get(sealed[1:PREFIX_BYTES])
        if key is None:
            raise VaultError(
                f"the value of {context} was sealed under key {key_id_of(sealed)}, which "
                "ALERTPOST_SECRET_KEYS does not hold; add that key at the end of the list"
            )
        head = sealed[:HEAD_BYTES]
        try:
            return _cipher(key, head).decrypt(
                head[_CHANCE_END:], sealed[HEAD_BYTES:], _associated(head, context)
            )
        except InvalidTag:
            raise VaultError(
                f"the value of {context} does not open: it was damaged, or it was moved there "
                "from another row; restore it from a backup"
            ) from None

    def needs_rotation(self, sealed: bytes) -> bool:
        """Tell whether another key than the first one sealed this value."""
        return not sealed.startswith(self.prefix)

    def reseal(self, sealed: bytes, *, context: str) -> bytes:
        """
        Open a value and seal it anew under the first key.

        Raises:
            VaultError: As ``open``.
        """
        return self.seal(self.open(sealed, context=context), context=context)

    @staticmethod
    def new_key() -> str:
        """Make a key, in the form that ALERTPOST_SECRET_KEYS takes."""
        return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode("ascii")


def parse_key(key: bytes | str) -> bytes:
    """
    Bring a key into its raw form.

    Args:
        key: 32 raw bytes, or base64 of them, with or without padding.

    Raises:
        VaultError: It is anything else. The text does not repeat the key.
    """
    if isinstance(key, str):
        text = key.strip().replace("-", "+").replace("_", "/").rstrip("=")
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            key = b""
    if len(key) != KEY_BYTES:
        raise VaultError(
            "an encryption key is 32 bytes in base64 (44 characters); "
            "make one with 'openssl rand -base64 32'"
        )
    return bytes(key)


def key_id_of(sealed: bytes) -> str:
    """Name the key that sealed a value: eight hexadecimal digits, which betray nothing."""
    return sealed[1:PREFIX_BYTES].hex()


def delivery_context(delivery_id: UUID) -> str:
    """Where a delivery's payload belongs."""
    return f"delivery:{delivery_id}"


def content_context(piece_id: UUID) -> str:
    """Where a piece of a delivery's large content belongs."""
    return f"content:{piece_id}"


def grant_context(grant_id: UUID) -> str:
    """Where a grant's token cache belongs."""
    return f"grant:{grant_id}"


def app_secret_context(credential_id: UUID) -> str:
    """Where a client secret of an app registration belongs."""
    return f"app-secret:{credential_id}"


def app_key_context(credential_id: UUID) -> str:
    """Where a private key of an app registration belongs."""
    return f"app-key:{credential_id}"


def route_context(tenant_id: UUID) -> str:
    """Where the seal over a tenant's addresses belongs."""
    return f"tenant-route:{tenant_id}"


def token_context(mailbox_id: UUID) -> str:
    """Where a mailbox's access token in Redis belongs."""
    return f"token:{mailbox_id}"


def consent_token_context(link_id: UUID) -> str:
    """Where a consent link's token, stored to be shown again, belongs."""
    return f"consent-token:{link_id}"


def sign_in_context(state_sha256: str) -> str:
    """Where the flow of a sign-in that waits for its callback belongs."""
    return f"sign-in:{state_sha256}"


def _key_id(key: bytes) -> bytes:
    # Hashed with a word of its own, so that the id is no part of what seals values.
    return hashlib.sha256(b"alertpost key id\x00" + key).digest()[: PREFIX_BYTES - 1]


def _cipher(key: bytes, head: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key, head[PREFIX_BYTES:_CHANCE_END], "sha256"))


def _associated(head: bytes, context: str) -> bytes:
    # The prefix is authenticated too: nobody can make a value look as if it were rotated.
    return head[:PREFIX_BYTES] + context.encode()
