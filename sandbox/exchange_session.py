"""
One SMTP submission dialogue, as Exchange Online holds it.

Faults are looked at only if there are any: a server that shall keep up with thousands of mails a
second pays one test of a flag for them.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from sandbox.faults import (
    Answer,
    Close,
    CutAfterDot,
    CutInside,
    FaultPlan,
    NoStartTLS,
    RefuseRecipients,
    Say,
    Slow,
    Stall,
    Trickle,
    WrongCertificate,
)
from sandbox.mailboxes import Mailbox, MailboxStore, Submission
from sandbox.outbox import author_address, read_headers
from sandbox.replies import reply_for
from sandbox.smtp_content import ChunkedContent, DottedContent
from sandbox.smtp_grammar import (
    Credentials,
    is_hello_name,
    judge_address,
    read_chunk_size,
    read_path,
    read_xoauth2,
)
from sandbox.smtp_wire import Wire

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable

    from sandbox.faults import Behaviour, Phase

SERVICE_CEILING_BYTES = 157_286_400
"""What EHLO says; each mailbox has a lower limit of its own."""

_CLOSING_CODE = 421
_SENDER_OK = b"250 2.1.0 Sender OK\r\n"
_RECIPIENT_OK = b"250 2.1.5 Recipient OK\r\n"
_START_INPUT = b"354 Start mail input; end with <CRLF>.<CRLF>\r\n"
_MAIL_PARAMETERS = frozenset({b"SIZE", b"BODY", b"SMTPUTF8", b"RET", b"ENVID", b"AUTH"})
_RCPT_PARAMETERS = frozenset({b"NOTIFY", b"ORCPT"})
_BODIES = frozenset({b"7BIT", b"8BITMIME", b"BINARYMIME"})
_REFUSED_CHALLENGE = base64.b64encode(
    json.dumps({"status": "401", "schemes": "bearer", "scope": "SMTP.Send"}).encode()
)


class Verdict(Protocol):
    """What the session needs to know of a judged token."""

    @property
    def ok(self) -> bool:
        """Whether the user may submit with it."""

    @property
    def reason(self) -> str:
        """Why not."""

    @property
    def tenant_id(self) -> str:
        """The token's tenant; empty if unknown."""

    @property
    def actor(self) -> str:
        """Who acts."""


class CheckToken(Protocol):
    """Judges a bearer token."""

    def __call__(self, raw_token: str, user: str, /) -> Verdict:
        """Say whether the user may submit with the token."""


@dataclass(frozen=True, slots=True)
class ExchangeOptions:
    """
    How the server behaves where real ones differ or where Microsoft publishes nothing.

    Attributes:
        server_name: First label of the host in banner and traces.
        refusal_style: A refused token gets 535 at once, or 334 with JSON first, as Google does.
        reserved_domains_refused: Refuse recipients under the names of RFC 2606.
        idle_seconds: A connection silent for so long is closed with 421.
        session_seconds: A connection so old is closed with 421; None for never.
        handshake_seconds: Time for the TLS handshake.
        line_bytes: Longest command line; a token of a few kilobytes must fit.
    """

    server_name: str = "AL0P100CA0001"
    refusal_style: Literal["direct", "challenge"] = "direct"
    reserved_domains_refused: bool = False
    idle_seconds: float = 300.0
    session_seconds: float | None = None
    handshake_seconds: float = 10.0
    line_bytes: int = 16_384

    @property
    def host_name(self) -> str:
        """The host that the banner names."""
        return f"{self.server_name}.outlook.office365.com"


@dataclass(slots=True)
class Front:
    """
    What all connections of one server share.

    Attributes:
        sessions: Those that are open.
        accepted: Connections ever accepted.
        handshakes_failed: STARTTLS that did not end in TLS.
        idled_out: Connections closed for silence or age.
    """

    store: MailboxStore
    check_token: CheckToken
    tls: ssl.SSLContext
    faults: FaultPlan
    options: ExchangeOptions
    wrong_tls: ssl.SSLContext | None = None
    sessions: set[Session] = field(default_factory=set)
    accepted: int = 0
    handshakes_failed: int = 0
    idled_out: int = 0
    hostname_tag: bytes = b""

    def __post_init__(self) -> None:
        self.hostname_tag = f" [Hostname={self.options.host_name}]\r\n".encode()


class Session(Wire):
    """One connection from its greeting to its end."""

    def __init__(self, front: Front) -> None:
        super().__init__(line_bytes=front.options.line_bytes)
        self.handshake_seconds = front.options.handshake_seconds
        self._front = front
        self._plan = front.faults
        self._store = front.store
        self._peer = "127.0.0.1"
        self._secure = False
        self._greeted = False
        self._starttls_offered = True
        self._wrong_certificate = False
        self._answer_next: Callable[[bytes], None] | None = None
        self._mailbox: Mailbox | None = None
        self._quit_said = False
        self._line = b""
        self._forget_mail()

    def _forget_mail(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._international = False
        self._binary = False
        self._noted = False
        self._dotted: DottedContent | None = None
        self._chunked: ChunkedContent | None = None
        self._cut_after: int | None = None
        self._submission: Submission | None = None
        self._answered = True

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        if peer:
            self._peer = str(peer[0])
        self._front.sessions.add(self)
        self._front.accepted += 1
        if self._plan.armed:
            self._gate("connect", partial(self._gate, "banner", self._greet))
        else:
            self._greet()
        self.flush()

    def _greet(self) -> None:
        host = self._front.options.host_name
        date = formatdate(self._store.clock())
        self._out.append(
            f"220 {host} Microsoft ESMTP MAIL Service ready at {date}\r\n".encode("ascii")
        )

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of everything that this connection held, its slot at the mailbox first."""
        super().connection_lost(exc)
        if self._mailbox is not None:
            self._mailbox.disconnect(self, quit_said=self._quit_said)
            self._mailbox = None
        self._forget_mail()
        self._answer_next = None
        self._front.sessions.discard(self)

    def time_out(self) -> None:
        """Close a connection that was silent for too long or is too old."""
        self._front.idled_out += 1
        if self._upgrade_wanted is not None:
            self.abort()
            return
        self._say("connection_timed_out")
        self.flush()

    def refuse_line(self, *, too_long: bool) -> None:
        """Say what is wrong with a line that cannot be a command."""
        self._say("line_too_long" if too_long else "unrecognized_command")

    def take_line(self, line: bytes) -> None:
        """Obey a command, or take the answer to a 334."""
        self._line = line
        answer = self._answer_next
        if answer is not None:
            self._answer_next = None
            answer(line)
            return
        verb, _, said = line.partition(b" ")
        entry = _COMMANDS.get(verb) or _COMMANDS.get(verb.upper())
        if entry is None:
            self._say("unrecognized_command")
            return
        phase, command = entry
        if phase is not None and self._plan.armed:
            mailbox = self._mailbox.address if self._mailbox is not None else ""
            recipient = said.partition(b"<")[2].partition(b">")[0].decode("utf-8", "replace")
            self._gate(phase, partial(command, self, said), mailbox=mailbox, recipient=recipient)
        else:
            command(self, said)

    # Saying

    def _say(self, name_or_literal: str, *, sender: str = "") -> None:
        reply = reply_for(name_or_literal)
        self._store.refusals[reply.name] += 1
        self._out.append(
            reply.wire(
                trace=self._trace(),
                user=self._mailbox.address if self._mailbox is not None else "",
                sender=sender,
                line=self._line.decode("utf-8", "replace"),
            )
        )
        if reply.code == _CLOSING_CODE:
            self._hang_up = True

    def _trace(self) -> str:
        moment = datetime.fromtimestamp(self._store.clock(), tz=UTC)
        number = f"{self._store.refusals.total():016X}"
        host = f"{self._front.options.server_name}.PROD.OUTLOOK.COM"
        instant = moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
        return f"{host} {instant}Z {number}"

    # Faults

    def _gate(
        self,
        phase: Phase,
        perform: Callable[[], None],
        *,
        mailbox: str = "",
        recipient: str = "",
    ) -> None:
        """Do what was asked, unless a fault has it otherwise."""
        action, pace = self._plan.decide(phase, mailbox=mailbox, recipient=recipient)
        if isinstance(action, Stall):
            self.hold(action.seconds, partial(self._act_at_pace, phase, perform, None, pace))
        else:
            self._act_at_pace(phase, perform, action, pace)

    def _act_at_pace(
        self,
        phase: Phase,
        perform: Callable[[], None],
        action: Behaviour | None,
        pace: Slow | Trickle | None,
    ) -> None:
        if pace is None:
            self._act(phase, perform, action)
            return
        before = len(self._out)
        self._act(phase, perform, action)
        late = b"".join(self._out[before:])
        if not late:
            return
        del self._out[before:]
        if isinstance(pace, Slow):
            self.hold(self._plan.jitter(pace), partial(self._out.append, late))
        else:
            self.hold(0.0, partial(self.trickle, late, pace.interval_seconds))

    def _act(self, phase: Phase, perform: Callable[[], None], action: Behaviour | None) -> None:
        match action:
            case Answer(reply=reply) | RefuseRecipients(reply=reply):
                self._answer(phase, reply)
            case Say(text=text):
                self._out.append(f"{text}\r\n".encode())
            case Close(when=when):
                self._close(perform, after=when == "after")
            case CutInside(after_bytes=after_bytes):
                perform()
                self._cut_after = after_bytes
            case CutAfterDot(taken=taken):
                self._cut_after_dot(perform if taken else self._lose)
            case NoStartTLS():
                self._starttls_offered = False
                perform()
            case WrongCertificate():
                perform()
                self._wrong_certificate = True
            case _:
                perform()

    def _answer(self, phase: Phase, reply: str) -> None:
        if phase == "data" and self._chunked is not None:
            self._refuse_chunk(reply)
        else:
            self._say(reply)

    def _close(self, perform: Callable[[], None], *, after: bool) -> None:
        if after:
            perform()
            self._hang_up = True
        else:
            self.flush()
            self.abort()

    def _cut_after_dot(self, perform: Callable[[], None]) -> None:
        self.flush()
        self._answered = False
        perform()
        self.abort()

    def _lose(self) -> None:
        if self._mailbox is not None and self._submission is not None:
            self._mailbox.lose(self._submission)

    # Hello, TLS

    def _hello(self, said: bytes) -> None:
        if not is_hello_name(said.strip()):
            self._say("invalid_domain_name")
            return
        self._forget_mail()
        self._greeted = True
        self._out.append(f"250 {self._front.options.host_name} Hello [{self._peer}]\r\n".encode())

    def _extended_hello(self, said: bytes) -> None:
        if not is_hello_name(said.strip()):
            self._say("invalid_domain_name")
            return
        self._forget_mail()
        self._greeted = True
        lines = [f"{self._front.options.host_name} Hello [{self._peer}]"]
        if self._secure:
            lines += [
                f"SIZE {SERVICE_CEILING_BYTES}",
                "PIPELINING",
                "DSN",
                "ENHANCEDSTATUSCODES",
                "AUTH LOGIN XOAUTH2",
                "8BITMIME",
                "BINARYMIME",
                "CHUNKING",
                "SMTPUTF8",
            ]
        elif self._starttls_offered:
            lines.append("STARTTLS")
        said_lines = [f"250-{line}\r\n" for line in lines[:-1]] + [f"250 {lines[-1]}\r\n"]
        self._out.append("".join(said_lines).encode())

    def _want_tls(self, said: bytes) -> None:
        if said:
            self._say("invalid_arguments")
        elif not self._starttls_offered:
            self._say("unrecognized_command")
        elif self._secure:
            self._say("cannot_start_tls")
        elif not self._greeted:
            self._say("hello_first")
        else:
            self._out.append(b"220 2.0.0 SMTP server ready\r\n")
            self.upgrade(self._context)

    def _context(self) -> ssl.SSLContext | None:
        return self._front.wrong_tls if self._wrong_certificate else self._front.tls

    def secured(self, *, success: bool) -> None:
        """Begin anew under TLS: the client must say EHLO again (RFC 3207 section 4.2)."""
        if success:
            self._secure = True
            self._greeted = False
        else:
            self._front.handshakes_failed += 1

    # AUTH

    def _want_auth(self, said: bytes) -> None:
        mechanism, _, initial = said.strip().partition(b" ")
        mechanism = mechanism.upper()
        if not self._greeted:
            self._say("hello_first")
        elif self._mailbox is not None:
            self._say("bad_sequence")
        elif not self._secure or mechanism not in (b"XOAUTH2", b"LOGIN"):
            self._say("unrecognized_authentication")
        elif mechanism == b"LOGIN":
            if initial:
                self._ask_password(initial)
            else:
                self._out.append(b"334 VXNlcm5hbWU6\r\n")
                self._answer_next = self._ask_password
        elif initial:
            self._read_credentials(initial)
        else:
            self._out.append(b"334 \r\n")
            self._answer_next = self._read_credentials

    def _ask_password(self, user: bytes) -> None:
        if user == b"*":
            self._say("authentication_cancelled")
            return
        self._out.append(b"334 UGFzc3dvcmQ6\r\n")
        self._answer_next = self._refuse_password

    def _refuse_password(self, password: bytes) -> None:
        del password
        self._say("basic_authentication_disabled")

    def _read_credentials(self, encoded: bytes) -> None:
        if encoded == b"*":
            self._say("authentication_cancelled")
            return
        credentials = read_xoauth2(encoded)
        if credentials is None:
            self._say("invalid_xoauth2")
        elif self._plan.armed:
            self._gate(
                "auth", partial(self._authenticate, credentials), mailbox=credentials.user.lower()
            )
        else:
            self._authenticate(credentials)

    def _authenticate(self, credentials: Credentials) -> None:
        verdict = self._front.check_token(credentials.token, credentials.user)
        mailbox = self._store.get(credentials.user)
        reason = verdict.reason or "refused" if not verdict.ok else ""
        if mailbox is None:
            self._refuse_token(reason or "no such mailbox")
            return
        tenant_id = mailbox.organisation.tenant_id
        if not reason and tenant_id and verdict.tenant_id and tenant_id != verdict.tenant_id:
            reason = "token of another tenant"
        if reason:
            self._refuse_token(reason)
            return
        refusal = mailbox.sign_in_refusal()
        if refusal is None and not mailbox.connect(self):
            refusal = "concurrent_connections"
        if refusal is not None:
            self._say(refusal)
            return
        self._mailbox = mailbox
        self._out.append(b"235 2.7.0 Authentication successful\r\n")

    def _refuse_token(self, reason: str) -> None:
        self._store.token_refusals[reason] += 1
        if self._front.options.refusal_style == "direct":
            self._say("authentication_unsuccessful")
            return
        self._out.append(b"334 " + _REFUSED_CHALLENGE + b"\r\n")
        self._answer_next = self._end_challenge

    def _end_challenge(self, line: bytes) -> None:
        del line
        self._say("authentication_unsuccessful")

    # The envelope

    def _mail(self, said: bytes) -> None:
        mailbox = self._mailbox
        if mailbox is None:
            self._say("not_authenticated" if self._greeted else "hello_first")
            return
        if self._sender is not None:
            self._say("bad_sequence")
            return
        path = read_path(said, b"FROM:")
        if path is None:
            self._say("invalid_arguments")
            return
        refusal = self._judge_mail_parameters(path.parameters, mailbox)
        if refusal:
            self._say(refusal)
            return
        address = ""
        if path.address:
            address, wrong = judge_address(
                path.address,
                international=self._international,
                reserved_refused=False,
            )
            if wrong:
                self._forget_mail()
                self._say("invalid_sender")
                return
        self._sender = address.lower()
        self._out.append(_SENDER_OK)

    def _judge_mail_parameters(self, parameters: dict[bytes, bytes], mailbox: Mailbox) -> str:
        if not parameters:
            return ""
        if not parameters.keys() <= _MAIL_PARAMETERS:
            return "unrecognized_parameter"
        body = parameters.get(b"BODY", b"7BIT").upper()
        size = parameters.get(b"SIZE", b"0")
        if body not in _BODIES or not size.isdigit():
            return "unrecognized_parameter"
        if mailbox.too_large(int(size)):
            return "message_too_large"
        self._international = b"SMTPUTF8" in parameters
        self._binary = body == b"BINARYMIME"
        return ""

    def _rcpt(self, said: bytes) -> None:
        mailbox = self._mailbox
        if mailbox is None or self._sender is None:
            self._say("need_mail")
            return
        path = read_path(said, b"TO:")
        if path is None or not path.parameters.keys() <= _RCPT_PARAMETERS:
            self._say("invalid_arguments")
            return
        address, wrong = judge_address(
            path.address,
            international=self._international,
            reserved_refused=self._front.options.reserved_domains_refused,
        )
        if wrong:
            self._note("invalid_recipients", mailbox)
            self._say(wrong)
        elif mailbox.too_many_recipients(len(self._recipients)):
            self._note("too_many_recipients", mailbox)
            self._say("too_many_recipients")
        else:
            self._recipients.append(address)
            self._out.append(_RECIPIENT_OK)

    def _note(self, kind: str, mailbox: Mailbox) -> None:
        """Count an error of the envelope once for each mail, not for each address."""
        if not self._noted:
            self._noted = True
            mailbox.note_error(kind)

    # The content

    def _envelope_refusal(self) -> str:
        mailbox = self._mailbox
        if mailbox is None or self._sender is None:
            return "need_mail"
        if not self._recipients:
            return "need_recipient"
        if mailbox.one_too_many(self):
            return "concurrent_connections"
        return ""

    def _data(self, said: bytes) -> None:
        refusal = self._envelope_refusal()
        if said:
            refusal = "invalid_arguments"
        elif self._chunked is not None or (self._binary and not refusal):
            refusal = "bad_sequence"
        if refusal:
            self._say(refusal)
            return
        self._dotted = DottedContent(self._allowed_bytes())
        self._reader = self._read_dotted
        self._out.append(_START_INPUT)

    def _allowed_bytes(self) -> int | None:
        return self._mailbox.limits.message_bytes if self._mailbox is not None else 0

    def _read_dotted(self, data: bytes, position: int) -> int:
        content = self._dotted
        if content is None or self._cut_now(len(data) - position):
            return len(data)
        position = content.take(data, position)
        if content.complete:
            self._received(content.raw, content.size, content.bare_line_feeds)
        return position

    def _cut_now(self, arrived: int) -> bool:
        if self._cut_after is None:
            return False
        self._cut_after -= arrived
        if self._cut_after > 0:
            return False
        self.flush()
        self.abort()
        return True

    def _chunk(self, said: bytes) -> None:
        chunk = read_chunk_size(said)
        if chunk is None:
            self._say("invalid_arguments")
            return
        content = self._chunked
        first = content is None
        if content is None:
            content = self._chunked = ChunkedContent(self._allowed_bytes())
            content.refusal = self._envelope_refusal()
        content.expect(chunk[0], last=chunk[1])
        # The octets come whatever the reply will be, and must not be read as commands (RFC 3030).
        self._reader = self._read_chunk
        if first and self._plan.armed:
            mailbox = self._mailbox.address if self._mailbox is not None else ""
            self._gate("data", self._begin_chunk, mailbox=mailbox)
        else:
            self._begin_chunk()

    def _begin_chunk(self) -> None:
        if self._chunked is not None and not self._chunked.left:
            self._end_chunk(self._chunked)

    def _refuse_chunk(self, reply: str) -> None:
        if self._chunked is not None:
            self._chunked.refusal = reply
            self._begin_chunk()

    def _read_chunk(self, data: bytes, position: int) -> int:
        content = self._chunked
        if content is None or self._cut_now(min(len(data) - position, content.left)):
            return len(data)
        position = content.take(data, position)
        if not content.left:
            self._end_chunk(content)
        return position

    def _end_chunk(self, content: ChunkedContent) -> None:
        self._reader = self._read_line
        if content.refusal:
            self._forget_mail()
            self._say(content.refusal)
        elif content.last:
            self._received(content.raw, content.size)
        else:
            self._out.append(f"250 2.6.0 CHUNK received OK, {content.size} octets\r\n".encode())

    def _received(self, raw: bytes, size: int, bare_line_feeds: bool | None = None) -> None:  # noqa: FBT001 - or nobody knows
        self._reader = self._read_line
        if self._cut_after is not None:
            self.flush()
            self.abort()
            return
        mail = Submission(
            self._sender or "",
            tuple(self._recipients),
            size,
            read_headers(raw),
            raw,
            self._binary,
            bare_line_feeds,
        )
        if not self._plan.armed:
            self._settle(mail)
            return
        self._submission = mail
        mailbox = self._mailbox.address if self._mailbox is not None else ""
        self._gate("body", partial(self._settle, mail), mailbox=mailbox)
        # A stalled mail is settled later; nothing can be said on this connection before that.
        if not self.held:
            self._forget_mail()

    def _settle(self, mail: Submission) -> None:
        mailbox = self._mailbox
        answered = self._answered
        self._forget_mail()
        if mailbox is None:
            return
        outcome = mailbox.submit(mail, answered=answered)
        if isinstance(outcome, str):
            foreign = mail.sender != mailbox.address
            self._say(
                outcome,
                sender=mail.sender if foreign else author_address(mail.headers.author),
            )
            return
        self._out.append(b"250 2.0.0 OK " + outcome.assigned_id.encode() + self._front.hostname_tag)

    # The rest

    def _reset(self, said: bytes) -> None:
        del said
        self._forget_mail()
        self._out.append(b"250 2.0.0 Resetting\r\n")

    def _noop(self, said: bytes) -> None:
        del said
        self._out.append(b"250 2.0.0 OK\r\n")

    def _verify(self, said: bytes) -> None:
        del said
        self._out.append(b"252 2.1.5 Cannot VRFY user\r\n")

    def _leave(self, said: bytes) -> None:
        del said
        self._quit_said = True
        self._hang_up = True
        self._out.append(b"221 2.0.0 Service closing transmission channel\r\n")


_COMMANDS: dict[bytes, tuple[Phase | None, Callable[[Session, bytes], None]]] = {
    b"MAIL": ("mail", Session._mail),  # noqa: SLF001 - the class's own table
    b"RCPT": ("rcpt", Session._rcpt),  # noqa: SLF001
    b"DATA": ("data", Session._data),  # noqa: SLF001
    b"BDAT": (None, Session._chunk),  # noqa: SLF001
    b"HELO": ("ehlo", Session._hello),  # noqa: SLF001
    b"EHLO": ("ehlo", Session._extended_hello),  # noqa: SLF001
    b"STARTTLS": ("starttls", Session._want_tls),  # noqa: SLF001
    # AUTH passes its gate when the user is known.
    b"AUTH": (None, Session._want_auth),  # noqa: SLF001
    b"RSET": (None, Session._reset),  # noqa: SLF001
    b"NOOP": (None, Session._noop),  # noqa: SLF001
    b"VRFY": (None, Session._verify),  # noqa: SLF001
    b"QUIT": ("quit", Session._leave),  # noqa: SLF001
}
