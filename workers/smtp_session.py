"""
One authenticated connection to a submission server: opened, used for mail after mail, closed.

TLS is required and verified: STARTTLS must be offered, the certificate must match, or nothing is
sent (RFC 3207; RFC 8314 section 4). The token goes out only after that.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import cast

import aiosmtplib

from models.errors import SubmissionFailed
from models.host_name import ehlo_name
from models.legible import legible
from models.scrubbing import scrub
from models.settings import SmtpSettings
from models.stages import Stage
from workers.conversation import (
    CLOSING_CODE,
    REFUSALS,
    Conversation,
    ConversationLost,
    Reply,
    take_over,
)
from workers.flow import Flow
from workers.line_locks import command_line, path, sign_in_argument
from workers.wrong_protocol import not_smtp

MAX_COMMAND_LINE = 512
"""Octets of a command line that any server must take (RFC 5321 section 4.5.3.1.4)."""

SLOWEST_OCTETS_A_SECOND = 32 * 1024
"""A large mail is waited for so much longer than others as it takes at this rate."""

_FAREWELL_SECONDS = 1.0
"""For the server to hang up as well."""

MAIL_TAKEN = frozenset({250})
RCPT_TAKEN = frozenset({250, 251, 252})
"""251 forwards, 252 could not look the address up; both say that the mail will be taken."""

DATA_GO_AHEAD = frozenset({354})
ACCEPTED = frozenset({250})
"""
After the final dot. What else a server says there is no promise to deliver.

Source:
    RFC 5321 section 4.3.2: the codes that each command may earn, and no class of them.
"""

_TWO_STEPS_REFUSED = frozenset({500, 501, 503})
"""Answers to AUTH without a token, of servers that want it in the same line."""


@dataclass(frozen=True, slots=True)
class Step:
    """What happened in one step of a dialogue, for ``alertpost mailboxes test``."""

    stage: Stage
    sent: str
    received: str
    seconds: float
    detail: str = ""


Trace = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Features:
    """What the server offered in its second EHLO (RFC 5321 section 4.1.1.1)."""

    pipelining: bool
    smtputf8: bool
    eight_bit: bool
    size_limit: int | None
    recipients_limit: int | None = None
    """RCPTMAX of the LIMITS extension (RFC 9422)."""


@dataclass(frozen=True, slots=True)
class Offered:
    """What a secured server offers before anybody signs in."""

    auth_methods: tuple[str, ...]
    features: Features


@dataclass(frozen=True, slots=True)
class Envelope:
    """
    What MAIL FROM, RCPT TO and DATA need.

    Attributes:
        sender: Envelope sender, an address.
        recipients: 1 or more envelope recipients.
        data: The mail, CRLF line ends, not dot-stuffed, without the final dot.
        flow: What follows ``data`` in a mail that is too large to be in memory; ends with CRLF.
        smtputf8: Whether an address or header needs SMTPUTF8 (RFC 6531).
        eight_bit: Whether the body has octets above 127 (RFC 6152).
    """

    sender: str
    recipients: Sequence[str]
    data: bytes
    smtputf8: bool = False
    eight_bit: bool = False
    flow: Flow | None = None

    @property
    def size(self) -> int:
        """Octets of the mail, for the SIZE parameter."""
        return len(self.data) + (self.flow.size if self.flow is not None else 0)


@dataclass(frozen=True, slots=True)
class Submitted:
    """A 250 after the final dot: the server took the mail for all but the refused recipients."""

    reply: Reply
    refused: dict[str, Reply]


class SmtpSession:
    """An open, authenticated connection; ``open_session`` makes one."""

    def __init__(
        self,
        conversation: Conversation,
        *,
        host: str,
        features: Features,
        settings: SmtpSettings,
        trace: Trace | None = None,
    ) -> None:
        self._conversation = conversation
        self._settings = settings
        self._trace = trace
        self.host = host
        self.features = features
        self.opened_at = time.monotonic()
        self.mails = 0

    @property
    def usable(self) -> bool:
        """Whether the connection can take another mail."""
        return self._conversation.usable

    async def submit(
        self, envelope: Envelope, *, may_send: Callable[[], bool] | None = None
    ) -> Submitted:
        """
        Hand one mail to the server.

        Args:
            envelope: The mail.
            may_send: Asked when only the content is left to send; False withholds it.

        Returns:
            The final reply, and the recipients that were refused while others were taken.

        Raises:
            SubmissionFailed: Nothing was taken, or (stage ``body`` without a reply) nobody knows.
        """
        self.mails += 1
        mail_from, recipients, data = self._commands(envelope)
        if self.features.pipelining:
            replies = await self._exchange([mail_from, *recipients, data])
        else:
            replies = await self._one_by_one(mail_from, recipients, data)
        accepted, refused = self._judge(envelope, replies)
        go_ahead = replies[-1]
        if not accepted:
            await self._withdraw(go_ahead)
            first = next(iter(refused.values()))
            raise SubmissionFailed(
                stage=Stage.RCPT,
                reply_code=first.code,
                reply_text=first.text,
                refused={address: (reply.code, reply.text) for address, reply in refused.items()},
            )
        if go_ahead.code not in DATA_GO_AHEAD:
            if go_ahead.code in REFUSALS:
                await self._reset()
            else:
                self._conversation.abort()
            raise SubmissionFailed(
                stage=Stage.DATA, reply_code=go_ahead.code, reply_text=go_ahead.text
            )
        if may_send is not None and not may_send():
            # Without the final dot the server takes nothing; only hanging up withholds it.
            self._conversation.abort()
            raise _withheld()
        reply = await self._send_body(envelope, may_send)
        return Submitted(reply, refused)

    async def offer_sender(self, address: str) -> Reply:
        """
        Name a sender and take it back (RSET): no mail begins, so none is sent or counted.

        Args:
            address: As it would stand in MAIL FROM.

        Raises:
            SubmissionFailed: The server refuses this sender.
        """
        option = "" if address.isascii() else " SMTPUTF8"
        (reply,) = await self._exchange([command_line(f"MAIL FROM:{path(address)}{option}")])
        if reply.code not in MAIL_TAKEN:
            raise SubmissionFailed(stage=Stage.MAIL, reply_code=reply.code, reply_text=reply.text)
        await self._reset()
        return reply

    def close(self) -> None:
        """Say goodbye without waiting for the answer."""
        self._conversation.close()

    async def leave(self) -> None:
        """Say goodbye, and wait until the line is closed: for a loop that ends afterwards."""
        await self._conversation.leave(patience_seconds=_FAREWELL_SECONDS)

    def abort(self) -> None:
        """Drop the line."""
        self._conversation.abort()

    def _commands(self, envelope: Envelope) -> tuple[bytes, list[bytes], bytes]:
        options = f" SIZE={envelope.size}" if self.features.size_limit is not None else ""
        if envelope.eight_bit and self.features.eight_bit:
            options += " BODY=8BITMIME"
        if envelope.smtputf8:
            options += " SMTPUTF8"
        mail_from = command_line(f"MAIL FROM:{path(envelope.sender)}{options}")
        recipients = [command_line(f"RCPT TO:{path(address)}") for address in envelope.recipients]
        return mail_from, recipients, b"DATA\r\n"

    async def _exchange(self, commands: Sequence[bytes]) -> list[Reply]:
        """Send commands together; raise with the stage that the line broke in."""
        started = time.perf_counter()
        try:
            replies = await self._conversation.exchange(
                b"".join(commands),
                replies=len(commands),
                timeout_seconds=self._settings.command_timeout_seconds,
            )
        except ConversationLost as lost:
            for command, reply in zip(commands, lost.replies, strict=False):
                if _explains_loss(command, reply):
                    raise SubmissionFailed(
                        stage=_stage_of(command), reply_code=reply.code, reply_text=reply.text
                    ) from lost
            stage = _stage_of(commands[len(lost.replies)])
            raise SubmissionFailed(
                stage=stage, reply_text=str(lost), failure=lost.failure
            ) from lost
        if self._trace is not None:
            seconds = time.perf_counter() - started
            for command, reply in zip(commands, replies, strict=True):
                self._trace(
                    Step(
                        stage=_stage_of(command),
                        sent=command.decode("utf-8").strip(),
                        received=f"{reply.code} {reply.text}",
                        seconds=seconds,
                        detail="sent together" if len(commands) > 1 else "",
                    )
                )
        return replies

    async def _one_by_one(
        self, mail_from: bytes, recipients: Sequence[bytes], data: bytes
    ) -> list[Reply]:
        """Wait for each reply, for servers that do not offer PIPELINING."""
        replies = await self._exchange([mail_from])
        if replies[0].code not in MAIL_TAKEN:
            return [*replies, *([replies[0]] * (len(recipients) + 1))]
        for command in recipients:
            replies += await self._exchange([command])
            if replies[-1].code not in RCPT_TAKEN and replies[-1].code not in REFUSALS:
                # Nothing more is said to a server that is out of step.
                missing = len(recipients) + 1 - len(replies)
                return [*replies, *([replies[-1]] * (missing + 1))]
        if any(reply.code in RCPT_TAKEN for reply in replies[1:]):
            return replies + await self._exchange([data])
        return [*replies, Reply(554, "no valid recipients")]

    def _judge(
        self, envelope: Envelope, replies: Sequence[Reply]
    ) -> tuple[list[str], dict[str, Reply]]:
        """
        Tell who will get the mail, before any of it is sent.

        Raises:
            SubmissionFailed: The sender was not taken, or an answer is none to its command: then
                replies and commands may be out of step, and nothing more is said on this line.
        """
        sender = replies[0]
        if sender.code not in MAIL_TAKEN:
            if sender.code not in REFUSALS or replies[-1].code in DATA_GO_AHEAD:
                # Out of step, or it waits for a mail that nobody sends.
                self._conversation.abort()
            raise SubmissionFailed(stage=Stage.MAIL, reply_code=sender.code, reply_text=sender.text)
        accepted: list[str] = []
        refused: dict[str, Reply] = {}
        for address, reply in zip(envelope.recipients, replies[1:-1], strict=True):
            if reply.code in RCPT_TAKEN:
                accepted.append(address)
            elif reply.code in REFUSALS:
                refused[address] = reply
            else:
                self._conversation.abort()
                raise SubmissionFailed(
                    stage=Stage.RCPT, reply_code=reply.code, reply_text=reply.text
                )
        return accepted, refused

    async def _withdraw(self, go_ahead: Reply) -> None:
        """
        Leave a transaction without recipients.

        A server that answers a pipelined DATA with 354 although it refused every recipient gets
        an empty mail, as RFC 2920 section 3.1 asks; it must refuse that.
        """
        if go_ahead.code in DATA_GO_AHEAD:
            try:
                await self._conversation.exchange(
                    b".\r\n", replies=1, timeout_seconds=self._settings.command_timeout_seconds
                )
            except ConversationLost:
                return
        await self._reset()

    async def _reset(self) -> None:
        """RSET, so that nothing of a failed mail reaches the next; its own failure is no news."""
        try:
            await self._conversation.exchange(
                b"RSET\r\n", replies=1, timeout_seconds=self._settings.command_timeout_seconds
            )
        except ConversationLost:
            self._conversation.abort()

    async def _send_body(self, envelope: Envelope, may_send: Callable[[], bool] | None) -> Reply:
        started = time.perf_counter()
        patience = self._settings.data_timeout_seconds
        data: bytes | AsyncGenerator[bytes, None]
        if envelope.flow is None:
            data = _transparent(envelope.data)
        else:
            data = _flowing(envelope.data, envelope.flow, may_send)
            patience += envelope.size / SLOWEST_OCTETS_A_SECOND
        try:
            (reply,) = await self._conversation.exchange(data, replies=1, timeout_seconds=patience)
        except ConversationLost as lost:
            raise SubmissionFailed(
                stage=Stage.BODY, reply_text=str(lost), failure=lost.failure
            ) from lost
        if self._trace is not None:
            self._trace(
                Step(
                    stage=Stage.BODY,
                    sent=f"({envelope.size:,} bytes and the final dot)",
                    received=f"{reply.code} {reply.text}",
                    seconds=time.perf_counter() - started,
                )
            )
        if reply.code not in ACCEPTED:
            if reply.code in REFUSALS:
                await self._reset()
            else:
                # Perhaps the answer to something else; the one to this mail may still come.
                self._conversation.abort()
            raise SubmissionFailed(stage=Stage.BODY, reply_code=reply.code, reply_text=reply.text)
        return reply


async def open_session(
    *,
    host: str,
    port: int,
    tls: ssl.SSLContext,
    user: str,
    token: str,
    settings: SmtpSettings,
    trace: Trace | None = None,
) -> SmtpSession:
    """
    Connect, secure and authenticate.

    Args:
        host: Server name; its certificate must be for this name.
        port: 587 as a rule (RFC 6409).
        tls: Shared by all connections with the same CA file.
        user: The mailbox, or who may send for it.
        token: Access token for the server's resource.
        settings: Time-outs and our EHLO name.
        trace: Told of every step.

    Raises:
        SubmissionFailed: With the stage, and the reply or what kept it from coming.

    Source:
        https://learn.microsoft.com/exchange/client-developer/legacy-protocols/
        how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth
    """
    client = _client(host, port, tls, settings)
    dialogue = _Opening(client, trace)
    try:
        await _secure(client, dialogue, host=host, port=port, settings=settings)
        dialogue.secret = token
        with dialogue.step(Stage.AUTH, f"AUTH XOAUTH2 user={user}"):
            dialogue.answer = await _authenticate(client, user, token)
        features = _features(client)
        transport = client.transport
        if transport is None or transport.is_closing():
            raise SubmissionFailed(
                stage=Stage.AUTH, failure="disconnected", reply_text="closed after AUTH"
            )
    except BaseException:
        _drop(client)
        raise
    return SmtpSession(
        take_over(transport), host=host, features=features, settings=settings, trace=trace
    )


async def greet(
    *,
    host: str,
    port: int,
    tls: ssl.SSLContext,
    settings: SmtpSettings,
    trace: Trace | None = None,
) -> Offered:
    """
    Connect and secure as ``open_session`` does, ask what is offered, and leave; no token is shown.

    Args:
        host: As for ``open_session``, like the rest.
        port: Likewise.
        tls: Likewise.
        settings: Likewise.
        trace: Told of every step.

    Raises:
        SubmissionFailed: With the stage, and the reply or what kept it from coming.
    """
    client = _client(host, port, tls, settings)
    try:
        await _secure(client, _Opening(client, trace), host=host, port=port, settings=settings)
        offered = Offered(tuple(client.server_auth_methods), _features(client))
        with suppress(aiosmtplib.SMTPException, OSError):
            await client.quit(timeout=_FAREWELL_SECONDS)
    finally:
        _drop(client)
    return offered


def _client(host: str, port: int, tls: ssl.SSLContext, settings: SmtpSettings) -> aiosmtplib.SMTP:
    return aiosmtplib.SMTP(
        hostname=host,
        port=port,
        use_tls=False,
        start_tls=False,  # done below, where a server that does not offer it is told apart
        tls_context=tls,
        local_hostname=settings.ehlo_name or ehlo_name(),
        timeout=settings.command_timeout_seconds,
    )


async def _secure(
    client: aiosmtplib.SMTP, dialogue: _Opening, *, host: str, port: int, settings: SmtpSettings
) -> None:
    with dialogue.step(Stage.CONNECT, f"{host}:{port}"):
        dialogue.answer = await client.connect(timeout=settings.connect_timeout_seconds)
    with dialogue.step(Stage.EHLO, "EHLO"):
        dialogue.answer = await client.ehlo()
    with dialogue.step(Stage.STARTTLS, "STARTTLS"):
        if not client.supports_extension("starttls"):
            raise SubmissionFailed(
                stage=Stage.STARTTLS,
                failure="no-starttls",
                reply_text=f"{host}:{port} does not offer STARTTLS",
            )
        dialogue.answer = await client.starttls(
            server_hostname=host, timeout=settings.connect_timeout_seconds
        )
        dialogue.detail = _describe_tls(client)
    with dialogue.step(Stage.EHLO, "EHLO"):
        dialogue.answer = await client.ehlo()


def _features(client: aiosmtplib.SMTP) -> Features:
    return Features(
        pipelining=client.supports_extension("pipelining"),
        smtputf8=client.supports_extension("smtputf8"),
        eight_bit=client.supports_extension("8bitmime"),
        size_limit=_size_limit(client),
        recipients_limit=_recipients_limit(client),
    )


def _drop(client: aiosmtplib.SMTP) -> None:
    opened = client.transport
    client.close()
    if opened is not None:
        # Closing alone waits for the server's part in it, and the loop may end before.
        cast("asyncio.Transport", opened).abort()


class _Opening:
    """Turns whatever goes wrong in a step into ``SubmissionFailed``, and tells the trace."""

    def __init__(self, client: aiosmtplib.SMTP, trace: Trace | None) -> None:
        self._client = client
        self._trace = trace
        self.answer: aiosmtplib.SMTPResponse | None = None
        self.detail = ""
        self.secret = ""
        """What is said from now on; a server that quotes it is not quoted."""

    @contextmanager
    def step(self, stage: Stage, sent: str) -> Iterator[None]:
        started = time.perf_counter()
        self.answer, self.detail = None, ""
        try:
            yield
        except SubmissionFailed as failed:
            failed = self._unquoted(failed)
            self._tell(stage, sent, str(failed), started)
            raise failed from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            failure = self._unquoted(_as_failure(stage, error))
            self._tell(stage, sent, str(failure), started)
            raise failure from (None if self.secret else error)
        answer = f"{self.answer.code} {self.answer.message}" if self.answer else ""
        self._tell(stage, sent, answer, started)

    def _unquoted(self, failed: SubmissionFailed) -> SubmissionFailed:
        """Take the token out of a reply: it is stored, and shown to people."""
        return SubmissionFailed(
            stage=failed.stage,
            reply_code=failed.reply_code,
            reply_text=scrub(failed.reply_text, (self.secret,)),
            failure=failed.failure,
        )

    def _tell(self, stage: Stage, sent: str, received: str, started: float) -> None:
        if self._trace is not None:
            seconds = time.perf_counter() - started
            received = scrub(legible(received), (self.secret,))
            self._trace(Step(stage, sent, received, seconds, self.detail))


_MALFORMED = "Malformed SMTP response line: "
"""Before the line itself, in what aiosmtplib says of one that it cannot read."""

_NO_GREETING = (
    "the connection was taken, but nothing was said: a port for the web, for a mailbox or for SMTP "
    "over TLS from the start (465) waits for us to speak first; submission greets, on port 587"
)


def _as_failure(stage: Stage, error: Exception) -> SubmissionFailed:
    cause = _root_cause(error)
    failure = "disconnected"
    if isinstance(error, aiosmtplib.SMTPResponseException):
        if error.code >= 100:  # noqa: PLR2004
            return SubmissionFailed(
                stage=stage, reply_code=error.code, reply_text=_readable(error.message)
            )
        said = not_smtp(_readable(error.message.removeprefix(_MALFORMED)))
        return SubmissionFailed(stage=stage, failure="garbage", reply_text=said)
    if isinstance(error, aiosmtplib.SMTPConnectTimeoutError) and isinstance(
        error.__cause__, aiosmtplib.SMTPReadTimeoutError
    ):
        return SubmissionFailed(stage=stage, failure="timeout", reply_text=_NO_GREETING)
    if isinstance(cause, ssl.SSLCertVerificationError):
        failure = "certificate"
    elif isinstance(cause, ssl.SSLError):
        failure = "tls"
    elif isinstance(cause, socket.gaierror):
        failure = "dns"
    elif isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
        failure = "timeout"
    elif isinstance(cause, ConnectionRefusedError):
        failure = "refused"
    return SubmissionFailed(stage=stage, failure=failure, reply_text=str(cause) or str(error))


def _readable(text: str) -> str:
    """Put a sign in place of each octet that is no UTF-8; aiosmtplib leaves half surrogates."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _root_cause(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


async def _authenticate(client: aiosmtplib.SMTP, user: str, token: str) -> aiosmtplib.SMTPResponse:
    """
    XOAUTH2 in one line where that is short enough, else in two steps.

    A refusal may come as 334 with a JSON explanation, which an empty line must answer before the
    code comes; the explanation is added to the reply's text.

    Source:
        RFC 4954 section 4: an initial response must not make the command longer than a server must
        take. Those that take no more differ in what they say: Dovecot's proxy (1,024 octets)
        answers 500, Postfix (2,048) cuts the token off and calls it refused.
    """
    if "xoauth2" not in client.server_auth_methods:
        offered = ", ".join(client.server_auth_methods) or "nothing"
        raise SubmissionFailed(
            stage=Stage.AUTH,
            reply_code=504,
            reply_text=f"5.7.4 the server does not offer AUTH XOAUTH2 (it offers {offered})",
        )
    user = sign_in_argument(user, "the name that signs in")
    token = sign_in_argument(token, "the token")
    payload = base64.b64encode(f"user={user}\x01auth=Bearer {token}\x01\x01".encode())
    answer = None
    if len(b"AUTH XOAUTH2 ") + len(payload) + len(b"\r\n") > MAX_COMMAND_LINE:
        answer = await client.execute_command(b"AUTH", b"XOAUTH2")
        if answer.code == 334:  # noqa: PLR2004
            answer = await client.execute_command(payload)
        elif answer.code in _TWO_STEPS_REFUSED:
            answer = None
    if answer is None:
        answer = await client.execute_command(b"AUTH", b"XOAUTH2", payload)
    explanation = ""
    if answer.code == 334:  # noqa: PLR2004
        explanation = _explanation(answer.message)
        answer = await client.execute_command(b"")
    if answer.code != 235:  # noqa: PLR2004
        text = f"{_readable(answer.message)} {explanation}".strip()
        raise SubmissionFailed(stage=Stage.AUTH, reply_code=answer.code, reply_text=text)
    return answer


def _explanation(challenge: str) -> str:
    try:
        return base64.b64decode(challenge, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return challenge


def _describe_tls(client: aiosmtplib.SMTP) -> str:
    cipher = client.get_transport_info("cipher")
    certificate = client.get_transport_info("peercert") or {}
    names = certificate_names(certificate.get("subjectAltName", ()))
    return f"{cipher[1]} {cipher[0]}, certificate for {', '.join(names[:4])}" if cipher else ""


def certificate_names(alternatives: Iterable[tuple[str, str]]) -> list[str]:
    """
    Name the hosts that a certificate is for, names and addresses alike.

    Args:
        alternatives: Kind and value of each, as ``ssl`` gives ``subjectAltName``.
    """
    return [
        _short_address(value) if kind == "IP Address" else value
        for kind, value in alternatives
        if kind in {"DNS", "IP Address"}
    ]


def _short_address(text: str) -> str:
    # ssl writes all eight groups of an IPv6 address, and words for what is no address.
    try:
        return str(ip_address(text.strip()))
    except ValueError:
        return text.strip()


def _size_limit(client: aiosmtplib.SMTP) -> int | None:
    if not client.supports_extension("size"):
        return None
    limit = client.esmtp_extensions.get("size", "")
    return int(limit) if limit.isdigit() else 0


def _recipients_limit(client: aiosmtplib.SMTP) -> int | None:
    found = re.search(
        r"\bRCPTMAX=([1-9][0-9]{0,5})\b", client.esmtp_extensions.get("limits", ""), re.IGNORECASE
    )
    return int(found[1]) if found else None


def _command(line: str) -> bytes:
    """Encode a command line; addresses were validated at the door, this is the second lock."""
    if any(ord(character) < 0x20 or character == "\x7f" for character in line):  # noqa: PLR2004
        raise SubmissionFailed(
            stage=Stage.COMPOSE, reply_text="a control character in an address", failure="invalid"
        )
    return line.encode("utf-8") + b"\r\n"


def _explains_loss(command: bytes, reply: Reply) -> bool:
    """
    Say whether a reply is why the rest of its group went unanswered.

    The refusal of one recipient is not: the others were never judged.
    """
    refused = reply.code >= 400 and not command.startswith(b"RCPT")  # noqa: PLR2004
    return refused or reply.code == CLOSING_CODE


def _transparent(data: bytes) -> bytes:
    """Stuff dots and add the final one (RFC 5321 section 4.5.2)."""
    data = _stuffed(data, begins_line=True)
    return data + (b".\r\n" if data.endswith(b"\r\n") else b"\r\n.\r\n")


async def _flowing(
    data: bytes, flow: Flow, may_send: Callable[[], bool] | None
) -> AsyncGenerator[bytes, None]:
    """Do the same by pieces; the final dot is withheld where the mail is no longer ours."""
    octets = flow.octets()
    async with aclosing(octets):
        yield _stuffed(data, begins_line=True)
        begins_line = data.endswith(b"\n")
        async for some in octets:
            yield _stuffed(some, begins_line=begins_line)
            begins_line = some.endswith(b"\n")
    if may_send is not None and not may_send():
        raise _withheld()
    yield b".\r\n"


def _stuffed(octets: bytes, *, begins_line: bool) -> bytes:
    if b"\n." in octets:
        octets = octets.replace(b"\n.", b"\n..")
    return b"." + octets if begins_line and octets.startswith(b".") else octets


def _withheld() -> SubmissionFailed:
    return SubmissionFailed(
        stage=Stage.DATA,
        failure="disconnected",
        reply_text="withheld: this worker stood still for too long",
    )


def _stage_of(command: bytes) -> Stage:
    return {b"MAIL": Stage.MAIL, b"RCPT": Stage.RCPT, b"DATA": Stage.DATA}[command[:4]]
