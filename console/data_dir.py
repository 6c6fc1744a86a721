"""
The directory that holds everything when nothing else is installed: SQLite, Redis, the key.

    alertpost.db    SQLite, unless ALERTPOST_DATABASE_URL says otherwise
    secret.key      the key that encrypts at rest, unless ALERTPOST_SECRET_KEYS gives it
    redis/          the embedded server's data, configuration and log
    up.lock         who runs here
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import ConfigurationError, VaultError
from models.vault import Vault, parse_key

if TYPE_CHECKING:
    from collections.abc import Iterator

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class DataDir:
    """
    An existing directory that only its owner can write to.

    Attributes:
        path: Absolute.
    """

    path: Path

    @classmethod
    def prepare(cls, path: Path) -> DataDir:
        """
        Make the directory, for its owner alone, unless it exists.

        Raises:
            ConfigurationError: It cannot be made or used, or others can write to it.
        """
        path = path.absolute()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = path.stat().st_mode
        except OSError as error:
            raise _refused(path, error) from error
        # A directory that exists is not changed: it may be the wrong one, such as /var.
        if mode & _OTHERS_WRITE:
            raise ConfigurationError(
                f"others can write to {path}, and so could swap the key or the database; "
                f"use 'chmod go-w {path}', or another ALERTPOST_DATA_DIR"
            )
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise ConfigurationError(
                f"the data directory {path} is on a file system that is mounted read-only; mount "
                "it for writing, or set ALERTPOST_DATA_DIR"
            )
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigurationError(
                f"the data directory {path} belongs to someone else; start alertpost as its "
                "owner, or set ALERTPOST_DATA_DIR"
            )
        return cls(path)

    @property
    def key_file(self) -> Path:
        """Where the key is that encrypts at rest."""
        return self.path / "secret.key"

    @property
    def redis(self) -> Path:
        """Where the embedded Redis server keeps its files."""
        return self.path / "redis"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """
        Keep this directory to ourselves until the block ends, or the process does.

        Raises:
            ConfigurationError: Another process holds it; the text names its id.
        """
        lock_file = self.path / "up.lock"
        try:
            handle = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _refused(lock_file, error) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise ConfigurationError(
                    f"alertpost runs in {self.path} already, as process {holder}; stop that one, "
                    "or set ALERTPOST_DATA_DIR to another directory"
                ) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode("ascii"), 0)
            # The file stays when we leave: who waits on a file that is removed locks nothing.
            yield
        finally:
            os.close(handle)

    def secret_keys(self) -> tuple[str, ...]:
        """
        Read the key file; make it on the first start.

        One key on each line; the first one encrypts, all of them decrypt. To be called before
        the database is made, see the last error.

        Raises:
            ConfigurationError: Others can read it, it holds no key, or it is missing although
                there is a database that was encrypted with it.
        """
        if not self.key_file.exists():
            self._make_key()
        try:
            handle = os.open(self.key_file, os.O_RDONLY | os.O_CLOEXEC)
            with os.fdopen(handle, encoding="ascii", errors="replace") as file:
                mode = os.fstat(handle).st_mode
                lines = file.read().split()
        except OSError as error:
            raise _refused(self.key_file, error) from error
        if mode & _OTHERS:
            raise ConfigurationError(
                f"others can read the key in {self.key_file}; use 'chmod 600 {self.key_file}', "
                "and rotate the key if anybody may have done so"
            )
        try:
            for line in lines:
                parse_key(line)
        except VaultError:
            lines = []
        if not lines:
            raise ConfigurationError(
                f"{self.key_file} holds no key, or a damaged one; restore it from a backup"
            )
        return tuple(lines)

    def _make_key(self) -> None:
        if (self.path / "alertpost.db").exists():
            raise ConfigurationError(
                f"{self.key_file} is missing, but {self.path / 'alertpost.db'} was encrypted with "
                "a key; restore the file from a backup, or set ALERTPOST_SECRET_KEYS"
            )
        draft = self.path / f".secret.key.{secrets.token_hex(8)}"
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(handle, "w", encoding="ascii") as file:
                    file.write(f"{Vault.new_key()}\n")
                    file.flush()
                    os.fsync(file.fileno())
                # A link appears whole or not at all, and never replaces what another made first.
                os.link(draft, self.key_file)
                _sync(self.path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        except OSError as error:
            raise _refused(self.key_file, error) from error


def known_url(directory: Path) -> str | None:
    """
    Tell where the server of a directory listens, for a process that did not start it.

    Args:
        directory: As given to ``EmbeddedRedis.prepare``.

    Returns:
        The URL, also while the server is down; None where there never was one.
    """
    try:
        return (directory / "redis.url").read_text("utf-8").strip() or None
    except FileNotFoundError:
        return None


def _sync(directory: Path) -> None:
    # Data encrypted with a key whose file name a power cut took away would be lost.
    handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refused(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{path} cannot be used: {error.strerror}; make it usable, or set ALERTPOST_DATA_DIR"
    )
