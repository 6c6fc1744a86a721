"""
Settings from the environment: built once, in the composition root, and passed down.

Every field is a variable ``ALERTPOST_<NAME>``, a field of a group ``ALERTPOST_<GROUP>__<NAME>``;
``.env`` in the working directory is read too, the environment wins. What may hold a secret can
also be given as a file, ``ALERTPOST_<NAME>_FILE``. An empty variable counts as not given.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, quote, urlencode

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from models import proxies
from models.addresses import parse_address
from models.errors import ConfigurationError, VaultError
from models.files import open_to_read
from models.host_name import is_domain, is_literal
from models.postgresql_url import POOLER, read_url
from models.quota import DayLimits
from models.urls import split_url
from models.vault import parse_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "ALERTPOST_"
_GROUP = "__"
_DOTENV = ".env"
_LARGEST_FILE = 10_000_000
"""Octets of a file that a setting names; all public roots together have some hundred thousand."""
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9.:-]*[a-z0-9])?")
_BESIDE_FILE = ("database_url", "redis_url", "secret_keys", "https_proxy")
"""Settings that may hold a secret, hence may also come from a file."""
_UNDISCLOSED = (*_BESIDE_FILE, "public_url", "https_proxy")
"""Settings whose value no error message repeats."""

# Kubernetes announces a service called "alertpost…" to every container beside it with variables
# that begin like ours (Kubernetes docs, "Service", environment variables). Nobody misspelt those.
_SERVICE_ANNOUNCEMENT = re.compile(
    r"ALERTPOST_(\w+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]


def _database_url(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if not value:
        return value
    if not separator or scheme not in {
        "sqlite", "postgresql", "postgresql+psycopg", "postgres",
    }:  # fmt: skip
        raise ValueError(
            "must be postgresql://user:PASSWORD@host/database or sqlite:///path/to/file, "
            "or empty for a file in ALERTPOST_DATA_DIR"
        )
    if scheme != "sqlite":
        read_url(value)
        return value
    if not rest.strip("/"):
        raise ValueError("names no file; write sqlite:///relative/path or sqlite:////absolute/path")
    split_url(value)
    return value


def _redis_url(value: str) -> str:
    if not value:
        return value
    parts = split_url(value)
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError(
            "must be redis://host:port/0, rediss://host:port/0 (TLS) or unix:///path/to/socket, "
            "or empty for the embedded server"
        )
    if parts.scheme == "unix" and not parts.path:
        raise ValueError("names no socket; write unix:///path/to/socket")
    return value


def _public_url(value: str) -> str:
    if not value:
        return value
    parts = split_url(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be http://host[:port] or https://host[:port]")
    if parts.query or parts.fragment or parts.username:
        raise ValueError("must end with the host or a path: no user, no '?', no '#'")
    if parts.scheme == "http" and parts.hostname not in {"localhost", "127.0.0.1"}:
        raise ValueError(
            "must be https: Microsoft sends a browser back over http to localhost only; put a "
            "reverse proxy with TLS before the consent pages"
        )
    return value.rstrip("/")


def _ehlo_name(value: str) -> str:
    name = value.strip()
    if not name or is_domain(name) or is_literal(name):
        return name
    raise ValueError(
        "must be a domain name of letters, digits and hyphens, such as mail.example.com, or an "
        "address in brackets, such as [192.0.2.1] or [IPv6:2001:db8::1]; or empty for the "
        f"machine's own name, not {name[:40]!r}"
    )


def _bare_address(value: str) -> str:
    if not value:
        return value
    address = parse_address(value)
    if address.name:
        raise ValueError("is the bare address of a mailbox, without a display name")
    return address.spec.lower()


def _addresses(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _checked_addresses(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            parse_address(value)
        except ValueError as error:
            raise ValueError(f"one of the addresses {error}") from None
    return values


def _hosts(value: object) -> object:
    if not isinstance(value, str):
        return value
    hosts = tuple(word.lower() for word in value.replace(",", " ").split())
    for host in hosts:
        if not _HOST_NAME.fullmatch(host):
            raise ValueError(
                f"{host!r} is not a host: give names such as login.example.com, without https:// "
                "and without a port, separated by commas"
            )
    return hosts


def _secret_keys(value: object) -> object:
    if isinstance(value, str):
        # A key file has one on each line, variables have commas between them.
        return tuple(value.replace(",", " ").split())
    return value


def _check_keys(keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    for key in keys:
        try:
            parse_key(key.get_secret_value())
        except VaultError as error:
            raise ValueError(str(error)) from None
    return keys


def _readable(path: Path | None) -> Path | None:
    if path is not None:
        _read(path)
    return path


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PacingSettings(_Group):
    """
    What one mailbox may do; the defaults are Exchange Online's own limits.

    Source:
        Exchange Online limits (learn.microsoft.com/exchange/troubleshoot/send-emails/
        smtp-submission-improvements): 30 messages a minute, 3 connections.
    """

    messages_per_window: Count = 30
    window_seconds: Seconds = 60.0
    connections_per_mailbox: Count = 3
    critical_reserve: Annotated[int, Field(ge=0)] = 2
    """Permits of a window that only criticals may take."""
    slot_seconds: Annotated[float, Field(ge=1, le=3600)] = 20.0
    """After so long without renewal the slot of a dead visit is free again."""
    recipients_per_day: Annotated[int, Field(ge=0)] = 10_000
    """Recipients of one authenticating account in any 24 hours; 0: Exchange counts alone."""
    recipients_critical_reserve: Annotated[int, Field(ge=0)] = 100
    """So many of these only criticals may use."""
    day_seconds: Annotated[float, Field(ge=1, le=86_400)] = 86_400.0
    """Length of the day in which recipients count."""

    @property
    def day_limits(self) -> DayLimits:
        """What ``models.quota`` needs of these."""
        return DayLimits(
            recipients=self.recipients_per_day,
            critical_reserve=self.recipients_critical_reserve,
            window_seconds=self.day_seconds,
        )

    @model_validator(mode="after")
    def _leave_some(self) -> Self:
        if self.critical_reserve >= self.messages_per_window:
            raise ValueError("critical_reserve must be smaller than messages_per_window")
        if 0 < self.recipients_per_day <= self.recipients_critical_reserve:
            raise ValueError("recipients_critical_reserve must be smaller than recipients_per_day")
        return self


class VisitSettings(_Group):
    """How long one look at a lane lasts."""

    claim_batch: Annotated[int, Field(ge=1, le=1000)] = 10
    claim_seconds: Annotated[float, Field(ge=1, le=3600)] = 20.0
    max_seconds: Seconds = 15.0
    connection_idle_seconds: Seconds = 90.0
    """
    An open connection with nothing to send is kept this long for the next alert; long enough that
    an alert a minute finds it open. Exchange Server closes after 5 minutes at the latest.
    """
    connection_max_seconds: Seconds = 300.0
    connection_max_messages: Count = 100


class SmtpSettings(_Group):
    """The dialogue with the submission server."""

    connect_timeout_seconds: Seconds = 15.0
    command_timeout_seconds: Seconds = 30.0
    data_timeout_seconds: Seconds = 300.0
    ehlo_name: Annotated[str, AfterValidator(_ehlo_name)] = ""
    """Empty: the machine's name, or [127.0.0.1] where that is no full domain name."""
    max_message_bytes: Annotated[int, Field(ge=1024)] = 36_700_160
    """35 MiB, what Exchange Online takes from a client."""


class LeaseSettings(_Group):
    """When and how access tokens are renewed."""

    refresh_at_share: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """Share of a token's life after which a new one is fetched."""
    jitter_share: Share = 0.1
    lock_seconds: Annotated[float, Field(ge=1, le=3600)] = 30.0
    request_timeout_seconds: Seconds = 15.0
    minimum_left_seconds: Annotated[float, Field(ge=0, le=3600)] = 120.0
    """A token with less left is not used to start anything."""
    keep_warm_days: Annotated[float, Field(ge=0, le=60)] = 7.0
    """A grant that no alert has used for about so long is refreshed; it would end after 90 days."""

    @model_validator(mode="after")
    def _hold_the_lock_longer(self) -> Self:
        if self.lock_seconds <= self.request_timeout_seconds:
            raise ValueError(
                "lock_seconds must be greater than request_timeout_seconds, else a second worker "
                "would refresh the same grant meanwhile"
            )
        return self


class RetrySettings(_Group):
    """How failed deliveries wait."""

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 8
    soon_seconds: Seconds = 2.0
    first_seconds: Seconds = 5.0
    longest_seconds: Seconds = 900.0
    jitter_share: Share = 0.25

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.first_seconds > self.longest_seconds:
            raise ValueError("first_seconds must not be greater than longest_seconds")
        return self


class SweepSettings(_Group):
    """How often lanes are looked after that nobody woke."""

    interval_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 5.0


class WorkerSettings(_Group):
    """How much one ``alertpost worker`` does at once."""

    processes: Annotated[int, Field(ge=1, le=256)] = 1
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 512
    """Visits at the same time in each process, not counting those that wait long for a server."""
    content_bytes: Annotated[int, Field(ge=4_000_000)] = 64_000_000
    """Memory of each process for the contents of large mails; more of them wait for a turn."""
    sends_from: Annotated[str, Field(max_length=100, pattern=r"^[!-~]*$")] = ""
    """
    Names the network address that this worker sends from; workers that share one bear one name, for
    a server that bans it holds all of them. Empty: the machine's name stands for it.
    """


class ConsentsSettings(_Group):
    """The pages on which a customer's administrator connects a mailbox."""

    host: Annotated[str, Field(min_length=1, max_length=255)] = "127.0.0.1"
    """Where they are served; a reverse proxy with TLS stands before it."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8025
    provider: Annotated[str, Field(max_length=100)] = ""
    """Who asks, in the customer's eyes: the service provider's name."""
    contact: Annotated[str, Field(max_length=200)] = ""
    """Whom to ask: an address or a telephone number."""


class LogSettings(_Group):
    """What is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    """``auto``: for people on a terminal, JSON lines otherwise."""


class Settings(BaseSettings):
    """All settings. Build with ``Settings.load``, whose errors say what to do."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=_GROUP,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    database_url: Annotated[str, AfterValidator(_database_url)] = ""
    """Empty: the SQLite file ``alertpost.db`` in ``data_dir``."""
    database_pooler: Literal["auto", "transaction", "none"] = "auto"
    """
    What stands before PostgreSQL: ``transaction`` for a pooler that gives each transaction another
    session; ``auto`` finds it out.
    """
    redis_url: Annotated[str, AfterValidator(_redis_url)] = ""
    """Empty: an embedded server that keeps its data in ``data_dir``."""
    redis_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,50}$")] = "alertpost"
    data_dir: Path = Path("var")
    secret_keys: Annotated[
        tuple[SecretStr, ...],
        NoDecode,
        BeforeValidator(_secret_keys),
        AfterValidator(_check_keys),
    ] = ()
    """The first one encrypts, all of them decrypt."""
    public_url: Annotated[str, AfterValidator(_public_url)] = ""
    """Where customers reach the consent pages; empty: there are none."""
    ca_file: Annotated[Path | None, AfterValidator(_readable)] = None
    """Certificate authorities to trust instead of the system's, in PEM."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_hosts)] = ()
    """Hosts that secrets and tokens may go to, beside Microsoft's and this machine itself."""
    https_proxy: Annotated[str, AfterValidator(proxies.checked)] = ""
    """By which the sign-in service is asked; empty: as HTTPS_PROXY and NO_PROXY say."""
    operator_mailbox: Annotated[str, AfterValidator(_bare_address)] = ""
    """The mailbox from which the provider is warned; empty: nobody is warned by mail."""
    operator_to: Annotated[
        tuple[str, ...],
        NoDecode,
        BeforeValidator(_addresses),
        AfterValidator(_checked_addresses),
        Field(max_length=100),
    ] = ()
    """Who is warned; empty: that mailbox itself."""
    pacing: PacingSettings = PacingSettings()
    visit: VisitSettings = VisitSettings()
    smtp: SmtpSettings = SmtpSettings()
    lease: LeaseSettings = LeaseSettings()
    retry: RetrySettings = RetrySettings()
    sweep: SweepSettings = SweepSettings()
    worker: WorkerSettings = WorkerSettings()
    consents: ConsentsSettings = ConsentsSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """
        Read the settings.

        Args:
            overrides: Win over the environment; groups are given as mappings.

        Raises:
            ConfigurationError: One line for each problem. It names the variable and never shows
                a secret.
        """
        given = _given()
        problems = [_unknown(name) for name in given if name not in _names() and not _foreign(name)]
        problems += [
            f"{_variable(name)} and {_variable(name)}_FILE are both given; keep one of them"
            for name in _BESIDE_FILE
            if {_variable(name), f"{_variable(name)}_FILE"} <= given.keys()
        ]
        if problems:
            raise ConfigurationError("\n".join(problems))
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise ConfigurationError("\n".join(map(_problem, error.errors()))) from None
        except SettingsError as error:
            # Its text is 'error parsing value for field "pacing" from source "…"'.
            found = re.search(r'field "(\w+)"', str(error))
            name = _variable(found[1]) if found else PREFIX
            raise ConfigurationError(
                f"{name}: is not valid JSON; rather set its parts, such as {name}{_GROUP}…"
            ) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read environment and ``.env`` as one, then the files that ``…_FILE`` name."""
        # The library's own reader of .env takes "…_FILE" and the lines of other programs for
        # unknown fields, and its secrets folder has no place for a file of any other name.
        del env_settings, dotenv_settings, file_secret_settings
        from_files = InitSettingsSource(settings_cls, init_kwargs=_from_files(_given()))
        return init_settings, _Variables(settings_cls), from_files

    @property
    def sqlalchemy_url(self) -> str:
        """Where SQL is, with the driver that we ship; holds the password."""
        if not self.database_url:
            return f"sqlite:///{(self.data_dir / 'alertpost.db').absolute()}"
        url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", self.database_url)
        if self.database_pooler == "auto" or not url.startswith("postgresql"):
            return url
        return f"{url}{'&' if '?' in url else '?'}{POOLER}={self.database_pooler}"

    @property
    def embedded_redis(self) -> bool:
        """Whether we run the Redis server ourselves."""
        return not self.redis_url

    def masked(self) -> dict[str, object]:
        """All settings in force, fit for a log line: passwords and keys do not show."""
        shown: dict[str, object] = self.model_dump(mode="json", exclude={"secret_keys"})
        shown["database_url"] = masked_url(self.database_url)
        shown["redis_url"] = masked_url(self.redis_url)
        shown["https_proxy"] = proxies.masked(self.https_proxy)
        shown["secret_keys"] = len(self.secret_keys)
        return shown

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return self.masked().items()


def masked_url(url: str) -> str:
    """
    Replace what is secret in a URL.

    Args:
        url: Any text; what is no URL comes back as it is.

    Returns:
        The URL with ``***`` for a password before the host or in the query.
    """
    url = re.sub(r"(://[^/\s:@]*:)[^/\s]*@", r"\1***@", url)
    base, mark, query = url.partition("?")
    if not mark:
        return url
    shown = [
        (name, "***" if re.search(r"pass|secret|token|key", name, re.IGNORECASE) else value)
        for name, value in parse_qsl(query, keep_blank_values=True)
    ]
    return f"{base}?{urlencode(shown, quote_via=quote, safe='/*')}"


class _Variables(EnvSettingsSource):
    """The library's reader of variables, given those of ``.env`` as well."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in _given().items()}


def _dotenv() -> dict[str, str]:
    try:
        lines = dotenv_values(_DOTENV, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{_DOTENV} cannot be read: {_cause(error)}") from None
    return {name.upper(): value for name, value in lines.items() if value}


def _given() -> dict[str, str]:
    """Our variables that have a value, names in upper case."""
    environment = {name.upper(): value for name, value in os.environ.items() if value}
    return {
        name: value
        for name, value in {**_dotenv(), **environment}.items()
        if name.startswith(PREFIX)
    }


def _from_files(given: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for name in _BESIDE_FILE:
        path = given.get(f"{_variable(name)}_FILE")
        if path:
            try:
                values[name] = _read(Path(path)).strip()
            except ValueError as error:
                raise ConfigurationError(f"{_variable(name)}_FILE: {error}") from None
    return values


def _read(path: Path) -> str:
    try:
        with open_to_read(path) as file:
            octets = file.read(_LARGEST_FILE + 1)
        text = octets.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {_cause(error)}") from None
    if len(octets) > _LARGEST_FILE:
        raise ValueError(f"{path} has more than {_LARGEST_FILE:,} octets: it is another file")
    return text


def _cause(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or "" if isinstance(error, OSError) else "it is not UTF-8 text"


def _groups() -> dict[str, type[_Group]]:
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Group)
    }


def _names() -> set[str]:
    """Every variable that means something."""
    names = {_variable(name) for name in Settings.model_fields}
    names |= {f"{_variable(name)}_FILE" for name in _BESIDE_FILE}
    for group, model in _groups().items():
        names |= {_variable(group, name) for name in model.model_fields}
    return names


def _variable(*path: object) -> str:
    return PREFIX + _GROUP.join(str(part).upper() for part in path)


def _foreign(name: str) -> bool:
    return _SERVICE_ANNOUNCEMENT.fullmatch(name) is not None


def _unknown(name: str) -> str:
    # Without the prefix, which all have in common and which would make anything look near.
    known = sorted(known.removeprefix(PREFIX) for known in _names())
    nearest = difflib.get_close_matches(name.removeprefix(PREFIX), known, n=1)
    hint = f"did you mean {PREFIX}{nearest[0]}?" if nearest else "remove it"
    return f"{name} is not a setting; {hint}"


def _problem(error: Any) -> str:
    path = [part for part in error["loc"] if isinstance(part, str)]
    name = _variable(*path)
    kind = str(error["type"])
    if kind == "extra_forbidden":
        return _unknown(name)
    text = str(error["ctx"]["error"]) if kind == "value_error" else _told(error)
    # A rule on several fields of a group speaks of fields; people set variables.
    if path and path[0] in _groups() and len(path) == 1:
        for field in _groups()[path[0]].model_fields:
            text = re.sub(rf"\b{field}\b", _variable(path[0], field), text)
    return f"{name}: {text}"


def _told(error: Any) -> str:
    kind, limits = str(error["type"]), error.get("ctx", {})
    match kind:
        case "int_parsing" | "int_type" | "int_from_float":
            text = "must be a whole number"
        case "float_parsing" | "float_type" | "finite_number":
            text = "must be a number"
        case "greater_than_equal":
            text = f"must be {limits['ge']} or more"
        case "greater_than":
            text = f"must be more than {limits['gt']}"
        case "less_than_equal":
            text = f"must be {limits['le']} or less"
        case "less_than":
            text = f"must be less than {limits['lt']}"
        case "literal_error":
            text = f"must be one of {limits['expected']}"
        case _:
            text = str(error["msg"])
    return text + _shown(error)


def _shown(error: Any) -> str:
    given = error.get("input")
    if set(error["loc"][:1]) & set(_UNDISCLOSED) or not isinstance(given, str | int | float):
        return ""
    return f", not {str(given)[:40]!r}"
