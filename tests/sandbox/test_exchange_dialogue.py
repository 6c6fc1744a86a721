from __future__ import annotations

import asyncio
import smtplib

import aiosmtplib
import pytest
from exchange_client import ADDRESS, RECIPIENT, authority, mail, running, stuffed, xoauth2
from hypothesis import given
from hypothesis import strategies as st

from sandbox.exchange import ExchangeOptions
from sandbox.smtp_content import DottedContent
from sandbox.smtp_grammar import read_xoauth2

TRACE = r" \[AL0P100CA0001\.PROD\.OUTLOOK\.COM 2027-01-15T08:00:00\.000Z [0-9A-F]{16}\]"


async def test_greets_and_offers_what_exchange_offers():
    """Only STARTTLS is offered in clear text, and the full list under TLS."""
    async with running() as world:
        client = await world.connect()
        banner = await client.reply()
        assert banner == (
            "220 AL0P100CA0001.outlook.office365.com Microsoft ESMTP MAIL Service ready at "
            "Fri, 15 Jan 2027 08:00:00 -0000"
        )
        plain = (await client.say("EHLO client.example")).split("\n")
        assert plain[1:] == ["250 STARTTLS"]
        client.send(b"STARTTLS\r\n")
        await client.reply()
        await client.writer.start_tls(authority().client_context(), server_hostname="localhost")
        offered = (await client.say("EHLO client.example")).split("\n")
        assert [line[4:] for line in offered[1:]] == [
            "SIZE 157286400",
            "PIPELINING",
            "DSN",
            "ENHANCEDSTATUSCODES",
            "AUTH LOGIN XOAUTH2",
            "8BITMIME",
            "BINARYMIME",
            "CHUNKING",
            "SMTPUTF8",
        ]


@pytest.mark.parametrize(
    ("lines", "reply"),
    [
        pytest.param(["MAIL FROM:<a@b.example>"], "503 5.5.2 Send hello first", id="no-hello"),
        *(
            pytest.param([f"EHLO {name}"], "501 5.5.4 Invalid domain name", id=f"hello-{name[:20]}")
            for name in (
                "a_b!",
                "my_app.internal",
                "host.",
                "a..b",
                "-a.example",
                "a-.example",
                "a b",
                f"{'a' * 64}.example",
                "[my-host]",
                "[IPv6:nope]",
                "b\u00fcro.example",
                "x." * 130 + "x",
            )
        ),
        pytest.param(["EHLO"], "501 5.5.4 Invalid domain name", id="no-name"),
        pytest.param(["EHLO a.b", "AUTH XOAUTH2 dXNlcg=="], "504 5.7.4", id="auth-before-tls"),
        pytest.param(
            ["HELO a.b", "MAIL FROM:<a@b.example>"],
            "530 5.7.57 Client not authenticated to send mail",
            id="mail-before-auth",
        ),
        pytest.param(["STARTTLS"], "503 5.5.2 Send hello first", id="starttls-first"),
        pytest.param(["XYZZY"], "500 5.3.3 Unrecognized command", id="unknown"),
        pytest.param(["NOOP"], "250 2.0.0 OK", id="noop"),
        pytest.param(["RSET"], "250 2.0.0 Resetting", id="rset"),
        pytest.param(["VRFY someone"], "252 2.1.5 Cannot VRFY user", id="vrfy"),
        pytest.param(["QUIT"], "221 2.0.0 Service closing transmission channel", id="quit"),
        pytest.param(["N" * 20_000], "500 5.5.2 Line too long", id="too-long"),
        pytest.param(["NOOP\nNOOP"], "500 5.3.3 Unrecognized command", id="bare-line-feed"),
    ],
)
async def test_answers_before_tls(lines, reply):
    """What is said in clear text is answered as Exchange answers it."""
    async with running() as world:
        client = await world.connect()
        await client.reply()
        for line in lines:
            said = await client.say(line)
        assert said.startswith(reply)


@pytest.mark.parametrize(
    ("lines", "reply"),
    [
        pytest.param(
            ["AUTH PLAIN AGEAYg=="], "504 5.7.4 Unrecognized authentication type", id="plain"
        ),
        pytest.param(
            ["AUTH XOAUTH2 bm9uc2Vuc2U="], "501 5.5.124 Invalid XOAUTH2 auth data", id="bad"
        ),
        pytest.param(["AUTH XOAUTH2 ***"], "501 5.5.124 Invalid XOAUTH2 auth data", id="no-base64"),
        pytest.param(["AUTH XOAUTH2", "bm9u"], "501 5.5.124", id="bad-in-two-steps"),
        pytest.param(["AUTH XOAUTH2", "*"], "501 5.7.0", id="cancelled"),
        pytest.param(
            ["AUTH XOAUTH2", xoauth2().decode()],
            "235 2.7.0 Authentication successful",
            id="two-steps",
        ),
        pytest.param(
            ["AUTH LOGIN", "YQ==", "Yg=="],
            "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
            id="login",
        ),
        pytest.param(["AUTH LOGIN YQ==", "Yg=="], "535 5.7.139", id="login-with-user"),
        pytest.param(["MAIL FROM:<a@b.example>"], "530 5.7.57", id="mail-before-auth"),
        pytest.param(["STARTTLS"], "503", id="tls-twice"),
    ],
)
async def test_answers_to_auth(lines, reply):
    """Each way to sign in gets Exchange's reply."""
    async with running() as world:
        client = await world.secure()
        for line in lines:
            said = await client.say(line)
        assert said.startswith(reply)


@pytest.mark.parametrize(
    ("user", "token"),
    [(ADDRESS, "bad"), ("nobody@tenant.example", "good"), (ADDRESS, "good:other-tenant")],
)
async def test_refuses_a_token_with_a_trace(user, token, re_match):
    """A bad token, a user without mailbox and a foreign tenant all get 5.7.3."""
    async with running(tenant_id="tenant") as world:
        client = await world.secure()
        re_match("535 5.7.3 Authentication unsuccessful" + TRACE, await client.auth(user, token))
        assert world.store.token_refusals.total() == 1


@pytest.fixture
def re_match():
    import re

    def check(pattern, text):
        assert re.fullmatch(pattern, text), text

    return check


async def test_refuses_a_token_with_a_challenge_if_told_to():
    """The other style is a 334 with JSON, which an empty line ends."""
    async with running(options=ExchangeOptions(refusal_style="challenge")) as world:
        client = await world.secure()
        assert (await client.auth(token="bad")).startswith("334 ey")
        assert (await client.say("")).startswith("535 5.7.3")


@pytest.mark.parametrize(
    ("lines", "reply"),
    [
        pytest.param([f"MAIL FROM:{ADDRESS}"], "501 5.5.4", id="no-brackets"),
        pytest.param(["MAIL FROM:<nonsense>"], "550 5.1.7 Invalid address", id="bad-sender"),
        pytest.param(
            [f"MAIL FROM:<{ADDRESS}> SIZE=36700161"],
            "552 5.3.4 Message size exceeds fixed maximum message size",
            id="size",
        ),
        pytest.param(
            [f"MAIL FROM:<{ADDRESS}> SIZE=36700160 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a"],
            "250 2.1.0",
            id="parameters",
        ),
        pytest.param([f"MAIL FROM:<{ADDRESS}> FOO=1"], "501 5.5.4", id="unknown-parameter"),
        pytest.param([f"MAIL FROM:<{ADDRESS}>", f"MAIL FROM:<{ADDRESS}>"], "503", id="mail-twice"),
        pytest.param([f"RCPT TO:<{RECIPIENT}>"], "503 5.5.2 Need mail command", id="rcpt-first"),
        pytest.param(
            [f"MAIL FROM:<{ADDRESS}>", "DATA"], "503 5.5.2 Need rcpt command", id="no-rcpt"
        ),
        pytest.param(
            [f"MAIL FROM:<{ADDRESS}>", "RCPT TO:<a..b@c.example>"], "501 5.1.3", id="bad-rcpt"
        ),
        pytest.param(
            [f"MAIL FROM:<{ADDRESS}>", "RCPT TO:<ä@c.example>"], "501 5.1.3", id="needs-smtputf8"
        ),
        pytest.param(
            [f"MAIL FROM:<{ADDRESS}> SMTPUTF8", "RCPT TO:<ä@ö.example>"], "250 2.1.5", id="smtputf8"
        ),
        pytest.param(
            [f"MAIL FROM:<{ADDRESS}>", "RCPT TO:<root@localhost>"], "501 5.1.6", id="one-label"
        ),
        pytest.param(
            [f"mail from: <{ADDRESS}>", f"rcpt to: <{RECIPIENT}> NOTIFY=NEVER"],
            "250 2.1.5",
            id="lower-case",
        ),
        pytest.param(
            [f"MAIL FROM:<{ADDRESS}>", "RSET", "DATA"], "503 5.5.2 Need mail command", id="reset"
        ),
        pytest.param(
            [f"MAIL FROM:<{ADDRESS}> BODY=BINARYMIME", f"RCPT TO:<{RECIPIENT}>", "DATA"],
            "503",
            id="binary-data",
        ),
        pytest.param(["AUTH XOAUTH2 " + xoauth2().decode()], "503", id="auth-twice"),
        pytest.param(["BDAT x"], "501", id="bad-chunk"),
        pytest.param(["BDAT 4\r\nQUIT"], "503 5.5.2 Need mail command", id="chunk-first"),
    ],
)
async def test_answers_to_the_envelope(lines, reply):
    """Each step of the envelope is judged as Exchange judges it."""
    async with running() as world:
        client = await world.signed_in()
        for line in lines:
            said = await client.say(line)
        assert said.startswith(reply)


async def test_reserved_domains_are_refused_only_if_told_to():
    """The names of RFC 2606 are refused behind a switch, since the demo lives under one."""
    async with running(options=ExchangeOptions(reserved_domains_refused=True)) as world:
        client = await world.signed_in()
        await client.say(f"MAIL FROM:<{ADDRESS}>")
        assert await client.say("RCPT TO:<a@b.example>") == (
            "501 5.1.5 Recipient address reserved by RFC 2606"
        )


async def test_the_outbox_holds_what_was_sent():
    """A record says who, to whom, when and under which ids; the 250 names the Message-ID."""
    async with running() as world:
        client = await world.signed_in()
        content = mail(X_Alertpost_Id="d-1", Subject="=?utf-8?q?voll?=")
        assert await client.submit(content) == (
            "250 2.0.0 OK <1@a.example> [Hostname=AL0P100CA0001.outlook.office365.com]"
        )
        (record,) = world.store.outbox(ADDRESS).mails
        assert record._replace(later_bounce="") == record
        assert (record.sequence, record.time, record.sender) == (1, world.clock.now, ADDRESS)
        assert record.recipients == (RECIPIENT,)
        assert record.size == len(content)
        assert (record.message_id, record.alert_id) == ("<1@a.example>", "d-1")
        assert record.subject == "=?utf-8?q?voll?="
        assert world.store.outbox(ADDRESS).content(record) == content


async def test_message_ids_are_rewritten_if_told_to():
    """The 250 then names an id that is not the client's."""
    async with running(store={"rewrite_message_ids": True}) as world:
        client = await world.signed_in()
        assert "<000000000001@sandbox.prod.outlook.com>" in await client.submit()
        (record,) = world.store.outbox(ADDRESS).mails
        assert record.message_id == "<1@a.example>"


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 100_000])
async def test_pipelining_in_any_pieces(piece):
    """How the input is cut into packets changes nothing."""
    async with running() as world:
        client = await world.signed_in()
        one = f"MAIL FROM:<{ADDRESS}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode() + stuffed(
            mail(b".\r\n..\r\n.a\r\n")
        )
        chunk = b"first half, "
        two = (
            f"MAIL FROM:<{ADDRESS}>\r\nRCPT TO:<{RECIPIENT}>\r\nBDAT {len(chunk)}\r\n".encode()
            + chunk
            + b"BDAT 6 LAST\r\n.\r\n.\r\n"
        )
        stream = one + two + one + b"NOOP\r\n"
        for start in range(0, len(stream), piece):
            client.send(stream[start : start + piece])
            if piece < 100:
                await asyncio.sleep(0)
        codes = [(await client.reply())[:9] for _ in range(13)]
        mail_by_data = ["250 2.1.0", "250 2.1.5", "354 Start", "250 2.0.0"]
        assert codes == [
            *mail_by_data,
            "250 2.1.0",
            "250 2.1.5",
            "250 2.6.0",
            "250 2.0.0",
            *mail_by_data,
            "250 2.0.0",
        ]
        outbox = world.store.outbox(ADDRESS)
        contents = [outbox.content(record) for record in outbox.mails]
        assert contents == [
            mail(b".\r\n..\r\n.a\r\n"),
            chunk + b".\r\n.\r\n",
            mail(b".\r\n..\r\n.a\r\n"),
        ]


@given(
    content=st.lists(
        st.sampled_from([b".", b"\r\n", b"\r", b"\n", b"a", b"..", b"\r\n."]), max_size=40
    ),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=12),
)
def test_dot_stuffing_goes_round(content, cuts):
    """Whatever the content and the packets, what was stuffed comes out as it was."""
    raw = b"".join(content)
    if raw and not raw.endswith(b"\r\n"):
        raw += b"\r\n"
    wire = (stuffed(raw) if raw else b".\r\n") + b"NOOP\r\n"
    reader = DottedContent(None)
    fed = b""
    turn = 0
    while not reader.complete:
        piece = wire[len(fed) : len(fed) + cuts[turn % len(cuts)]]
        turn += 1
        end = reader.take(piece, 0)
        fed += piece[:end]
    assert (reader.raw, fed + b"NOOP\r\n") == (raw, wire)


@given(
    user=st.text(st.characters(codec="utf-8", exclude_characters="\x01"), min_size=1),
    token=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1),
)
def test_xoauth2_decodes_to_what_went_in(user, token):
    """User and token come out of the response as they went in."""
    assert read_xoauth2(xoauth2(user, token)) == (user, token)


async def test_what_was_said_in_clear_text_is_forgotten_after_starttls():
    """A command injected behind STARTTLS is not obeyed under TLS."""
    async with running() as world:
        client = await world.connect()
        await client.reply()
        await client.say("EHLO client.example")
        client.send(b"STARTTLS\r\nNOOP\r\n")
        assert (await client.reply()).startswith("220 2.0.0")
        await client.writer.start_tls(authority().client_context(), server_hostname="localhost")
        assert (await client.say("EHLO client.example")).count("\n") == 9


async def test_a_silent_connection_is_closed():
    """After the idle time the server says 421 and closes."""
    async with running(options=ExchangeOptions(idle_seconds=0.05)) as world:
        client = await world.connect()
        await client.reply()
        assert await client.reply() == "421 4.4.1 Connection timed out"
        assert await client.reply() == ""


async def test_a_handshake_that_never_comes_is_given_up():
    """A client that stays silent after STARTTLS does not hold a connection for ever."""
    async with running(options=ExchangeOptions(handshake_seconds=0.05)) as world:
        client = await world.connect()
        await client.reply()
        await client.say("EHLO client.example")
        await client.say("STARTTLS")
        assert await client.reply() == ""  # the server gives up first
        assert world.server.snapshot()["handshakes_failed"] == 1
        assert world.server.snapshot()["open"] == 0


async def test_a_server_that_closes_leaves_nothing_open():
    """Closing cuts connections in every state, handshakes among them."""
    async with running() as world:
        await world.signed_in()
        in_content = await world.signed_in()
        await in_content.envelope()
        await in_content.say("DATA")
        client = await world.connect()
        await client.reply()
        await client.say("EHLO client.example")
        await client.say("STARTTLS")
        assert world.server.snapshot()["open"] == 3
        await world.server.close()
        assert world.server.snapshot()["open"] == 0
        assert world.store.get(ADDRESS).connections == 0
        await world.server.close()
        with pytest.raises(RuntimeError, match="not started"):
            _ = world.server.port


async def test_a_line_without_end_is_skipped():
    """It is refused once, however long it goes on, and the next line is obeyed."""
    async with running() as world:
        client = await world.signed_in()
        for _ in range(40):
            client.send(b"x" * 10_000)
            await asyncio.sleep(0)
        client.send(b"\r\nNOOP\r\n")
        assert await client.reply() == "500 5.5.2 Line too long"
        assert await client.reply() == "250 2.0.0 OK"


async def test_a_client_that_reads_nothing_is_read_no_further():
    """Replies do not pile up without end; once the client reads, every command is answered."""
    async with running() as world:
        client = await world.signed_in()
        number = 100_000
        client.send(b"VRFY a\r\n" * number)
        await asyncio.sleep(0.1)
        for _ in range(number):
            assert (await client.reader.readline()).startswith(b"252 ")


async def test_large_mail_arrives_whole_and_larger_is_refused():
    """A mail of several megabytes goes round; one beyond the limit gets 552 and the line stays usable."""
    async with running() as world:
        client = await world.signed_in()
        content = mail(b"0123456789abcdef" * 4 + b"\r\n") + (b"." * 70 + b"\r\n") * 60_000
        assert (await client.submit(content)).startswith("250 2.0.0")
        (record,) = world.store.outbox(ADDRESS).mails
        assert world.store.outbox(ADDRESS).content(record) == content
        too_large = mail() + (b"x" * 70 + b"\r\n") * 800_000
        assert (await client.submit(too_large)).startswith("552 5.3.4")
        assert world.store.violation_counts == {"message_size": 1}
        assert (await client.submit()).startswith("250 2.0.0")


async def test_aiosmtplib_gets_through():
    """The client that the workers use signs in and sends."""
    async with running() as world:
        client = aiosmtplib.SMTP(
            hostname="localhost",
            port=world.server.port,
            start_tls=True,
            tls_context=authority().client_context(),
            local_hostname="client.example",
        )
        async with client:
            await client.auth_xoauth2(ADDRESS, "good")
            refused, text = await client.sendmail(ADDRESS, [RECIPIENT], mail())
        assert refused == {}
        assert text.startswith("2.0.0 OK <1@a.example> [Hostname=")


async def test_smtplib_gets_through():
    """The standard library's client signs in and sends."""
    async with running() as world:

        def send():
            with smtplib.SMTP(
                "localhost", world.server.port, local_hostname="client.example"
            ) as client:
                client.starttls(context=authority().client_context())
                client.ehlo()
                client.auth("XOAUTH2", lambda _=None: f"user={ADDRESS}\x01auth=Bearer good\x01\x01")
                return client.sendmail(ADDRESS, [RECIPIENT], mail(b".dots\r\n..\r\n"))

        assert await asyncio.to_thread(send) == {}
        assert world.store.taken == 1
