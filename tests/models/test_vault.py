import base64
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import vault
from models.errors import VaultError
from models.vault import Vault

OLD, NEW = Vault.new_key(), Vault.new_key()
contexts = st.text(max_size=60)


@given(plaintext=st.binary(max_size=4096), context=contexts)
def test_round_trip(plaintext: bytes, context: str) -> None:
    """What was sealed opens to the same bytes in the same place."""
    keys = Vault([NEW])

    assert keys.open(keys.seal(plaintext, context=context), context=context) == plaintext


@given(plaintext=st.binary(max_size=100), here=contexts, there=contexts)
def test_a_value_opens_nowhere_else(plaintext: bytes, here: str, there: str) -> None:
    """A value that was moved to another row does not open."""
    keys = Vault([NEW])
    sealed = keys.seal(plaintext, context=here)

    if here != there:
        with pytest.raises(VaultError):
            keys.open(sealed, context=there)


@given(plaintext=st.binary(max_size=100), data=st.data())
def test_any_flipped_bit_is_noticed(plaintext: bytes, data: st.DataObject) -> None:
    """No bit of a sealed value can be changed unnoticed."""
    keys = Vault([NEW, OLD])
    sealed = bytearray(keys.seal(plaintext, context="here"))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << (bit % 8)

    with pytest.raises(VaultError):
        keys.open(bytes(sealed), context="here")


@given(plaintext=st.binary(max_size=100), length=st.integers(0, 200))
def test_a_cut_value_is_noticed(plaintext: bytes, length: int) -> None:
    """A value cut at any length does not open."""
    keys = Vault([NEW])
    sealed = keys.seal(plaintext, context="here")

    if length < len(sealed):
        with pytest.raises(VaultError):
            keys.open(sealed[:length], context="here")


@given(plaintext=st.binary(max_size=100))
def test_old_keys_decrypt(plaintext: bytes) -> None:
    """A value sealed under a key further down the list opens, and resealing moves it up."""
    sealed = Vault([OLD]).seal(plaintext, context="here")
    both = Vault([NEW, OLD])

    assert both.open(sealed, context="here") == plaintext
    assert both.needs_rotation(sealed)
    moved = both.reseal(sealed, context="here")
    assert not both.needs_rotation(moved)
    assert Vault([NEW]).open(moved, context="here") == plaintext


def test_equal_values_look_different() -> None:
    """Nobody can tell from the sealed bytes that two values are the same."""
    keys = Vault([NEW])

    assert len({keys.seal(b"same", context="here") for _ in range(100)}) == 100


def test_the_plaintext_does_not_show() -> None:
    """Neither the value nor its context can be read in the sealed bytes."""
    sealed = Vault([NEW]).seal(b"client secret", context="app-secret:1")

    assert b"client" not in sealed
    assert b"app-secret" not in sealed


def test_an_unknown_key_is_named() -> None:
    """The error tells which key is missing and what to do, and shows no key."""
    sealed = Vault([OLD]).seal(b"x", context="grant:1")

    with pytest.raises(VaultError) as caught:
        Vault([NEW]).open(sealed, context="grant:1")
    assert vault.key_id_of(sealed) in str(caught.value)
    assert "ALERTPOST_SECRET_KEYS" in str(caught.value)
    assert OLD not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    ["", "short", "!" * 44, "A" * 40, "ü" * 44, b"", b"\0" * 31, b"\0" * 33],
    ids=["empty", "short", "not-base64", "30-bytes", "not-ascii", "no-bytes", "31", "33"],
)
def test_a_bad_key_is_refused(key: str | bytes) -> None:
    """A key of the wrong form is refused, with a way to make a good one, without repeating it."""
    with pytest.raises(VaultError, match="openssl rand -base64 32") as caught:
        Vault([key])
    if len(key) > 8:
        assert str(key) not in str(caught.value)


def test_no_key_is_refused() -> None:
    """Without a key there is no vault."""
    with pytest.raises(VaultError, match="ALERTPOST_SECRET_KEYS"):
        Vault([])


def test_every_spelling_of_a_key_is_the_same_key() -> None:
    """Raw bytes and both base64 alphabets, padded or not, give the same key."""
    raw = bytes(range(222, 254))
    sealed = Vault([raw]).seal(b"x", context="here")

    for spelling in (
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        f" {base64.b64encode(raw).decode()}\n",
    ):
        assert Vault([spelling]).open(sealed, context="here") == b"x"


def test_a_repeated_key_is_harmless() -> None:
    """A list that names one key twice works."""
    assert not Vault([NEW, NEW]).needs_rotation(Vault([NEW]).seal(b"", context="here"))


def test_its_representation_shows_no_key() -> None:
    """A vault in a traceback or a log shows the ids of its keys only."""
    shown = repr(Vault([NEW, OLD]))

    assert NEW not in shown
    assert OLD not in shown
    assert vault.key_id_of(Vault([NEW]).prefix) in shown


def test_contexts_differ() -> None:
    """No two kinds of value share a context, even under one id."""
    one = uuid4()
    made = {
        kind(one)
        for kind in (
            vault.delivery_context,
            vault.grant_context,
            vault.app_secret_context,
            vault.app_key_context,
            vault.token_context,
        )
    }

    assert len(made) == 5
    assert all(str(one) in context for context in made)
