"""
The second look at an alert e-mail, for whoever writes it down or into a mail.

The door validates (``alert``). But Pydantic lets a program copy a valid alert with other values,
or construct one, without a validator being asked; so what could add a header, a recipient or a
second mail is looked at once more here, by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from models.addresses import Address, checked_name, parse_address
from models.alert import AlertEmail, checked_headers, checked_line
from models.attachments import checked_file_name, checked_type
from models.errors import InvalidAlert
from models.legible import legible
from models.severity import Severity


def look_again(alert: AlertEmail) -> None:
    """
    Make sure that nothing in an alert breaks out of the place where it is written.

    Raises:
        InvalidAlert: Something does; names the field.
    """
    for field, look in _LOOKS.items():
        value = getattr(alert, field)
        if value == () or (value is None and field not in _REQUIRED):
            continue
        try:
            look(value)
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidAlert(field, legible(str(error))) from None


def _line(value: Any) -> None:
    checked_line(_text(value))


def _body(value: Any) -> None:
    if legible(_text(value)) != value:
        raise ValueError("holds half of a surrogate pair, which UTF-8 cannot carry")


def _addresses(value: Any) -> None:
    for address in value:
        if not isinstance(address, Address):
            raise TypeError("holds something else than addresses")
        checked_name(address.name)
        if parse_address(address.spec).spec != address.spec:
            raise ValueError("holds what is not an address")


def _moment(value: Any) -> None:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise TypeError("is not a time with a time zone")


def _attachments(value: Any) -> None:
    for attachment in value:
        checked_file_name(attachment.name)
        checked_type(attachment.content_type)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("is not a text")
    return value


_REQUIRED = frozenset({"tenant", "subject", "severity"})

_LOOKS: Mapping[str, Callable[[Any], object]] = MappingProxyType(
    {
        "tenant": _line,
        "mailbox": _line,
        "to": _addresses,
        "cc": _addresses,
        "bcc": _addresses,
        "reply_to": _addresses,
        "subject": _line,
        "text": _body,
        "html": _body,
        "severity": Severity,
        "idempotency_key": _line,
        "alert_id": _line,
        "not_before": _moment,
        "expires_at": _moment,
        "headers": checked_headers,
        "attachments": _attachments,
    }
)
