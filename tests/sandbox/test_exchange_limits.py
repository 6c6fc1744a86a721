from __future__ import annotations

from dataclasses import replace

import pytest
from exchange_client import ADDRESS, RECIPIENT, mail, running, stuffed, until

from sandbox.mailboxes import Limits


@pytest.mark.parametrize(
    ("limits", "reply", "taken"),
    [
        pytest.param(Limits(), "250 2.0.0 OK", 31, id="delay"),
        pytest.param(
            Limits(over_rate="refuse"),
            "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded",
            30,
            id="refuse",
        ),
        pytest.param(
            Limits(over_rate="refuse", over_rate_reply="submission_rate"),
            "421 4.4.2 Message submission rate",
            30,
            id="refuse-and-close",
        ),
    ],
)
async def test_the_31st_mail_within_a_minute(limits, reply, taken):
    """The 31st is delayed or refused and counted; nothing before it is."""
    async with running(limits=limits) as world:
        client = await world.signed_in()
        for _ in range(30):
            assert (await client.submit()).startswith("250 2.0.0 OK")
        assert not world.store.violation_counts
        world.clock.now += 59.9
        assert (await client.submit()).startswith(reply)
        assert world.store.violation_counts == {"message_rate": 1}
        assert world.store.taken == taken
        assert world.store.get(ADDRESS).max_sent_in_window == taken
        delays = [m.delivered_at - m.time for m in world.store.outbox(ADDRESS).mails]
        assert delays[:30] == [0.0] * 30
        assert delays[30:] == pytest.approx([0.1] * (taken - 30), abs=1e-3)


async def test_the_window_slides():
    """A mail sent at 0 s makes room at exactly 60 s."""
    async with running() as world:
        client = await world.signed_in()
        for _ in range(30):
            await client.submit()
            world.clock.now += 2
        for _ in range(30):
            await client.submit()
            world.clock.now += 2
        assert not world.store.violation_counts
        assert world.store.snapshot()["max_sent_in_window"] == 30


async def test_the_fourth_connection_is_refused_at_auth():
    """Three may be open; a slot comes free with its connection, however that ends."""
    async with running() as world:
        clients = [await world.signed_in() for _ in range(3)]
        fourth = await world.secure()
        assert (await fourth.auth()).startswith("432 4.3.2 Concurrent connections limit exceeded")
        mailbox = world.store.get(ADDRESS)
        assert (mailbox.connections, mailbox.max_connections) == (3, 4)
        assert world.store.violation_counts == {"connections": 1}
        clients[0].close()
        await until(lambda: mailbox.connections == 2)
        assert (await fourth.auth()).startswith("235")
        await fourth.say("QUIT")
        await until(lambda: mailbox.connections == 2)


async def test_the_fourth_connection_is_refused_at_data_if_told_to():
    """It signs in and is refused when it wants to send, until another leaves."""
    async with running(limits=Limits(connections_judged_at="data")) as world:
        clients = [await world.signed_in() for _ in range(4)]
        await clients[3].envelope()
        assert (await clients[3].say("DATA")).startswith("432 4.3.2")
        assert (await clients[0].submit()).startswith("250")
        await clients[1].say("QUIT")
        await until(lambda: world.store.get(ADDRESS).connections == 3)
        assert (await clients[3].say("DATA")).startswith("354")


async def test_a_dropped_connection_may_keep_its_slot():
    """Without QUIT the slot lingers for the time set; with QUIT it does not."""
    async with running(limits=Limits(connections=1, slot_linger_seconds=20)) as world:
        mailbox = world.store.get(ADDRESS)
        first = await world.signed_in()
        await first.say("QUIT")
        await until(lambda: not mailbox.connections)
        second = await world.signed_in()
        second.close()
        await until(lambda: not mailbox.connections)
        third = await world.secure()
        assert (await third.auth()).startswith("432")
        world.clock.now += 20
        assert (await third.auth()).startswith("235")


async def test_recipients_of_a_day():
    """10,000 recipients go; one more is refused until the day has slid on."""
    limits = Limits(recipients_per_day=4, messages_per_window=None)
    async with running(limits=limits) as world:
        client = await world.signed_in()
        for _ in range(2):
            await client.envelope("a@b.example", "c@d.example")
            await client.say("DATA")
            client.send(stuffed(mail()))
            assert (await client.reply()).startswith("250")
        assert (await client.submit()).startswith(
            "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException"
        )
        assert world.store.violation_counts == {"recipients_per_day": 1}
        world.clock.now += 86_400
        assert (await client.submit()).startswith("250")


async def test_recipients_of_a_message():
    """The 501st is refused and the mail goes to the 500."""
    async with running() as world:
        client = await world.signed_in()
        await client.envelope(*(f"r{n}@b.example" for n in range(500)))
        assert await client.say("RCPT TO:<last@b.example>") == "452 4.5.3 Too many recipients"
        await client.say("DATA")
        client.send(stuffed(mail()))
        assert (await client.reply()).startswith("250")
        assert world.store.outbox(ADDRESS).recipients == 500
        assert world.store.violation_counts == {"recipients_per_message": 1}


@pytest.mark.parametrize("declared", ["", " SIZE=10"])
async def test_the_real_size_counts(declared):
    """A mail larger than the mailbox takes is refused after the dot, whatever was declared."""
    async with running(limits=Limits(message_bytes=500)) as world:
        client = await world.signed_in()
        assert await client.say(f"MAIL FROM:<{ADDRESS}> SIZE=501") == (
            "552 5.3.4 Message size exceeds fixed maximum message size"
        )
        for size, reply in ((500, "250"), (501, "552 5.3.4")):
            await client.say(f"MAIL FROM:<{ADDRESS}>{declared}")
            await client.say(f"RCPT TO:<{RECIPIENT}>")
            content = mail(b"")
            chunk = content + b"x" * (size - len(content))
            client.send(b"BDAT %d LAST\r\n" % size + chunk)
            assert (await client.reply()).startswith(reply)
        assert world.store.violation_counts == {"message_size": 2}


@pytest.mark.parametrize(
    ("mailbox", "reply"),
    [
        (
            {"smtp_auth": False},
            "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.",
        ),
        (
            {"conditional_access": True},
            "535 5.7.139 Authentication unsuccessful, the request did not meet the criteria",
        ),
        ({}, "235 2.7.0"),
    ],
)
async def test_switches_of_the_mailbox(mailbox, reply):
    """A switch refuses even a good token."""
    async with running(**mailbox) as world:
        assert (await (await world.secure()).auth()).startswith(reply)


@pytest.mark.parametrize(("own", "code"), [(None, "535"), (True, "235"), (False, "535")])
async def test_switch_of_the_organisation(own, code):
    """The mailbox's own switch wins over the organisation's; without one it inherits."""
    async with running(smtp_auth=own) as world:
        world.store.organisation("").smtp_auth = False
        said = await (await world.secure()).auth()
        assert said.startswith(code)
        assert ("for the Tenant." in said) == (own is None)
        world.store.organisation("").smtp_auth = True
        if own is None:
            assert (await (await world.secure()).auth()).startswith("235")


@pytest.mark.parametrize(
    ("sender", "author", "denied"),
    [
        (ADDRESS, f"Alerts <{ADDRESS.upper()}>", ""),
        ("shared@tenant.example", "shared@tenant.example", ""),
        ("boss@tenant.example", f"<{ADDRESS}>", "boss@tenant.example"),
        (ADDRESS, '"Boss" <boss@tenant.example>', "boss@tenant.example"),
    ],
)
async def test_send_as(sender, author, denied):
    """Another sender, in the envelope or in From, is refused after the dot unless it is granted."""
    async with running(send_as=["Shared@tenant.example"]) as world:
        client = await world.signed_in()
        said = await client.submit(mail(From=author), sender=sender)
        refusal = f"554 5.2.252 SendAsDenied; {ADDRESS} not allowed to send as {denied} ["
        assert said.startswith(refusal if denied else "250 2.0.0")
        assert world.store.taken == (not denied)


async def test_a_mailbox_fills_up_with_sent_items():
    """Each mail uses room; a full mailbox cannot send until it is emptied."""
    async with running(quota_bytes=2 * len(mail())) as world:
        client = await world.signed_in()
        for _ in range(2):
            assert (await client.submit()).startswith("250")
        assert (await client.submit()).startswith(
            "554 5.2.2 mailbox full; STOREDRV.Submission.Exception:QuotaExceededException"
        )
        world.store.get(ADDRESS).empty_sent_items()
        assert (await client.submit()).startswith("250")


async def fail(client, world, kind):
    mailbox = world.store.get(ADDRESS)
    if kind == "send_as_denied":
        await client.submit(sender="boss@tenant.example")
    elif kind == "too_many_recipients":
        await client.envelope()
        for _ in range(3):
            await client.say("RCPT TO:<a@b.example>")
    elif kind == "invalid_recipients":
        await client.envelope()
        for _ in range(3):
            await client.say("RCPT TO:<a..b@b.example>")
    else:
        mailbox.licensed = kind != "invalid_license"
        mailbox.quota_bytes = 1 if kind == "mailbox_full" else None
        await client.submit()
        mailbox.licensed, mailbox.quota_bytes = True, None
    await client.say("RSET")


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        ("mailbox_full", "550 5.2.251 Sender throttled due to continuous mailbox full errors."),
        ("send_as_denied", "550 5.2.252 Sender throttled due to continuous send as denied errors."),
        (
            "invalid_license",
            "550 5.2.253 Sender throttled due to continuous invalid license errors.",
        ),
        (
            "too_many_recipients",
            "550 5.2.254 Sender throttled due to continuous too many recipients errors.",
        ),
        (
            "invalid_recipients",
            "550 5.2.255 Sender throttled due to continuous invalid recipients errors.",
        ),
    ],
)
async def test_repeating_an_error_locks_the_mailbox_out(kind, reply):
    """The fifth error of a kind shuts out good mails too, until the time has passed."""
    limits = replace(Limits(), recipients_per_message=1)
    async with running(limits=limits) as world:
        client = await world.signed_in()
        for _ in range(4):
            await fail(client, world, kind)
        assert (await client.submit()).startswith("250")
        assert "lock_out" not in world.store.violation_counts
        await fail(client, world, kind)
        assert await client.submit() == reply
        assert world.store.violation_counts["lock_out"] == 1
        world.clock.now += 3600
        assert (await client.submit()).startswith("250")


async def test_errors_far_apart_do_not_lock_out():
    """Errors older than the window are forgotten, and a lock-out can be lifted."""
    async with running() as world:
        client = await world.signed_in()
        for _ in range(8):
            await fail(client, world, "send_as_denied")
            world.clock.now += 1000
        assert (await client.submit()).startswith("250")
        for _ in range(5):
            await fail(client, world, "send_as_denied")
        assert world.store.get(ADDRESS).locked_by == "locked_send_as_denied"
        world.store.get(ADDRESS).unlock()
        assert (await client.submit()).startswith("250")


async def test_open_limits_stop_nothing():
    """With open limits neither rate nor connections nor recipients are refused."""
    async with running(limits=Limits.open()) as world:
        clients = [await world.signed_in() for _ in range(6)]
        for client in clients:
            for _ in range(10):
                assert (await client.submit()).startswith("250")
        snapshot = world.store.snapshot()
        assert (snapshot["taken"], snapshot["violations"]) == (60, {})
        assert (snapshot["max_sent_in_window"], snapshot["max_connections"]) == (60, 6)


@pytest.mark.parametrize(
    ("content", "bounce"),
    [
        (mail(), ""),
        (mail(b"bare\nfeed\r\n"), "bare_line_feeds"),
        (b"Subject: no author\r\n\r\nText\r\n", "from_header_not_compliant"),
    ],
)
async def test_what_would_bounce_later_is_taken_and_noted(content, bounce):
    """Exchange says 250 to some mails and bounces them afterwards; the record says so."""
    async with running() as world:
        client = await world.signed_in()
        assert (await client.submit(content)).startswith("250")
        assert world.store.outbox(ADDRESS).mails[0].later_bounce == bounce
