from __future__ import annotations

import asyncio
import ssl

import pytest
from exchange_client import ADDRESS, RECIPIENT, authority, mail, running, stuffed, until
from hypothesis import given
from hypothesis import strategies as st

from sandbox.faults import (
    PRESETS,
    Answer,
    Close,
    CutAfterDot,
    CutInside,
    Fault,
    FaultPlan,
    NoStartTLS,
    RefuseRecipients,
    Slow,
    Stall,
    Trickle,
    WrongCertificate,
)
from sandbox.replies import CATALOGUE, Reply, reply_for

PHASES = ("banner", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "body", "quit")
SENSIBLE = [
    (phase, name)
    for name, reply in CATALOGUE.items()
    for phase in (
        ("banner", "auth", "mail", "rcpt", "data", "body")
        if reply.code < 500
        else ("auth",)
        if reply.code in (504, 535)
        else ("mail", "rcpt", "data", "body")
    )
]


async def walk(client, phase):
    """Go through the dialogue up to a phase and give the reply there."""
    if phase == "banner":
        return await client.reply()
    await client.reply()
    for step, line in (("ehlo", "EHLO a.example"), ("starttls", "STARTTLS")):
        said = await client.say(line)
        if step == phase:
            return said
    await client.writer.start_tls(authority().client_context(), server_hostname="localhost")
    await client.say("EHLO a.example")
    said = await client.auth()
    for step, line in (
        ("mail", f"MAIL FROM:<{ADDRESS}>"),
        ("rcpt", f"RCPT TO:<{RECIPIENT}>"),
        ("data", "DATA"),
        ("body", mail() + b"."),
        ("quit", "QUIT"),
    ):
        if phase == "auth":
            return said
        said = await client.say(line)
        if step == phase:
            return said
    raise AssertionError(phase)


async def test_every_reply_can_be_had_on_demand():
    """Each reply of the catalogue is said in each phase where it makes sense, and nothing is taken."""
    async with running() as world:
        for phase, name in SENSIBLE:
            world.server.faults.clear()
            world.server.inject(Fault("this", phase, Answer(name)))
            client = await world.connect()
            said = await walk(client, phase)
            code, _, text = said.partition(" ")
            assert int(code) == CATALOGUE[name].code
            assert text.split(" [")[0] == CATALOGUE[name].text.split(" [")[0].replace(
                "{user}", ADDRESS
            ).replace("{sender}", "")
            if code == "421":
                assert await client.reply() == ""
            client.close()
        assert world.store.taken == 0
        assert not world.store.violation_counts


async def test_a_literal_reply_of_several_lines():
    """A reply that is no catalogue entry can be written out."""
    async with running() as world:
        world.server.inject(Fault("this", "mail", Answer("451 4.7.0 One\nTwo")))
        client = await world.signed_in()
        assert await client.say(f"MAIL FROM:<{ADDRESS}>") == "451-4.7.0 One\n451 Two"


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_closes_before_or_after(phase, when):
    """The line is closed at the phase; what was asked is done and answered only with ``after``."""
    async with running() as world:
        world.server.inject(Fault("this", phase, Close(when)))
        client = await world.connect()
        said = await walk(client, phase)
        assert bool(said) == (when == "after")
        if said:
            assert said[0] in "23"
            assert await client.reply() == ""
        assert world.store.taken == (phase == "quit" or (phase == "body" and when == "after"))


async def test_cut_at_connect():
    """A connection can be cut before its greeting."""
    async with running() as world:
        world.server.inject(PRESETS["cut_at_connect"])
        assert await (await world.connect()).reply() == ""


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
async def test_cut_after_the_final_dot(taken, chunked):
    """The client hears nothing; the outbox knows whether the mail was taken."""
    async with running() as world:
        world.server.inject(Fault("this", "body", CutAfterDot(taken=taken), times=1))
        client = await world.signed_in()
        await client.envelope()
        content = mail(X_Alertpost_Id="d-1")
        if chunked:
            client.send(b"BDAT %d LAST\r\n" % len(content) + content)
        else:
            await client.say("DATA")
            client.send(stuffed(content))
        assert await client.reply() == ""
        outbox = world.store.outbox(ADDRESS)
        assert [m.answered for m in outbox.mails] == ([False] if taken else [])
        assert [m.alert_id for m in outbox.lost] == ([] if taken else ["d-1"])
        again = await world.signed_in()
        assert (await again.submit(content)).startswith("250 ")
        assert outbox.duplicate_message_ids() == ({"<1@a.example>": 2} if taken else {})
        assert outbox.duplicate_alert_ids() == ({"d-1": 2} if taken else {})


@pytest.mark.parametrize("after_bytes", [0, 10, 10_000])
@pytest.mark.parametrize("chunked", [True, False])
async def test_cut_inside_the_content(after_bytes, chunked):
    """The line is cut before the final dot, and the mail is not taken, be it shorter than the cut."""
    async with running() as world:
        world.server.inject(Fault("this", "data", CutInside(after_bytes)))
        client = await world.signed_in()
        await client.envelope()
        if chunked:
            client.send(b"BDAT %d LAST\r\n" % len(mail()) + mail())
        else:
            assert (await client.say("DATA")).startswith("354")
            client.send(stuffed(mail()))
        assert await client.reply() == ""
        assert world.store.taken == 0


async def test_a_refused_chunk_is_swallowed():
    """The octets of a BDAT that is refused are not read as commands."""
    async with running() as world:
        world.server.inject(Fault("this", "data", Answer("concurrent_connections"), times=1))
        client = await world.signed_in()
        await client.envelope()
        client.send(b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")
        assert (await client.reply()).startswith("432 4.3.2")
        assert await client.reply() == "250 2.0.0 OK"


async def test_stalls_and_goes_on():
    """A stall delays what was asked; input that came meanwhile is not lost."""
    async with running() as world:
        world.server.inject(Fault("this", "mail", Stall(0.05), times=1))
        client = await world.signed_in()
        loop = asyncio.get_running_loop()
        began = loop.time()
        client.send(f"MAIL FROM:<{ADDRESS}>\r\nRCPT TO:<{RECIPIENT}>\r\n".encode())
        client.send(b"DATA\r\n")
        assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
        assert loop.time() - began >= 0.045


async def test_a_stall_at_body_settles_the_mail_afterwards():
    """A mail whose reply is late is taken once, at the end of the stall."""
    async with running() as world:
        world.server.inject(Fault("this", "body", Stall(0.02), times=1))
        client = await world.signed_in()
        assert (await client.submit()).startswith("250 2.0.0 OK")
        assert (await client.submit()).startswith("250 2.0.0 OK")
        assert world.store.taken == 2


@pytest.mark.parametrize("phase", ["connect", "banner", "body"])
async def test_stalls_for_ever(phase):
    """A connection that says nothing more is let go of when the client leaves."""
    async with running() as world:
        world.server.inject(Fault("this", phase, Stall()))
        client = await world.connect()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(walk(client, "body" if phase == "body" else "banner"), 0.2)
        client.close()
        await until(lambda: not world.server.snapshot()["open"])
        assert world.store.taken == 0
        assert world.store.get(ADDRESS).connections == 0


async def test_much_input_during_a_stall_is_not_lost():
    """What comes while the server stalls is held back, however much it is, and obeyed in order."""
    async with running() as world:
        client = await world.signed_in()
        world.server.inject(Fault("this", "mail", Stall(0.1), times=1))
        content = mail() + (b"x" * 70 + b"\r\n") * 10_000
        client.send(f"MAIL FROM:<{ADDRESS}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode())
        client.send(stuffed(content) + b"NOOP\r\n")
        assert [(await client.reply())[:3] for _ in range(5)] == ["250", "250", "354", "250", "250"]
        (record,) = world.store.outbox(ADDRESS).mails
        assert world.store.outbox(ADDRESS).content(record) == content


async def test_a_stalled_starttls_forgets_clear_text():
    """Clear text that comes behind STARTTLS during a stall is not obeyed under TLS either."""
    async with running() as world:
        world.server.inject(Fault("this", "starttls", Stall(0.02)))
        client = await world.connect()
        await client.reply()
        await client.say("EHLO a.example")
        client.send(b"STARTTLS\r\nNOOP\r\n")
        assert (await client.reply()).startswith("220")
        await client.writer.start_tls(authority().client_context(), server_hostname="localhost")
        assert "XOAUTH2" in await client.say("EHLO a.example")


@pytest.mark.parametrize("behaviour", [Slow(0.02), Trickle(0.0005)])
async def test_a_slow_starttls_still_ends_in_tls(behaviour):
    """The handshake begins only after the slow 220."""
    async with running() as world:
        world.server.inject(Fault("this", "starttls", behaviour))
        client = await world.secure()
        assert (await client.auth()).startswith("235")


async def test_slow_everywhere_changes_no_reply():
    """Slow replies are the same replies, and pipelined commands keep their order."""
    async with running() as world:
        world.server.inject(Fault("this", "*", Slow(0.002, 0.004)))
        client = await world.signed_in()
        client.send(f"MAIL FROM:<{ADDRESS}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode())
        client.send(stuffed(mail()) + b"QUIT\r\n")
        assert [(await client.reply())[:3] for _ in range(5)] == ["250", "250", "354", "250", "221"]
        assert world.store.taken == 1


async def test_trickles():
    """A reply comes byte by byte, complete and before the next."""
    async with running() as world:
        client = await world.signed_in()
        world.server.inject(Fault("this", "mail", Trickle(0.001)))
        client.send(f"MAIL FROM:<{ADDRESS}>\r\nNOOP\r\n".encode())
        assert await client.reply() == "250 2.1.0 Sender OK"
        assert await client.reply() == "250 2.0.0 OK"


async def test_slow_and_failing_at_once():
    """A fault of pace and one of action strike together."""
    async with running() as world:
        client = await world.signed_in()
        world.server.inject(Fault("slow", "*", Slow(0.001)))
        world.server.inject(PRESETS["outbound_spam"])
        assert "OutboundSpamException" in await client.submit()


async def test_refuses_particular_recipients():
    """Addresses that match are refused, the others are not, and the mail goes to the others."""
    async with running() as world:
        world.server.inject(Fault("this", "rcpt", RefuseRecipients("*@bad.example")))
        client = await world.signed_in()
        await client.envelope("a@good.example")
        assert (await client.say("RCPT TO:<b@Bad.example>")).startswith("550 5.4.1")
        await client.say("DATA")
        client.send(stuffed(mail()))
        assert (await client.reply()).startswith("250")
        assert world.store.outbox(ADDRESS).mails[0].recipients == ("a@good.example",)


async def test_no_starttls():
    """STARTTLS is neither offered nor known."""
    async with running() as world:
        world.server.inject(Fault("this", "ehlo", NoStartTLS()))
        client = await world.connect()
        await client.reply()
        assert "STARTTLS" not in await client.say("EHLO a.example")
        assert await client.say("STARTTLS") == "500 5.3.3 Unrecognized command"


async def test_wrong_certificate():
    """The certificate is another authority's, and a client that verifies refuses it."""
    async with running() as world:
        world.server.inject(Fault("this", "starttls", WrongCertificate(), times=1))
        client = await world.connect()
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.start_tls()
        other = await world.secure()
        assert (await other.auth()).startswith("235")


async def test_faults_strike_only_the_mailbox_they_name():
    """A pattern narrows a fault to mailboxes, at AUTH by the user who asks."""
    async with running() as world:
        world.store.add("other@tenant.example")
        world.server.inject(Fault("this", "auth", Answer("criteria_not_met"), mailbox="oth*"))
        client = await world.secure()
        assert (await client.auth("OTHER@tenant.example")).startswith("535 5.7.139")
        assert (await client.auth()).startswith("235")


def test_times_after_and_names():
    """A fault lets the first occasions pass, strikes so often and is then spent."""
    plan = FaultPlan((Fault("this", "mail", Close(), times=2, after=1),))
    struck = [plan.decide("mail").action is not None for _ in range(5)]
    assert struck == [False, True, True, False, False]
    assert (plan.struck, plan.armed) == ({"this": 2}, False)


def test_chance_repeats_with_its_seed():
    """The same seed gives the same strikes, at about the rate asked for."""

    def strikes(seed):
        plan = FaultPlan((PRESETS["flaky"],), seed=seed)
        return [plan.decide("body").action is not None for _ in range(2000)]

    assert strikes(7) == strikes(7) != strikes(8)
    assert 60 <= sum(strikes(7)) <= 140


@pytest.mark.parametrize("fault", PRESETS.values(), ids=str)
def test_presets_go_through_json(fault):
    """What as_mapping writes, from_mapping reads."""
    assert Fault.from_mapping(fault.as_mapping()) == fault


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ({"name": "a", "phase": "mail"}, "behaviour"),
        ({"name": "a", "phase": "mail", "behaviour": "nonsense"}, "behaviour"),
        ({"name": "a", "phase": "nowhere", "reply": "mailbox_full"}, "phase"),
        ({"name": "a", "phase": "mail", "reply": "no_such_reply"}, "no such reply"),
        ({"name": "a", "phase": "mail", "behaviour": "cut_after_dot", "taken": True}, "body only"),
        ({"name": "a", "phase": "mail", "behaviour": "close", "probability": 2}, "probability"),
        ({"name": "a", "phase": "mail", "behaviour": "close", "times": 0}, "times"),
        ({"phase": "mail", "behaviour": "close"}, "name"),
        ({"name": "a", "phase": "mail", "behaviour": "close", "colour": "red"}, "colour"),
    ],
)
def test_refuses_faults_that_make_no_sense(raw, word):
    """The message names what is wrong."""
    with pytest.raises(ValueError, match=word):
        Fault.from_mapping(raw)


def test_reply_is_short_for_answer():
    """``reply`` alone makes a fault that answers."""
    fault = Fault.from_mapping({"name": "a", "phase": "mail", "reply": "mailbox_full"})
    assert fault.behaviour == Answer("mailbox_full")


@given(code=st.integers(200, 599), text=st.text("abc .0123", min_size=1).filter(str.strip))
def test_literals_are_read_as_written(code, text):
    """Any code and text come back as one line of the wire."""
    assert reply_for(f"{code} {text}").wire() == f"{code} {text}\r\n".encode()


def test_catalogue_is_well_formed():
    """Enhanced codes agree with their basic codes, but for the 5xx that RFC 5321 lists without one."""
    for reply in CATALOGUE.values():
        assert isinstance(reply, Reply)
        assert reply.text[0] == str(reply.code)[0]
        assert reply.wire().count(b"\r\n") == 1
