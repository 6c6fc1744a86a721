"""
Changing the key at rest in steps, none of which stops anybody from sealing or opening.

Every process must know the new key before anything is sealed under it, and every process must seal
under it before the old one goes:

    new       the new key is added, last: it opens            then restart what runs
    promote   it becomes the first: it seals; all is resealed then restart what runs
    finish    what was sealed meanwhile is resealed; the old key goes

Where nothing runs, ``new`` promotes at once. Where the keys come from ALERTPOST_SECRET_KEYS their
owner moves them by hand in the same order, and ``reseal`` is all that is done here.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import redis

from console import key_users
from console.context import Context
from console.data_dir import DataDir
from console.key_users import KeyUser, key_id
from models import mailboxes, rotation
from models.database import read
from models.errors import ConfigurationError, Conflict
from models.redis_keys import RedisKeys
from models.rotation import Progress, RotationReport
from models.vault import Vault

_REDIS_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """
    What a step did.

    Attributes:
        keys: How many keys the file holds now.
        report: What was resealed; None where nothing was to be.
        restart: Processes that must be restarted before the next step.
    """

    keys: int
    report: RotationReport | None
    restart: list[KeyUser]


def new(context: Context, directory: DataDir, *, progress: Progress) -> Step:
    """
    Add a new key; where nothing runs, make it the first and reseal everything.

    Raises:
        Conflict: A rotation is under way.
    """
    keys = directory.secret_keys()
    if len(keys) > 1:
        raise Conflict(
            f"a rotation is under way: {directory.key_file} holds {len(keys)} keys; end it with "
            f"`alertpost keys rotate {'--promote' if _pending(directory) else '--finish'}`"
        )
    fresh = Vault.new_key()
    users = key_users.running(directory)
    if users:
        _write(directory, "secret.key.pending", [key_id(fresh)])
        _write(directory, directory.key_file.name, [*keys, fresh])
        return Step(len(keys) + 1, None, users)
    _write(directory, directory.key_file.name, [fresh, *keys])
    return Step(len(keys) + 1, reseal(context, [fresh, *keys], progress=progress), [])


def promote(context: Context, directory: DataDir, *, progress: Progress) -> Step:
    """
    Make the new key the first, and reseal everything under it.

    Raises:
        Conflict: There is no new key, or a running process does not know it.
    """
    pending = _pending(directory)
    keys = directory.secret_keys()
    fresh = next((key for key in keys if key_id(key) == pending), None)
    if fresh is None:
        raise Conflict("there is no new key to promote; `alertpost keys rotate --new` makes one")
    users = key_users.running(directory)
    _restarted([user for user in users if pending not in user.key_ids], "does not know the new key")
    ordered = [fresh, *(key for key in keys if key != fresh)]
    _write(directory, directory.key_file.name, ordered)
    (directory.path / "secret.key.pending").unlink(missing_ok=True)
    report = reseal(context, ordered, progress=progress)
    return Step(len(ordered), report, key_users.running(directory))


def finish(context: Context, directory: DataDir, *, progress: Progress) -> Step:
    """
    Reseal what was sealed under old keys meanwhile, and remove those keys.

    Raises:
        Conflict: The new key was not promoted, or a running process still seals under an old one.
    """
    if _pending(directory):
        raise Conflict("the new key does not seal yet: `alertpost keys rotate --promote` first")
    keys = directory.secret_keys()
    current = key_id(keys[0])
    users = key_users.running(directory)
    _restarted(
        [user for user in users if user.key_ids[:1] != (current,)], "still seals under an old key"
    )
    report = reseal(context, keys, progress=progress)
    if report.complete and len(keys) > 1:
        _write(directory, directory.key_file.name, keys[:1])
        return Step(1, report, [])
    return Step(len(keys), report, [])


def reseal(context: Context, keys: Sequence[str], *, progress: Progress) -> RotationReport:
    """
    Bring everything under the first key, in SQL; what Redis holds under another is dropped.

    Args:
        context: Open resources.
        keys: The first seals, all open.
        progress: Told after each transaction.
    """
    vault = Vault(keys)
    report = rotation.rotate(context.engine, vault, progress=progress)
    _drop_tokens(context, vault)
    return report


def _drop_tokens(context: Context, vault: Vault) -> None:
    """Drop access tokens that an old key sealed; whoever needs one gets another."""
    if not context.settings.redis_url:
        return
    names = RedisKeys(context.settings.redis_prefix)
    with read(context.engine) as conn:
        keys = [names.token(box.id) for box in mailboxes.list_mailboxes(conn)]
    client = redis.Redis.from_url(
        context.settings.redis_url,
        socket_timeout=_REDIS_SECONDS,
        socket_connect_timeout=_REDIS_SECONDS,
    )
    try:
        for name in keys:
            sealed = client.get(name)
            if isinstance(sealed, bytes) and vault.needs_rotation(sealed):
                client.delete(name)
    except redis.ConnectionError:
        # Where Redis is down no token is used; its life is an hour and a half at most.
        return
    finally:
        client.close()


def _restarted(behind: list[KeyUser], how: str) -> None:
    if behind:
        pids = ", ".join(str(user.pid) for user in behind)
        raise Conflict(
            f"process {pids} {how}: stop it (Ctrl-C) and start it again first; nothing is lost "
            "by that, what waits goes on waiting"
        )


def _pending(directory: DataDir) -> str | None:
    try:
        return (directory.path / "secret.key.pending").read_text("ascii").strip() or None
    except FileNotFoundError:
        return None


def _write(directory: DataDir, name: str, lines: Sequence[str]) -> None:
    """Replace a file whole, for its owner alone, and see it safely on disk."""
    draft = directory.path / f".{name}.{secrets.token_hex(8)}"
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(directory.path / name)
        folder = os.open(directory.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigurationError(
            f"{directory.path / name} cannot be written: {error.strerror}"
        ) from error
