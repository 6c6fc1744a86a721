"""One TLS context for each CA file: making one loads and parses the whole bundle (about 38 ms)."""

from __future__ import annotations

import ssl
from pathlib import Path

import certifi

from models.errors import ConfigurationError


class TlsContexts:
    """
    Contexts that verify the server's name and chain, TLS 1.2 or newer.

    Used from the event loop alone; two threads that make a context at once have lost mails.
    """

    def __init__(self, default_ca_file: Path | None = None) -> None:
        self._default = str(default_ca_file) if default_ca_file else None
        self._contexts: dict[str, ssl.SSLContext] = {}

    def ca_file(self, ca_file: str | None) -> str:
        """Name the file that holds for a tenant: its own, else ours, else the public roots."""
        return ca_file or self._default or certifi.where()

    def get(self, ca_file: str | None) -> ssl.SSLContext:
        """
        Return the context for a tenant's CA file.

        Raises:
            ConfigurationError: The file is missing or holds no certificate.
        """
        path = self.ca_file(ca_file)
        context = self._contexts.get(path)
        if context is None:
            try:
                context = ssl.create_default_context(cafile=path)
            except (OSError, ssl.SSLError) as error:
                raise ConfigurationError(
                    f"the CA file {path} cannot be used ({error}): "
                    "give a readable PEM file with --ca-file or ALERTPOST_CA_FILE"
                ) from error
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            self._contexts[path] = context
        return context
