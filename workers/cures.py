"""Which command cures what a mailbox waits for."""

from __future__ import annotations

import re
import shlex

from workers.reasons import meaning_of
from workers.verdict import Remedy

_STANDS_FOR = re.compile(r"\b(?:ADDRESS|ACCOUNT|SLUG)\b")


def cure_of(
    reason: str | None, *, address: str, tenant: str, parked: bool, app: str | None = None
) -> str | None:
    """
    Name the command that helps, ready to be typed.

    Args:
        reason: Why it does not send: the name of a rule.
        address: The mailbox.
        tenant: Slug of its tenant.
        parked: Whether it is parked; what goes on by itself is not to be resumed.
        app: Name of its app registration, where the secret is that of several tenants.

    Returns:
        None where none does: nothing is to be done, or it is not to be done here.
    """
    meaning = meaning_of(reason)
    if meaning is None:
        return None
    if meaning.remedy is Remedy.ADMIN_SETTING and not parked:
        return None
    secret = f"alertpost tenants edit {tenant} --client-secret-file FILE"
    if app is not None:
        secret = (
            f"alertpost apps secret {shlex.quote(app)} --client-secret-file FILE "
            "--secret-expires DATE"
        )
    return {
        Remedy.SIGN_IN_AGAIN: f"alertpost mailboxes connect {address}",
        Remedy.NEW_SECRET: secret,
        Remedy.ADMIN_CONSENT: f"alertpost tenants show {tenant}",  # it shows the link
        Remedy.ADMIN_SETTING: f"alertpost mailboxes resume {address}",
    }.get(meaning.remedy)


def filled(text: str, *, address: str, account: str | None = None, tenant: str = "") -> str:
    """
    Put what is known in place of the words in capitals that stand for it.

    Args:
        text: A rule's sentence, such as ``alertpost mailboxes resume ADDRESS``.
        address: The mailbox.
        account: Who signs in for it; None: the mailbox itself.
        tenant: Slug of its tenant.
    """
    known = {"ADDRESS": address, "ACCOUNT": account or address, "SLUG": tenant}
    return _STANDS_FOR.sub(lambda found: known[found[0]] or found[0], text)


def with_command(
    next_step: str, reason: str, *, address: str, tenant: str, account: str | None = None
) -> str:
    """Give the next step of a park ready to be done, with the command that ends it."""
    next_step = filled(next_step, address=address, account=account, tenant=tenant)
    if "https://" in next_step or "`alertpost " in next_step:
        return next_step
    command = cure_of(reason, address=address, tenant=tenant, parked=True)
    return f"{next_step} Then `{command or f'alertpost mailboxes resume {address}'}`."
