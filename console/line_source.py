"""The file or stream that a bulk import reads, opened with errors that say what to do."""

from __future__ import annotations

import io
import os
import select
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from console.paths import typed_path
from models.errors import ConfigurationError
from models.files import open_descriptor

STDIN = "-"
_IDLE_SECONDS = 0.1
_BUFFER = 1 << 18


class LineSource:
    """
    An open file, or standard input.

    Attributes:
        name: As the user wrote it, for messages.
        size: Octets of a regular file, None of anything else.
        before_waiting: Called before a read that would have to wait, so that what was read is
            not held back until more comes.
    """

    def __init__(self, name: str, descriptor: int, size: int | None) -> None:
        self.name = "standard input" if name == STDIN else name
        self.size = size
        self.before_waiting: Callable[[], None] = _nothing
        raw = _Patient(self.name, descriptor, self._tell)
        self.stream: BinaryIO = io.BufferedReader(raw, _BUFFER)

    def _tell(self) -> None:
        self.before_waiting()

    @classmethod
    def open(cls, name: str) -> LineSource:
        """
        Open a file by its name, standard input by ``-``.

        Raises:
            ConfigurationError: It is missing, a directory, an idle pipe, or not readable.
        """
        try:
            # A copy of standard input: closing ours must not close the process' own.
            descriptor = os.dup(sys.stdin.fileno()) if name == STDIN else _open(name)
            found = os.fstat(descriptor)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigurationError(f"{name} cannot be read: {reason}") from error
        if stat.S_ISDIR(found.st_mode):
            os.close(descriptor)
            raise ConfigurationError(
                f"{name} is a directory; give one file, or '-' and pipe the files in"
            )
        if _is_endless(descriptor, found):
            os.close(descriptor)
            raise ConfigurationError(
                f"{name} is a device, which has no lines and no end; give a file"
            )
        return cls(name, descriptor, found.st_size if stat.S_ISREG(found.st_mode) else None)

    def rewindable(self) -> LineSource:
        """
        Give a source of the same lines that can be read twice: itself, or a copy on disk.

        Raises:
            ConfigurationError: There is no room for a copy.
        """
        if self.size is not None:
            return self
        try:
            copy, path = tempfile.mkstemp(prefix="alertpost-")
            # Nobody else can open it, and it is gone when we are.
            os.unlink(path)  # noqa: PTH108 - beside mkstemp
            while octets := self.stream.read(_BUFFER):
                _write_all(copy, octets)
        except OSError as error:
            raise ConfigurationError(
                f"{self.name} has to be read twice, and cannot be kept meanwhile: "
                f"{error.strerror or error}; let TMPDIR name a directory with room, or give a file"
            ) from error
        os.lseek(copy, 0, os.SEEK_SET)
        size = os.fstat(copy).st_size
        self.stream.close()
        return LineSource(self.name, copy, size)

    @contextmanager
    def closing(self) -> Iterator[LineSource]:
        """Close it at the end."""
        try:
            yield self
        finally:
            self.stream.close()


class _Patient(io.RawIOBase):
    """Reads a descriptor and tells before it has to wait."""

    def __init__(self, name: str, descriptor: int, before_waiting: Callable[[], None]) -> None:
        self._name, self._descriptor = name, descriptor
        self._before_waiting = before_waiting

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True  # asked only of regular files

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def tell(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if not select.select([self._descriptor], [], [], _IDLE_SECONDS)[0]:
            self._before_waiting()
        try:
            return os.readv(self._descriptor, [buffer])
        except OSError as error:
            raise ConfigurationError(f"{self._name} cannot be read: {error.strerror}") from error

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _open(name: str) -> int:
    return open_descriptor(typed_path(name))


def _is_endless(descriptor: int, found: os.stat_result) -> bool:
    """Tell a device such as /dev/zero from a terminal, and from /dev/null, which ends at once."""
    if not stat.S_ISCHR(found.st_mode):
        return stat.S_ISBLK(found.st_mode)
    return not os.isatty(descriptor) and found.st_rdev != Path(os.devnull).stat().st_rdev


def _write_all(descriptor: int, octets: bytes) -> None:
    view = memoryview(octets)
    while view:
        view = view[os.write(descriptor, view) :]


def _nothing() -> None:
    pass
