"""
A sheet of customers as a spreadsheet saves it: each line a customer, or one more of its mailboxes.

    slug,name,directory_id,mailbox,notify
    contoso,Contoso Ltd,contoso.onmicrosoft.com,alerts@contoso.example,ops@contoso.example

Pure: text in, wishes and complaints out. What the values mean is checked where they are stored.
"""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from console.verbs_tenants import notification_lists
from models.errors import ConfigurationError

REQUIRED = ("slug",)
TENANT_COLUMNS = (
    "slug", "name", "directory_id", "app", "cloud", "notify", "authority", "oidc_authority",
    "smtp_host", "smtp_port", "ca_file", "scope", "uncertain_policy", "max_message_bytes",
    "licences", "trial", "accepted_domains",
)  # fmt: skip
MAILBOX_COLUMNS = ("mailbox", "display_name", "auth_user")
COLUMNS = (*TENANT_COLUMNS, *MAILBOX_COLUMNS)
_NUMBERS = frozenset({"smtp_port", "max_message_bytes", "licences"})
_LISTS = frozenset({"notify", "accepted_domains"})
_YES, _NO = frozenset({"yes", "true", "1"}), frozenset({"no", "false", "0"})
_DELIMITERS = ",;\t"
LARGEST = 20_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """
    What a line asks for.

    Attributes:
        number: The line it begins on, counted from 1 with the headings.
        tenant: Values of the tenant that its cells name, without the slug; empty cells say nothing.
        mailbox: The mailbox' address, or None.
        names: ``display_name`` and ``auth_user`` where given.
    """

    number: int
    slug: str
    tenant: Mapping[str, Any]
    mailbox: str | None
    names: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A line that cannot be understood, and why; with what could be read of whom it is about."""

    number: int
    reason: str
    slug: str = ""
    mailbox: str | None = None


def read_sheet(octets: bytes, *, app: str | None = None) -> Iterator[Row | BadRow]:
    """
    Read a sheet.

    Args:
        octets: CSV in UTF-8, with or without a byte order mark, between commas, semicolons or tabs;
            the first line names the columns, in any order.
        app: The app registration of lines that name none.

    Raises:
        ConfigurationError: It is no such sheet, or has a column that nobody knows.
    """
    if len(octets) > LARGEST:
        raise ConfigurationError(f"the sheet is larger than {LARGEST // 1_000_000} MB; split it")
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"the sheet is not UTF-8 (octet {error.start}); save it as 'CSV UTF-8'"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    columns = _columns(_cells(reader))
    return _rows(reader, columns, app)


def _delimiter(text: str) -> str:
    # Spreadsheets of many countries save with semicolons; the headings hold no delimiter of theirs.
    headings = text.partition("\n")[0]
    return max(_DELIMITERS, key=headings.count)


def _cells(reader: Any) -> list[str]:
    """Read the next line; an empty list at the end."""
    try:
        return [cell.strip() for cell in next(reader, [])]
    except csv.Error as error:
        raise ConfigurationError(f"line {reader.line_num} is not CSV: {error}") from None


def _columns(headings: Sequence[str]) -> list[str]:
    names = [heading.lower().replace(" ", "_").replace("-", "_") for heading in headings]
    if not any(names):
        raise ConfigurationError(f"the sheet is empty; its first line names columns: {_known()}")
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {_known()}"
            raise ConfigurationError(f"column {name!r} is not known; {hint}")
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise ConfigurationError(f"column {min(doubled)!r} stands twice")
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise ConfigurationError(f"column {missing[0]!r} is missing; known are {_known()}")
    return names


def _known() -> str:
    return ", ".join(COLUMNS)


def _rows(reader: Any, columns: Sequence[str], app: str | None) -> Iterator[Row | BadRow]:
    while True:
        number = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(number, f"is not CSV: {error}")
            continue
        if any(cells):
            yield _row(number, cells, columns, app)


def _row(
    number: int, cells: Sequence[str], columns: Sequence[str], app: str | None
) -> Row | BadRow:
    if len(cells) > len(columns):
        return BadRow(
            number,
            f"has {len(cells)} cells, the headings are {len(columns)}; put cells that hold a "
            "delimiter between quotes",
            dict(zip(columns, cells, strict=False)).get("slug", ""),
        )
    given = {name: cell for name, cell in zip(columns, cells, strict=False) if cell}
    slug = given.pop("slug", "")
    if not slug:
        return BadRow(number, "names no tenant: its column 'slug' is empty")
    mailbox = given.pop("mailbox", None)
    names = {name: given.pop(name) for name in MAILBOX_COLUMNS[1:] if name in given}
    if names and mailbox is None:
        return BadRow(number, f"has {min(names)} and no mailbox", slug)
    try:
        tenant = {name: _value(name, cell) for name, cell in given.items()}
    except ValueError as error:
        return BadRow(number, str(error), slug, mailbox)
    if app is not None:
        tenant.setdefault("app", app)
    return Row(number, slug, tenant, mailbox, names)


def _value(name: str, cell: str) -> Any:
    if name in _NUMBERS:
        if not cell.isascii() or not cell.isdigit():
            raise ValueError(f"{name} {cell!r} is not a number")
        return int(cell)
    if name == "trial":
        if cell.lower() not in _YES | _NO:
            raise ValueError(f"trial {cell!r}: write yes or no")
        return cell.lower() in _YES
    if name in _LISTS:
        parts = cell.replace(";", " ").replace(",", " ").split()
        return notification_lists(parts) if name == "notify" else parts
    return cell
