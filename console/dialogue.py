"""
One mail sent now, step by step: for ``alertpost mailboxes test``, and the end of the doctor.

It goes the way of a visit, with the same token lease and within the same limits, but every step is
told as it happens, and nothing is parked, paused or tried again later.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from shlex import quote
from uuid import UUID

from console.access_tokens import Access, AccessTokens
from console.borrowed_slot import MustWait, borrowed, redis_client
from console.context import Context
from console.dialogue_lines import Line, Tell, line_of
from console.verbs_mailboxes import Account
from models.alert import AlertEmail
from models.errors import (
    AlertpostError,
    Conflict,
    CredentialRejected,
    SubmissionFailed,
    TokenUnavailable,
)
from models.ids import uuid7
from models.message_ids import new_message_id
from models.senders import Sender
from models.stages import Stage
from workers import conclusion
from workers.compose import compose
from workers.oauth_errors import classify_oauth
from workers.smtp_session import Envelope, SmtpSession, Submitted, open_session
from workers.tls_contexts import TlsContexts
from workers.verdict import Action, Verdict


@dataclass(frozen=True, slots=True)
class Ending:
    """
    How the dialogue ended.

    Attributes:
        verdict: What a failure means; None where the mail was accepted.
        reply: The reply or error that decided.
        refused: Recipients that were refused, each with its reply.
        seconds: From the first step to the last.
        message_id: Of the mail that was sent.
    """

    verdict: Verdict | None
    reply: str
    refused: dict[str, str]
    seconds: float
    message_id: str


def alert_for_test(sender: Sender, to: str, *, command: str) -> AlertEmail:
    """
    Write the mail that proves that a mailbox can send.

    Args:
        sender: The mailbox.
        to: Who gets it.
        command: What somebody ran.

    Raises:
        InvalidAlert: That is no address.
    """
    return AlertEmail.parse(
        {
            "tenant": sender.tenant_slug,
            "to": [to],
            "subject": "Test of alertpost",
            "text": f"{sender.address} can send. This mail was sent by hand with `{command}`; "
            "nobody has to do anything.",
            "severity": "low",
        }
    )


async def send_test(
    context: Context,
    who: Account,
    alert: AlertEmail,
    *,
    tell: Tell,
    tokens: AccessTokens | None = None,
) -> Ending:
    """
    Send one mail now.

    Args:
        context: Open resources.
        who: The mailbox; it must be connected.
        alert: The mail.
        tell: Told of every step as it ends.
        tokens: Where tokens come from, if there is one already; it stays open.

    Raises:
        Conflict: The mailbox is not connected.
        MustWait: The limits of the mailbox leave no room now.
    """
    sender = who.sender
    if not sender.connected:
        raise Conflict(
            f"mailbox {sender.address} is not connected: "
            f"run `alertpost mailboxes connect {quote(sender.address)}`"
        )
    begun = time.perf_counter()
    delivery_id = uuid7()
    message_id = new_message_id(delivery_id, sender.address.rpartition("@")[2])
    async with redis_client(context) as client:
        if client is None:
            tell(Line("pacing", "", "not asked: no Redis takes it, so no worker sends now", 0.0))
            if sender.paused_until is not None and sender.paused_until > datetime.now(UTC):
                raise MustWait(
                    f"the mailbox pauses until {sender.paused_until:%H:%M:%SZ}; try again then"
                )
        given = tokens
        tokens = tokens or AccessTokens(context, who, client)
        submitting = _Submitting(context, sender, alert, delivery_id, message_id, tell)
        try:
            async with borrowed(context, client, sender, tell) as permit:
                session = await signed_in(context, sender, tokens, tell)
                try:
                    await permit(alert.envelope_recipients)
                    submitted = await submitting.submit(session)
                finally:
                    await session.leave()
        except CredentialRejected as refused:
            verdict = oauth_verdict(refused)
            tell(Line(Stage.TOKEN, "refresh", refused.error, 0.0, refused.description))
            return _failed(verdict, str(refused), begun, message_id)
        except TokenUnavailable as away:
            verdict = conclusion.token_unavailable(away)
            return _failed(verdict, away.answer, begun, message_id)
        except SubmissionFailed as failed:
            verdict = conclusion.judge(failed, fresh_token=tokens.fresh)
            return _failed(verdict, reply_of(failed), begun, message_id)
        finally:
            if given is None:
                await tokens.close()
    return Ending(
        verdict=None,
        reply=f"{submitted.reply.code} {submitted.reply.text}",
        refused={
            address: f"{reply.code} {reply.text}" for address, reply in submitted.refused.items()
        },
        seconds=time.perf_counter() - begun,
        message_id=message_id,
    )


async def signed_in(
    context: Context,
    sender: Sender,
    tokens: AccessTokens,
    tell: Tell,
    *,
    access: Access | None = None,
) -> SmtpSession:
    """
    Open a connection under a token; where that one is refused, once more under another.

    Args:
        context: Open resources.
        sender: The mailbox.
        tokens: Where tokens come from.
        tell: Told of every step as it ends.
        access: The token to begin with; None: the one that ``tokens`` gives.

    Raises:
        SubmissionFailed: The server cannot be reached or refuses.
        CredentialRejected: Another token was needed, and a person has to act before there is one.
        TokenUnavailable: Likewise, not now.
    """
    tls = TlsContexts(context.settings.ca_file).get(sender.ca_file)
    rejected: str | None = None
    while True:
        if access is None:
            started = time.perf_counter()
            access = await tokens.get(rejected)
            tell(
                Line(
                    Stage.TOKEN,
                    " ".join(sender.scopes),
                    origin(access),
                    time.perf_counter() - started,
                )
            )
        try:
            return await open_session(
                host=sender.smtp_host,
                port=sender.smtp_port,
                tls=tls,
                user=sender.signs_in_as,
                token=access.token,
                settings=context.settings.smtp,
                trace=lambda step: tell(line_of(step)),
            )
        except SubmissionFailed as failed:
            verdict = conclusion.judge(failed, fresh_token=tokens.fresh)
            if verdict.action is not Action.REAUTH or rejected is not None:
                raise
            rejected, access = access.token, None


def origin(access: Access) -> str:
    """Say where a token came from, and until when it is good."""
    source = "fetched from Entra just now" if access.fresh else "shared by the workers"
    ends = datetime.now(UTC) + timedelta(seconds=access.left_seconds)
    return f"{source}, good until {ends:%H:%M:%SZ} ({access.left_seconds / 60:.0f} minutes)"


def reply_of(failed: SubmissionFailed) -> str:
    """Give the reply that ended a dialogue, or what kept it from coming."""
    if failed.refused:
        return "; ".join(f"{code} {text}" for code, text in failed.refused.values())
    if failed.reply_code:
        return f"{failed.reply_code} {failed.reply_text}"
    return f"{failed.failure or 'failed'}: {failed.reply_text}"


def oauth_verdict(refused: CredentialRejected) -> Verdict:
    """Give the verdict on a refusal of Entra."""
    return classify_oauth(
        refused.error,
        refused.codes,
        refused.suberror,
        refused.description,
        http_status=refused.http_status,
    )


@dataclass(frozen=True, slots=True)
class _Submitting:
    """The mail to be sent, once the server has said what it can take."""

    context: Context
    sender: Sender
    alert: AlertEmail
    delivery_id: UUID
    message_id: str
    tell: Tell

    async def submit(self, session: SmtpSession) -> Submitted:
        try:
            mail = compose(
                self.alert,
                message_id=self.message_id,
                sender=self.sender.address,
                sender_name=self.sender.display_name,
                delivery_id=self.delivery_id,
                date=datetime.now(UTC),
                server_has_smtputf8=session.features.smtputf8,
                server_has_8bitmime=session.features.eight_bit,
            )
        except (AlertpostError, ValueError) as error:
            raise SubmissionFailed(
                stage=Stage.COMPOSE, failure="compose", reply_text=str(error)
            ) from error
        begun = time.perf_counter()
        try:
            return await session.submit(
                Envelope(
                    sender=self.sender.address,
                    recipients=self.alert.envelope_recipients,
                    data=mail.data,
                    smtputf8=mail.smtputf8,
                )
            )
        except SubmissionFailed as failed:
            if failed.reply_code is None:
                # The trace tells replies; silence and a cut line are told here.
                seconds = time.perf_counter() - begun
                self.tell(Line(failed.stage, "", f"{failed.failure}: {failed.reply_text}", seconds))
            raise


def _failed(verdict: Verdict, reply: str, begun: float, message_id: str) -> Ending:
    return Ending(verdict, reply, {}, time.perf_counter() - begun, message_id)
