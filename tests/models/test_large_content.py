"""Large contents: what is hashed, stored, listed and opened is what was handed in."""

from __future__ import annotations

import base64
import dataclasses
import tracemalloc
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.alert import AlertEmail
from models.errors import VaultError
from models.ids import uuid7
from models.large_content import (
    INLINE_OCTETS,
    PIECE_OCTETS,
    Part,
    fingerprint,
    is_large,
    piece_id,
    put_together,
    take_apart,
)
from models.new_delivery import new_delivery
from models.vault import Vault, content_context

VAULT = Vault([Vault.new_key()])
KEY = UUID("018f0000-0000-7000-8000-000000000001")
LAW = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50)


def alert(**content: Any) -> AlertEmail:
    """Make an alert e-mail."""
    usual = {"tenant": "contoso", "to": ["ops@contoso.example"], "subject": "Log"}
    return AlertEmail.parse(usual | content)


def file(content: bytes) -> dict[str, str]:
    """Attach a file."""
    return {"name": "log.zip", "content": base64.b64encode(content).decode()}


def opened(given_alert: AlertEmail) -> tuple[tuple[Part, ...], bytes]:
    """Take apart and open again."""
    head, large = take_apart(given_alert, VAULT, KEY)
    octets = [VAULT.open(sealed, context=content_context(key)) for key, sealed in large.pieces()]
    assert {len(some) for some in octets[:-1]} <= {PIECE_OCTETS}
    assert large.octets == sum(map(len, octets))
    return put_together(head).parts, b"".join(octets)


@LAW
@given(
    text=TEXTS.filter(bool), html=st.none() | TEXTS, times=st.sampled_from([1, 3_000]),
    files=st.lists(st.binary(max_size=200), max_size=3),
)  # fmt: skip
def test_fingerprint_is_the_same(
    text: str, html: str | None, times: int, files: list[bytes]
) -> None:
    """An alert that comes again is recognised, whichever way its fingerprint was made."""
    some = alert(
        text=text * times,
        html=html,
        attachments=[file(content) for content in files],
        idempotency_key="k",
        headers={"X-B": "1", "X-A": "2"},
        metadata={"z": "ü", "a": ""},
    )

    assert fingerprint(some) == some.fingerprint()


@LAW
@given(text=TEXTS.filter(bool), times=st.sampled_from([1, 7_000]), content=st.binary())
def test_parts_hold_what_was_handed_in(text: str, times: int, content: bytes) -> None:
    """Bodies with the line ends of a mail, files as they are, one after the other."""
    some = alert(text=text * times, attachments=[file(content)])
    (body, attached), octets = opened(some)
    lines = (text * times).replace("\r\n", "\n").replace("\r", "\n")
    lines += "" if lines.endswith("\n") else "\n"

    assert octets[: body.octets] == lines.replace("\n", "\r\n").encode()
    assert octets[body.octets :] == content
    assert (attached.octets, attached.name) == (len(content), "log.zip")


@pytest.mark.parametrize(
    ("body", "plain"),
    [
        ("line\n" * 50_000, True),
        ("x" * 998 + "\n" + "line\n" * 50_000, True),
        ("x" * 999 + "\n", False),
        ("line\n" * 50_000 + "x" * 70_000, False),
        ("line\n" * 50_000 + "ü", False),
        ("line\n" * 50_000 + "\x1b[0m", False),
        ("x" * 65_535 + "--=_", False),
        ("line\n" * 50_000 + "--=_", False),
    ],
)
def test_plain(body: str, *, plain: bool) -> None:
    """A body goes into the mail as it is only if every server takes it so."""
    (part,), _ = opened(alert(text=body))

    assert part.plain is plain


def test_the_rest_of_the_alert_stays_with_the_head() -> None:
    """Everything but bodies and files is there without opening a piece."""
    some = alert(
        text="x" * 50_000, html="y", cc=["a@b.example"], severity="critical",
        expires_at="2030-01-01T00:00:00Z", headers={"X-A": "1"}, metadata={"k": "v"},
    )  # fmt: skip
    head, _ = take_apart(some, VAULT, KEY)
    light = put_together(head).alert

    assert light == some.model_copy(update={"text": None, "html": None})
    assert light.envelope_recipients == some.envelope_recipients
    assert len(head) < 1_000


def test_small_contents_stay_whole() -> None:
    """Only what is large costs a second question."""
    assert not is_large(alert(text="x" * INLINE_OCTETS))
    assert is_large(alert(text="x" * (INLINE_OCTETS + 1)))
    assert is_large(alert(text="x", attachments=[file(b"x" * INLINE_OCTETS)]))
    small = new_delivery(
        alert(text="x"), VAULT, tenant_id=KEY, mailbox_id=KEY, address="a@b.example"
    )
    assert small.large is None


def test_each_piece_opens_in_its_place_alone() -> None:
    """Neither another place nor another delivery."""
    _, large = take_apart(alert(text="x" * 3 * PIECE_OCTETS), VAULT, KEY)
    (first, sealed), (second, _), *_ = large.pieces()

    assert (first, second) == (piece_id(KEY, 0), piece_id(KEY, 1))
    for elsewhere in (second, piece_id(uuid7(), 0)):
        with pytest.raises(VaultError):
            VAULT.open(sealed, context=content_context(elsewhere))


def test_neither_content_nor_key_is_shown() -> None:
    """What is logged by mistake says nothing."""
    _, large = take_apart(alert(text="secret " * 9_000), VAULT, KEY)

    assert "secret" not in repr(large)
    assert dataclasses.is_dataclass(large)


def test_the_way_in_takes_little_memory() -> None:
    """Beside the alert itself, a few pieces: no copy of 20 MB is made."""
    some = alert(text="x", attachments=[file(bytes(20_000_000))])
    tracemalloc.start()
    try:
        new = new_delivery(some, VAULT, tenant_id=KEY, mailbox_id=KEY, address="a@b.example")
        assert new.large is not None
        pieces = sum(1 for _ in new.large.pieces())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert pieces == -(-20_000_003 // PIECE_OCTETS)
    assert peak < 10 * PIECE_OCTETS
