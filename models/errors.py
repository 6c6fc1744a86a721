"""
Everything that can go wrong, by who has to act.

    AlertpostError
    ├── ConfigurationError        who set us up: a setting, a file, a program is wrong
    │   └── NewerSchema           the database belongs to a newer version than this program
    ├── InvalidAlert              the producer: the alert e-mail breaks a rule; names the field
    │   └── PastDeadline          the same: it should have been sent before now
    ├── NotFound                  the caller: no such tenant, mailbox, delivery
    │   └── RouteGone             us: what was looked up is no longer there; look again
    ├── Conflict                  the caller: it exists already, or its state does not allow this
    ├── LifecycleError            us: a state change that the life cycle does not permit
    ├── VaultError                the operator: a key is missing or an encrypted value was damaged
    ├── StoreUnavailable          time: SQL cannot be reached; nothing was accepted
    ├── CredentialRejected        the operator: Entra refused the grant or the app's credential
    ├── TokenUnavailable          time: no token now; try again later
    └── SubmissionFailed          time or operator: the SMTP dialogue ended without a 250
"""

from __future__ import annotations

from models.legible import legible


class AlertpostError(Exception):
    """Root of all errors that alertpost raises on purpose."""


class ConfigurationError(AlertpostError):
    """A setting, file or program is missing or wrong; the text says what to do."""


class NewerSchema(ConfigurationError):  # noqa: N818 - reads as what it is
    """The database's tables are those of a newer version; this program must not touch them."""


class InvalidAlert(AlertpostError, ValueError):  # noqa: N818 - reads as what it is
    """
    An alert e-mail that breaks a rule.

    Attributes:
        field: The field's name as the caller wrote it, such as ``to`` or ``attachments[1].name``;
            empty where all of it is wrong.
        reason: What is wrong with it and what would be right, without the value's secrets.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


class PastDeadline(InvalidAlert):
    """
    An alert e-mail whose deadline is past by the database's clock.

    Attributes:
        positions: Of all such alerts among those that were handed in together, counted from 0.
        said: The reason without a word on which of them it is.
    """

    def __init__(self, said: str, *, positions: tuple[int, ...], among: int) -> None:
        which = f" (alert {positions[0] + 1} of {among})" if among > 1 else ""
        super().__init__("expires_at", said + which)
        self.positions = positions
        self.said = said


class NotFound(AlertpostError, LookupError):  # noqa: N818 - reads as what it is
    """No such tenant, mailbox or delivery."""


class RouteGone(NotFound):
    """A mailbox was removed between looking it up and writing to its lane; look it up again."""


class Conflict(AlertpostError):  # noqa: N818 - reads as what it is
    """It exists already, or its present state does not allow this."""


class LifecycleError(AlertpostError):
    """A change of state that ``lifecycle.PERMITTED`` does not list."""


class VaultError(AlertpostError):
    """A key is missing, or an encrypted value was damaged or belongs elsewhere."""


class StoreUnavailable(AlertpostError, ConnectionError):  # noqa: N818 - reads as what it is
    """SQL cannot be reached or written; nothing was accepted."""


class CredentialRejected(AlertpostError):  # noqa: N818 - reads as what it is
    """
    Entra refused the grant or the app's credential; a person has to act.

    Attributes:
        error: OAuth ``error``, for example ``invalid_grant``.
        codes: AADSTS numbers, most telling first; empty where none were given.
        description: Entra's own text, with trace and correlation id.
        suberror: Entra's refinement of ``error``, often empty.
        http_status: Of the answer, None where none came.
    """

    def __init__(
        self,
        error: str,
        *,
        codes: tuple[int, ...] = (),
        description: str = "",
        suberror: str = "",
        http_status: int | None = None,
    ) -> None:
        description = legible(description)
        super().__init__(description or error)
        self.error = error
        self.codes = codes
        self.description = description
        self.suberror = suberror
        self.http_status = http_status


class TokenUnavailable(AlertpostError):  # noqa: N818 - reads as what it is
    """
    No token can be had now; nobody has to act yet.

    Attributes:
        retry_after_seconds: When it is worth trying again.
        asked_to_wait: The sign-in service itself asked for so much patience.
        refusal: What the sign-in service answered, its ``error`` empty where it gave none and its
            ``http_status`` None where it did not answer at all; None where it was not asked.
    """

    def __init__(
        self,
        reason: str,
        *,
        retry_after_seconds: float,
        asked_to_wait: bool = False,
        refusal: CredentialRejected | None = None,
    ) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds
        self.asked_to_wait = asked_to_wait
        self.refusal = refusal

    @property
    def answer(self) -> str:
        """What happened, with the answer's own text and trace id where it had one."""
        said = self.refusal.description if self.refusal is not None else ""
        return f"{self}: {said}" if said else str(self)


class SubmissionFailed(AlertpostError):  # noqa: N818 - reads as what it is
    """
    The SMTP dialogue ended without a 250.

    Attributes:
        stage: Where it ended, a ``models.stages.Stage`` value.
        reply_code: Basic reply code (RFC 5321 section 4.2), None where the line was cut or silent.
        reply_text: The server's text, lines joined by a newline; or what cut the line.
        failure: Where there was no reply: ``timeout``, ``disconnected``, ``refused``, ``dns``,
            ``tls``, ``certificate``, ``no-starttls``, or ``garbage`` where it was none of SMTP.
        refused: Where every recipient was refused: each with its reply.
    """

    def __init__(
        self,
        *,
        stage: str,
        reply_code: int | None = None,
        reply_text: str = "",
        failure: str | None = None,
        refused: dict[str, tuple[int, str]] | None = None,
    ) -> None:
        reply_text = legible(reply_text)
        super().__init__(f"{stage}: {reply_code or failure} {reply_text}")
        self.stage = stage
        self.reply_code = reply_code
        self.reply_text = reply_text
        self.failure = failure
        self.refused = refused or {}
