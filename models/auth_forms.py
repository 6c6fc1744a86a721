"""
In which name the AUTH user of a shared mailbox signs in; the token is that user's either way.

Microsoft's page puts the shared mailbox into ``user=``, which asks for Full Access. In the field
SMTP was seen to refuse that, and to take the delegate's own name with Send As for the From address.
So both are tried, and what worked is kept beside the mailbox.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from sqlalchemy import Connection, func, update

from models import audit
from models.lookups import MAILBOX


class AuthForm(StrEnum):
    """A way to sign in for a shared mailbox."""

    DELEGATE = "delegate"
    """``user=`` is the account that consented; needs Send As."""
    MAILBOX = "mailbox"
    """``user=`` is the shared mailbox; needs Full Access."""

    @property
    def other(self) -> AuthForm:
        """The other way."""
        return AuthForm.MAILBOX if self is AuthForm.DELEGATE else AuthForm.DELEGATE


def set_auth_form(
    conn: Connection, *, mailbox_id: UUID, auth_user: str, form: AuthForm, actor: str
) -> bool:
    """
    Keep which way worked.

    Args:
        conn: An open transaction.
        mailbox_id: The shared mailbox.
        auth_user: Whose token it was tried with: where somebody else authenticates by now, nothing
            is kept.
        form: What worked.
        actor: Who tried, for the audit trail.

    Returns:
        Whether it is another than before.
    """
    changed = conn.execute(
        update(MAILBOX)
        .where(
            MAILBOX.c.id == mailbox_id,
            MAILBOX.c.auth_user == auth_user,
            func.coalesce(MAILBOX.c.auth_form, "") != form.value,
        )
        .values(auth_form=form.value)
        .returning(MAILBOX.c.address)
    ).one_or_none()
    if changed is None:
        return False
    audit.write(
        conn,
        audit.Entry(
            actor=actor,
            action="mailbox-auth-form",
            subject_kind="mailbox",
            subject=changed.address,
            detail={"auth_user": auth_user, "auth_form": form.value},
        ),
    )
    return True
