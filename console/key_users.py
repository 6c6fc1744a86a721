"""
Which processes hold the keys of a data directory, so that no key is taken from under them.

``up`` and ``worker`` read the keys once, when they start. While one runs it holds a lock on a file
of its own that names the keys it knows; a lock ends with its process, whatever ended that.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from console.data_dir import DataDir
from models.vault import PREFIX_BYTES, Vault


@dataclass(frozen=True, slots=True)
class KeyUser:
    """
    A running process that sealed and opens with keys of the directory.

    Attributes:
        pid: Its id.
        key_ids: Of the keys it knows; it seals under the first.
    """

    pid: int
    key_ids: tuple[str, ...]


def key_id(key: str) -> str:
    """Name a key by eight hexadecimal digits, which betray nothing of it."""
    return Vault([key]).prefix[1:PREFIX_BYTES].hex()


@contextmanager
def using(directory: DataDir, keys: Sequence[str]) -> Iterator[None]:
    """Announce for the time of a block that this process knows these keys."""
    folder = _folder(directory)
    folder.mkdir(mode=0o700, exist_ok=True)
    path, draft = folder / str(os.getpid()), folder / f".{os.getpid()}"
    handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        # Locked before it has its name: nobody may take it for one that was left behind.
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.write(handle, "\n".join(map(key_id, keys)).encode("ascii"))
        draft.replace(path)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def running(directory: DataDir) -> list[KeyUser]:
    """Name the processes that run on the directory's keys."""
    found = []
    for path in sorted(_folder(directory).glob("[0-9]*")):
        with suppress(FileNotFoundError):
            user = _read(path)
            if user is not None:
                found.append(user)
    return found


def _read(path: Path) -> KeyUser | None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(handle, 4096, 0).decode("ascii", "replace")
            return KeyUser(int(path.name), tuple(text.split()))
        # Its process was killed before it could tidy up.
        path.unlink(missing_ok=True)
        return None
    finally:
        os.close(handle)


def _folder(directory: DataDir) -> Path:
    return directory.path / "key-users"
