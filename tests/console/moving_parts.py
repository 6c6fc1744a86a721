"""Files as other programs keep them, written for the tests of this folder."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from tests.console.cli_setting import ALERTS, Cli

PASSWORD = "pass word of the mail client"
ITERATIONS = 1_000
SALT = b"sixteen bytes ok"
CLIENT_ID = "12345678-1234-1234-1234-123456789012"
ENDPOINT = "https://login.microsoftonline.com/contoso.onmicrosoft.com/oauth2/v2.0/token"


def client_secret(cli: Cli) -> str:
    app = next(iter(cli.sandbox.world.apps.values()))
    return str(app.client_secrets[0].value)


def endpoint(cli: Cli, directory: str | None = None) -> str:
    return f"{cli.sandbox.entra_url}/{directory or cli.directory().tenant_id}/oauth2/v2.0/token"


def refresh_token(cli: Cli, address: str = ALERTS, **options: Any) -> str:
    """What another program got when somebody consented to it under the same app."""
    return cli.sandbox.world.give_grant(address, cli.client_id, **options)


def sasl_files(cli: Cli, **tokens: Any) -> tuple[Path, Path]:
    """Write a token file and the plugin's configuration; None leaves a value out."""
    configuration = cli.folder / "sasl-xoauth2.conf"
    configuration.write_text(
        json.dumps(
            {
                "client_id": cli.client_id,
                "client_secret": client_secret(cli),
                "token_endpoint": endpoint(cli),
                "log_to_syslog_on_failure": "yes",
            }
        )
    )
    given: dict[str, Any] = {"access_token": "eyJ-old", "expiry": "1700000000", "user": ALERTS}
    if "refresh_token" not in tokens:
        given["refresh_token"] = refresh_token(cli)
    path = cli.folder / "token.json"
    kept = {name: value for name, value in (given | tokens).items() if value is not None}
    path.write_text(json.dumps(kept))
    return path, configuration


def sealed(value: str, *, password: str = PASSWORD, iterations: int = ITERATIONS) -> str:
    """Encrypt a value as the proxy does."""
    key = PBKDF2HMAC(algorithm=hashes.SHA256(), length=32, salt=SALT, iterations=iterations)
    return (
        Fernet(base64.urlsafe_b64encode(key.derive(password.encode())))
        .encrypt(value.encode())
        .decode()
    )


def section(address: str = ALERTS, **options: str | None) -> str:
    """Write an account's section; None leaves an option out."""
    given: dict[str, str | None] = {
        "permission_url": ENDPOINT.replace("/token", "/authorize"),
        "token_url": ENDPOINT,
        "oauth2_scope": "https://outlook.office365.com/SMTP.Send offline_access",
        "redirect_uri": "http://localhost",
        "client_id": CLIENT_ID,
        "client_secret": "app~secret",
        "token_salt": base64.b64encode(SALT).decode(),
        "token_iterations": str(ITERATIONS),
        "access_token": "gAAAAAold",
        "access_token_expiry": "1700000000",
        "refresh_token": None,
    }
    lines = [f"{name} = {value}" for name, value in (given | options).items() if value is not None]
    return "\n".join([f"[{address}]", *lines, ""])


def account(cli: Cli, address: str = ALERTS, **options: str | None) -> str:
    """Write the section of an account that the sandbox knows."""
    given: dict[str, str | None] = {
        "token_url": endpoint(cli),
        "client_id": cli.client_id,
        "client_secret": client_secret(cli),
    }
    if "refresh_token" not in options:
        given["refresh_token"] = sealed(refresh_token(cli, address))
    return section(address, **(given | options))


def proxy_file(folder: Path, *sections: str, name: str = "emailproxy.config") -> Path:
    """Write a configuration of the proxy."""
    server = "[SMTP-1587]\nserver_address = smtp.office365.com\nserver_port = 587\n"
    path = folder / name
    path.write_text("\n".join([server, *sections]))
    return path


def password_file(cli: Cli, *passwords: str) -> str:
    path = cli.folder / "passwords.txt"
    path.write_text("\n".join(passwords or (PASSWORD,)) + "\n")
    return str(path)
