"""Taking the port of the consent pages."""

from __future__ import annotations

import socket

from models.errors import ConfigurationError


def listen(host: str, port: int) -> socket.socket:
    """
    Take the port.

    Raises:
        ConfigurationError: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise ConfigurationError(
            f"the consent pages cannot listen on {host}:{port}: {error.strerror or error}; choose "
            "others with ALERTPOST_CONSENTS__HOST and ALERTPOST_CONSENTS__PORT"
        ) from error
