"""
Taking known secrets out of what a server said, in whatever form it says them back.

Redaction by look (``redaction``) finds what resembles a secret. A server that quotes our request in
its refusal quotes secrets of any look, and a refusal is stored and shown to people: there the very
values that were sent are looked for.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

from models.redaction import REDACTED

LEAST = 6
"""Characters of a value that is looked for; a shorter one would be found in any prose."""

_HEAD = 12
"""Of a long value so many characters are enough: servers cut what they quote."""


def scrub(text: str, secrets: Iterable[str]) -> str:
    """
    Replace secrets in a text: as they are, percent-encoded, escaped for JSON, or in base64.

    Args:
        text: Anything.
        secrets: Values that were sent; those with fewer than ``LEAST`` characters are left alone.

    Returns:
        The text; of a long secret also its beginning alone is replaced.
    """
    for secret in secrets:
        if len(secret) >= LEAST:
            begun: dict[str, list[str]] = {}
            for form in sorted(_forms(secret), key=len, reverse=True):
                # Some differ in a later character alone, such as the alphabets of base64.
                head = form if len(form) < 2 * _HEAD else form[:_HEAD]
                begun.setdefault(head, []).append(form)
            for head, forms in begun.items():
                text = _without(text, head, forms)
    return text


def scrub_values(value: Any, secrets: Iterable[str]) -> Any:
    """Do the same for every text within lists and dictionaries, names included."""
    secrets = tuple(secrets)
    match value:
        case str():
            return scrub(value, secrets)
        case list():
            return [scrub_values(item, secrets) for item in value]
        case dict():
            return {scrub(str(k), secrets): scrub_values(v, secrets) for k, v in value.items()}
        case _:
            return value


def _forms(secret: str) -> Iterator[str]:
    yield from (secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1])
    raw = secret.encode()
    # Within something longer that was encoded as a whole, such as XOAUTH2's "user=", it begins at
    # one of three places; what stands beside it changes the characters at its edges.
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode()
        inner = encoded[-(-8 * before // 6) : 8 * (before + len(raw)) // 6]
        yield from (inner, inner.replace("+", "-").replace("/", "_"))


def _without(text: str, head: str, forms: Sequence[str]) -> str:
    """Take out what begins with ``head``, as far as one of the forms that begin so goes on."""
    at = text.find(head)
    while at >= 0:
        end = at + max(_shared(text[at : at + len(form)], form) for form in forms)
        text = text[:at] + REDACTED + text[end:]
        at = text.find(head, at + len(REDACTED))
    return text


def _shared(text: str, form: str) -> int:
    """Count the characters that two texts have in common from their beginning."""
    differ = (n for n, pair in enumerate(zip(text, form, strict=False)) if pair[0] != pair[1])
    return next(differ, min(len(text), len(form)))
