"""
Asks Entra about each credential of an app by itself, without touching any consent.

The app asks for a token of its own (client credentials). Whether it is given one depends on what
the directory allows the app; but a credential that is not good is refused before that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import Connection

from console.context import Context
from console.verbs_mailboxes import entra
from models import app_credentials
from models.app_credentials import Refused
from models.app_registrations import OpenedApp
from models.clouds import resolve
from models.credential_standing import Standing
from models.errors import ConfigurationError, CredentialRejected, TokenUnavailable
from models.senders import Sender
from workers.credential_turns import is_over_credential, verdict_on
from workers.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Tried:
    """
    What Entra said of one credential.

    Attributes:
        works: It gave a token for it.
        refusal: It refused the credential itself; None where it did not.
        other: What else it said, or why it could not be asked; empty where it gave a token.
    """

    standing: Standing
    works: bool
    refusal: Verdict | None = None
    other: str = ""


def try_all(context: Context, app: OpenedApp, sender: Sender) -> list[Tried]:
    """
    Ask with each credential that workers would try. Blocks.

    Args:
        context: Open resources.
        app: Whose credentials.
        sender: In whose directory to ask.
    """
    client = entra(context, sender)
    tried = []
    for held in sorted(app.credentials, key=lambda one: one.standing.number):
        standing = held.standing
        try:
            client.client_credentials(sender, held.credential)
        except CredentialRejected as error:
            verdict = verdict_on(error)
            if is_over_credential(verdict):
                tried.append(Tried(standing, works=False, refusal=verdict))
            else:
                said = f"Entra speaks of something else: {verdict.meaning} [{verdict.detail}]"
                tried.append(Tried(standing, works=False, other=said))
        except (TokenUnavailable, ConfigurationError) as error:
            tried.append(Tried(standing, works=False, other=str(error)))
        else:
            tried.append(Tried(standing, works=True))
    return tried


def for_itself(sender: Sender, *, cloud: str, scope: str | None) -> Sender:
    """Give the sender with the scope under which an app asks for a token of its own."""
    own = scope is not None and (sender.oidc_authority or scope.endswith("/.default"))
    return replace(
        sender, scopes=tuple((scope or "").split()) if own else (resolve(cloud).app_scope,)
    )


def record_all(conn: Connection, tried: list[Tried]) -> None:
    """Write down what Entra said."""
    for one in tried:
        if one.works:
            app_credentials.note_worked(conn, one.standing.id)
        elif one.refusal is not None:
            app_credentials.note_refused(
                conn, Refused(one.standing.id, one.refusal.rule, one.refusal.detail)
            )
