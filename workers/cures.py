"""Which command cures what a mailbox waits for."""

from __future__ import annotations

import re
from shlex import quote

from models import credential_commands
from workers.reasons import meaning_of
from workers.verdict import Remedy

_STANDS_FOR = re.compile(r"\b(?:ADDRESS|ACCOUNT|SLUG|APP)\b")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._+-]*")
_CERTIFICATE_REFUSED = "certificate-refused"


def cure_of(reason: str | None, *, address: str, tenant: str, parked: bool, app: str) -> str | None:
    """
    Name the command that helps, ready to be typed.

    Args:
        reason: Why it does not send: the name of a rule.
        address: The mailbox.
        tenant: Slug of its tenant.
        parked: Whether it is parked; what goes on by itself is not to be resumed.
        app: Name of its app registration, which the secret belongs to.

    Returns:
        None where none does: nothing is to be done, or it is not to be done here.
    """
    meaning = meaning_of(reason)
    if meaning is None:
        return None
    if meaning.remedy is Remedy.ADMIN_SETTING and not parked:
        return None
    if reason == _CERTIFICATE_REFUSED:
        # It may only have to be uploaded; the rule's own next step says how.
        return credential_commands.ask_entra(app)
    return {
        Remedy.SIGN_IN_AGAIN: f"alertpost mailboxes connect {quote(address)}",
        # It is asked for where none that is there works.
        Remedy.NEW_SECRET: credential_commands.new_secret(app, replace=True),
        Remedy.ADMIN_CONSENT: f"alertpost tenants link {tenant}",
        Remedy.ADMIN_SETTING: f"alertpost mailboxes resume {quote(address)}",
    }.get(meaning.remedy)


def filled(
    text: str, *, address: str, account: str | None = None, tenant: str = "", app: str = ""
) -> str:
    """
    Put what is known in place of the words in capitals that stand for it.

    Args:
        text: A rule's sentence, such as ``alertpost mailboxes resume ADDRESS``.
        address: The mailbox.
        account: Who signs in for it; None: the mailbox itself.
        tenant: Slug of its tenant.
        app: Name of its app registration.
    """
    known = {"ADDRESS": address, "ACCOUNT": account or address, "SLUG": tenant, "APP": app}

    def typed(found: re.Match[str]) -> str:
        value = known[found[0]]
        if not value:
            return found[0]
        inside = text[: found.start()].rpartition("`")[2]
        return quote(value) if inside.startswith("alertpost ") else _in_powershell(value)

    return _STANDS_FOR.sub(typed, text)


def with_command(
    next_step: str, reason: str, *, address: str, tenant: str, app: str, account: str | None = None
) -> str:
    """Give the next step of a park ready to be done, with the command that ends it."""
    next_step = filled(next_step, address=address, account=account, tenant=tenant, app=app)
    if "https://" in next_step or "`alertpost " in next_step:
        return next_step
    command = cure_of(reason, address=address, tenant=tenant, parked=True, app=app)
    return f"{next_step} Then `{command or f'alertpost mailboxes resume {quote(address)}'}`."


def _in_powershell(value: str) -> str:
    """Write a value as PowerShell takes it; addresses seldom need quotes."""
    return value if _PLAIN.fullmatch(value) else "'{}'".format(value.replace("'", "''"))
