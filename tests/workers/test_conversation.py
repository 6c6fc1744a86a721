"""Commands and replies in groups, against a server that says exactly what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from workers.conversation import MAX_REPLY_BYTES, Conversation, ConversationLost, Reply, take_over

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def talking_to(script: Script) -> AsyncIterator[Conversation]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(
        asyncio.Protocol, *server.sockets[0].getsockname()[:2]
    )
    conversation = take_over(transport)
    try:
        yield conversation
    finally:
        conversation.abort()
        server.close()
        await server.wait_closed()


def says(*answers: bytes) -> Script:
    """Answer the n-th line with the n-th text."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readline()
            writer.write(answer)
            await writer.drain()
        await reader.read()

    return script


async def _ask(conversation: Conversation, commands: int = 1) -> list[Reply]:
    return await conversation.exchange(
        b"NOOP\r\n" * commands, replies=commands, timeout_seconds=0.3
    )


async def test_replies_are_paired_with_commands_in_order() -> None:
    """Replies of one and of many lines, in one piece or in several, end up where they belong."""
    async with talking_to(says(b"250-a\r\n250 b\r\n45", b"1 later\r\n354 go\r\n", b"")) as talk:
        assert await _ask(talk, 3) == [
            Reply(250, "a\nb"),
            Reply(451, "later"),
            Reply(354, "go"),
        ]
        assert talk.usable


@pytest.mark.parametrize(
    ("answer", "failure", "answered"),
    [
        (b"", "timeout", 0),
        (b"250 ok\r\n", "timeout", 1),
        (b"250 ok\r\nnonsense\r\n", "garbage", 1),
        (b"250 ok\r\n2500 ok\r\n", "garbage", 1),
        (b"250 ok\r\n 250 ok\r\n", "garbage", 1),
        (b"250 ok\r\n250-half\r\n354 other\r\n", "garbage", 1),
        (b"250 ok\r\n" + b"x" * (MAX_REPLY_BYTES + 1), "garbage", 1),
        (b"250-again\r\n" * 2000, "garbage", 0),
    ],
    ids=[
        "silence",
        "half",
        "nonsense",
        "four-digits",
        "indented",
        "two-codes",
        "endless-line",
        "endless-reply",
    ],
)
async def test_what_is_no_answer_ends_the_connection(
    answer: bytes, failure: str, answered: int
) -> None:
    """Silence and nonsense are told apart, and what was answered until then is kept."""
    async with talking_to(says(answer)) as talk:
        with pytest.raises(ConversationLost) as lost:
            await _ask(talk, 2)

        assert (lost.value.failure, len(lost.value.replies)) == (failure, answered)
        assert not talk.usable
        with pytest.raises(ConversationLost):
            await _ask(talk)


async def test_a_421_ends_the_use_of_a_connection() -> None:
    """After a 421, whatever it answers, nothing more is said on this line."""
    async with talking_to(says(b"421 4.3.2 closing\r\n", b"250 ok\r\n")) as talk:
        assert await _ask(talk) == [Reply(421, "4.3.2 closing")]
        assert not talk.usable


async def test_a_goodbye_between_groups_is_no_answer_to_the_next() -> None:
    """What the server says unasked is kept apart."""
    said = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"250 ok\r\n421 4.4.2 idle\r\n")
        await writer.drain()
        said.set()
        await reader.read()

    async with talking_to(script) as talk:
        assert await _ask(talk) == [Reply(250, "ok")]
        await said.wait()
        assert talk.farewell == Reply(421, "4.4.2 idle")
        assert not talk.usable
        with pytest.raises(ConversationLost, match=r"421 4\.4\.2"):
            await _ask(talk)


async def test_a_large_mail_leaves_room_for_others() -> None:
    """Megabytes for a slow reader are written as it reads, while the loop goes on."""
    size = 8 * 1024 * 1024
    ticks = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = size
        while left:
            left -= len(await reader.read(256 * 1024))
            await asyncio.sleep(0.001)
        writer.write(b"250 taken\r\n")
        await reader.read()

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    async with talking_to(script) as talk:
        ticking = asyncio.create_task(tick())
        replies = await talk.exchange(b"x" * size, replies=1, timeout_seconds=20)
        ticking.cancel()

    assert replies == [Reply(250, "taken")]
    assert ticks >= 10


async def test_a_large_mail_refused_in_the_middle_ends_the_connection() -> None:
    """The rest of a mail that was refused early must not be read as commands."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(b"552 5.3.4 too large\r\n")
        await reader.read()

    async with talking_to(script) as talk:
        replies = await talk.exchange(b"x" * 32_000_000, replies=1, timeout_seconds=20)

        assert replies == [Reply(552, "5.3.4 too large")]
        assert not talk.usable


async def test_a_mail_that_has_not_ended_is_not_accepted() -> None:
    """A 250 that comes before the final dot was written is the answer to something else."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(b"250 2.0.0 taken\r\n")
        await reader.read()

    async with talking_to(script) as talk:
        with pytest.raises(ConversationLost, match="in the middle"):
            await talk.exchange(b"x" * 32_000_000, replies=1, timeout_seconds=20)

        assert not talk.usable


async def test_pieces_are_made_as_fast_as_they_are_read() -> None:
    """For a server that stops reading, no more of a large mail is made than the line holds."""
    stay = asyncio.Event()
    made = 0

    async def does_not_read(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cast("asyncio.Transport", writer.transport).pause_reading()
        await stay.wait()

    async def pieces() -> AsyncGenerator[bytes, None]:
        nonlocal made
        for _ in range(2_000):
            made += 1
            yield bytes(256 * 1024)

    async with talking_to(does_not_read) as talk:
        with pytest.raises(ConversationLost):
            await talk.exchange(pieces(), replies=1, timeout_seconds=1.0)
        stay.set()

    assert 0 < made < 200


async def test_what_breaks_off_ends_the_connection() -> None:
    """A mail whose rest cannot be had has no final dot, and nothing else is said on the line."""

    async def script(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"the first half"
        raise LookupError("the second half")

    async with talking_to(script) as talk:
        with pytest.raises(LookupError):
            await talk.exchange(pieces(), replies=1, timeout_seconds=20)
        assert not talk.usable


async def test_who_leaves_waits_for_the_end_of_the_line() -> None:
    """After leaving nothing is open."""
    said = asyncio.Queue[bytes]()

    async def hangs_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        said.put_nowait(await reader.readline())

    async with talking_to(hangs_up) as talk:
        await talk.leave(patience_seconds=5)
        assert not talk.usable
    assert await said.get() == b"QUIT\r\n"


async def test_who_leaves_does_not_wait_for_ever() -> None:
    """A server that does not even read what was sent cannot keep the line open."""
    stay = asyncio.Event()

    async def does_not_read(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cast("asyncio.Transport", writer.transport).pause_reading()
        await stay.wait()

    server = await asyncio.start_server(does_not_read, "127.0.0.1", 0)
    transport, _ = await asyncio.get_running_loop().create_connection(
        asyncio.Protocol, *server.sockets[0].getsockname()[:2]
    )
    transport.write(b"x" * 50_000_000)
    talk = take_over(transport)

    await asyncio.wait_for(talk.leave(patience_seconds=0.05), 5)

    assert not talk.usable
    stay.set()
    server.close()
    await server.wait_closed()
