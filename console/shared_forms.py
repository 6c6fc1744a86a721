"""
Both ways to sign in for a shared mailbox, tried without a mail; see ``models.auth_forms``.

What shows without a mail: whether AUTH and MAIL FROM are taken. Send As is judged after DATA only,
so the delegate's own sign-in proves less than one as the mailbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from console.access_tokens import Access, AccessTokens
from console.borrowed_slot import borrowed, redis_client
from console.context import Context
from console.dialogue import reply_of
from console.dialogue_lines import untold
from console.doctor.access_meaning import parked_over_a_mail
from console.verbs_mailboxes import Account
from models.auth_forms import AuthForm, set_auth_form
from models.database import write
from models.errors import SubmissionFailed
from models.grants import APP_ONLY
from models.senders import Sender
from workers.reply_rules_mail import SEND_AS_DENIED
from workers.smtp_session import open_session
from workers.tls_contexts import TlsContexts


@dataclass(frozen=True, slots=True)
class Tried:
    """
    One way, tried.

    Attributes:
        user: Whom AUTH named.
        worked: None where no answer came, so that nothing is known.
        reply: What was answered last.
    """

    form: AuthForm
    user: str
    worked: bool | None
    reply: str


@dataclass(frozen=True, slots=True)
class FormsTried:
    """
    Both ways, tried.

    Attributes:
        chosen: The way that is kept; None where none worked, or nothing is known.
        changed: It is another than before.
    """

    tries: tuple[Tried, ...]
    chosen: AuthForm | None
    changed: bool


def has_forms(sender: Sender) -> bool:
    """Say whether there are two ways: somebody else consented for this mailbox."""
    return sender.is_shared and sender.grant_kind != APP_ONLY


async def try_both(context: Context, who: Account, *, actor: str) -> FormsTried:
    """
    Try both ways on one of the mailbox's connections, one after the other, and keep what worked.

    Raises:
        MustWait: The mailbox's connections are all in use.
        CredentialRejected: There is no token; says what to do.
        TokenUnavailable: Not now.
    """
    name_sender = who.entry.park_reason not in parked_over_a_mail()
    async with redis_client(context) as client:
        tokens = AccessTokens(context, who, client)
        try:
            async with borrowed(context, client, who.sender, untold):
                access = await tokens.get()
                tries = [
                    await try_form(context, who.sender, access, form, name_sender=name_sender)
                    for form in AuthForm
                ]
        finally:
            await tokens.close()
    return keep(context, who, tries, first=AuthForm.MAILBOX, actor=actor)


async def try_form(
    context: Context, sender: Sender, access: Access, form: AuthForm, *, name_sender: bool = True
) -> Tried:
    """
    Sign in one way, name the sender, take it back (RSET) and leave; no mail begins.

    Args:
        context: Open resources.
        sender: The shared mailbox.
        access: A token of the account that consented.
        form: The way.
        name_sender: Say MAIL FROM; not where one more refusal could lock the mailbox out.
    """
    user = replace(sender, auth_form=form).signs_in_as
    try:
        session = await open_session(
            host=sender.smtp_host,
            port=sender.smtp_port,
            tls=TlsContexts(context.settings.ca_file).get(sender.ca_file),
            user=user,
            token=access.token,
            settings=context.settings.smtp,
        )
    except SubmissionFailed as failure:
        return _refused(form, user, failure)
    try:
        if name_sender:
            await session.offer_sender(sender.address)
    except SubmissionFailed as failure:
        return _refused(form, user, failure)
    finally:
        await session.leave()
    return Tried(form, user, True, "taken")


def keep(
    context: Context, who: Account, tries: Sequence[Tried], *, first: AuthForm, actor: str
) -> FormsTried:
    """
    Keep the way that worked.

    Args:
        context: Open resources.
        who: The shared mailbox.
        tries: Of both ways.
        first: The one to take where both work and none was kept before.
        actor: Who tried, for the audit trail.
    """
    entry = who.entry
    stored = AuthForm(entry.auth_form) if entry.auth_form in set(AuthForm) else None
    denied = entry.park_reason == SEND_AS_DENIED.rule
    chosen = choose(tries, stored=stored, first=first, send_as_denied=denied)
    changed = False
    if chosen is not None:
        with write(context.engine) as conn:
            changed = set_auth_form(
                conn,
                mailbox_id=who.sender.mailbox_id,
                auth_user=who.sender.auth_user,
                form=chosen,
                actor=actor,
            )
    return FormsTried(tuple(tries), chosen, changed)


def choose(
    tries: Sequence[Tried], *, stored: AuthForm | None, first: AuthForm, send_as_denied: bool
) -> AuthForm | None:
    """
    Choose the way to sign in.

    Args:
        tries: Of both ways.
        stored: What is kept so far; None: nothing.
        first: The one to take where both work and none is kept.
        send_as_denied: The mailbox is parked because its delegate may not send as it.

    Returns:
        None where none worked, or where an answer is missing that could change the choice.
    """
    working = {tried.form for tried in tries if tried.worked}
    if any(tried.worked is None for tried in tries):
        return None
    if send_as_denied and AuthForm.MAILBOX in working:
        return AuthForm.MAILBOX
    wanted = stored or first
    return wanted if wanted in working else next(iter(working), None)


def _refused(form: AuthForm, user: str, failure: SubmissionFailed) -> Tried:
    worked = None if failure.reply_code is None or failure.reply_code < 500 else False  # noqa: PLR2004
    return Tried(form, user, worked, f"{failure.stage}: {reply_of(failure)}")
