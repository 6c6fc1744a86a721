"""A credential that was just given is shown to Entra at once, where a mailbox is connected."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from console.context import Context
from console.credential_check import Tried
from console.credential_view import print_tried
from console.output import complain, out
from console.resumed_view import tell_resumed
from console.verbs_apps import asker_of, check, resume_waiting_for_credential
from models import credential_commands
from models.app_registrations import Given
from models.database import read
from models.errors import AlertpostError

NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check", help="Do not ask Entra about it now, though a mailbox is connected."
    ),
]


def asks(context: Context, app: str, *, no_check: bool) -> bool:
    """Tell whether Entra is to be asked: a connected mailbox depends on this app registration."""
    if no_check:
        return False
    with read(context.engine) as conn:
        asker = asker_of(conn, app)
    return asker is not None and asker.connected


def check_given(context: Context, given: Given, *, actor: str) -> bool:
    """
    Ask Entra about an app's credentials, say what it said, and resume what waited for them.

    What waits goes on unless Entra refuses them all: where it could not be asked, nobody knows.

    Returns:
        Whether the app can still be used, as far as is known.
    """
    name = given.app.name
    try:
        checked = check(context, actor=actor, name=name)
    except AlertpostError as error:
        complain(f"Entra could not be asked about it: {error}")
        tell_resumed(resume_for_credential(context, name, actor=actor))
        return True
    print_tried(checked.tried, checked.tenant)
    if any(one.works for one in checked.tried):
        tell_resumed(checked.resumed)
        _tell_refused(name, given.number, checked.tried)
        return True
    if all(one.refusal is not None for one in checked.tried):
        out.print(
            f"Nothing can be sent by {name} until it has a credential that Entra takes: "
            f"`{credential_commands.new_secret(name, replace=True)}`.",
            markup=False,
        )
        return False
    tell_resumed(resume_for_credential(context, name, actor=actor))
    return True


def _tell_refused(name: str, number: int, tried: list[Tried]) -> None:
    mine = next((one for one in tried if one.standing.number == number), None)
    if mine is not None and mine.refusal is not None:
        out.print(
            "The new one is not used, another one works: "
            f"`{credential_commands.retire(name, number)}` "
            "removes it.",
            markup=False,
        )


def resume_for_credential(context: Context, name: str, *, actor: str) -> list[str]:
    """Let go on what waited for another credential, and name it."""
    resumed: dict[UUID, str] = resume_waiting_for_credential(context, name, actor=actor)
    return sorted(resumed.values())
