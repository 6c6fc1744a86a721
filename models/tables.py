"""
The tables. Data only: what changes them stands in ``lane``, ``intake`` and their like.

Times are UTC and aware. Keys are UUIDv7. Values that end in ``_encrypted`` hold what
``vault.Vault`` made. Hot statements address the columns through ``TABLE = Model.__table__``. Texts
get the types of ``stored`` at the end of this file, whatever they are declared as.
"""

# No ``from __future__ import annotations``: SQLModel reads the annotations when the class is made.
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import ConfigDict
from sqlalchemy import (
    JSON,
    DateTime,
    Index,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    event,
    false,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from models.ids import uuid7
from models.stored import Answer, Answers, made_storable


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in and out; SQLite stores no zone, so one is added on the way back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002, D102
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive time cannot be stored: it does not say which moment it is")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002, D102
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _now() -> datetime:
    return datetime.now(UTC)


def _time(*, nullable: bool = False) -> Any:
    return Field(
        default=None if nullable else ...,
        sa_type=UtcDateTime,
        nullable=nullable,
    )


def _created() -> Any:
    return Field(default_factory=_now, sa_type=UtcDateTime, nullable=False)


def _partial(name: str, *columns: str, of: str, unique: bool = False) -> Index:
    """Declare an index of some rows only; ``_name_the_rows`` tells SQLAlchemy which."""
    return Index(name, *columns, unique=unique, info={_ROWS: of})


_ROWS = "rows"


class _Table(SQLModel):
    # Nothing makes objects of these classes: their validators would cost each command 0.2 s.
    model_config = ConfigDict(defer_build=True)  # type: ignore[assignment]  # pydantic's own will do


class AppRegistration(_Table, table=True):
    """A client id, which may serve many tenants; its secrets and certificates are rows apart."""

    __tablename__ = "app_registration"

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    name: str = Field(unique=True, max_length=100)
    client_id: str = Field(max_length=100, index=True)
    version: int = 1
    """Grows with every change of its credentials, so that what they said before is out of date."""
    created_at: datetime = _created()


class AppCredential(_Table, table=True):
    """One secret or certificate of an app registration; in a rotation two stand side by side."""

    __tablename__ = "app_credential"
    __table_args__ = (UniqueConstraint("app_registration_id", "number"),)

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    app_registration_id: UUID = Field(foreign_key="app_registration.id")
    number: int
    """Names it within its app registration; the highest is the newest."""
    client_secret_encrypted: bytes | None = Field(default=None, sa_type=LargeBinary)
    private_key_encrypted: bytes | None = Field(default=None, sa_type=LargeBinary)
    certificate_pem: str | None = Field(default=None, sa_type=Text)
    expires_at: datetime | None = _time(nullable=True)
    added_at: datetime = _created()
    worked_at: datetime | None = _time(nullable=True)
    """When Entra took it last, to the hour; None: not yet."""
    refused_at: datetime | None = _time(nullable=True)
    """When Entra refused it last; None where it never did, or took it since."""
    refused_rule: str | None = Field(default=None, max_length=100)
    """The verdict's rule, such as ``secret-wrong``."""
    refused_answer: str | None = Field(default=None, sa_type=Answer)
    """Entra's code and trace id."""


class Tenant(_Table, table=True):
    """A customer organisation; overrides are None where the cloud's own value holds."""

    __tablename__ = "tenant"

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    slug: str = Field(unique=True, max_length=63)
    name: str = Field(default="", max_length=200)
    directory_id: str = Field(max_length=100)
    app_registration_id: UUID = Field(foreign_key="app_registration.id", index=True)
    cloud: str = Field(default="worldwide", max_length=20)
    authority: str | None = Field(default=None, max_length=500)
    """Base address (``https://host[:port]``) to which the directory id is appended."""
    oidc_authority: str | None = Field(default=None, max_length=500)
    """A whole issuer, instead of ``authority``."""
    smtp_host: str | None = Field(default=None, max_length=255)
    smtp_port: int | None = None
    route_encrypted: bytes | None = Field(default=None, sa_type=LargeBinary)
    """The addresses as they were given through alertpost, see ``secret_routes``; None: none."""
    ca_file: str | None = Field(default=None, max_length=1000)
    scope: str | None = Field(default=None, max_length=500)
    notify: dict[str, list[str]] = Field(default_factory=dict, sa_type=JSON)
    """Notification list: ``{"default": [address, …], "critical": […], …}``."""
    uncertain_policy: str = Field(default="resend", max_length=10)
    """What becomes of a mail whose fate is unknown: ``resend`` or ``hold``."""
    max_message_bytes: int | None = None
    licences: int | None = None
    """Paid mail licences, from which the limit of external recipients follows; None: no limit."""
    trial: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    """A tenant without paid licences, which has a limit of its own."""
    accepted_domains: list[str] | None = Field(default=None, sa_type=JSON)
    """Domains whose recipients are internal; None: those of its mailboxes."""
    created_at: datetime = _created()


class Mailbox(_Table, table=True):
    """A sender account. Microsoft's limits hold per account that signs in, parking per mailbox."""

    __tablename__ = "mailbox"

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    tenant_id: UUID = Field(foreign_key="tenant.id", index=True)
    address: str = Field(unique=True, max_length=320)
    """Lower case; the envelope sender and, unless ``auth_user`` says otherwise, the AUTH user."""
    display_name: str | None = Field(default=None, max_length=200)
    auth_user: str | None = Field(default=None, max_length=320, index=True)
    auth_form: str | None = Field(default=None, max_length=10)
    """In which name ``auth_user`` signs in, see ``auth_forms``; None: in its own, not proven."""
    is_default: bool = False
    """Takes the tenant's alerts that name no mailbox; at most one a tenant."""
    connected_at: datetime | None = _time(nullable=True)
    """When consent was first given; None: nothing can be sent yet, the lane waits."""
    parked_at: datetime | None = _time(nullable=True)
    park_reason: str | None = Field(default=None, max_length=100)
    """The verdict's rule, such as ``smtp-auth-disabled-tenant``."""
    park_scope: str | None = Field(default=None, max_length=10)
    """``mailbox``, ``tenant`` or ``app``: what the cause concerns, and what resumes together."""
    park_meaning: str | None = Field(default=None, sa_type=Answer)
    park_next_step: str | None = Field(default=None, sa_type=Answer)
    park_answer: str | None = Field(default=None, sa_type=Answer)
    """The raw answer, with Microsoft's trace id."""
    park_count: int = 0
    """How many probes in a row ended parked again; 0 after a success."""
    resume_count: int = 0
    """How often it was resumed: an answer to a try from before the last time parks nothing."""
    resumed_at: datetime | None = _time(nullable=True)
    """When it was resumed last."""
    probe_at: datetime | None = _time(nullable=True)
    """When the sweep lets one mail try whether the cause is gone; None: only a person resumes."""
    paused_until: datetime | None = _time(nullable=True)
    """Exchange asked for patience; the lane waits until then."""
    pause_reason: str | None = Field(default=None, max_length=100)
    pause_count: int = 0
    max_recipients: int | None = None
    """Recipients of one mail; a mail to more goes out in parts. None: as many as it has."""
    recipients_learned_at: datetime | None = _time(nullable=True)
    """When the server made us learn that; None: somebody set it."""
    created_at: datetime = _created()


class Grant(_Table, table=True):
    """What a consent gave: MSAL's token cache, encrypted."""

    __tablename__ = "grant"

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    mailbox_id: UUID = Field(foreign_key="mailbox.id", unique=True)
    kind: str = Field(default="delegated", max_length=12)
    """``delegated`` (authorization code) or ``app_only`` (client credentials)."""
    cache_encrypted: bytes | None = Field(default=None, sa_type=LargeBinary)
    version: int = 1
    """Grows with every write; a late holder of the refresh lock loses instead of overwriting."""
    account: str = Field(default="", max_length=320)
    """The user name that consented, as Entra gave it."""
    tenant_claim: str = Field(default="", max_length=100)
    object_claim: str = Field(default="", max_length=100)
    granted_at: datetime = _created()
    refreshed_at: datetime | None = _time(nullable=True)


class Delivery(_Table, table=True):
    """The row that an accepted alert e-mail becomes; it carries the state."""

    __tablename__ = "delivery"
    __table_args__ = (
        _partial(
            "ix_delivery_lane", "mailbox_id", "severity", "due_at", "id", of="state = 'queued'"
        ),
        _partial("ix_delivery_claimed", "claimed_by", "claimed_until", of="state = 'sending'"),
        _partial("ix_delivery_in_hand", "mailbox_id", of="state = 'sending'"),
        _partial(
            "ix_delivery_expires", "expires_at", of="state = 'queued' AND expires_at IS NOT NULL"
        ),
        _partial("ix_delivery_dead", "settled_at", of="state = 'dead'"),
        _partial("ix_delivery_unsent", "settled_at", of="state IN ('cancelled', 'expired')"),
        _partial(
            "ix_delivery_key", "tenant_id", "idempotency_key",
            of="idempotency_key IS NOT NULL", unique=True,
        ),
        Index("ix_delivery_enqueued", "tenant_id", "enqueued_at"),
    )  # fmt: skip

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    tenant_id: UUID = Field(foreign_key="tenant.id")
    mailbox_id: UUID = Field(foreign_key="mailbox.id")
    state: str = Field(default="queued", max_length=10)
    severity: int
    idempotency_key: str | None = Field(default=None, max_length=200)
    fingerprint: str = Field(max_length=64)
    """SHA-256 of the content, to tell a repetition from a different alert under the same key."""
    alert_id: str | None = Field(default=None, max_length=300)
    subject: str = Field(max_length=255)
    recipients: list[str] = Field(default_factory=list, sa_type=JSON)
    """Envelope recipients."""
    refused: dict[str, str] = Field(default_factory=dict, sa_type=Answers)
    """Recipients the server refused for good, each with its reply; the others got their mail."""
    taken: dict[str, str] = Field(default_factory=dict, sa_type=Answers)
    """Recipients that got the mail while others were put off, each with the reply."""
    payload_encrypted: bytes = Field(sa_type=LargeBinary)
    """The content; where that is large only its head, and the rest is in ``content_piece``."""
    message_id: str = Field(max_length=255)
    enqueued_at: datetime = _time()
    due_at: datetime = _time()
    expires_at: datetime | None = _time(nullable=True)
    attempts: int = 0
    """Counted tries; waiting for a permit, a slot, a token or a person does not count."""
    first_attempt_at: datetime | None = _time(nullable=True)
    claims: int = 0
    """How often a worker died with this delivery in hand; the third time it is dead."""
    claimed_by: str | None = Field(default=None, max_length=80)
    claimed_until: datetime | None = _time(nullable=True)
    uncertain: bool = False
    """The fate of some attempt is unknown: it may have been sent, and may arrive twice."""
    settled_at: datetime | None = _time(nullable=True)
    """When it reached a state that nothing leaves by itself."""
    reason: str | None = Field(default=None, max_length=100)
    """Why it waits, died or expired: a verdict's rule or a word of ``reasons``."""
    reply_code: int | None = None
    enhanced_code: str | None = Field(default=None, max_length=12)
    reply_text: str | None = Field(default=None, sa_type=Answer)
    replayed: int = 0


class ContentPiece(_Table, table=True):
    """
    A piece of a large content: see ``large_content``.

    No foreign key: pieces are committed before the delivery that they belong to.
    """

    __tablename__ = "content_piece"

    id: UUID = Field(primary_key=True)
    """Follows from the delivery's and the number of the piece."""
    delivery_id: UUID = Field(index=True)
    octets_encrypted: bytes = Field(sa_type=LargeBinary)


class Attempt(_Table, table=True):
    """One row for each try."""

    __tablename__ = "attempt"
    __table_args__ = (Index("ix_attempt_mailbox", "mailbox_id", "finished_at"),)

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    delivery_id: UUID = Field(foreign_key="delivery.id", index=True)
    mailbox_id: UUID
    number: int
    """1 for the first try, counted or not."""
    counted: bool = True
    stage: str = Field(max_length=10)
    rule: str = Field(max_length=100)
    """The verdict's rule; ``accepted`` for a 250."""
    outcome: str = Field(max_length=10)
    """The state that the delivery went to."""
    reply_code: int | None = None
    enhanced_code: str | None = Field(default=None, max_length=12)
    reply_text: str | None = Field(default=None, sa_type=Answer)
    smtp_host: str = Field(default="", max_length=255)
    worker: str = Field(default="", max_length=80)
    started_at: datetime = _time()
    finished_at: datetime = _time()
    took_permit: bool = True
    """Whether the try reached the server's rate limit; tells pacing after a loss of Redis."""
    recipients: int = 0
    uncertain: bool = False
    refused: dict[str, str] | None = Field(default=None, sa_type=Answers)


class ConsentLink(_Table, table=True):
    """A link by which a customer's administrator connects a mailbox; one at a time holds."""

    __tablename__ = "consent_link"

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    mailbox_id: UUID = Field(foreign_key="mailbox.id", index=True)
    token_encrypted: bytes = Field(sa_type=LargeBinary)
    """What the link ends with, so that the same link can be shown again."""
    token_sha256: str = Field(unique=True, max_length=64)
    """Finds it once the key that sealed the token itself is gone."""
    made_by: str = Field(max_length=100)
    note: str = Field(default="", max_length=500)
    """For whoever opens the link."""
    created_at: datetime = _created()
    expires_at: datetime = _time()
    opened_at: datetime | None = _time(nullable=True)
    """The first time; a mail scanner counts as somebody."""
    started_at: datetime | None = _time(nullable=True)
    refused_at: datetime | None = _time(nullable=True)
    refusal: str | None = Field(default=None, sa_type=Answer)
    """Why the last sign-in by it brought nothing."""
    connected_at: datetime | None = _time(nullable=True)
    """When its mailbox was connected, by it or otherwise; it is worth nothing from then on."""
    withdrawn_at: datetime | None = _time(nullable=True)
    """When somebody withdrew it, or made another one for the same mailbox."""


class SignIn(_Table, table=True):
    """A sign-in that was begun by a link and waits for its callback, which any process may get."""

    __tablename__ = "sign_in"

    state_sha256: str = Field(primary_key=True, max_length=64)
    """Of the ``state`` that goes out and comes back; whoever reads the table cannot answer it."""
    link_id: UUID = Field(foreign_key="consent_link.id", index=True)
    flow_encrypted: bytes = Field(sa_type=LargeBinary)
    """MSAL's flow: PKCE's verifier and the nonce. Not resealed by a rotation, it ends too soon."""
    created_at: datetime = _created()
    expires_at: datetime = _time()
    used_at: datetime | None = _time(nullable=True)


class RecipientCount(_Table, table=True):
    """Recipients that one account, or one tenant's external ones, reached within a short time."""

    __tablename__ = "recipient_count"
    __table_args__ = (Index("ix_recipient_count_ends_at", "ends_at"),)

    subject: str = Field(primary_key=True, max_length=330)
    """The account that authenticates, or ``quota.tenant_subject``."""
    ends_at: datetime = Field(sa_type=UtcDateTime, primary_key=True)
    """Everything counted here was sent before this moment."""
    writer: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    """PostgreSQL's process that counted it: of two transactions none waits for the other."""
    recipients: int


class FormerAccount(_Table, table=True):
    """An account that signed in for a mailbox until another one took over; see ``accounts``."""

    __tablename__ = "former_account"

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    mailbox_id: UUID
    """No foreign key: what was sent counts also when the mailbox is gone."""
    account: str = Field(max_length=320, index=True)
    ended_at: datetime = _time()


class HandMail(_Table, table=True):
    """A connection that a command borrowed, and the mail it sent by hand; see ``hand_mails``."""

    __tablename__ = "hand_mail"

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    account: str = Field(max_length=320, index=True)
    tenant_id: UUID
    mailbox_id: UUID
    """No foreign key, as above."""
    visit: str = Field(max_length=80)
    """Under which name it holds its slot."""
    held_until: datetime = _time()
    """Until then it may hold a connection, unless it ended before."""
    recipients: list[str] = Field(default_factory=list, sa_type=JSON)
    """Of the mail that was begun; empty: none was."""
    ended_at: datetime | None = _time(nullable=True)


class RedisMemoryRow(_Table, table=True):
    """The memory of Redis that was seen last, and how often it changed; see ``redis_memory``."""

    __tablename__ = "redis_memory"

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    """Always 1: there is one row."""
    name: str = Field(max_length=200)
    generation: int
    changed_at: datetime = _time()


class Suppression(_Table, table=True):
    """An address of which a server said that it takes no mail; see ``suppressions``."""

    __tablename__ = "suppression"

    tenant_id: UUID = Field(foreign_key="tenant.id", primary_key=True)
    address: str = Field(primary_key=True, max_length=320)
    """As in an envelope, in lower case."""
    rule: str = Field(max_length=100)
    """The verdict's rule under which it was refused last."""
    answer: str = Field(sa_type=Answer)
    """The last refusal, as it was given."""
    refusals: int
    """How many there were under that rule without a mail taken in between."""
    first_at: datetime = _time()
    last_at: datetime = _time()
    suppressed_at: datetime | None = _time(nullable=True)
    """Since when it is not used; None: it is only counted."""


class HostHold(_Table, table=True):
    """A server that refuses the address that our workers send from; see ``host_holds``."""

    __tablename__ = "host_hold"

    smtp_host: str = Field(primary_key=True, max_length=255)
    sends_from: str = Field(primary_key=True, max_length=100)
    """Which of our addresses: the setting of that name, else the machine's name."""
    rule: str = Field(max_length=100)
    answer: str = Field(sa_type=Answer)
    refusals: int
    """Probes that failed are counted as well."""
    since: datetime = _time()
    probe_at: datetime = _time()
    """When one visit may try; moved on by whoever takes the turn."""


class AuditEntry(_Table, table=True):
    """Who did what, when and why."""

    __tablename__ = "audit_entry"
    __table_args__ = (Index("ix_audit_entry_at", "at"),)

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    at: datetime = _created()
    actor: str = Field(max_length=100)
    action: str = Field(max_length=50)
    subject_kind: str = Field(max_length=30)
    subject: str = Field(max_length=320)
    reason: str | None = Field(default=None, sa_type=Text)
    detail: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)


class ToldWarning(_Table, table=True):
    """
    A warning that was mailed to the operator, so that nobody is told twice.

    One row for each mailbox that was lost, and for each step towards the end of a credential.
    """

    __tablename__ = "told_warning"
    __table_args__ = (
        Index("ix_told_warning_what", "kind", "subject", "detail", "moment", unique=True),
    )

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    kind: str = Field(max_length=20)
    """``loss``, or what ends: ``client secret``, ``certificate``, ``grant``."""
    subject: str = Field(max_length=320)
    """Name of the app registration, or address of the mailbox."""
    detail: str = Field(max_length=100)
    """The level, such as ``7d``; of a loss the verdict's rule."""
    moment: datetime = _time()
    """When it ends; of a loss when the mailbox was parked."""
    cause: str = Field(default="", max_length=500)
    """Of a loss: what it has in common with others that one mail told of."""
    told_at: datetime = _time()
    delivery_id: UUID
    """The mail. No foreign key: what was told stays told when the mail is gone."""
    tellings: int = 1
    """How often it was told, repetitions included."""
    repeated_at: datetime | None = _time(nullable=True)
    over_at: datetime | None = _time(nullable=True)
    """Of a loss: when it was seen that the mailbox no longer waits for this."""
    over_delivery_id: UUID | None = None
    """The mail that said so; None where there was nothing to say."""


METADATA = made_storable(SQLModel.metadata)
"""All tables, for migrations and for databases made in tests."""


@event.listens_for(METADATA, "before_create")
def _name_the_rows(metadata: MetaData, *_: object, **__: object) -> None:
    # Not at the declaration: SQLAlchemy then loads both dialects to check the names of the options,
    # which takes each command of a user of SQLite longer than its own tables do.
    for index in (index for table in metadata.tables.values() for index in table.indexes):
        if _ROWS in index.info:
            for dialect in ("sqlite", "postgresql"):
                index.dialect_kwargs[f"{dialect}_where"] = text(index.info[_ROWS])


__all__ = [
    "METADATA", "AppCredential", "AppRegistration", "Attempt", "AuditEntry", "ConsentLink",
    "Delivery", "FormerAccount", "Grant", "HandMail", "HostHold", "Mailbox", "RecipientCount",
    "RedisMemoryRow",
    "SignIn", "Suppression", "Tenant", "ToldWarning", "UtcDateTime",
]  # fmt: skip
