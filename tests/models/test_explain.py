from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.explain import DeliveryStanding, MailboxStanding, why_waiting
from models.lifecycle import State
from models.severity import Severity

NOW = datetime(2027, 3, 4, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
EARLIER = NOW - timedelta(minutes=10)
WAITING = DeliveryStanding(
    state=State.QUEUED, severity=Severity.NORMAL, enqueued_at=EARLIER, due_at=EARLIER
)
READY = MailboxStanding(address="alerts@contoso.example", connected_at=EARLIER)

CASES = {
    "next": (WAITING, READY, "Is next in the lane of alerts@contoso.example"),
    "not before": (
        replace(WAITING, due_at=LATER),
        READY,
        "Waits until 12:05:00 UTC (in 5 min), because the alert asked not to be sent before.",
    ),
    "not connected": (
        WAITING,
        replace(READY, connected_at=None),
        "alertpost mailboxes connect alerts@contoso.example",
    ),
    "parked": (
        WAITING,
        replace(
            READY,
            parked_at=EARLIER,
            park_reason="smtp-auth-disabled-tenant",
            park_meaning="SMTP AUTH is switched off",
            park_next_step="Switch it on.",
            probe_at=LATER,
        ),
        (
            "parked since 11:50:00 UTC because of smtp-auth-disabled-tenant. SMTP AUTH is switched "
            "off. Next step: Switch it on. One mail tries whether it is solved at 12:05:00 UTC"
        ),
    ),
    "parked by hand": (
        WAITING,
        replace(READY, parked_at=EARLIER, park_reason="by-hand", park_meaning="Moving house."),
        "parked by hand since 11:50:00 UTC: Moving house.",
    ),
    "paused": (
        WAITING,
        replace(READY, paused_until=LATER, pause_reason="concurrent-connections"),
        (
            "Waits until 12:05:00 UTC (in 5 min): the mailbox pauses because of "
            "concurrent-connections."
        ),
    ),
    "pause over": (WAITING, replace(READY, paused_until=EARLIER), "Is next in the lane"),
    "retry": (
        replace(WAITING, due_at=LATER, attempts=2, reason="server-busy", reply_code=451),
        READY,
        (
            "Will be tried again at 12:05:00 UTC (in 5 min), after 2 counted tries because of "
            "server-busy (451)."
        ),
    ),
    "uncounted retry": (
        replace(WAITING, due_at=LATER, reason="connection-lost"),
        READY,
        "Will be tried again at 12:05:00 UTC (in 5 min), after a try that does not count",
    ),
    "behind one": (replace(WAITING, ahead=1), READY, "Waits behind one other in the lane"),
    "behind many": (
        replace(WAITING, ahead=90),
        READY,
        (
            "Waits behind 90 others in the lane of alerts@contoso.example that are more severe or "
            "older: about 3 min at 30 mails a minute."
        ),
    ),
    "a storm": (replace(WAITING, ahead=9000), READY, "about 5 h at 30 mails a minute"),
    "expiring": (replace(WAITING, expires_at=LATER), READY, "It expires at 12:05:00 UTC"),
    "tomorrow": (
        replace(WAITING, due_at=NOW + timedelta(days=1)),
        READY,
        "Waits until 2027-03-05 12:00:00 UTC (in 24 h)",
    ),
    "in doubt": (replace(WAITING, uncertain=True), READY, "a copy may have arrived"),
    "sending": (
        replace(WAITING, state=State.SENDING, claimed_by="host/7/3"),
        READY,
        "Being sent at this moment by worker host/7/3.",
    ),
    "accepted": (
        replace(WAITING, state=State.ACCEPTED, settled_at=NOW, recipients=3, refused=1),
        READY,
        (
            "Accepted by Exchange at 12:00:00 UTC, 10 min after it was enqueued; 1 of 3 recipients "
            "was refused."
        ),
    ),
    "accepted twice": (
        replace(WAITING, state=State.ACCEPTED, settled_at=NOW, uncertain=True),
        READY,
        "an earlier try may have arrived too",
    ),
    "dead": (
        replace(
            WAITING,
            state=State.DEAD,
            settled_at=NOW,
            reason="recipient-unknown",
            reply_code=550,
            reply_text="5.1.1 unknown",
        ),
        READY,
        "Died at 12:00:00 UTC because of recipient-unknown (550 5.1.1 unknown). It is kept until",
    ),
    "expired": (replace(WAITING, state=State.EXPIRED, settled_at=NOW), READY, "Expired at 12:00"),
    "cancelled": (
        replace(WAITING, state=State.CANCELLED, settled_at=NOW, reason="mailbox-removed"),
        READY,
        "Cancelled at 12:00:00 UTC because of mailbox-removed; it will not be sent.",
    ),
    "cancelled by hand": (
        replace(WAITING, state=State.CANCELLED, settled_at=NOW, reason="cancelled"),
        READY,
        "Cancelled at 12:00:00 UTC; it will not be sent.",
    ),
    "folded": (replace(WAITING, state=State.FOLDED), READY, "as part of a digest"),
}


@pytest.mark.parametrize(("delivery", "mailbox", "part"), CASES.values(), ids=list(CASES))
def test_the_sentence_names_the_cause(delivery, mailbox, part):
    """Each standing has a sentence that says what it waits for, or how it ended."""
    assert part in why_waiting(delivery, mailbox, NOW)


def test_a_person_comes_before_time():
    """A delivery that waits for a person says so, even if it is also not due yet."""
    parked = replace(READY, parked_at=EARLIER, paused_until=LATER)

    assert "parked" in why_waiting(replace(WAITING, due_at=LATER, ahead=9), parked, NOW)


moments = st.integers(-(10**7), 10**7).map(lambda seconds: NOW + timedelta(seconds=seconds))
maybe = st.none() | moments
words = st.none() | st.text(max_size=20)


@given(
    delivery=st.builds(
        DeliveryStanding,
        state=st.sampled_from(State),
        severity=st.sampled_from(Severity),
        enqueued_at=moments,
        due_at=moments,
        expires_at=maybe,
        settled_at=maybe,
        claimed_by=words,
        reason=words,
        reply_text=words,
        ahead=st.integers(0, 10**6),
    ),
    mailbox=st.builds(
        MailboxStanding,
        address=st.just("a@b.example"),
        connected_at=maybe,
        parked_at=maybe,
        park_meaning=words,
        park_next_step=words,
        probe_at=maybe,
        paused_until=maybe,
    ),
    now=moments,
)
def test_everything_can_be_explained(delivery, mailbox, now):
    """Whatever a delivery's standing is, there is a sentence for it."""
    assert why_waiting(delivery, mailbox, now)
