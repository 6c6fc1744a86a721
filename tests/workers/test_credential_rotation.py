"""Rotating an app's credential while mails flow: real MSAL, Entra as it refuses what is wrong."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from sqlalchemy import update
from structlog.testing import capture_logs

from models import app_registrations, lane, senders
from models.app_registrations import Credential
from models.credential_standing import REFUSAL_MEMORY, State, states
from models.database import read, write
from models.expiries import credential_rows, expiries
from models.lookups import CREDENTIAL
from models.redis_keys import RedisKeys
from sandbox.apps import AppCertificate, AppRegistration, ClientSecret
from sandbox.entra_faults import EntraFault, EntraFaultKind
from sandbox.person import Person
from tests.fixtures.whole import CALLBACK, Whole
from tests.workers.visit_parts import IMPATIENT, drain, listening, send, visit
from workers.credential_turns import CredentialTurns, is_over_credential
from workers.entra import Entra
from workers.oauth_errors import classify_oauth


@pytest.fixture
def settings_changes() -> dict[str, Any]:
    return IMPATIENT | {"pacing": {"messages_per_window": 1000}}


class Ground:
    """One tenant and its app on both sides."""

    def __init__(self, whole: Whole, client: redis.Redis, keys: RedisKeys) -> None:
        self.whole, self.client, self.keys = whole, client, keys
        self.mailbox_id = whole.mailbox_id("contoso")
        whole.exchange().limits = replace(whole.exchange().limits, messages_per_window=None)

    @property
    def entra(self) -> AppRegistration:
        return next(iter(self.whole.sandbox.world.apps.values()))

    @property
    def asked(self) -> int:
        """How often Entra was asked for a refresh, whatever it answered."""
        counted = self.whole.sandbox.world.ledger.by_grant_type
        return sum(number for (kind, _), number in counted.items() if kind == "refresh_token")

    def new_secret(self, *, days: float = 365) -> ClientSecret:
        """Make one in Entra, beside those that are there."""
        return self.entra.add_secret(ends_at=self.whole.sandbox.world.clock() + days * 86400)

    def give(self, credential: Credential | str, **more: Any) -> int:
        """Give the app registration another credential here."""
        if isinstance(credential, str):
            credential = Credential.secret(credential, expires_at=more.pop("expires_at", None))
        with write(self.whole.engine) as connection:
            return app_registrations.give_credential(
                connection, self.whole.vault, name="contoso", credential=credential, **more
            ).number

    def standing(self) -> dict[int, State]:
        with read(self.whole.engine) as connection:
            known = app_registrations.app(connection, "contoso").credentials
        return states(known, datetime.now(UTC))

    def set(self, number: int, **values: Any) -> None:
        with write(self.whole.engine) as connection:
            connection.execute(
                update(CREDENTIAL).where(CREDENTIAL.c.number == number).values(**values)
            )

    def let_time_pass(self, number: int) -> None:
        """A refusal is as old as it has to be until the credential is tried again."""
        self.set(number, refused_at=datetime.now(UTC) - 2 * REFUSAL_MEMORY)

    async def forget(self) -> None:
        """Come to the end of the token and of the connection: the next mail asks Entra."""
        await self.whole.services.connections.close()
        self.whole.services.leases._copies.clear()
        for key in (self.keys.token, self.keys.refresh_failure):
            self.client.delete(key(self.mailbox_id))

    async def refresh(self) -> int:
        """Get a token anew; gives how many requests that took."""
        await self.forget()
        with read(self.whole.engine) as connection:
            sender = senders.sender(connection, self.mailbox_id)
        assert sender is not None
        before = self.asked
        lease = await self.whole.services.leases.get(sender)
        assert self.whole.sandbox.world.check_token(lease.token, "alerts@contoso.example").ok
        return self.asked - before


@pytest.fixture
def ground(whole: Whole, redis_client: redis.Redis, redis_keys: RedisKeys) -> Ground:
    return Ground(whole, redis_client, redis_keys)


async def test_a_secret_is_rotated_while_mails_flow(whole: Whole, ground: Ground) -> None:
    """A wrong one, the right one, the old one deleted: no mail fails, nothing is ever parked."""
    sent: list[Any] = []
    stop = asyncio.Event()

    async def flow() -> None:
        while not stop.is_set():
            sent.append(await asyncio.to_thread(send, whole))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.25)

    async def one_goes(after: int) -> None:
        await whole.until(lambda: len(sent) > after and whole.count("accepted") > after)

    async def one_goes_under_a_fresh_token() -> None:
        before = ground.asked
        while ground.asked == before:
            # A visit under way may go on with what it has.
            await ground.forget()
            await one_goes(after=len(sent))
        assert whole.mailbox(ground.mailbox_id).parked_at is None

    async with listening(whole.settings, whole.services.visits):
        flowing = asyncio.create_task(flow())
        await one_goes_under_a_fresh_token()
        old = ground.entra.client_secrets[0]
        ground.give("no such secret")
        await one_goes_under_a_fresh_token()
        assert ground.standing() == {1: State.IN_USE, 2: State.REFUSED}
        with write(whole.engine) as connection:
            app_registrations.retire_credential(connection, name="contoso", number=2)
        ground.give(ground.new_secret().value)
        await one_goes_under_a_fresh_token()
        assert ground.standing() == {1: State.STANDBY, 2: State.IN_USE}
        ground.entra.client_secrets.remove(old)
        await one_goes_under_a_fresh_token()
        with write(whole.engine) as connection:
            app_registrations.retire_credential(connection, name="contoso", number=1)
        await one_goes_under_a_fresh_token()
        stop.set()
        await flowing
        await whole.until(lambda: whole.count("accepted") == len(sent))

    assert ground.standing() == {2: State.IN_USE}
    for receipt in sent:
        assert [attempt.outcome for attempt in whole.attempts(receipt.delivery_id)] == ["accepted"]


async def test_a_wrong_new_secret_is_shown_and_the_old_one_used(
    whole: Whole, ground: Ground
) -> None:
    """In the same refresh, told once; until it is tried again there is one request, as always."""
    ends = datetime.now(UTC) + timedelta(days=5)
    assert await ground.refresh() == 1
    ground.set(1, expires_at=ends)
    ground.give("no such secret", expires_at=ends + timedelta(days=300))

    with capture_logs() as logs:
        assert await ground.refresh() == 2
        assert await ground.refresh() == 1
        ground.let_time_pass(2)
        assert await ground.refresh() == 2

    (told,) = [line for line in logs if line["event"] == "credential_refused"]
    assert told["meaning"] == (
        "the new secret 2 is refused by Entra (AADSTS7000215): the old one, secret 1, which ends "
        f"on {ends:%Y-%m-%d}, is used"
    )
    assert told["reason"] == "secret-wrong"
    with read(whole.engine) as connection:
        found = expiries(credential_rows(connection), datetime.now(UTC))
    needed, grant, spare = found
    assert (needed.credential, needed.level, needed.mailboxes) == (
        1, "7d", ("alerts@contoso.example",),
    )  # fmt: skip
    assert "AADSTS7000215" in needed.note
    assert (spare.credential, spare.state, spare.mailboxes) == (2, "refused", ())
    assert grant.credential is None


async def test_a_finished_rotation_is_quiet(whole: Whole, ground: Ground) -> None:
    """One request a refresh, and the end of the old one needs nobody."""
    soon = datetime.now(UTC) + timedelta(hours=5)
    await ground.refresh()
    ground.set(1, expires_at=soon)
    ground.give(ground.new_secret().value, expires_at=soon + timedelta(days=300))

    assert [await ground.refresh() for _ in range(3)] == [1, 1, 1]

    assert ground.standing() == {1: State.STANDBY, 2: State.IN_USE}
    with read(whole.engine) as connection:
        found = expiries(credential_rows(connection), datetime.now(UTC))
    old = next(one for one in found if one.credential == 1)
    assert (old.level, old.mailboxes, old.state) == ("later", (), "standby")
    assert old.command == "alertpost apps retire contoso 1"
    assert not any(one.is_due(datetime.now(UTC), within=timedelta(days=30)) for one in found)


async def test_one_that_has_ended_is_not_tried_beside_one_that_has_not(ground: Ground) -> None:
    """Entra is not asked what the calendar knows."""
    await ground.refresh()
    ground.give("no such secret")
    ground.set(2, expires_at=datetime.now(UTC) - timedelta(hours=1))

    assert await ground.refresh() == 1
    assert ground.standing() == {1: State.IN_USE, 2: State.ENDED}


async def test_both_refused_parks_and_a_third_one_resumes(whole: Whole, ground: Ground) -> None:
    """Parked as with one, the answer names both; a good one sends what waited."""
    ground.entra.client_secrets[0].ends_at = 0
    ground.give("no such secret")
    receipt = send(whole)

    await visit(whole, receipt.mailbox_id)

    mailbox = whole.mailbox(receipt.mailbox_id)
    assert (mailbox.park_reason, mailbox.park_scope) == ("secret-wrong", "app")
    assert "AADSTS7000215" in mailbox.park_answer
    assert "The older one is refused too: secret 1: AADSTS7000222" in mailbox.park_answer
    assert ground.asked == 2
    assert ground.standing() == {1: State.REFUSED, 2: State.REFUSED}
    assert whole.row(receipt.delivery_id).attempts == 0

    with write(whole.engine) as connection:
        app_registrations.retire_credential(connection, name="contoso", number=2)
    ground.give(ground.new_secret().value)
    with write(whole.engine) as connection:
        assert lane.resume_scope(connection, mailbox_id=receipt.mailbox_id)
    await drain(whole, receipt.mailbox_id)

    assert whole.row(receipt.delivery_id).state == "accepted"
    assert ground.standing() == {1: State.REFUSED, 2: State.IN_USE}


async def test_a_generated_certificate_is_used_once_it_is_uploaded(
    whole: Whole, ground: Ground
) -> None:
    """Until then it stands by; the refresh after the upload takes it, and then the secret can go."""
    await ground.refresh()
    made = Credential.generated("contoso", days=30)
    ground.give(made)

    assert await ground.refresh() == 2
    assert ground.standing() == {1: State.IN_USE, 2: State.REFUSED}

    ground.entra.certificates.append(AppCertificate.from_pem(made.certificate_pem or ""))
    ground.let_time_pass(2)
    assert await ground.refresh() == 1
    assert ground.standing() == {1: State.STANDBY, 2: State.IN_USE}

    ground.entra.client_secrets.clear()
    assert await ground.refresh() == 1
    receipt = send(whole)
    await drain(whole, receipt.mailbox_id)
    assert whole.row(receipt.delivery_id).state == "accepted"


async def test_a_lost_consent_is_asked_about_once(whole: Whole, ground: Ground) -> None:
    """What is wrong with the grant is no reason to present it again under another secret."""
    await ground.refresh()
    ground.give(ground.new_secret().value)
    whole.sandbox.world.revoke_grants("alerts@contoso.example", recall_access_tokens=True)
    await ground.forget()
    before = ground.asked
    receipt = send(whole)

    await visit(whole, receipt.mailbox_id)

    assert whole.mailbox(receipt.mailbox_id).park_reason == "tokens-revoked"
    assert ground.asked == before + 1
    assert State.REFUSED not in ground.standing().values()


async def test_where_tokens_are_used_up_none_is_lost(whole: Whole, ground: Ground) -> None:
    """A provider that revokes a token presented twice takes no offence at a refused secret."""
    directory = whole.sandbox.world.directory_named("contoso")
    assert directory is not None
    directory.strict_rotation = True
    ground.give("no such secret")

    for _ in range(3):
        assert await ground.refresh() == 2
        ground.let_time_pass(2)


async def test_a_consent_is_redeemed_under_the_credential_that_works(
    whole: Whole, ground: Ground
) -> None:
    """The code of a sign-in is not spent by a secret that Entra refuses."""
    ground.give("no such secret")
    with read(whole.engine) as connection:
        sender = senders.sender(connection, ground.mailbox_id)
        assert sender is not None
        app = app_registrations.open_app(connection, whole.vault, sender.app_id)
    turns = CredentialTurns(app)
    consent = await asyncio.to_thread(
        consented,
        whole,
        Entra(ca_file=str(whole.sandbox.ca_file), timeout_seconds=10),
        sender,
        turns,
    )

    assert consent.account == "alerts@contoso.example"
    assert [standing.number for standing, _ in turns.refused] == [2]
    assert turns.worked is not None
    assert turns.worked.number == 1


def consented(whole: Whole, entra: Any, sender: Any, proof: Any) -> Any:
    """Go through a sign-in."""
    flow = entra.begin(sender, proof, redirect_uri=CALLBACK)
    person = Person(address=sender.address, ca_file=whole.sandbox.ca_file)
    callback = person.go_through(flow["auth_uri"])
    return entra.complete(sender, proof, flow=flow, callback=callback)


@pytest.mark.parametrize(
    "settings_changes", [{"lease": {"lock_seconds": 2.0, "request_timeout_seconds": 1.5}}]
)
async def test_a_slow_refusal_leaves_no_time_for_the_other_one(
    whole: Whole, ground: Ground
) -> None:
    """After the lock's time nothing is presented; the next try begins with what was not refused."""
    ground.give("no such secret")
    whole.sandbox.world.entra_faults.add(
        EntraFault(EntraFaultKind.SLOW, grant_type="refresh_token", seconds=0.8, remaining=1)
    )

    assert await ground.refresh() == 2
    assert ground.standing() == {1: State.IN_USE, 2: State.REFUSED}
    assert whole.sandbox.world.ledger.refreshed_by_user["alerts@contoso.example"] == 1


@pytest.mark.parametrize(
    ("error", "code", "other"),
    [
        ("invalid_client", 7000215, True),
        ("invalid_client", 70002, True),
        ("invalid_client", 7000222, True),
        ("invalid_client", 700027, True),
        ("invalid_client", 700030, True),
        ("invalid_client", 50012, True),
        ("invalid_client", 50013, True),
        ("invalid_client", None, True),
        ("invalid_client", 7000218, False),
        ("invalid_client", 700025, False),
        ("invalid_client", 650052, False),
        ("invalid_grant", None, False),
        ("invalid_grant", 50173, False),
        ("invalid_grant", 700082, False),
        ("unauthorized_client", 700016, False),
        ("interaction_required", 50076, False),
        ("something_new", None, False),
    ],
)
def test_which_answers_are_about_the_credential(error: str, code: int | None, other: bool) -> None:
    """Only those that another secret or certificate may cure are a reason to present one."""
    codes = () if code is None else (code,)

    assert is_over_credential(classify_oauth(error, codes, http_status=401)) is other
