"""Where customers reach us: the addresses that are made of ALERTPOST_PUBLIC_URL."""

from __future__ import annotations

from console.consent import CALLBACK_PATH
from models.errors import ConfigurationError
from models.settings import Settings

CONSENT_PATH = "/consent/"


def public_base(settings: Settings) -> str:
    """
    Return the public address without a slash at its end.

    Raises:
        ConfigurationError: There is none.
    """
    if not settings.public_url:
        raise ConfigurationError(
            "customers cannot reach the consent pages: set ALERTPOST_PUBLIC_URL to the address at "
            "which they are, such as https://alerts.msp.example, and run `alertpost consents serve`"
        )
    return settings.public_url


def consent_address(settings: Settings, token: str) -> str:
    """Give the link that ends with this token; raises as ``public_base``."""
    return f"{public_base(settings)}{CONSENT_PATH}{token}"


def callback_address(settings: Settings) -> str:
    """Give the redirect address to be registered with the app; raises as ``public_base``."""
    return f"{public_base(settings)}{CALLBACK_PATH}"
