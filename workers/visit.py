"""
A visit: what a worker does on a wake-up, from the slot to the last mail.

    slot → sender and claims → token lease → connection
         → [permit → compose → submit → classify → settle]…
         → give back what is left, keep or close the connection, leave the slot

Mails go strictly in the order of the claims, one at a time, and the outcome of one is committed
before the next is submitted. So if this process dies, the first unsettled claim is the one mail
whose fate is in doubt; the sweep relies on that. A visit that is cut short or meets a fault of ours
leaves that one to the sweep as well: it is uncertain, and the third time dead.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import structlog
from sqlalchemy import Connection

from models import lane
from models.alert import AlertEmail
from models.auth_forms import set_auth_form
from models.errors import (
    AlertpostError,
    ConfigurationError,
    CredentialRejected,
    StoreUnavailable,
    SubmissionFailed,
    TokenUnavailable,
    VaultError,
)
from models.lane_park import concerned
from models.lifecycle import GIVE_UP, RETRY
from models.quota import RECIPIENTS, charge
from models.repeats import repeats
from models.severity import Severity
from models.stages import Stage
from models.vault import delivery_context
from workers import conclusion
from workers.compose import compose
from workers.connections import TEND_SECONDS
from workers.lease import Lease
from workers.oauth_errors import classify_oauth
from workers.pacing import PacingUnavailable, Waiting
from workers.parking import park_unless_renewed, tell_parked
from workers.replies import classify
from workers.reply_rules import SIGNED_IN_AS_MAILBOX, Failure
from workers.reply_rules_session import NOT_AUTHENTICATED
from workers.shared_mailboxes import other_form_at_auth, other_form_for_sender
from workers.smtp_session import Envelope, SmtpSession, Submitted, open_session
from workers.verdict import Action, Verdict

if TYPE_CHECKING:
    from models.auth_forms import AuthForm
    from models.quota import Spent
    from models.senders import Sender
    from workers.pacing import Entry
    from workers.services import Services
    from workers.visits import Visits

log = structlog.get_logger()

LARGE_BYTES = 256 * 1024
"""Opening and composing a larger mail takes so long that it is done beside the loop."""

SLOW_SECONDS = 0.25
FAIR_SECONDS = 1.0
"""Where a mail takes longer than the first, no more are claimed than can be sent in the second."""

PATIENCE = 4.0
"""A visit waits for a permit for so many times their mean distance at most; else it ends."""

SENDER_SECONDS = 5.0
"""A visit that lasts goes by its sender as read so lately; parks and pauses count at once."""

MOST_TOKENS = 3
"""Tokens that are tried at AUTH: our own copy, the one that others share, a new one."""

FORGOTTEN_SECONDS = 2 * TEND_SECONDS
"""After Redis forgot a mailbox that was busy lately, nobody may open a connection for so long."""

_CREDENTIAL_STAGES = frozenset({Stage.TOKEN, Stage.AUTH})

_NOBODY = Waiting(normal=False, critical=False)


class VisitEnd(StrEnum):
    """How a visit ended; what follows from it stands in ``_follow_up``."""

    NO_SLOT = "no_slot"
    NOT_READY = "not_ready"
    """Not connected, parked or paused: the lane waits for a person or a moment."""
    LANE_EMPTY = "lane_empty"
    NO_PERMIT = "no_permit"
    OUT_OF_TIME = "out_of_time"
    HALTED = "halted"
    """An answer paused or parked the mailbox."""
    STOPPING = "stopping"
    AWAY = "away"
    """Redis or SQL is away; the sweep comes back to the lane."""


@dataclass(slots=True)
class _Halt(Exception):  # noqa: N818 - ends a visit, no error
    """Ends the visit from within."""

    end: VisitEnd


class Visit:
    """One visit; its state is what has to be given back at the end."""

    def __init__(
        self, services: Services, visits: Visits, mailbox_id: UUID, *, critical: bool
    ) -> None:
        self._services = services
        self._visits = visits
        self.mailbox_id = mailbox_id
        self.critical = critical
        self._started = self._turn_began = time.monotonic()
        self.moved_at = self._started
        self.resting = False
        self.slot_memory = ""
        self.task: asyncio.Task[object] | None = None
        kept = services.connections.take(mailbox_id)
        self._session: SmtpSession | None = None
        if kept is not None:
            self._visit_id = kept.visit_id
            self._session = kept.session if kept.session.usable else None
        else:
            self._visit_id = f"{services.worker}/{uuid4().hex[:12]}"
        self._has_slot = kept is not None
        self._sender: Sender | None = None
        self._sender_read_at = 0.0
        self._claims: deque[lane.Claimed] = deque()
        self._settling: asyncio.Future[bool] | None = None
        self._retry_seconds: float | None = None
        self._retries_at: list[float] = []
        self._permit_held = False
        self._probing = False
        self._batch = services.settings.visit.claim_batch
        self._signed_in_for: UUID | None = None
        self._alarm_at: float | None = None
        self._clock_ahead = timedelta(0)
        self._accepted_domains: frozenset[str] | None = None
        self._broken = False
        # Until when, on the monotonic clock, claims and slot are certainly still ours.
        self._submitting = False
        self._claims_until = 0.0
        self._slot_until = 0.0

    @property
    def age_seconds(self) -> float:
        """Since its beginning."""
        return time.monotonic() - self._started

    async def renew_slot(self, memory: str | None = None) -> None:
        """
        Keep the slot while a slow server, or SQL, is waited for; without it, hang up.

        Args:
            memory: The memory of Redis under which it was found necessary; see ``Watched``.
        """
        if not self._has_slot:
            return
        asked = time.monotonic()
        try:
            renewal = await self._services.pacer.renew(self.mailbox_id, self._visit_id)
        except PacingUnavailable as away:
            log.warning("slot_not_renewed", mailbox_id=str(self.mailbox_id), reason=str(away)[:200])
            return
        if memory is not None:
            self.slot_memory = memory
        if renewal.kept:
            self._slot_until = asked + self._services.settings.pacing.slot_seconds
            return
        # Others may open a connection in its place. A mail whose reply is awaited is let be.
        self._slot_until = 0.0
        if not self._submitting:
            self._drop_session()

    async def renew_claims(self) -> None:
        """Keep the claims likewise."""
        if not self._claims:
            return
        lease_seconds = self._services.settings.visit.claim_seconds
        asked = time.monotonic()
        try:
            kept = await self._services.recorder.run(
                partial(lane.renew, claimed_by=self._visit_id, lease_seconds=lease_seconds)
            )
        except StoreUnavailable as away:
            log.warning(
                "claims_not_renewed", mailbox_id=str(self.mailbox_id), reason=str(away)[:200]
            )
            return
        if kept >= len(self._claims):
            self._claims_until = asked + lease_seconds

    async def run(self) -> VisitEnd:
        """Drain the lane as far as it may be, and give back whatever is held; runs once."""
        self.task = asyncio.current_task()
        end = VisitEnd.AWAY
        try:
            end = await self._drain()
        except _Halt as halt:
            end = halt.end
        except (PacingUnavailable, StoreUnavailable) as away:
            log.warning("visit_away", mailbox_id=str(self.mailbox_id), reason=str(away)[:200])
        except BaseException:
            self._broken = True
            raise
        finally:
            # A cancelled visit still has to give back what it holds.
            await asyncio.shield(self._close(end))
        return end

    # -- the way down ------------------------------------------------------------------------

    async def _drain(self) -> VisitEnd:
        entry = await self._enter()
        while True:
            # One that came with a kept connection may have lost its slot meanwhile.
            self._has_slot = entry.slot
            if not entry.slot:
                return VisitEnd.NO_SLOT
            if not await self._claim(entry):
                if not await self._waited(entry):
                    return self._nothing_claimed(entry)
                entry = await self._enter()
                continue
            while self._claims:
                if self._visits.stopping:
                    return VisitEnd.STOPPING
                await self._next_mail()
            if self._had_its_turn():
                return VisitEnd.OUT_OF_TIME
            await self._settled()
            entry = await self._enter()

    async def _enter(self) -> Entry:
        """Take a slot, or renew the one we have; teach Redis what it forgot."""
        services = self._services
        asked = time.monotonic()
        entry = await services.pacer.enter(
            self.mailbox_id,
            self._visit_id,
            critical=self.critical,
            stamp=self._permit_held,
        )
        # Where it was not known: what was sent is in SQL, and taught from there.
        self._permit_held = False
        if not entry.known:
            window = services.settings.pacing.window_seconds
            lease = services.settings.visit.claim_seconds
            recent = await services.recorder.run(
                partial(lane.recent_submissions, mailbox_id=self.mailbox_id, window_seconds=window)
            )
            if recent.ages_ms:
                # SQL knows nothing of connections that are kept idle; who keeps one finds its slot
                # forgotten and closes it within this time.
                await services.pacer.pause(self.mailbox_id, FORGOTTEN_SECONDS)
            await services.pacer.seed(
                self.mailbox_id,
                ages_ms=recent.ages_ms,
                # No claim lasts longer than its lease, unless SQL's clock was set back meanwhile.
                holders=[(holder, int(min(left, lease) * 1000)) for holder, left in recent.in_hand],
                era=entry.era,
            )
            asked = time.monotonic()
            entry = await services.pacer.enter(
                self.mailbox_id, self._visit_id, critical=self.critical
            )
        self._slot_until = asked + services.settings.pacing.slot_seconds
        return entry

    async def _claim(self, entry: Entry) -> bool:
        """Claim no more than there are permits for; with the normal ones used up, criticals."""
        settings = self._services.settings.visit
        only_critical = entry.permits == 0
        limit = min(entry.permits or entry.critical_permits, self._batch)
        if not limit:
            return False

        wish = lane.Wish(self.mailbox_id, self._visit_id, limit, only_critical)
        self._claims_until = time.monotonic() + settings.claim_seconds
        found = await self._services.recorder.together(
            self._services.look, lane.Look(wish, self._known_sender())
        )
        self._sender, self._probing, granted = found.sender, found.probing, found.granted
        if found.read:
            self._sender_read_at = time.monotonic()
        if found.now is not None:
            self._clock_ahead = found.now - self._services.now()
        self._claims.extend(granted.claims)
        self._accepted_domains = granted.domains
        self._wait_for_room(granted)
        return bool(granted.claims)

    def _known_sender(self) -> Sender | None:
        """Give the sender as read lately; None where nothing may be sent for it as it was then."""
        sender = self._sender
        fresh = time.monotonic() - self._sender_read_at < SENDER_SECONDS
        if sender is None or not fresh or not sender.connected:
            return None
        return None if sender.parked_at or sender.paused_until else sender

    def _wait_for_room(self, granted: lane.Granted) -> None:
        """Look again when the day's limits have room for what was put off."""
        if granted.wait_seconds is None:
            return
        self._alarm_in(granted.wait_seconds * 1000)
        if granted.paused:
            log.warning(
                "mailbox_paused",
                mailbox_id=str(self.mailbox_id),
                scope="mailbox",
                reason=RECIPIENTS,
                seconds=round(granted.wait_seconds, 1),
            )

    def _spent(self, addresses: Sequence[str]) -> Spent | None:
        """Say what a mail counts towards the day's limits that these have, or may have."""
        sender = self._sender
        if sender is None:
            return None
        return charge(
            addresses,
            account=sender.auth_user,
            tenant_id=sender.tenant_id,
            accepted_domains=self._accepted_domains,
            bucket_seconds=self._services.bucket_seconds,
        )

    def _may_send(self) -> bool:
        """
        Say whether claims and slot are certainly still ours.

        A process that stood still finds its claims with others when it goes on, and its permit
        counted for a moment long past. What it then sent would be sent twice and beyond the limit.
        """
        return time.monotonic() < min(self._claims_until, self._slot_until)

    def _now(self) -> datetime:
        """Tell the time by the database's clock, by which deadlines count."""
        return self._services.now() + self._clock_ahead

    async def _waited(self, entry: Entry) -> bool:
        """
        Wait here for the next permit where it is near and the connection is open anyway.

        Nothing is claimed meanwhile. A backlogged lane gets a permit every 2 s: to end and be
        waked for each would cost three times what its mail does. See docs/decisions/0014.
        """
        visits, mailbox_id = self._visits, self.mailbox_id
        pacing = self._services.settings.pacing
        distance_seconds = pacing.window_seconds / pacing.messages_per_window
        if (
            entry.permits
            or not 0 < entry.wait_ms <= PATIENCE * distance_seconds * 1000
            or self.critical
            or self._session is None
            or visits.stopping
            or mailbox_id in visits.at_the_door
            or self._had_its_turn()
        ):
            return False
        visits.at_the_door.add(mailbox_id)
        self.resting = True
        # It needs no more than the connection, which would be kept as well.
        self._services.room.give()
        try:
            await visits.rest(entry.wait_ms / 1000)
        finally:
            self._services.room.take()
            self.resting = False
            visits.at_the_door.discard(mailbox_id)
        self.moved_at = self._turn_began = time.monotonic()
        return not visits.stopping

    def _had_its_turn(self) -> bool:
        """Say whether it is others' turn; to wait is to have let them."""
        return time.monotonic() - self._turn_began > self._services.settings.visit.max_seconds

    def _nothing_claimed(self, entry: Entry) -> VisitEnd:
        if not entry.permits and not self.critical and self.mailbox_id in self._visits.at_the_door:
            # Another visit waits there already, and goes on with what is in the lane.
            return VisitEnd.NO_PERMIT
        if not entry.permits:
            self._alarm_in(entry.wait_ms)
            return VisitEnd.NO_PERMIT
        sender = self._sender
        if sender is None or not sender.connected or sender.parked_at or sender.paused_until:
            return VisitEnd.NOT_READY
        return VisitEnd.LANE_EMPTY

    async def _next_mail(self) -> None:
        """Send the first claim, or end the visit."""
        delivery = self._claims[0]
        if delivery.expires_at is not None and delivery.expires_at <= self._now():
            self._tell_expired()
            await self._settle(delivery, conclusion.expired(delivery, self._visit_id))
            return
        session = await self._connected(delivery)
        try:
            if len(delivery.payload_encrypted) > LARGE_BYTES:
                envelope = await asyncio.to_thread(self._compose, delivery, session)
            else:
                envelope = self._compose(delivery, session)
        except SubmissionFailed as failed:
            await self._fail(delivery, failed, seconds=0.0, took_permit=False)
            return
        except VaultError as wrong:
            # A key that this worker lacks must not cost the customers their alerts.
            unread = SubmissionFailed(stage=Stage.COMPOSE, reply_text=str(wrong))
            await self._conclude(delivery, conclusion.misconfigured(str(wrong)), unread)
            return
        await self._permit(delivery)
        await self._settled()
        if not self._may_send():
            self._has_slot = time.monotonic() < self._slot_until
            self._alarm_in(0)
            raise _Halt(VisitEnd.AWAY)
        started = time.perf_counter()
        self._submitting = True
        try:
            submitted = await session.submit(envelope, may_send=self._may_send)
        except SubmissionFailed as failed:
            self._submitting = False
            if self._wants_new_connection(delivery, session, failed):
                # The next turn sends it over that.
                self._drop_session()
                return
            seconds = time.perf_counter() - started
            await self._fail(delivery, failed, seconds=seconds, took_permit=True)
        else:
            self._submitting = False
            await self._accepted(
                delivery, submitted, envelope, seconds=time.perf_counter() - started
            )

    def _tell_expired(self) -> None:
        """Say what the sweep says of what expires in the queue."""
        assert self._sender is not None
        log.warning(
            "alerts_ended_unsent",
            tenant=self._sender.tenant_slug,
            mailbox=self._sender.address,
            reason="expired",
            alerts=1,
        )

    def _wants_new_connection(
        self, delivery: lane.Claimed, session: SmtpSession, failed: SubmissionFailed
    ) -> bool:
        """Say whether it was the session's end and not the mail's fault: it costs no attempt."""
        if failed.stage == Stage.MAIL and failed.failure == Failure.DISCONNECTED:
            # The server hung up between two mails and has heard nothing of this one.
            return session.mails > 1
        if failed.reply_code is None or self._signed_in_for == delivery.id:
            return False
        verdict = conclusion.judge(failed, fresh_token=False)
        if verdict.action is not Action.REAUTH and verdict.rule != NOT_AUTHENTICATED.rule:
            return False
        # Its token expired or was revoked; once a mail, or a server that forgets every sign-in
        # would be asked for ever.
        self._signed_in_for = delivery.id
        return True

    # -- token and connection ----------------------------------------------------------------

    async def _connected(self, delivery: lane.Claimed) -> SmtpSession:
        session = self._session
        if session is not None and self._services.connections.worth_keeping(session):
            return session
        self._drop_session()
        rejected: str | None = None
        tries = 0
        while True:
            started = time.perf_counter()
            lease = await self._lease(delivery, rejected)
            self._keep_to_slot()
            try:
                self._session = await self._open(lease)
            except SubmissionFailed as failed:
                tries += 1
                # Only of a token that Entra has just issued is a refusal the last word; what others
                # shared may be as old as the one before.
                fresh = lease.fresh or tries >= MOST_TOKENS
                verdict = conclusion.judge(failed, fresh_token=fresh)
                if verdict.action is Action.REAUTH and not fresh:
                    # Another token, no attempt: this one may have been revoked or have expired.
                    rejected = lease.token
                    continue
                seconds = time.perf_counter() - started
                assert self._sender is not None
                form = other_form_at_auth(self._sender, verdict)
                if form is None or not await self._signed_in_as(form, lease):
                    await self._conclude(delivery, verdict, failed, seconds=seconds)
                    raise _Halt(VisitEnd.HALTED) from failed
                await self._keep_form()
                assert self._session is not None
            self._keep_to_slot()
            return self._session

    def _keep_to_slot(self) -> None:
        """Open no connection, and keep none, where others may have one in its place."""
        if time.monotonic() >= self._slot_until:
            self._has_slot = False
            self._alarm_in(0)
            raise _Halt(VisitEnd.AWAY)

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    async def _lease(self, delivery: lane.Claimed, rejected: str | None) -> Lease:
        assert self._sender is not None
        try:
            return await self._services.leases.get(self._sender, rejected=rejected)
        except CredentialRejected as refused:
            verdict = classify_oauth(
                refused.error,
                refused.codes,
                refused.suberror,
                refused.description,
                http_status=refused.http_status,
            )
            failed = SubmissionFailed(stage=Stage.TOKEN, reply_text=str(refused))
        except TokenUnavailable as away:
            verdict = conclusion.token_unavailable(away)
            failed = SubmissionFailed(stage=Stage.TOKEN, reply_text=away.answer)
        except (ConfigurationError, VaultError) as wrong:
            verdict = conclusion.misconfigured(str(wrong))
            failed = SubmissionFailed(stage=Stage.TOKEN, reply_text=str(wrong))
        await self._conclude(delivery, verdict, failed)
        raise _Halt(VisitEnd.HALTED)

    async def _signed_in_as(self, form: AuthForm, lease: Lease) -> bool:
        """Sign in for a shared mailbox the other way; from then on this visit does so."""
        before = self._sender
        assert before is not None
        self._sender = replace(before, auth_form=form)
        try:
            self._session = await self._open(lease)
        except SubmissionFailed:
            self._sender = before
            return False
        return True

    async def _keep_form(self) -> None:
        """Let all workers sign in as this visit did."""
        sender = self._sender
        assert sender is not None
        await self._services.recorder.run(
            partial(
                set_auth_form,
                mailbox_id=sender.mailbox_id,
                auth_user=sender.auth_user,
                form=sender.auth_form,
                actor=f"worker:{self._services.worker}",
            )
        )
        log.warning(
            "auth_form_changed", mailbox_id=str(self.mailbox_id), form=sender.auth_form.value
        )

    async def _may_sign_in_as_mailbox(self, verdict: Verdict) -> bool:
        """After the From address was refused: see whether the mailbox itself may be signed in."""
        sender = self._sender
        assert sender is not None
        form = other_form_for_sender(sender, verdict)
        if form is None or time.monotonic() >= self._slot_until:
            return False
        self._drop_session()
        try:
            lease = await self._services.leases.get(sender)
        except AlertpostError:
            # What the mail was refused for has to be recorded, whatever else is wrong.
            return False
        return await self._signed_in_as(form, lease)

    async def _open(self, lease: Lease) -> SmtpSession:
        assert self._sender is not None
        sender = self._sender
        try:
            tls = self._services.tls.get(sender.ca_file)
        except ConfigurationError as wrong:
            raise SubmissionFailed(
                stage=Stage.STARTTLS, failure="certificate", reply_text=str(wrong)
            ) from wrong
        return await open_session(
            host=sender.smtp_host,
            port=sender.smtp_port,
            tls=tls,
            user=sender.signs_in_as,
            token=lease.token,
            settings=self._services.settings.smtp,
        )

    # -- one mail ----------------------------------------------------------------------------

    def _compose(self, delivery: lane.Claimed, session: SmtpSession) -> Envelope:
        """
        Build the mail for the recipients that are still to be served.

        Raises:
            SubmissionFailed: Stage ``compose``; this mail can never be sent as it is.
            VaultError: The key is missing here.
        """
        assert self._sender is not None
        try:
            plain = self._services.vault.open(
                delivery.payload_encrypted, context=delivery_context(delivery.id)
            )
            alert = AlertEmail.load(plain)
            mail = compose(
                alert,
                message_id=delivery.message_id,
                sender=self._sender.address,
                sender_name=self._sender.display_name,
                delivery_id=delivery.id,
                date=delivery.enqueued_at,
                server_has_smtputf8=session.features.smtputf8,
                server_has_8bitmime=session.features.eight_bit,
            )
        except VaultError:
            raise
        except Exception as error:
            # Whatever it is: this mail would meet it again, and the lane must go on.
            raise SubmissionFailed(
                stage=Stage.COMPOSE, failure="compose", reply_text=str(error)
            ) from error
        limit = self._sender.max_message_bytes or self._services.settings.smtp.max_message_bytes
        if session.features.size_limit:
            limit = min(limit, session.features.size_limit)
        if mail.size > limit:
            raise SubmissionFailed(
                stage=Stage.COMPOSE,
                reply_code=552,
                reply_text=f"5.3.4 the mail has {mail.size:,} bytes, more than the {limit:,} "
                "that this mailbox may send; send a link instead of the attachment",
            )
        served = {*delivery.refused, *delivery.taken}
        recipients = [address for address in alert.envelope_recipients if address not in served]
        if not recipients:
            raise SubmissionFailed(
                stage=Stage.COMPOSE, failure="compose", reply_text="no recipient is left to serve"
            )
        return Envelope(
            sender=self._sender.address,
            recipients=recipients,
            data=mail.data,
            smtputf8=mail.smtputf8,
        )

    async def _permit(self, delivery: lane.Claimed) -> None:
        """Stamp the mail before and get a permit for this one, in one call; or end the visit."""
        # An answer that does not come may have been a permit: until it is there, count on one.
        stamp, self._permit_held = self._permit_held, True
        asked = time.monotonic()
        permit = await self._services.pacer.permit(
            self.mailbox_id,
            self._visit_id,
            critical=delivery.severity == Severity.CRITICAL,
            stamp=stamp,
        )
        self._permit_held = permit.granted
        if permit.granted:
            self._slot_until = asked + self._services.settings.pacing.slot_seconds
            return
        if permit.lost:
            # Redis forgot our slot. The lane is looked at again, from the start.
            self._has_slot = False
            self._alarm_in(0)
            raise _Halt(VisitEnd.AWAY)
        self._alarm_in(max(permit.wait_ms, permit.pause_ms))
        raise _Halt(VisitEnd.NO_PERMIT)

    async def _accepted(
        self, delivery: lane.Claimed, submitted: Submitted, envelope: Envelope, *, seconds: float
    ) -> None:
        refused: dict[str, str] = {}
        deferred: dict[str, Verdict] = {}
        for address, reply in submitted.refused.items():
            verdict = classify(Stage.RCPT, reply.code, reply.text, fresh_token=False)
            if verdict.action in conclusion.FINAL_FOR_RECIPIENT:
                refused[address] = f"{reply.code} {reply.text}"
            else:
                deferred[address] = verdict
        taken = [address for address in envelope.recipients if address not in submitted.refused]
        outcome = conclusion.accepted(
            delivery,
            self._visit_id,
            submitted,
            host=self._session.host if self._session else "",
            worker=self._services.worker,
            seconds=seconds,
            refused=refused,
            taken=taken,
            deferred=deferred,
            retry=self._services.settings.retry,
            now=self._now(),
            spent=self._spent(taken),
        )
        # The usual attempt is a row in SQL anyway: its line is for those who look closely. Even
        # one that is not written costs more than the classification of its reply.
        if self._services.settings.log.level == "debug":
            log.debug(
                "delivery_attempt",
                tenant_id=str(delivery.tenant_id),
                delivery_id=str(delivery.id),
                attempt=delivery.attempts + 1,
                stage=Stage.BODY,
                reply_code=submitted.reply.code,
                outcome=outcome.transition.target.value,
                duration_ms=round(seconds * 1000, 1),
            )
        await self._settle(delivery, outcome)
        if seconds > SLOW_SECONDS:
            await self._share_out(seconds)
        sender = self._sender
        if sender is not None and (self._probing or sender.parked_at or sender.pause_count):
            await self._resume()

    async def _share_out(self, seconds: float) -> None:
        """Leave to another connection what a slow server would keep waiting in our hands."""
        self._batch = max(1, int(FAIR_SECONDS / seconds))
        ids = [claimed.id for claimed in list(self._claims)[self._batch :]]
        if not ids:
            return
        await self._settled()
        await self._services.recorder.run(
            partial(lane.give_back, claimed_by=self._visit_id, ids=ids)
        )
        self._claims = deque(list(self._claims)[: self._batch])
        await self._services.wake(self.mailbox_id, critical=False)

    async def _fail(
        self,
        delivery: lane.Claimed,
        failed: SubmissionFailed,
        *,
        seconds: float,
        took_permit: bool,
    ) -> None:
        verdict = conclusion.judge(failed, fresh_token=False)
        if self._session is not None and not self._session.usable:
            self._drop_session()
        other = await self._may_sign_in_as_mailbox(verdict)
        await self._conclude(
            delivery,
            SIGNED_IN_AS_MAILBOX if other else verdict,
            failed,
            seconds=seconds,
            took_permit=took_permit,
        )
        if other:
            await self._keep_form()

    async def _conclude(
        self,
        delivery: lane.Claimed,
        verdict: Verdict,
        failed: SubmissionFailed,
        *,
        seconds: float = 0.0,
        took_permit: bool = False,
    ) -> None:
        """Turn a verdict into an outcome, and into a pause or a park of the mailbox."""
        services = self._services
        assert self._sender is not None
        sender = self._sender
        repeated = await self._repeated(delivery, verdict, failed)
        now = self._now()
        step = conclusion.decide(
            verdict,
            failed,
            delivery,
            sender,
            retry=services.settings.retry,
            now=now,
            repeated=repeated,
        )
        outcome = conclusion.failed_outcome(
            delivery,
            self._visit_id,
            step,
            failed,
            host=sender.smtp_host,
            worker=services.worker,
            seconds=seconds,
            took_permit=took_permit,
        )
        if outcome.uncertain:
            served = {*delivery.refused, *delivery.taken}
            left = [address for address in delivery.recipients if address not in served]
            outcome = replace(outcome, spent=self._spent(left))
        log.info(
            "delivery_attempt",
            tenant_id=str(delivery.tenant_id),
            delivery_id=str(delivery.id),
            attempt=delivery.attempts + 1,
            stage=failed.stage,
            reply_code=failed.reply_code,
            enhanced_code=outcome.attempt.enhanced_code if outcome.attempt else None,
            verdict=step.verdict.rule,
            outcome=outcome.transition.target.value,
            duration_ms=round(seconds * 1000, 1),
        )
        await self._settle(delivery, outcome)
        if isinstance(step, conclusion.Pause):
            await self._settled()
            await self._pause(step)
            raise _Halt(VisitEnd.HALTED)
        if isinstance(step, conclusion.Park):
            await self._settled()
            await self._park(step, failed, now=now)
            raise _Halt(VisitEnd.HALTED)

    async def _repeated(
        self, delivery: lane.Claimed, verdict: Verdict, failed: SubmissionFailed
    ) -> conclusion.Repeated:
        """Count the same answers in a row, where the verdict changes with their number."""
        if verdict.limit is None:
            return conclusion.Repeated()
        whole_mailbox = failed.stage in conclusion.SESSION_STAGES
        count, elapsed = await self._services.recorder.run(
            partial(
                repeats,
                rule=verdict.rule,
                delivery_id=None if whole_mailbox else delivery.id,
                mailbox_id=self.mailbox_id if whole_mailbox else None,
            )
        )
        return conclusion.Repeated(times=count + 1, elapsed=elapsed)

    async def _settle(self, delivery: lane.Claimed, outcome: lane.Outcome) -> None:
        """Hand the outcome to the recorder; the commit is awaited before the next mail."""
        await self._settled()
        assert self._claims
        assert self._claims[0] is delivery
        self._claims.popleft()
        self.moved_at = time.monotonic()
        self._settling = self._services.recorder.settle(outcome)
        if outcome.transition is RETRY:
            self._retry_seconds = outcome.delay_seconds or 0.0
        if outcome.transition is GIVE_UP:
            log.warning(
                "dead_letter",
                tenant_id=str(delivery.tenant_id),
                delivery_id=str(delivery.id),
                reason=outcome.reason,
            )

    async def _settled(self) -> None:
        settling, self._settling = self._settling, None
        retry_seconds, self._retry_seconds = self._retry_seconds, None
        if settling is not None:
            await settling
        if retry_seconds is not None:
            # It is due so long after its commit: counted from before it the alarm would be early,
            # find nothing due, and be lost.
            self._retries_at.append(time.monotonic() + retry_seconds)

    async def _stamp(self) -> None:
        if self._permit_held:
            await self._services.pacer.stamp(self.mailbox_id, self._visit_id)
            self._permit_held = False

    # -- what an answer does to the mailbox --------------------------------------------------

    async def _pause(self, rest: conclusion.Pause) -> None:
        services = self._services
        seconds = rest.delay.total_seconds()

        def pause(connection: Connection) -> list[UUID]:
            mailboxes = concerned(connection, self.mailbox_id, rest.scope.value)
            return lane.pause(
                connection, mailbox_ids=mailboxes, seconds=seconds, reason=rest.verdict.rule
            )

        mailboxes = await services.recorder.run(pause)
        log.warning(
            "mailbox_paused",
            mailbox_id=str(self.mailbox_id),
            scope=rest.scope.value,
            reason=rest.verdict.rule,
            seconds=round(seconds, 1),
        )
        for mailbox_id in mailboxes:
            await services.pacer.pause(mailbox_id, seconds)
            await services.timer.set(mailbox_id, math.ceil(seconds * 1000))

    async def _park(
        self, park: conclusion.Park, failed: SubmissionFailed, *, now: datetime
    ) -> None:
        verdict = park.verdict
        answer = f"{failed.reply_code or ''} {failed.reply_text}".strip()
        probe = None if park.probe_at is None else park.probe_at - now
        tried = self._sender
        assert tried is not None

        mailboxes = await self._services.recorder.run(
            partial(
                park_unless_renewed,
                tried=tried,
                verdict=verdict,
                scope=park.scope,
                answer=answer,
                probe_after_seconds=None if probe is None else probe.total_seconds(),
                over_credential=failed.stage in _CREDENTIAL_STAGES,
            )
        )
        if not mailboxes:
            # The cause was removed while the old state was being tried: the answer is out of date.
            log.info("park_out_of_date", mailbox_id=str(self.mailbox_id), reason=verdict.rule)
            self._alarm_in(0)
            return
        tell_parked(self.mailbox_id, verdict, park.scope, mailboxes)
        # What other visits have claimed meanwhile would only repeat the error.
        await self._services.pacer.halt(mailboxes)

    async def _resume(self) -> None:
        """A mail went through: what was parked or slowed for the same cause goes on."""
        await self._settled()
        resumed = await self._services.recorder.run(
            partial(lane.resume_scope, mailbox_id=self.mailbox_id)
        )
        await self._services.recorder.run(partial(lane.unpause, mailbox_ids=[self.mailbox_id]))
        self._probing = False
        if self._sender is not None:
            # As SQL has it now, or the next mail would resume once more.
            count = self._sender.resume_count + (self.mailbox_id in resumed)
            self._sender = replace(self._sender, parked_at=None, pause_count=0, resume_count=count)
        if resumed:
            log.info("mailbox_resumed", mailbox_id=str(self.mailbox_id), mailboxes=len(resumed))
        for mailbox_id in resumed:
            await self._services.wake(mailbox_id, critical=False)

    def _alarm_in(self, delay_ms: float) -> None:
        moment = time.monotonic() + delay_ms / 1000
        self._alarm_at = moment if self._alarm_at is None else min(self._alarm_at, moment)

    # -- the way back ------------------------------------------------------------------------

    async def _close(self, end: VisitEnd) -> None:
        """Give back claims, connection and slot; see to it that the lane is looked at again."""
        clean = await self._give_back()
        try:
            waiting = await self._leave(may_keep=clean and not self._visits.stopping)
        except PacingUnavailable:
            waiting = _NOBODY
            log.debug("slot_left_to_expire", mailbox_id=str(self.mailbox_id))
        finally:
            self._drop_session()
        await self._follow_up(end, waiting=waiting)

    async def _give_back(self) -> bool:
        """Return what was not sent; False where claims are left to expire, for the sweep."""
        left = self._broken and bool(self._claims)
        if left:
            self._claims.popleft()
        try:
            await self._settled()
            if self._claims:
                ids = [claimed.id for claimed in self._claims]
                self._claims.clear()
                await self._services.recorder.run(
                    partial(lane.give_back, claimed_by=self._visit_id, ids=ids)
                )
        except Exception as error:  # noqa: BLE001 - the slot must go back whatever it is
            log.warning(
                "claims_left_to_expire", mailbox_id=str(self.mailbox_id), reason=str(error)[:200]
            )
            return False
        return not left

    async def _leave(self, *, may_keep: bool) -> Waiting:
        """Keep the connection with its slot, or close both; tells who waits for the slot."""
        services = self._services
        session = self._session
        if not self._has_slot:
            return _NOBODY
        if session is not None and may_keep:
            await self._stamp()
            if services.connections.has_room(self.mailbox_id, session):
                self._session = None
                services.connections.keep(self.mailbox_id, self._visit_id, session)
                return _NOBODY
        self._drop_session()
        return await services.pacer.leave(self.mailbox_id, self._visit_id, stamp=self._permit_held)

    async def _follow_up(self, end: VisitEnd, *, waiting: Waiting) -> None:
        services = self._services
        if self._alarm_at is not None:
            left_ms = max(0.0, self._alarm_at - time.monotonic()) * 1000
            await services.timer.set(self.mailbox_id, math.ceil(left_ms))
        if self._retries_at:
            now = time.monotonic()
            await services.timer.set_each(
                self.mailbox_id, [math.ceil((moment - now) * 1000) for moment in self._retries_at]
            )
        if end in {VisitEnd.OUT_OF_TIME, VisitEnd.STOPPING}:
            waiting = waiting._replace(**{"critical" if self.critical else "normal": True})
        if waiting:
            await services.wake_waiting(self.mailbox_id, waiting)
