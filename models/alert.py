"""
The alert e-mail: what a producer hands in, and the only thing that the lane carries.

Everything that could add a header, a recipient or a second mail is refused at this door, so that
what lies behind it can compose without second thoughts. Text is taken as it is: any script, any
direction, emoji.
"""

import difflib
import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Self

import pydantic_core
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictStr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from models.addresses import Address, parse_address
from models.attachments import Attachment
from models.errors import InvalidAlert
from models.legible import breaks_out
from models.moments import is_never, is_zero
from models.severity import Severity

MAX_RECIPIENTS = 500
"""Per mail; Exchange Online's default (an administrator may set 1 to 1000)."""
MAX_ATTACHMENTS = 250
"""Per mail in Exchange Online."""
MAX_MAIL_OCTETS = 35_000_000
"""A mailbox's default maximum, after base64; read as decimal megabytes to stay below it."""

_MAX_ENTRIES = 5_000  # before duplicates are removed; bounds the work, not the mail
_HEADER_NAME = re.compile(r"[Xx]-[A-Za-z0-9!#$%&'*+.^_`|~\-]{1,48}")
_OWN_HEADERS = frozenset({"x-priority", "x-auto-response-suppress"})
_SURROGATE = re.compile("[\ud800-\udfff]")
_SEVERITIES = {severity.label: severity for severity in Severity}
_MAX_HEADERS = 50
_MAX_METADATA = 50
_MAX_VALUE = 1_000
_MAX_METADATA_KEY = 100
_OVERHEAD = 20_000  # our own headers and boundaries, far above what they take


_NOT_UTF_8 = (
    "is not text in UTF-8: an octet of it, or an escape such as \\ud800, stands for no character; "
    "convert it to UTF-8"
)
"""What a caller gave in another encoding arrives as lone surrogates; nobody outside says so."""


def checked_line(value: str) -> str:
    """Return a text that may stand in one line; raises ValueError for any other."""
    if breaks_out(value):
        raise ValueError("has a line break or control character; give one line of plain text")
    return value


def _subject(value: str) -> str:
    value = checked_line(value).strip()
    if not value:
        raise ValueError("is empty; say in one line what happened")
    return value


def _body(value: str | None) -> str | None:
    if value is None:
        return None
    if "\0" in value:
        raise ValueError("holds a NUL character; remove it")
    if not value.isascii() and _SURROGATE.search(value):
        raise ValueError(_NOT_UTF_8)
    return value


def _recipient(value: object) -> Address:
    if isinstance(value, str):
        return parse_address(value)
    if isinstance(value, Address):
        return parse_address(str(value))
    raise ValueError("is not a text such as name@example.com")


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str | Address) else value


def _mailbox(value: str) -> str:
    address = parse_address(value)
    if address.name:
        raise ValueError("is the bare address of a mailbox, without a display name")
    return address.spec.lower()


def _severity(value: object) -> Severity:
    if isinstance(value, Severity):
        return value
    if isinstance(value, str) and (severity := _SEVERITIES.get(value.strip().lower())) is not None:
        return severity
    raise ValueError("is none of critical, elevated, normal, low")


def _moment(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is beyond the years that UTC can name") from error


def _deadline(value: object) -> object:
    return None if is_zero(value) or is_never(value) else value


def _beginning(value: object) -> object:
    if is_never(value):
        raise ValueError("is so far ahead that the mail would never be sent")
    return None if is_zero(value) else value


def checked_headers(value: dict[str, str]) -> dict[str, str]:
    """Return extra headers that may stand in a mail; raises ValueError for any others."""
    seen = set()
    checked = {}
    for name, text in value.items():
        lower = name.lower()
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("may only name headers X-…, up to 50 ASCII letters, digits, hyphens")
        if lower.startswith("x-alertpost-") or lower in _OWN_HEADERS:
            raise ValueError("names a header that alertpost sets itself; choose another name")
        if lower in seen:
            raise ValueError("names the same header twice")
        if len(text) > _MAX_VALUE:
            raise ValueError(f"has a value of more than {_MAX_VALUE} characters")
        seen.add(lower)
        checked[name] = checked_line(text).strip()
    return checked


def _metadata(value: dict[str, str]) -> dict[str, str]:
    for key, text in value.items():
        if not 1 <= len(key) <= _MAX_METADATA_KEY or len(text) > _MAX_VALUE:
            raise ValueError(
                f"has a key of more than {_MAX_METADATA_KEY} or a value of more than {_MAX_VALUE} "
                "characters, or an empty key",
            )
        checked_line(key)
        _body(text)
    return value


Recipient = Annotated[
    Address,
    PlainValidator(_recipient),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["Night shift <noc@example.com>"]}),
]
Recipients = Annotated[
    tuple[Recipient, ...],
    BeforeValidator(_one_or_many),
    Field(max_length=_MAX_ENTRIES),
]
Body = Annotated[StrictStr | None, AfterValidator(_body)]
Moment = Annotated[AwareDatetime, AfterValidator(_moment)]


class AlertEmail(BaseModel):
    """
    One mail that a producer wants sent.

    Attributes:
        tenant: Slug of the customer on whose behalf it goes out.
        mailbox: Sender address; None takes the tenant's default mailbox.
        to: Visible recipients, as ``name@example.com`` or ``Name <name@example.com>``. Without to,
            cc and bcc it goes to the tenant's notification list.
        cc: Visible recipients of a copy.
        bcc: Recipients nobody sees. An address counts once over all three, where it came first.
        reply_to: Where answers go.
        subject: One line, 1 to 255 characters.
        text: Plain text part; this or ``html`` must hold something.
        html: HTML part.
        severity: One of critical, elevated, normal, low.
        idempotency_key: The same key of the same tenant is accepted once.
        alert_id: Mails of one alert form one thread in the reader's mailbox.
        not_before: Hold it until then. A program's zero value (the year 1) means none, also below.
        expires_at: Not worth sending after that; the year 9999 means none as well.
        headers: Extra ``X-…`` headers.
        attachments: Files.
        metadata: Kept beside the delivery, never mailed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    tenant: Annotated[StrictStr, Field(pattern=r"^[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?$")]
    mailbox: Annotated[StrictStr, AfterValidator(_mailbox)] | None = None
    to: Recipients = ()
    cc: Recipients = ()
    bcc: Recipients = ()
    reply_to: Annotated[Recipients, Field(max_length=20)] = ()
    subject: Annotated[StrictStr, Field(min_length=1, max_length=255), AfterValidator(_subject)]
    text: Body = None
    html: Body = None
    severity: Annotated[
        Severity,
        PlainValidator(_severity),
        PlainSerializer(lambda severity: severity.label, return_type=str),
        WithJsonSchema({"type": "string", "enum": list(_SEVERITIES)}),
    ] = Severity.NORMAL
    idempotency_key: (
        Annotated[StrictStr, Field(min_length=1, max_length=200), AfterValidator(checked_line)]
        | None
    ) = None
    alert_id: (
        Annotated[StrictStr, Field(min_length=1, max_length=300), AfterValidator(checked_line)]
        | None
    ) = None
    not_before: Annotated[Moment | None, BeforeValidator(_beginning)] = None
    expires_at: Annotated[Moment | None, BeforeValidator(_deadline)] = None
    headers: Annotated[
        dict[StrictStr, StrictStr], Field(max_length=_MAX_HEADERS), AfterValidator(checked_headers)
    ] = Field(default_factory=dict)
    attachments: Annotated[tuple[Attachment, ...], Field(max_length=MAX_ATTACHMENTS)] = ()
    metadata: Annotated[
        dict[StrictStr, StrictStr], Field(max_length=_MAX_METADATA), AfterValidator(_metadata)
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.to) != 1 or self.cc or self.bcc:
            self._drop_duplicates()
        if not self.text and not self.html:
            raise _broken("text", "is missing; give text, html or both")
        if self.not_before and self.expires_at and self.expires_at <= self.not_before:
            raise _broken("expires_at", "is not after not_before")
        # Base64 makes four octets of three, plus its line ends; three octets of UTF-8 a character
        # is what a long non-Latin text takes. Only a body near the limit needs counting.
        octets = _OVERHEAD + sum(attachment.encoded_size for attachment in self.attachments)
        for body in (self.text, self.html):
            if body:
                octets += len(body) if body.isascii() else len(body.encode()) * 78 // 57
        if octets > MAX_MAIL_OCTETS:
            raise _broken(
                "attachments" if self.attachments else "text",
                f"make a mail of about {octets // 1_000_000} MB after encoding; Exchange Online "
                f"takes {MAX_MAIL_OCTETS // 1_000_000} MB, so link to the files instead",
            )
        return self

    def _drop_duplicates(self) -> None:
        seen: set[str] = set()
        for field in ("to", "cc", "bcc"):
            kept: dict[str, Address] = {}
            for address in getattr(self, field):
                if address.spec not in seen:
                    kept.setdefault(address.spec, address)
            seen |= kept.keys()
            # The model is frozen for others; this is still its construction.
            self.__dict__[field] = tuple(kept.values())
        if len(seen) > MAX_RECIPIENTS:
            raise _broken(
                "to",
                f"has {len(seen)} recipients with cc and bcc; a mail takes {MAX_RECIPIENTS}, so "
                "split it or use a distribution group",
            )

    @property
    def envelope_recipients(self) -> tuple[str, ...]:
        """Addresses for RCPT TO: to, then cc, then bcc, with domains in A-labels."""
        return tuple(address.spec for address in (*self.to, *self.cc, *self.bcc))

    @property
    def needs_smtputf8(self) -> bool:
        """Whether a recipient or Reply-To can only be written with SMTPUTF8 (RFC 6531)."""
        return any(
            address.needs_smtputf8 for address in (*self.to, *self.cc, *self.bcc, *self.reply_to)
        )

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """
        Validate a mapping from outside.

        Raises:
            InvalidAlert: The first rule that it breaks, by field; never with the value itself.
        """
        if not isinstance(value, Mapping):
            raise InvalidAlert("body", "is not a JSON object with the fields of an alert e-mail")
        try:
            return cls.model_validate(dict(value))
        except ValidationError as error:
            raise _invalid(error) from None

    @classmethod
    def parse_json(cls, document: bytes | str) -> Self:
        """
        Validate a JSON document from outside.

        Raises:
            InvalidAlert: It is not JSON (field ``body``), or breaks a rule.
        """
        try:
            if isinstance(document, str):
                document = document.encode()
            value = pydantic_core.from_json(document)
        except (ValueError, UnicodeError) as error:
            raise InvalidAlert("body", _json_reason(error)) from None
        return cls.parse(value)

    def dump(self) -> bytes:
        """Return the bytes to store; ``load`` turns them back without validating again."""
        return pydantic_core.to_json(self._stored())

    @classmethod
    def load(cls, stored: bytes) -> Self:
        """Rebuild what ``dump`` returned. Only for our own bytes: nothing is checked."""
        return cls.from_stored(pydantic_core.from_json(stored))

    @classmethod
    def from_stored(cls, value: dict[str, Any]) -> Self:
        """Rebuild it from the parsed document, which is used up."""
        for field in ("to", "cc", "bcc", "reply_to"):
            if field in value:
                value[field] = tuple(map(parse_address, value[field]))
        for field in ("not_before", "expires_at"):
            if field in value:
                value[field] = datetime.fromisoformat(value[field])
        if "attachments" in value:
            value["attachments"] = tuple(map(Attachment.from_stored, value["attachments"]))
        value["severity"] = Severity(value["severity"])
        # What unpickling does; a third of the cost of model_construct.
        alert = cls.__new__(cls)
        alert.__setstate__(
            {
                "__dict__": {**_ABSENT, "headers": {}, "metadata": {}, **value},
                "__pydantic_fields_set__": set(value),
                "__pydantic_extra__": None,
                "__pydantic_private__": None,
            },
        )
        return alert

    def fingerprint(self) -> str:
        """
        Return the SHA-256 of the content, in hex, to tell whether a known key came with another.

        The idempotency key has no part in it, nor has the order of headers and metadata.
        """
        return _fingerprint(self._stored())

    def dump_and_fingerprint(self) -> tuple[bytes, str]:
        """Return what ``dump`` and ``fingerprint`` do; a producer of thousands needs both."""
        stored = self._stored()
        return pydantic_core.to_json(stored), _fingerprint(stored)

    def fingerprinted(self, **instead: Any) -> bytes:
        """
        Return the document whose SHA-256 is the fingerprint.

        Args:
            instead: Values of fields to write in the place of their own.
        """
        return _fingerprinted(self._stored(**instead))

    def without_content(self) -> dict[str, Any]:
        """Return what ``dump`` keeps, as ``from_stored`` takes it, but no body and no file."""
        return self._stored(text=None, html=None, attachments=())

    def _stored(self, **instead: Any) -> dict[str, Any]:
        given = {**self.__dict__, **instead} if instead else self.__dict__
        # In the order of the fields, so that the same content gives the same bytes.
        kept: dict[str, Any] = {
            name: value for name in _ALERT_FIELDS if (value := given[name]) or value == ""
        }
        for field in ("to", "cc", "bcc", "reply_to"):
            if field in kept:
                kept[field] = [str(address) for address in kept[field]]
        for field in ("not_before", "expires_at"):
            if field in kept:
                kept[field] = kept[field].isoformat()
        if "attachments" in kept:
            kept["attachments"] = [attachment.stored() for attachment in kept["attachments"]]
        kept["severity"] = int(self.severity)
        return kept


def _fingerprint(stored: Mapping[str, Any]) -> str:
    return hashlib.sha256(_fingerprinted(stored)).hexdigest()


def _fingerprinted(stored: Mapping[str, Any]) -> bytes:
    content = {name: value for name, value in stored.items() if name != "idempotency_key"}
    for field in ("headers", "metadata"):
        if field in content:
            content[field] = dict(sorted(content[field].items()))
    return pydantic_core.to_json(content)


def _broken(field: str, reason: str) -> PydanticCustomError:
    """Make an error of the whole model that still names a field."""
    return PydanticCustomError("alert", "{reason}", {"field": field, "reason": reason})


_ALERT_FIELDS = tuple(AlertEmail.model_fields)
_ATTACHMENT_FIELDS = tuple(Attachment.model_fields)
_ABSENT = {name: field.default for name, field in AlertEmail.model_fields.items()}
_NO_MOMENT = "is not a time; write it like 2026-11-01T08:00:00Z"
_REASONS = {
    "missing": "is missing",
    "string_type": "is not a text",
    "bytes_type": "is not base64 text",
    "tuple_type": "is not a list",
    "dict_type": "is not an object of texts",
    "model_type": "is not an object",
    "model_attributes_type": "is not an object",
    "string_unicode": _NOT_UTF_8,
    "datetime_type": _NO_MOMENT,
    "datetime_parsing": _NO_MOMENT,
    "datetime_from_date_parsing": _NO_MOMENT,
    "timezone_aware": "has no time zone; append Z or an offset such as +01:00",
}


def _invalid(error: ValidationError) -> InvalidAlert:
    """Turn pydantic's first complaint into ours; pydantic's own texts never hold the value."""
    first = error.errors(include_url=False, include_input=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    field = _path(first["loc"])
    if kind == "alert":
        return InvalidAlert(context["field"], context["reason"])
    if kind == "value_error":
        return InvalidAlert(field, str(context["error"]))
    if kind == "extra_forbidden":
        return InvalidAlert(field, _unknown_field(first["loc"]))
    if kind in {"too_long", "string_too_long", "string_too_short"}:
        return InvalidAlert(field, _wrong_length(kind, context))
    if kind == "string_pattern_mismatch":
        return InvalidAlert(
            field,
            "is not a slug: 1 to 63 of a-z, 0-9, hyphen and underscore, a letter or digit at "
            "both ends",
        )
    return InvalidAlert(field, _REASONS.get(kind, f"is not valid: {first['msg']}"))


def _wrong_length(kind: str, context: Mapping[str, Any]) -> str:
    bound = context.get("max_length", context.get("min_length"))
    unit = "characters" if kind.startswith("string") else "entries"
    if kind == "string_too_short":
        return "is empty" if bound == 1 else f"has fewer than {bound} {unit}"
    return f"has more than {bound} {unit}"


def _unknown_field(location: tuple[int | str, ...]) -> str:
    whole, known = "an alert e-mail", _ALERT_FIELDS
    if location[0] == "attachments":
        whole, known = "an attachment", _ATTACHMENT_FIELDS
    near = difflib.get_close_matches(str(location[-1])[:100], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"is not a field of {whole}; {hint}"


def _path(location: tuple[int | str, ...]) -> str:
    """Write a location as the caller would: ``attachments[1].name``, bounded and printable."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if path else step
    return ascii(path[:100])[1:-1] or "body"


def _json_reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "is not valid UTF-8"
    return f"is not valid JSON: {str(error)[:200]}"
