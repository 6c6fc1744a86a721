"""An alert e-mail from a command's options and the files they name."""

from __future__ import annotations

import mimetypes
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO

import typer

from console.paths import typed_path
from models.alert import MAX_MAIL_OCTETS, AlertEmail
from models.attachments import Attachment
from models.errors import ConfigurationError, InvalidAlert
from models.files import open_to_read

STDIN = "-"
_ANY_TYPE = "application/octet-stream"


def alert_from(values: Mapping[str, object]) -> AlertEmail:
    """
    Make the alert of those options that were given.

    Raises:
        InvalidAlert: It breaks a rule; names the option by its field.
    """
    return AlertEmail.parse({name: value for name, value in values.items() if value})


def read_text(file: str, option: str) -> str:
    """
    Read a file of text, or standard input for ``-``.

    Raises:
        ConfigurationError: It cannot be read.
        InvalidAlert: It is too large for a mail or not UTF-8.
    """
    octets = _read(file, option)
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidAlert(
            option, f"{file} is not UTF-8 from octet {error.start + 1} on; convert it first"
        ) from None


def read_attachment(file: str) -> Attachment:
    """
    Read a file to attach; its type goes by its name.

    Raises:
        ConfigurationError, InvalidAlert: As ``read_text``, and for a name that no mail takes.
    """
    name = Path(file).name
    kind, encoding = mimetypes.guess_type(name)
    if kind is None or encoding is not None or kind.startswith(("message/", "multipart/")):
        kind = _ANY_TYPE
    content = _read(file, "--attach")
    try:
        return Attachment(name=name, content_type=kind, content=content)
    except ValueError:
        raise InvalidAlert("--attach", f"{file!r} has a name that no mail should carry") from None


def pairs(texts: Sequence[str], option: str, separator: str) -> dict[str, str]:
    """
    Read options such as ``X-Foo: bar`` or ``host=db1``.

    Raises:
        typer.BadParameter: One of them has no separator, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, there, value = text.partition(separator)
        if not there or not name.strip():
            example = "'X-Name: value'" if separator == ":" else "name=value"
            raise typer.BadParameter(f"write {example}", param_hint=option)
        if name.strip() in found:
            raise typer.BadParameter(f"{name.strip()!r} is given twice", param_hint=option)
        found[name.strip()] = value.strip() if separator == ":" else value
    return found


def _read(file: str, option: str) -> bytes:
    try:
        with _opened(file) as stream:
            # One octet more than a mail takes tells enough; /dev/zero has no end.
            octets = stream.read(MAX_MAIL_OCTETS + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{option}: {file} cannot be read: {error.strerror or error}"
        ) from error
    if len(octets) > MAX_MAIL_OCTETS:
        raise InvalidAlert(
            option,
            f"{file} is larger than the {MAX_MAIL_OCTETS // 1_000_000} MB that a mail takes; "
            "link to it instead",
        )
    return octets


def _opened(file: str) -> AbstractContextManager[BinaryIO]:
    if file == STDIN:
        return nullcontext(sys.stdin.buffer)
    return open_to_read(typed_path(file))
