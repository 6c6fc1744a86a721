"""
A visit: what a worker does on a wake-up, from the slot to the last mail.

    slot → sender and claims → token lease → connection
         → [permit → compose → submit → classify → settle]…
         → give back what is left, keep or close the connection, leave the slot

Mails go strictly in the order of the claims, one at a time, and the outcome of one is committed
before the next is submitted. Which one that is, ``begun`` knows. So if this process dies, that is
the one mail whose fate is in doubt; the sweep relies on that. A visit that is cut short or meets a
fault of ours leaves that one to the sweep as well if its submission had begun: it is uncertain, and
the third time dead. Whatever was not begun is given back as it was.
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
from sqlalchemy.exc import SQLAlchemyError

from models import host_holds, lane, suppressions
from models.accounts import both, served_by
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
from models.large_content import put_together
from models.lifecycle import ACCEPT, GIVE_UP, RETRY
from models.mail_evidence import evidence
from models.mailboxes import learn_max_recipients
from models.outages import in_short
from models.quota import RECIPIENTS, charge
from models.repeats import repeats
from models.severity import Severity
from models.stages import Stage
from workers import conclusion, splitting, suppressing, weighing
from workers.compose import compose
from workers.compose_large import segments_of
from workers.flow import Unread
from workers.hand import Hand, Stopping
from workers.host_hold import hold_host, release_host
from workers.lease import Lease
from workers.oauth_errors import classify_oauth
from workers.pacing import PacingUnavailable
from workers.parking import park_unless_renewed, tell_parked
from workers.replies import classify
from workers.reply_rules import SIGNED_IN_AS_MAILBOX, Failure
from workers.reply_rules_session import NOT_AUTHENTICATED
from workers.shared_mailboxes import other_form_at_auth, other_form_for_sender, with_patience
from workers.slot import NOBODY, Slot
from workers.smtp_session import Envelope, SmtpSession, Submitted, open_session
from workers.verdict import Action, Verdict

if TYPE_CHECKING:
    from models.auth_forms import AuthForm
    from models.quota import Spent
    from models.senders import Sender
    from workers.connections import Kept
    from workers.faults import Rest
    from workers.pacing import Entry, Waiting, Watched
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

_CREDENTIAL_STAGES = frozenset({Stage.TOKEN, Stage.AUTH})


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
    GIVES_WAY = "gives_way"
    """Another mailbox of the account waits for the connection, and it is its turn."""
    MOVED = "moved"
    """Another account signs in for the mailbox than did before."""
    HELD = "held"
    """The server refuses the address that this host sends from: nobody here sends to it."""
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
        self._kept: Kept | None = services.connections.take(mailbox_id)
        self._session: SmtpSession | None = None
        self._visit_id = ""
        self._slot: Slot | None = None
        self._sender: Sender | None = None
        self._sender_read_at = 0.0
        self._claims: deque[lane.Claimed] = deque()
        self._hand = Hand(services.contents, services.budget)
        self._settling: asyncio.Future[bool] | None = None
        self._retry_seconds: float | None = None
        self._retries_at: list[float] = []
        self._probing = False
        self._probing_host = False
        self._batch = services.settings.visit.claim_batch
        self._signed_in_for: UUID | None = None
        self._alarm_at: float | None = None
        self._clock_ahead = timedelta(0)
        self._accepted_domains: frozenset[str] | None = None
        self._comes_back = False
        self.rest: Rest | None = None
        """How long to leave the mailbox alone, because this visit ended by a fault of ours."""
        self.owes_a_rest = False
        """Whether an answer's consequence could not be recorded: nobody may ask again at once."""
        # Of the first claim: recipients that are suppressed, each with the words for it, and those
        # whose refusals are counted.
        self._barred: dict[str, str] = {}
        self._counted: frozenset[str] = frozenset()
        # Likewise: whether it may be out, and how it was refused if it surely is not.
        self._went_out = False
        self._in_doubt = False
        self._refused: SubmissionFailed | None = None
        # Until when, on the monotonic clock, claims and slot are certainly still ours.
        self._submitting = False
        # Until when, on the monotonic clock, the claims are certainly still ours.
        self._claims_until = 0.0

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
        slot = self._slot
        if slot is None or not slot.held:
            return
        try:
            renewal = await slot.renew()
        except PacingUnavailable as away:
            log.warning("slot_not_renewed", mailbox_id=str(self.mailbox_id), reason=str(away)[:200])
            return
        if memory is not None:
            self.slot_memory = memory
        if renewal.wanted and self.resting:
            # Another mailbox of the account can send now, and this one cannot.
            self._visits.disturb(self)
        # A mail whose reply is awaited is let be.
        if not renewal.kept and not self._submitting:
            self._drop_session()

    def needs_a_look(self, watched: Watched) -> bool:
        """Say whether the slot of a visit that waits may be lost, or is to go to somebody else."""
        return self.resting and (
            self.slot_memory != watched.memory
            or (self._slot is not None and self._slot.party.account in watched.wanted)
        )

    async def renew_claims(self) -> None:
        """Keep the claims likewise, with that of a mail whose outcome is not recorded yet."""
        if not self._claims and self._settling is None:
            return
        lease_seconds = self._services.settings.visit.claim_seconds
        asked = time.monotonic()
        try:
            kept = await self._services.recorder.run(
                partial(lane.renew, claimed_by=self._visit_id, lease_seconds=lease_seconds)
            )
        except (StoreUnavailable, SQLAlchemyError) as away:
            log.warning(
                "claims_not_renewed", mailbox_id=str(self.mailbox_id), reason=in_short(away)[:200]
            )
            return
        if kept >= len(self._claims) + (self._settling is not None):
            self._claims_until = asked + lease_seconds

    async def run(self) -> VisitEnd:
        """Drain the lane as far as it may be, and give back whatever is held; runs once."""
        self.task = asyncio.current_task()
        end = VisitEnd.AWAY
        try:
            end = await self._drain()
        except _Halt as halt:
            end = halt.end
        except Stopping:
            end = VisitEnd.STOPPING
        except (PacingUnavailable, StoreUnavailable) as away:
            log.warning("visit_away", mailbox_id=str(self.mailbox_id), reason=str(away)[:200])
        except Exception:
            self.owes_a_rest = True
            raise
        finally:
            if self.owes_a_rest:
                # Before anything is given back: that wakes the lane.
                self.rest = self._visits.faults.note(self.mailbox_id)
            # A cancelled visit still has to give back what it holds.
            await asyncio.shield(self._close(end))
        return end

    # -- the way down ------------------------------------------------------------------------

    async def _drain(self) -> VisitEnd:
        slot = self._slot = await self._slot_of_account()
        entry = await slot.enter()
        while True:
            if not entry.slot:
                return self._without_slot(entry)
            if entry.gives_way:
                return self._give_way(entry)
            if not await self._claim(entry):
                if not await self._waited(entry):
                    return self._nothing_claimed(entry)
                entry = await slot.enter()
                continue
            while self._claims:
                if self._visits.stopping:
                    return VisitEnd.STOPPING
                try:
                    await self._next_mail()
                finally:
                    self._hand.let_go()
            if self._had_its_turn():
                return VisitEnd.OUT_OF_TIME
            await self._settled()
            entry = await slot.enter()

    async def _slot_of_account(self) -> Slot:
        """Find out who signs in, and go on with the connection that was kept for it."""
        services = self._services
        party = await services.accounts.party(self.mailbox_id)
        kept, self._kept = self._kept, None
        if kept is not None and kept.party != party:
            await services.connections.dismiss(kept)
            kept = None
        if kept is None:
            self._visit_id = f"{services.worker}/{uuid4().hex[:12]}"
        else:
            self._visit_id = kept.visit_id
            self._session = kept.session if kept.session.usable else None
        return services.slot(party, self._visit_id, critical=self.critical, held=kept is not None)

    def _without_slot(self, entry: Entry) -> VisitEnd:
        """Whoever leaves a slot wakes the lane; where a permit is missing too, an alarm does."""
        if entry.known and not (entry.critical_permits if self.critical else entry.permits):
            self._alarm_in(entry.wait_ms)
        return VisitEnd.NO_SLOT

    def _give_way(self, entry: Entry) -> VisitEnd:
        """Let another mailbox of the account have the connection, and come back for the next."""
        if not (entry.critical_permits if self.critical else entry.permits):
            self._alarm_in(entry.wait_ms)
        else:
            self._comes_back = True
        return VisitEnd.GIVES_WAY

    async def _claim(self, entry: Entry) -> bool:
        """Claim no more than there are permits for; with the normal ones used up, criticals."""
        settings = self._services.settings.visit
        only_critical = entry.permits == 0
        limit = min(entry.permits or entry.critical_permits, self._batch)
        if not limit:
            return False

        await self._end_probe()
        wish = lane.Wish(self.mailbox_id, self._visit_id, limit, only_critical)
        self._services.begun.none_yet(self._visit_id)
        self._claims_until = time.monotonic() + settings.claim_seconds
        found = await self._services.recorder.together(
            self._services.look, lane.Look(wish, self._known_sender())
        )
        self._sender, self._probing, granted = found.sender, found.probing, found.granted
        if found.read:
            self._sender_read_at = time.monotonic()
        self._probing_host = found.probing_host
        if found.held_seconds is not None:
            assert self._sender is not None
            self._services.held_hosts.note(
                self._sender.smtp_host, self.mailbox_id, found.held_seconds
            )
            raise _Halt(VisitEnd.HELD)
        if found.now is not None:
            self._clock_ahead = found.now - self._services.now()
        self._claims.extend(granted.claims)
        self._keep_to_account()
        self._hand.read_ahead(self._claims, self._services.vault)
        self._accepted_domains = granted.domains
        self._wait_for_room(granted)
        return bool(granted.claims)

    def _keep_to_account(self) -> None:
        """Begin anew where another account signs in by now: slot and permits are not its own."""
        sender = self._sender
        assert self._slot is not None
        if sender is None or sender.account == self._slot.party.account:
            return
        self._services.accounts.forget(self.mailbox_id)
        self._drop_session()
        self._alarm_in(0)
        raise _Halt(VisitEnd.MOVED)

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
        assert self._slot is not None
        return time.monotonic() < min(self._claims_until, self._slot.until)

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
            await visits.rest(self, entry.wait_ms / 1000)
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
        if sender is None or not sender.connected or sender.parked_at:
            return VisitEnd.NOT_READY
        if sender.paused_until:
            # Who came before its end took the alarm for the end along.
            self._alarm_in((sender.paused_until - self._now()).total_seconds() * 1000)
            return VisitEnd.NOT_READY
        return VisitEnd.LANE_EMPTY

    async def _next_mail(self) -> None:
        """Send the first claim, or end the visit."""
        delivery = self._claims[0]
        if delivery.expires_at is not None and delivery.expires_at <= self._now():
            self._tell_expired()
            await self._settle(delivery, conclusion.expired(delivery, self._visit_id))
            return
        delivery = await self._without_suppressed(delivery)
        if await self._nobody_left(delivery):
            return
        self._keep_to_hold()
        prepared = await self._prepared(delivery)
        if prepared is None:
            return
        session, envelope = prepared
        await self._permit(delivery)
        await self._settled()
        # From here on it is in doubt, and the one before is not any more.
        await self._services.begun.mark(self._visit_id, delivery.id)
        if not self._may_send():
            assert self._slot is not None
            self._slot.held = time.monotonic() < self._slot.until
            self._alarm_in(0)
            raise _Halt(VisitEnd.AWAY)
        started = time.perf_counter()
        self._submitting = self._in_doubt = True
        try:
            submitted = await session.submit(envelope, may_send=self._may_send)
        except Unread as unread:
            # Without its final dot nothing of it is out.
            self._submitting = self._in_doubt = False
            self._drop_session()
            await self._content_unread(delivery, unread.reason)
        except SubmissionFailed as failed:
            self._submitting = False
            self._in_doubt = failed.stage == Stage.BODY and failed.reply_code is None
            if self._wants_new_connection(delivery, session, failed):
                # The next turn sends it over that.
                self._drop_session()
                return
            self._refused = failed
            seconds = time.perf_counter() - started
            await self._fail(delivery, failed, seconds=seconds, took_permit=True, envelope=envelope)
        else:
            self._submitting = False
            await self._accepted(
                delivery, submitted, envelope, seconds=time.perf_counter() - started
            )

    @property
    def _smtp_host(self) -> str:
        return "" if self._sender is None else self._sender.smtp_host

    def _keep_to_hold(self) -> None:
        """Ask for nothing where another visit of this process just found our address refused."""
        if not self._probing_host and self._services.held_hosts.holds(self._smtp_host):
            raise _Halt(VisitEnd.HELD)

    async def _nobody_left(self, delivery: lane.Claimed) -> bool:
        """End a mail of which all recipients that are left are suppressed."""
        if not self._barred or splitting.left_to_serve(delivery):
            return False
        outcome = suppressing.suppressed(
            delivery, self._visit_id, self._barred, worker=self._services.worker
        )
        await self._settle(delivery, outcome)
        return True

    async def _without_suppressed(self, delivery: lane.Claimed) -> lane.Claimed:
        """Treat the recipients that are suppressed as refused."""
        self._barred, self._counted = {}, frozenset()
        assert self._sender is not None
        if not self._sender.suppresses:
            return delivery
        left = splitting.left_to_serve(delivery)
        found = await self._services.recorder.run(
            partial(suppressions.known, tenant=self._sender.tenant_id, addresses=left)
        )
        if not found:
            return delivery
        self._counted = frozenset(found)
        severity, now = Severity(delivery.severity), self._now()
        for address in left:
            one = found.get(suppressions.key_of(address))
            if one is not None and one.bars(severity, now):
                self._barred[address] = one.sentence
        if self._barred:
            delivery = replace(delivery, refused=delivery.refused | self._barred)
            self._claims[0] = delivery
        return delivery

    async def _note_refusals(self, found: Sequence[suppressions.Refusal]) -> None:
        """Count recipients that were refused for good against their addresses."""
        if not found or self._sender is None:
            return
        await self._settled()
        tenant = self._sender.tenant_id
        fresh = await self._services.recorder.run(
            partial(suppressions.note, tenant=tenant, refusals=found)
        )
        self._sender = replace(self._sender, suppresses=True)
        for address in fresh:
            log.warning("recipient_suppressed", tenant_id=str(tenant), address=address)

    async def _note_taken(self, taken: Sequence[str]) -> None:
        """Take addresses off the list that take mail after all."""
        again = [one for one in taken if suppressions.key_of(one) in self._counted]
        if not again or self._sender is None:
            return
        await self._settled()
        tenant = self._sender.tenant_id
        freed = await self._services.recorder.run(
            partial(suppressions.took, tenant=tenant, addresses=again)
        )
        for address in freed:
            log.info("recipient_unsuppressed", tenant_id=str(tenant), address=address)

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
            if self._visits.faults.seconds_left(self.mailbox_id):
                # Another visit of this process just found out: ask for nothing meanwhile.
                raise _Halt(VisitEnd.NOT_READY)
            lease = await self._lease(delivery, rejected)
            # Asked once more after the claim: should Redis forget the slot from here on, whoever
            # teaches it finds the claim in SQL, and counts this connection.
            assert self._slot is not None
            await self._slot.renew()
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
        assert self._slot is not None
        if time.monotonic() >= self._slot.until:
            self._slot.held = False
            self._alarm_in(0)
            raise _Halt(VisitEnd.AWAY)

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        kept, self._kept = self._kept, None
        if session is not None:
            session.close()
        if kept is not None:
            kept.session.close()

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
        assert self._slot is not None
        if form is None or time.monotonic() >= self._slot.until:
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

    async def _prepared(self, delivery: lane.Claimed) -> tuple[SmtpSession, Envelope] | None:
        """Connect, read and compose; None where that was the end of the mail."""
        session = await self._connected(delivery)
        try:
            envelope = await self._composed(delivery, session)
        except SubmissionFailed as failed:
            await self._fail(delivery, failed, seconds=0.0, took_permit=False)
            return None
        except VaultError as wrong:
            # A key that this worker lacks must not cost the customers their alerts.
            unread = SubmissionFailed(stage=Stage.COMPOSE, reply_text=str(wrong))
            await self._conclude(delivery, conclusion.misconfigured(str(wrong)), unread)
            return None
        if envelope.flow is not None:
            await self._hand.make_room(delivery, envelope.flow)
            # Others' mails may have been waited for longer than a connection is kept open.
            session = await self._connected(delivery)
        return session, envelope

    async def _composed(self, delivery: lane.Claimed, session: SmtpSession) -> Envelope:
        """Read and compose; of what may have to do with a worker's death it is known when."""
        begun, visit_id = self._services.begun, self._visit_id
        said = False

        async def before() -> None:
            nonlocal said
            if delivery.is_watched:
                # If we die of this one, the mail before is not to be taken for the cause.
                await self._settled()
                await begun.composes(visit_id, delivery.id)
                said = True

        try:
            content = await self._hand.take(self._claims, self._services.vault, before=before)
            if len(content) > LARGE_BYTES:
                return await asyncio.to_thread(self._compose, delivery, session, content)
            return self._compose(delivery, session, content)
        finally:
            if said:
                await begun.composed(visit_id)

    async def _content_unread(self, delivery: lane.Claimed, reason: Exception) -> None:
        """Conclude what broke off because the rest of a large content could not be read."""
        if isinstance(reason, StoreUnavailable):
            raise reason
        failed = SubmissionFailed(stage=Stage.COMPOSE, failure="compose", reply_text=str(reason))
        if isinstance(reason, VaultError):
            verdict = conclusion.misconfigured(str(reason))
            await self._conclude(delivery, verdict, failed, took_permit=True)
        else:
            await self._fail(delivery, failed, seconds=0.0, took_permit=True)

    def _compose(self, delivery: lane.Claimed, session: SmtpSession, content: bytes) -> Envelope:
        """
        Build the mail for the recipients that are still to be served.

        Args:
            delivery: Whose.
            session: Over which it goes.
            content: What stands in its row.

        Raises:
            SubmissionFailed: Stage ``compose``; this mail can never be sent as it is.
        """
        assert self._sender is not None
        try:
            opened = put_together(content)
            alert, flow = opened.alert, None
            if opened.parts:
                flow = self._services.contents.flow(
                    delivery.id,
                    segments_of(opened.parts, delivery.message_id),
                    self._services.vault,
                )
            mail = compose(
                alert,
                message_id=delivery.message_id,
                sender=self._sender.address,
                sender_name=self._sender.display_name,
                delivery_id=delivery.id,
                date=delivery.enqueued_at,
                server_has_smtputf8=session.features.smtputf8,
                server_has_8bitmime=session.features.eight_bit,
                content=None if flow is None else b"",
            )
        except Exception as error:
            # Whatever it is: this mail would meet it again, and the lane must go on.
            raise SubmissionFailed(
                stage=Stage.COMPOSE, failure="compose", reply_text=str(error)
            ) from error
        limit = self._sender.max_message_bytes or self._services.settings.smtp.max_message_bytes
        if session.features.size_limit:
            limit = min(limit, session.features.size_limit)
        size = mail.size + (0 if flow is None else flow.size)
        if size > limit:
            raise SubmissionFailed(
                stage=Stage.COMPOSE,
                reply_code=552,
                reply_text=f"5.3.4 the mail has {size:,} bytes, more than the {limit:,} "
                "that this mailbox may send; send a link instead of the attachment",
            )
        served = {*delivery.refused, *delivery.taken}
        recipients = [address for address in alert.envelope_recipients if address not in served]
        if not recipients:
            raise SubmissionFailed(
                stage=Stage.COMPOSE, failure="compose", reply_text="no recipient is left to serve"
            )
        recipients = recipients[: splitting.most_recipients(self._sender, session.features)]
        return Envelope(
            sender=self._sender.address,
            recipients=recipients,
            data=mail.data,
            smtputf8=mail.smtputf8,
            flow=flow,
        )

    async def _permit(self, delivery: lane.Claimed) -> None:
        """Stamp the mail before and get a permit for this one, in one call; or end the visit."""
        assert self._slot is not None
        permit = await self._slot.permit(critical=delivery.severity == Severity.CRITICAL)
        if permit.granted:
            return
        if permit.lost:
            # Redis forgot our slot. The lane is looked at again, from the start.
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
        too_many = [a for a, verdict in deferred.items() if verdict.action is Action.SPLIT]
        for address in too_many:
            del deferred[address]
        taken = [address for address in envelope.recipients if address not in submitted.refused]
        tried = {*envelope.recipients} - {*too_many}
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
            left=[one for one in splitting.left_to_serve(delivery) if one not in tried],
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
        self._went_out = True
        if too_many:
            await self._learn_most(len(taken))
        await self._note_taken(taken)
        await self._note_refusals(
            suppressing.refusals(
                {address: (reply.code, reply.text) for address, reply in submitted.refused.items()}
            )
        )
        if seconds > SLOW_SECONDS:
            await self._share_out(seconds)
        if self._probing_host:
            await self._release_host()
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
        envelope: Envelope | None = None,
    ) -> None:
        verdict = conclusion.judge(failed, fresh_token=False)
        sender = self._sender
        assert sender is not None
        if self._session is not None and not self._session.usable:
            self._drop_session()
        if envelope is not None and splitting.can_split(verdict, failed, envelope.recipients):
            await self._split(delivery, verdict, failed, envelope, seconds=seconds)
            await self._note_refusals(suppressing.refusals(failed.refused))
            return
        other = await self._may_sign_in_as_mailbox(verdict)
        assert self._sender is not None
        await self._conclude(
            delivery,
            SIGNED_IN_AS_MAILBOX
            if other
            else weighing.in_context(with_patience(sender, verdict), failed, envelope),
            failed,
            seconds=seconds,
            took_permit=took_permit,
        )
        if other:
            await self._keep_form()
        if envelope is not None:
            await self._note_refusals(suppressing.refusals_of(failed, verdict, envelope.recipients))

    async def _split(
        self,
        delivery: lane.Claimed,
        verdict: Verdict,
        failed: SubmissionFailed,
        envelope: Envelope,
        *,
        seconds: float,
    ) -> None:
        """Send the mail to fewer recipients at a time."""
        assert self._sender is not None
        outcome, most = splitting.too_many(
            delivery,
            self._visit_id,
            verdict,
            failed,
            envelope.recipients,
            host=self._sender.smtp_host,
            worker=self._services.worker,
            seconds=seconds,
        )
        log.info(
            "delivery_attempt",
            tenant_id=str(delivery.tenant_id),
            delivery_id=str(delivery.id),
            attempt=delivery.attempts + 1,
            stage=failed.stage,
            reply_code=failed.reply_code,
            verdict=outcome.reason,
            outcome=outcome.transition.target.value,
            recipients=len(envelope.recipients),
            duration_ms=round(seconds * 1000, 1),
        )
        self.owes_a_rest = True
        await self._settle(delivery, outcome)
        if most is not None:
            await self._learn_most(most)
        self.owes_a_rest = False

    async def _learn_most(self, recipients: int) -> None:
        """Remember how many recipients one mail may have, for all visits to come."""
        await self._settled()
        assert self._sender is not None
        await self._services.recorder.run(
            partial(learn_max_recipients, mailbox_id=self.mailbox_id, most=recipients)
        )
        self._sender = replace(self._sender, max_recipients=recipients)
        log.warning("recipients_limited", mailbox_id=str(self.mailbox_id), most=recipients)

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
        self.owes_a_rest = True
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
        if weighing.needs_evidence(step, failed.stage):
            step = await self._weigh(delivery, verdict, step, now=now)
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
            await self._pause(step, of_account=conclusion.concerns_account(step, failed.stage))
            self.owes_a_rest = False
            raise _Halt(VisitEnd.HALTED)
        if isinstance(step, conclusion.StopWorker):
            await self._settled()
            await self._hold_host(step.verdict, failed)
            self.owes_a_rest = False
            raise _Halt(VisitEnd.HELD)
        if isinstance(step, conclusion.Park):
            await self._settled()
            await self._park(step, failed, now=now)
            self.owes_a_rest = False
            raise _Halt(VisitEnd.HALTED)
        self.owes_a_rest = False

    async def _repeated(
        self, delivery: lane.Claimed, verdict: Verdict, failed: SubmissionFailed
    ) -> conclusion.Repeated:
        """Count the same answers in a row, where the verdict changes with their number."""
        if verdict.limit is None:
            return conclusion.Repeated()
        # What rests the whole mailbox is counted over its mails: after a pause another one tries.
        whole_mailbox = failed.stage in conclusion.SESSION_STAGES or verdict.scope is not None
        count, elapsed = await self._services.recorder.run(
            partial(
                repeats,
                rule=verdict.rule,
                delivery_id=None if whole_mailbox else delivery.id,
                mailbox_id=self.mailbox_id if whole_mailbox else None,
            )
        )
        return conclusion.Repeated(times=count + 1, elapsed=elapsed)

    async def _weigh(
        self,
        delivery: lane.Claimed,
        verdict: Verdict,
        step: conclusion.NextStep,
        *,
        now: datetime,
    ) -> conclusion.NextStep:
        """Ask what the server did with this mail before, and with others since."""
        found = await self._services.recorder.run(
            partial(
                evidence,
                delivery_id=delivery.id,
                mailbox_id=self.mailbox_id,
                rules=weighing.rules_of(verdict, step),
            )
        )
        return weighing.weigh(
            step,
            found,
            others_in_hand=len(self._claims) > 1,
            attempts=delivery.attempts,
            retry=self._services.settings.retry,
            now=now,
        )

    async def _settle(self, delivery: lane.Claimed, outcome: lane.Outcome) -> None:
        """Hand the outcome to the recorder; the commit is awaited before the next mail."""
        await self._settled()
        assert self._claims
        assert self._claims[0] is delivery
        self._claims.popleft()
        if self._barred and outcome.transition in {ACCEPT, GIVE_UP}:
            outcome = replace(outcome, refused=self._barred | (outcome.refused or {}))
        self._in_doubt, self._refused = False, None
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
        if self._settling is not None:
            try:
                await self._settling
            finally:
                self._settling = None
            if self._went_out:
                self._visits.faults.forget(self.mailbox_id)
        retry_seconds, self._retry_seconds = self._retry_seconds, None
        if retry_seconds is not None:
            # It is due so long after its commit: counted from before it the alarm would be early,
            # find nothing due, and be lost.
            self._retries_at.append(time.monotonic() + retry_seconds)

    # -- what an answer does to the mailbox --------------------------------------------------

    async def _pause(self, rest: conclusion.Pause, *, of_account: bool) -> None:
        services = self._services
        seconds = rest.delay.total_seconds()
        assert self._slot is not None
        account = self._slot.party.account

        def pause(connection: Connection) -> list[UUID]:
            mailboxes = concerned(connection, self.mailbox_id, rest.scope.value)
            if of_account:
                mailboxes = both(mailboxes, served_by(connection, account))
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
        if of_account:
            await services.pacer.pause(self._slot.party, seconds)
        # What other visits have claimed meanwhile waits as well.
        await services.pacer.halt(await services.accounts.parties(mailboxes))
        for mailbox_id in mailboxes:
            # An alarm of its own: one that others may set earlier rings within the pause.
            await services.timer.set_each(mailbox_id, [math.ceil(seconds * 1000)])

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
        await self._services.halt(mailboxes)

    async def _hold_host(self, verdict: Verdict, failed: SubmissionFailed) -> None:
        """Let nobody send to this server from our address, whichever mailbox and worker."""
        services = self._services
        assert self._sender is not None
        host = self._sender.smtp_host
        probing, self._probing_host = self._probing_host, False
        seconds, behind = await services.recorder.run(
            partial(
                hold_host,
                smtp_host=host,
                sends_from=services.sends_from,
                rule=verdict.rule,
                answer=f"{failed.reply_code or ''} {failed.reply_text}".strip(),
                pause_seconds=verdict.pause_seconds,
                probing=probing,
            )
        )
        services.held_hosts.note(host, self.mailbox_id, seconds)
        log.error(
            "host_held",
            smtp_host=host,
            sends_from=services.sends_from,
            reason=verdict.rule,
            meaning=verdict.meaning,
            next_step=verdict.next_step,
            mailboxes=len(behind),
            seconds=round(seconds, 1),
        )
        # What visits have claimed would only meet the same.
        await services.pacer.halt(await services.accounts.parties(behind))

    async def _release_host(self) -> None:
        """Our address is taken again: everybody behind it goes on."""
        await self._settled()
        services = self._services
        assert self._sender is not None
        host = self._sender.smtp_host
        self._probing_host = False
        behind = await services.recorder.run(
            partial(release_host, smtp_host=host, sends_from=services.sends_from)
        )
        services.held_hosts.forget(host)
        log.info("host_released", smtp_host=host, sends_from=services.sends_from)
        await services.wake_many([(mailbox_id, False) for mailbox_id in behind])

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
        await self._end_probe()
        if clean and self._visit_id:
            self._services.begun.forget(self._visit_id)
        try:
            may_keep = clean and not self._visits.stopping and end is not VisitEnd.GIVES_WAY
            waiting = await self._leave(
                may_keep=may_keep, has_nothing=end in {VisitEnd.LANE_EMPTY, VisitEnd.NOT_READY}
            )
        except PacingUnavailable:
            waiting = NOBODY
            log.debug("slot_left_to_expire", mailbox_id=str(self.mailbox_id))
        finally:
            self._drop_session()
        await self._follow_up(end, waiting=waiting)

    async def _end_probe(self) -> None:
        """Leave the probe of a held host to another visit: this one could not make it."""
        if not self._probing_host:
            return
        self._probing_host = False
        try:
            await self._services.recorder.run(
                partial(
                    host_holds.leave_probe,
                    smtp_host=self._smtp_host,
                    sends_from=self._services.sends_from,
                )
            )
        except Exception as error:  # noqa: BLE001 - it is over by itself after a while
            log.warning("probe_left_to_expire", reason=str(error)[:200])

    async def _give_back(self) -> bool:
        """Return what was not sent; False where claims are left to expire, for the sweep."""
        left = self._in_doubt and bool(self._claims)
        if left:
            self._claims.popleft()
        recorded = False
        try:
            await self._settled()
            recorded = True
            if self._refused is not None and self._claims:
                delivery, worker = self._claims[0], self._services.worker
                await self._settle(
                    delivery,
                    conclusion.faulted(
                        delivery,
                        self._visit_id,
                        self._refused,
                        worker=worker,
                        retry=self._services.settings.retry,
                    ),
                )
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
            if recorded and not left:
                # Whatever was marked, none of what the sweep will find may be out.
                self._services.begun.none_yet(self._visit_id)
            return False
        return not left

    async def _leave(self, *, may_keep: bool, has_nothing: bool) -> Waiting:
        """Keep the connection with its slot, or close both; tells who waits for the slot."""
        connections, session, slot = self._services.connections, self._session, self._slot
        if slot is None or not slot.held:
            return NOBODY
        if session is not None and may_keep:
            await slot.stamp()
            if connections.has_room(self.mailbox_id, session):
                self._session = None
                connections.keep(slot.party, self._visit_id, session)
                return NOBODY
        self._drop_session()
        return await slot.leave(has_nothing=has_nothing)

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
        if self._comes_back or end in {VisitEnd.OUT_OF_TIME, VisitEnd.STOPPING}:
            waiting = waiting.with_one(self.mailbox_id, critical=self.critical)
        if waiting:
            await services.wake_waiting(waiting)
