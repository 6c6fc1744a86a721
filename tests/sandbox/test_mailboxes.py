from __future__ import annotations

from bisect import bisect_right

import pytest
from exchange_client import Clock
from hypothesis import given
from hypothesis import strategies as st

from sandbox.limits import Limits
from sandbox.mailboxes import MailboxStore, Submission
from sandbox.outbox import Headers, MailRecord, author_address, read_headers


def mail(number: int = 1, size: int = 10, raw: bytes = b"") -> Submission:
    headers = Headers(f"<{number}@a>", f"d-{number}", "s", "a@b.example")
    return Submission("a@b.example", ("r@c.example",), size, headers, raw)


@given(
    steps=st.lists(st.sampled_from([0, 1, 5, 20, 60]), min_size=1, max_size=80),
    allowed=st.integers(1, 6),
)
def test_the_rate_is_exact(steps, allowed):
    """No window ever holds more than is allowed when refused; delayed mails leave at that rate."""
    clocks = Clock(), Clock()
    boxes = [
        MailboxStore(
            clock=clock, limits=Limits(messages_per_window=allowed, over_rate=over_rate)
        ).add("a@b.example")
        for clock, over_rate in zip(clocks, ("refuse", "delay"), strict=True)
    ]
    for number, step in enumerate(steps):
        for clock, box in zip(clocks, boxes, strict=True):
            clock.now += step
            box.submit(mail(number))
    accepted = [m.time for m in boxes[0].outbox.mails]
    delivered = [m.delivered_at for m in boxes[1].outbox.mails]
    assert len(delivered) == len(steps)
    assert delivered == sorted(delivered)
    for times in (accepted, delivered):
        for index, moment in enumerate(times):
            assert bisect_right(times, moment) - bisect_right(times, moment - 60) <= allowed, index
    assert len(accepted) + boxes[0].violations["message_rate"] == len(steps)
    assert boxes[0].max_sent_in_window <= allowed


def test_addresses_are_compared_without_case():
    """A mailbox is found however its address is written, and exists once."""
    store = MailboxStore()
    box = store.add("Alerts@Tenant.example", tenant_id="t")
    assert store.get("ALERTS@tenant.EXAMPLE") is box
    assert store.outbox("alerts@tenant.example") is box.outbox
    assert store.get("nobody@tenant.example") is None
    assert list(store) == [box]
    assert MailboxStore(), "an empty store must not pass for none"
    with pytest.raises(ValueError, match="exists"):
        store.add("alerts@tenant.example")
    with pytest.raises(KeyError):
        store.outbox("nobody@tenant.example")


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ({"keep_last": 2}, [None, b"2", b"3"]),
        ({"keep_last": 0}, [None] * 3),
        ({"keep_bodies": True}, [b"1", b"2", b"3"]),
    ],
)
def test_content_is_kept_as_wanted(keep, kept):
    """Records are kept anyway, content as far as asked for."""
    store = MailboxStore(**keep)
    box = store.add("a@b.example")
    for number in (1, 2, 3):
        assert isinstance(box.submit(mail(number, raw=b"%d" % number)), MailRecord)
    assert [box.outbox.content(record) for record in box.outbox.mails] == kept


def test_counts_go_on_when_records_are_dropped():
    """Counts and duplicates are complete although only the last records are kept."""
    store = MailboxStore(keep_records=2)
    box = store.add("a@b.example")
    for number in (1, 2, 3, 1):
        box.submit(mail(number))
    assert (len(box.outbox.mails), len(box.outbox)) == (2, 4)
    assert box.outbox.duplicate_alert_ids() == {"d-1": 2}
    assert box.outbox.alert_ids() == {"d-1", "d-2", "d-3"}
    box.outbox.clear()
    assert (len(box.outbox), box.outbox.duplicate_alert_ids()) == (0, {})


def test_snapshot_is_data():
    """The snapshot can be written as JSON and counts over all mailboxes."""
    import json

    store = MailboxStore(limits=Limits(messages_per_window=1))
    for address in ("a@b.example", "b@b.example"):
        box = store.add(address)
        box.submit(mail()._replace(sender=address, headers=Headers("<1@a>", "", "", "")))
        box.submit(mail()._replace(sender=address, headers=Headers("<1@a>", "", "", "")))
    snapshot = json.loads(json.dumps(store.snapshot()))
    assert snapshot["taken"] == 4
    assert snapshot["violations"] == {"message_rate": 2}
    assert snapshot["duplicate_message_ids"] == 2
    assert snapshot["mailboxes"]["a@b.example"]["taken"] == 2


@pytest.mark.parametrize(
    ("raw", "headers"),
    [
        (b"", ("", "", "", "")),
        (b"\r\n\r\nMessage-ID: <no>", ("", "", "", "")),
        (b"MESSAGE-id:<a>\r\nx-alertpost-ID:  7 \r\n\r\n", ("<a>", "7", "", "")),
        (
            b"Subject: one\r\n two\r\n\tthree\r\nFrom: a\r\n\r\n",
            ("", "", "one\r\n two\r\n\tthree", "a"),
        ),
        (b"X-Subject: no\r\nSubject: yes", ("", "", "yes", "")),
        (b"Subject: \xff", ("", "", "\ufffd", "")),
    ],
)
def test_headers_are_found(raw, headers):
    """Fields are found in any case, folded or not, and only in the header."""
    assert read_headers(raw) == headers


@pytest.mark.parametrize(
    ("author", "address"),
    [
        ("A <a@B.example>", "a@b.example"),
        ("a@b.example", "a@b.example"),
        ('"<x@y>" <a@b>', "a@b"),
        ("Nobody", ""),
        ("", ""),
    ],
)
def test_author_addresses(author, address):
    """The address stands in the last pair of brackets, or alone."""
    assert author_address(author) == address
