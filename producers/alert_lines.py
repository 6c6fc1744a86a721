"""
JSON lines as alert e-mails: what the command line and bulk imports read.

One bad line stops nobody: it is told with its number and reason, and the next one is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import pydantic_core

from models.alert import AlertEmail
from models.errors import InvalidAlert
from producers.alertmanager import Recipients, alerts_from_webhook

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LINE_OCTETS = 50_000_000
"""More than the largest mail takes in JSON, its attachments in base64."""

_SKIPPED_AT_ONCE = 1 << 20

Reader = Callable[[bytes], list[AlertEmail]]


@dataclass(frozen=True, slots=True)
class Line:
    """
    What one line of the stream held.

    Attributes:
        number: Counted from 1, empty lines included.
        alerts: Its mails; empty where ``error`` is set.
        error: Why it holds none, without quoting it.
    """

    number: int
    alerts: tuple[AlertEmail, ...] = ()
    error: InvalidAlert | None = None


def read_alert(line: bytes) -> list[AlertEmail]:
    """Read a line of the format ``alerts``: one alert e-mail as a JSON object."""
    return [AlertEmail.parse_json(line)]


def alertmanager_reader(
    recipients: Recipients,
    *,
    tenant_label: str = "tenant",
    default_tenant: str | None = None,
) -> Reader:
    """Make a reader of the format ``alertmanager``: one webhook body as a JSON object."""

    def read(line: bytes) -> list[AlertEmail]:
        body: Mapping[str, object] = _json(line)
        return alerts_from_webhook(
            body,
            recipients=recipients,
            tenant_label=tenant_label,
            default_tenant=default_tenant,
        )

    return read


def read_lines(
    stream: BinaryIO,
    read: Reader = read_alert,
    *,
    max_line_octets: int = MAX_LINE_OCTETS,
) -> Iterator[Line]:
    """
    Yield what each line of a binary stream holds; empty lines are passed over.

    Args:
        stream: Read line by line, so that it may be larger than memory.
        read: ``read_alert``, or what ``alertmanager_reader`` makes.
        max_line_octets: Longer lines are refused unread, line end not counted.
    """
    number = 0
    while raw := stream.readline(max_line_octets + 2):
        number += 1
        line = raw.rstrip(b"\r\n")
        cut_short = len(raw) > max_line_octets and not raw.endswith(b"\n")
        if cut_short or len(line) > max_line_octets:
            if cut_short:
                _skip_rest(stream)
            yield Line(
                number,
                error=InvalidAlert("line", f"is longer than {max_line_octets} octets"),
            )
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # Windows tools begin files so
        if not line.strip():
            continue
        try:
            line.decode("utf-8")
            alerts = tuple(read(line))
        except UnicodeDecodeError as error:
            reason = f"is not UTF-8 from octet {error.start + 1} on"
            yield Line(number, error=InvalidAlert("line", reason))
        except InvalidAlert as error:
            yield Line(number, error=error)
        else:
            yield Line(number, alerts)


def _skip_rest(stream: BinaryIO) -> None:
    while rest := stream.readline(_SKIPPED_AT_ONCE):
        if rest.endswith(b"\n"):
            return


def _json(line: bytes) -> Mapping[str, object]:
    try:
        value: Mapping[str, object] = pydantic_core.from_json(line)
    except ValueError as error:
        # No field of it is wrong; whoever reports it names the line.
        raise InvalidAlert("", f"is not valid JSON: {str(error)[:200]}") from None
    return value
