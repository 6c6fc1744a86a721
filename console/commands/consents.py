"""``alertpost consents``: the pages on which a customer's administrator connects a mailbox."""

from __future__ import annotations

import typer

from console import command_logs
from console.consent_pages.listening import listen
from console.context import opened
from console.output import complain
from console.public_address import callback_address
from models import logs

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

    with opened() as context:
        settings = context.settings
        callback = callback_address(settings)
        logs.setup(settings.log, process="consents")
        listener = listen(settings.consents.host, settings.consents.port)
        complain(f"consent pages for {settings.public_url}; register {callback} with the app")
        serving.serve(context, listener)
