"""
The credentials of an app, one after the other until Entra takes one.

In a rotation two stand side by side (``models.credential_standing``). A second request is safe: the
refresh token, or the code, is not judged before the app has proved who it is, so a refusal of the
proof has used nothing up, and no token was given that could be lost.

Source:
    RFC 6749 section 6 (and 4.1.3): the server authenticates the client, then validates the refresh
    token; it may revoke the old one after issuing a new one, which a refusal does not do. Section
    5.2: ``invalid_client`` is a failed authentication of the client, ``invalid_grant`` the grant's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import structlog
from sqlalchemy import Connection, Engine

from models import app_credentials
from models.app_credentials import WORKED_EVERY, Opened, Refused
from models.app_registrations import Credential, OpenedApp
from models.credential_standing import Standing, refusal_text
from models.database import write
from models.errors import AlertpostError, CredentialRejected
from workers.oauth_errors import classify_oauth
from workers.verdict import Action, Remedy, Verdict

if TYPE_CHECKING:
    from workers.recorder import Recorder

log = structlog.get_logger()

T = TypeVar("T")


class CredentialTurns:
    """
    The turns of one app's credentials, and what came of them.

    Attributes:
        app: The name of the app registration, for people.
        worked: What Entra took at the last call; None where it took none, or none was stored.
        refused: What it refused at the last call before that.
    """

    def __init__(self, app: OpenedApp) -> None:
        self.app = app.name
        self._held: Sequence[Opened] = app.credentials
        self.worked: Standing | None = None
        self.refused: list[tuple[Standing, Verdict]] = []

    @property
    def first(self) -> Credential:
        """The one whose turn is first; an empty one where the app has none."""
        return self._held[0].credential if self._held else Credential()

    def ask(self, call: Callable[[Credential], T]) -> T:
        """
        Ask Entra with one credential, and with the next one where it refuses that.

        Args:
            call: Asks with the credential given.

        Raises:
            CredentialRejected: Entra refuses all of them, and says so of the newest; or the grant.
        """
        self.worked, self.refused = None, []
        if not self._held:
            return call(Credential())
        errors: dict[int, CredentialRejected] = {}
        for held in self._held:
            try:
                answer = call(held.credential)
            except CredentialRejected as error:
                verdict = verdict_on(error)
                if not is_over_credential(verdict):
                    raise
                self.refused.append((held.standing, verdict))
                errors[held.standing.number] = error
            else:
                self.worked = held.standing
                return answer
        raise self._none_left(errors)

    def _none_left(self, errors: dict[int, CredentialRejected]) -> CredentialRejected:
        newest = errors[max(errors)]
        others = [
            f"{standing.kind} {standing.number}: {verdict.detail}"
            for standing, verdict in self.refused
            if standing.number != max(errors)
        ]
        if not others:
            return newest
        return CredentialRejected(
            newest.error,
            codes=newest.codes,
            description=f"{newest.description} The older one is refused too: {'; '.join(others)}",
            suberror=newest.suberror,
            http_status=newest.http_status,
        )

    @property
    def is_news(self) -> bool:
        """Whether there is anything to be written down; mostly there is not."""
        if self.refused:
            return True
        one = self.worked
        return one is not None and (
            one.refused_rule is not None
            or one.worked_at is None
            or datetime.now(UTC) - one.worked_at > WORKED_EVERY
        )

    def record(self, conn: Connection) -> list[int]:
        """Write down what came of the last call; gives the numbers whose refusal is news."""
        news = []
        for standing, verdict in self.refused:
            answer = Refused(standing.id, verdict.rule, verdict.detail)
            if app_credentials.note_refused(conn, answer):
                news.append(standing.number)
        if self.worked is not None:
            app_credentials.note_worked(conn, self.worked.id)
        return news

    def tell(self, news: Sequence[int]) -> None:
        """Log a change, once over all workers: a credential is refused, or works from now on."""
        for standing, verdict in self.refused:
            if standing.number in news:
                seen = replace(standing, refused_rule=verdict.rule, refused_answer=verdict.detail)
                log.warning(
                    "credential_refused",
                    app=self.app,
                    credential=standing.number,
                    reason=verdict.rule,
                    meaning=refusal_text(seen, self.worked),
                    next_step=verdict.next_step,
                )
        one = self.worked
        if one is not None and (one.refused_rule is not None or one.worked_at is None):
            log.info("credential_works", app=self.app, credential=one.number, kind=one.kind.value)


Proof = Credential | CredentialTurns
"""What ``Entra`` is given: one credential, or those of an app in turn."""


def ask_in_turn(proof: Proof, call: Callable[[Credential], T]) -> T:
    """Ask with one credential, or with one after the other; raises as ``CredentialTurns.ask``."""
    return proof.ask(call) if isinstance(proof, CredentialTurns) else call(proof)


def first_of(proof: Proof) -> Credential:
    """Give the credential that is asked with first."""
    return proof.first if isinstance(proof, CredentialTurns) else proof


def verdict_on(error: CredentialRejected) -> Verdict:
    """Classify what Entra refused."""
    return classify_oauth(
        error.error,
        error.codes,
        error.suberror,
        error.description,
        http_status=error.http_status,
    )


def is_over_credential(verdict: Verdict) -> bool:
    """
    Tell whether a refusal is about the credential itself, so that another one may be taken.

    These are the rows of ``oauth_rules`` that ask for a new secret: 7000215, 70002, 7000222, those
    of certificates and assertions, and ``invalid_client`` without a number that says better.
    """
    return verdict.action is Action.PARK and verdict.remedy is Remedy.NEW_SECRET


async def record(recorder: Recorder, turns: CredentialTurns) -> None:
    """Write down what came of the turns, if it is news; an outage of SQL hides it till later."""
    if not turns.is_news:
        return
    try:
        news = await recorder.run(turns.record)
    except AlertpostError as error:
        log.debug("credential_standing_not_kept", app=turns.app, reason=str(error)[:200])
    else:
        turns.tell(news)


def record_now(engine: Engine, turns: CredentialTurns) -> None:
    """
    Do the same for whoever has no recorder.

    Raises:
        StoreUnavailable: SQL is away.
    """
    if turns.is_news:
        with write(engine) as conn:
            turns.record(conn)
