"""
One mail sent now, step by step, for ``alertpost mailboxes test``.

It goes the way of a visit, with the same token lease and within the same limits, but every step is
told as it happens, and nothing is parked, paused or tried again later.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from console.context import Context
from console.verbs_mailboxes import Account, entra
from models import grants, lane
from models.alert import AlertEmail
from models.database import read, write
from models.errors import (
    AlertpostError,
    Conflict,
    CredentialRejected,
    SubmissionFailed,
    TokenUnavailable,
)
from models.ids import uuid7
from models.message_ids import new_message_id
from models.redis_keys import RedisKeys
from models.senders import Sender
from models.stages import Stage
from models.vault import grant_context
from workers import conclusion
from workers.compose import compose
from workers.entra import Tokens
from workers.lease import TokenLeases
from workers.oauth_errors import classify_oauth
from workers.pacing import Pacer, PacingLimits
from workers.recorder import Recorder
from workers.smtp_session import Envelope, SmtpSession, Step, Submitted, open_session
from workers.tls_contexts import TlsContexts
from workers.verdict import Action, Verdict

REDIS_SECONDS = 3.0
SLOT_WAIT_SECONDS = 3.0
"""Workers let go of an idle connection within half a second of somebody asking for its slot."""

_POLL_SECONDS = 0.25
_RACES = 3


@dataclass(frozen=True, slots=True)
class Line:
    """
    One step as it is told.

    Attributes:
        stage: ``token``, ``pacing``, or a stage of the dialogue.
        sent: What we said or asked.
        received: What came back.
        seconds: How long the step took.
        detail: What else there is to know, such as the certificate.
    """

    stage: str
    sent: str
    received: str
    seconds: float
    detail: str = ""


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


@dataclass(frozen=True, slots=True)
class _Access:
    """A token, and where it came from."""

    token: str = field(repr=False)
    fresh: bool
    left_seconds: float


Tell = Callable[[Line], None]


class MustWait(AlertpostError):  # noqa: N818 - reads as what it is
    """The mailbox's limits leave no room for a test now; nothing was sent."""


async def send_test(context: Context, who: Account, alert: AlertEmail, *, tell: Tell) -> Ending:
    """
    Send one mail now.

    Args:
        context: Open resources.
        who: The mailbox; it must be connected.
        alert: The mail.
        tell: Told of every step as it ends.

    Raises:
        Conflict: The mailbox is not connected.
        MustWait: The limits of the mailbox leave no room now.
    """
    sender = who.sender
    if not sender.connected:
        raise Conflict(
            f"mailbox {sender.address} is not connected: "
            f"run `alertpost mailboxes connect {sender.address}`"
        )
    begun = time.perf_counter()
    delivery_id = uuid7()
    message_id = new_message_id(delivery_id, sender.address.rpartition("@")[2])
    async with _redis(context) as client:
        if client is None:
            tell(Line("pacing", "", "not asked: no Redis answers, so no worker sends now", 0.0))
            if sender.paused_until is not None and sender.paused_until > datetime.now(UTC):
                raise MustWait(
                    f"the mailbox pauses until {sender.paused_until:%H:%M:%SZ}; try again then"
                )
        tokens = _Tokens(context, who, client)
        submitting = _Submitting(context, sender, alert, delivery_id, message_id, tell)
        try:
            submitted = await _converse(context, client, tokens, submitting)
        except CredentialRejected as refused:
            verdict = _oauth_verdict(refused)
            tell(Line(Stage.TOKEN, "refresh", refused.error, 0.0, refused.description))
            return _failed(verdict, str(refused), begun, message_id)
        except TokenUnavailable as away:
            verdict = conclusion.token_unavailable(str(away), away.retry_after_seconds)
            return _failed(verdict, str(away), begun, message_id)
        except SubmissionFailed as failed:
            verdict = conclusion.judge(failed, fresh_token=tokens.fresh)
            reply = (
                f"{failed.reply_code} {failed.reply_text}"
                if failed.reply_code
                else f"{failed.failure or 'failed'}: {failed.reply_text}"
            )
            if failed.refused:
                reply = "; ".join(f"{code} {text}" for code, text in failed.refused.values())
            return _failed(verdict, reply, begun, message_id)
        finally:
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


async def _converse(
    context: Context,
    client: redis.asyncio.Redis | None,
    tokens: _Tokens,
    submitting: _Submitting,
) -> Submitted:
    """Take a slot and a permit, open a connection, send; one other token where one was refused."""
    sender, tell = submitting.sender, submitting.tell
    async with _permitted(context, client, sender, tell) as permit:
        session = await _open(context, sender, tokens, tell)
        try:
            await permit()
            return await submitting.submit(session)
        finally:
            await session.leave()


async def _open(context: Context, sender: Sender, tokens: _Tokens, tell: Tell) -> SmtpSession:
    tls = TlsContexts(context.settings.ca_file).get(sender.ca_file)
    rejected: str | None = None
    while True:
        started = time.perf_counter()
        access = await tokens.get(rejected)
        source = "fetched from Entra just now" if access.fresh else "shared by the workers"
        ends = datetime.now(UTC) + timedelta(seconds=access.left_seconds)
        tell(
            Line(
                Stage.TOKEN,
                " ".join(sender.scopes),
                f"{source}, good until {ends:%H:%M:%SZ} ({access.left_seconds / 60:.0f} minutes)",
                time.perf_counter() - started,
            )
        )
        try:
            return await open_session(
                host=sender.smtp_host,
                port=sender.smtp_port,
                tls=tls,
                user=sender.auth_user,
                token=access.token,
                settings=context.settings.smtp,
                trace=lambda step: tell(_line(step)),
            )
        except SubmissionFailed as failed:
            verdict = conclusion.judge(failed, fresh_token=tokens.fresh)
            if verdict.action is not Action.REAUTH or rejected is not None:
                raise
            rejected = access.token


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
                self.tell(Line(failed.stage, "", f"{failed.failure}: {failed.reply_text}", 0.0))
            raise


class _Tokens:
    """Access tokens as workers get them; without Redis refreshed directly, the grant compared."""

    def __init__(self, context: Context, who: Account, client: redis.asyncio.Redis | None) -> None:
        self._context = context
        self._who = who
        self._entra = entra(context, who.sender)
        self._recorder: Recorder | None = None
        self._leases: TokenLeases | None = None
        self.fresh = False
        if client is not None:
            self._recorder = Recorder(context.engine, asyncio.get_running_loop())
            self._recorder.start()
            self._leases = TokenLeases(
                redis=client,
                keys=RedisKeys(context.settings.redis_prefix),
                recorder=self._recorder,
                vault=context.vault,
                entra=lambda _: self._entra,
                settings=context.settings.lease,
            )

    async def get(self, rejected: str | None) -> _Access:
        """Give a token other than the one that was refused."""
        if self._leases is None:
            tokens = await asyncio.to_thread(self._refresh)
            self.fresh = True
            return _Access(tokens.access_token, True, tokens.expires_in_seconds)
        lease = await self._leases.get(self._who.sender, rejected=rejected)
        self.fresh = lease.fresh or rejected is not None
        return _Access(lease.token, lease.fresh, lease.expires_at - time.monotonic())

    async def close(self) -> None:
        """Let a refresh come to its end: a rotated token must be committed."""
        if self._leases is not None:
            await self._leases.close()
        if self._recorder is not None:
            await asyncio.to_thread(self._recorder.stop)

    def _refresh(self) -> Tokens:
        context, who = self._context, self._who
        for _ in range(_RACES):
            with read(context.engine) as conn:
                grant = grants.load_grant(conn, who.sender.mailbox_id)
            if grant is None:
                raise CredentialRejected("consent_required", description="the consent is gone")
            if grant.kind == grants.APP_ONLY:
                return self._entra.client_credentials(who.sender, who.credential)
            cache = grants.open_cache(context.vault, grant) or ""
            tokens = self._entra.refresh(who.sender, who.credential, cache)
            sealed = context.vault.seal(tokens.cache.encode(), context=grant_context(grant.id))
            with write(context.engine) as conn:
                if grants.update_grant(
                    conn,
                    grant_id=grant.id,
                    expected_version=grant.version,
                    cache_encrypted=sealed,
                ):
                    return tokens
        raise TokenUnavailable("the grant kept changing under the refresh", retry_after_seconds=2)


@asynccontextmanager
async def _redis(context: Context) -> AsyncIterator[redis.asyncio.Redis | None]:
    """Give a client, or None where no Redis is known or none answers."""
    if not context.settings.redis_url:
        yield None
        return
    client = redis.asyncio.Redis.from_url(
        context.settings.redis_url,
        socket_timeout=REDIS_SECONDS,
        socket_connect_timeout=REDIS_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        try:
            await client.ping()
        except RedisError:
            answers = False
        else:
            answers = True
        yield client if answers else None
    finally:
        await client.aclose()


@asynccontextmanager
async def _permitted(
    context: Context, client: redis.asyncio.Redis | None, sender: Sender, tell: Tell
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold a slot for the block; what is given takes the permit, to be awaited before MAIL FROM."""

    async def unasked() -> None:
        return None

    if client is None:
        yield unasked
        return
    pacing = context.settings.pacing
    pacer = Pacer(
        client,
        RedisKeys(context.settings.redis_prefix),
        PacingLimits(
            messages=pacing.messages_per_window,
            window_ms=round(pacing.window_seconds * 1000),
            connections=pacing.connections_per_mailbox,
            critical_reserve=pacing.critical_reserve,
            slot_ms=round(pacing.slot_seconds * 1000),
        ),
    )
    key, visit_id = sender.mailbox_id, f"test-{os.getpid()}/{uuid4().hex[:12]}"
    used = False

    async def take() -> None:
        nonlocal used
        started = time.perf_counter()
        permit = await pacer.permit(key, visit_id, critical=False, stamp=False)
        seconds = time.perf_counter() - started
        if not permit.granted:
            wait = max(permit.wait_ms, permit.pause_ms) / 1000
            why = "it pauses" if permit.pause_ms else "its mails of this minute are used up"
            raise MustWait(
                f"mailbox {sender.address} may not send now ({why}); try again in {wait:.0f} s"
            )
        used = True
        tell(Line("pacing", "permit", "granted: within the mailbox's limits", seconds))

    started = time.perf_counter()
    await _slot(context, pacer, sender, visit_id)
    tell(Line("pacing", "slot", "free: one connection is ours", time.perf_counter() - started))
    keeper = asyncio.create_task(_keep(pacer, key, visit_id, pacing.slot_seconds))
    try:
        yield take
    finally:
        keeper.cancel()
        await pacer.leave(key, visit_id, stamp=used)
        if context.waker is not None:
            # Coming here took the lane's wake-up away.
            await asyncio.to_thread(context.waker.wake, [(key, False)])


async def _slot(context: Context, pacer: Pacer, sender: Sender, visit_id: str) -> None:
    deadline = time.monotonic() + SLOT_WAIT_SECONDS
    while True:
        entry = await pacer.enter(sender.mailbox_id, visit_id, critical=False)
        if not entry.known:
            window = context.settings.pacing.window_seconds
            recent = await asyncio.to_thread(_recent, context, sender.mailbox_id, window)
            await pacer.seed(
                sender.mailbox_id,
                ages_ms=recent.ages_ms,
                holders=[(holder, round(left * 1000)) for holder, left in recent.in_hand],
                era=entry.era,
            )
            continue
        if entry.slot:
            return
        if time.monotonic() > deadline:
            raise MustWait(
                f"all connections that mailbox {sender.address} may have are in use; "
                "try again in some seconds"
            )
        await asyncio.sleep(_POLL_SECONDS)


def _recent(context: Context, mailbox_id: UUID, window_seconds: float) -> lane.Recent:
    with read(context.engine) as conn:
        return lane.recent_submissions(conn, mailbox_id=mailbox_id, window_seconds=window_seconds)


async def _keep(pacer: Pacer, mailbox_id: UUID, visit_id: str, slot_seconds: float) -> None:
    """Renew the slot while servers are slow."""
    while True:
        await asyncio.sleep(slot_seconds / 4)
        await pacer.renew(mailbox_id, visit_id)


def _line(step: Step) -> Line:
    return Line(step.stage.value, step.sent, step.received, step.seconds, step.detail)


def _failed(verdict: Verdict, reply: str, begun: float, message_id: str) -> Ending:
    return Ending(verdict, reply, {}, time.perf_counter() - begun, message_id)


def _oauth_verdict(refused: CredentialRejected) -> Verdict:
    return classify_oauth(
        refused.error,
        refused.codes,
        refused.suberror,
        refused.description,
        http_status=refused.http_status,
    )
