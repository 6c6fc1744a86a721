"""The commands that give an app registration another credential: one for a cause, wherever told."""

from __future__ import annotations

from shlex import quote


def new_secret(app: str, *, replace: bool = False) -> str:
    """
    Name the command that takes a new client secret.

    Args:
        app: The app registration's name.
        replace: None of those that are there works, so the new one takes their place.
    """
    command = f"alertpost apps secret {quote(app)} --client-secret-file FILE --secret-expires DATE"
    return f"{command} --replace" if replace else command


def new_certificate(app: str) -> str:
    """Name the command that takes a new certificate."""
    return f"alertpost apps secret {quote(app)} --certificate-file FILE --private-key-file FILE"


def show_certificate(app: str) -> str:
    """Name the command that prints what is to be uploaded in Entra."""
    return f"alertpost apps certificate {quote(app)} --show"


def ask_entra(app: str) -> str:
    """Name the command that asks Entra about each credential."""
    return f"alertpost apps credentials {quote(app)} --check"


def retire(app: str, number: int) -> str:
    """Name the command that deletes a credential."""
    return f"alertpost apps retire {quote(app)} {number}"
