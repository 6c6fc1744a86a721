"""Which command ends a park, by what kind of cure it needs."""

from __future__ import annotations

from workers.verdict import Remedy

_RESUME = "alertpost mailboxes resume {address}"
_COMMANDS = {
    Remedy.SIGN_IN_AGAIN: "alertpost mailboxes connect {address}",
    Remedy.NEW_SECRET: "alertpost tenants edit {tenant} --client-secret-file FILE",
    Remedy.ADMIN_CONSENT: "alertpost tenants show {tenant}",  # it shows the link
}


def command(remedy: Remedy, *, address: str, tenant: str) -> str:
    """
    Name the command, ready to be typed but for a file's name.

    Args:
        remedy: Who cures it, and how.
        address: The mailbox that met the cause.
        tenant: Its tenant's short name.
    """
    return _COMMANDS.get(remedy, _RESUME).format(address=address, tenant=tenant)


def with_command(next_step: str, remedy: Remedy, *, address: str, tenant: str) -> str:
    """Give a next step that names a link or a command, with the command where it had neither."""
    if "https://" in next_step or "`alertpost " in next_step:
        return next_step
    return f"{next_step} Then `{command(remedy, address=address, tenant=tenant)}`."
