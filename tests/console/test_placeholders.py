"""Placeholders of packaged files are called so; what people really have is not."""

from __future__ import annotations

import pytest

from console.moving.found import read_endpoint
from console.moving.placeholders import is_placeholder
from models.errors import ConfigurationError

PLACEHOLDERS = [
    "client ID goes here", "client secret goes here", "Client-ID-Goes-Here",
    "*** your client id here ***", "*** your client secret here ***", "your-client-id",
    "YOUR_CLIENT_SECRET", "<client id>", "<your tenant>", "${CLIENT_ID}", "{client_id}",
    "CHANGE_ME", "changeme", "replace me", "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", "xxx",
    "00000000-0000-0000-0000-000000000000", "insert client id", "...", "client_id", "TODO",
    "[client id]", "%CLIENT_ID%",
]  # fmt: skip
REAL = [
    "12345678-1234-1234-1234-123456789012", "Ab18Q~1234567890abcdefghijklmnopqrstuvwx", "",
    "yourself", "a<b>c", "Ab1.Q~x{y}z", "x8Q~goes-on", "xyz", "secret",
]  # fmt: skip


@pytest.mark.parametrize("value", PLACEHOLDERS)
def test_a_placeholder_is_seen(value: str) -> None:
    """Those of the packages, and those that people write."""
    assert is_placeholder(value)


@pytest.mark.parametrize("value", REAL)
def test_a_value_is_none(value: str) -> None:
    """Ids and secrets, however odd."""
    assert not is_placeholder(value)


@pytest.mark.parametrize(
    "directory",
    ["<tenant-id>", "*** your tenant id here ***", "TENANT-ID-GOES-HERE", "{tenant}", "your-tenant-id",
     "tenant", "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"],
)  # fmt: skip
def test_an_endpoint_that_nobody_filled_in(directory: str) -> None:
    """The text says that it is a placeholder, and quotes it."""
    with pytest.raises(ConfigurationError, match="placeholder"):
        read_endpoint(f"https://login.microsoftonline.com/{directory}/oauth2/v2.0/token")
