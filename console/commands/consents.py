"""``alertpost consents``: the pages on which a customer's administrator connects a mailbox."""

from __future__ import annotations

from contextlib import ExitStack

import typer

from console import command_logs, key_users
from console.consent_pages.listening import listen
from console.context import opened
from console.data_dir import DataDir
from console.output import complain
from console.public_address import callback_address
from models import logs
from models.settings import Settings

app = typer.Typer(
    help="Consent pages for customers.", no_args_is_help=True, callback=command_logs.set_up
)


@app.command("serve")
def serve() -> None:
    """
    Serve the pages that consent links lead to, until Ctrl-C.

    They listen on ALERTPOST_CONSENTS__HOST and ALERTPOST_CONSENTS__PORT (127.0.0.1:8025). A reverse
    proxy with TLS, reached at ALERTPOST_PUBLIC_URL, stands before them. Several may run at once.
    """
    # A web server: not for every other command to load.
    from console.consent_pages import serving  # noqa: PLC0415

    given = Settings.load()
    with ExitStack() as stack:
        context = stack.enter_context(opened())
        # Without a key it could store no consent.
        _, settings = context.vault, context.settings
        callback = callback_address(settings)
        logs.setup(settings.log, process="consents")
        if not given.secret_keys:
            keys = [key.get_secret_value() for key in settings.secret_keys]
            stack.enter_context(key_users.using(DataDir.prepare(given.data_dir), keys))
        listener = listen(settings.consents.host, settings.consents.port)
        complain(f"consent pages for {settings.public_url}; register {callback} with the app")
        serving.serve(context, listener)
