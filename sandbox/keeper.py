"""
Keeps a world's state in a file, so that a sandbox that is started again is as it was.

Every request that can change something is answered only once the file holds the change: a refresh
token that a client was given is good after the sandbox was killed in the next moment. Requests that
come together share one write.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.state import read, restore, state_of, written
from sandbox.world import World
from sandbox.worldfile import WorldSpec, add_what_is_new, build_world

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from sandbox.state import State
    from sandbox.tokens import TokenSigner

FILE = "state.json"
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_PAUSE_SHARE = 4
_LONGEST_PAUSE_SECONDS = 0.5

Say = Callable[[str], object]
"""Told, in one line, what somebody should know."""


class StateKeeper:
    """
    Writes a world's state to a file.

    Args:
        world: Whose.
        path: The file; others cannot read it, as it holds secrets.
        described: What the world was begun from; see ``description``.
        say: Hears when the file cannot be written.

    Attributes:
        writes: How often the file was written.
    """

    def __init__(self, world: World, path: Path, *, described: str, say: Say) -> None:
        self._world = world
        self._path = path
        self._described = described
        self._say = say
        self.writes = 0
        self._asked = itertools.count(1)
        self._latest = 0
        """The last of those who asked for a write."""
        self._covered = 0
        """The last of those whose change the file holds."""
        self._writing = asyncio.Lock()
        self._content = b""
        self._cost_seconds = 0.0
        self._complained = False

    def around(self, app: ASGIApp) -> ASGIApp:
        """Give an application whose answers to what may change the world wait for the file."""

        async def kept(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["method"] in _READS:
                await app(scope, receive, send)
                return

            async def send_when_kept(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await self.save()
                await send(message)

            try:
                await app(scope, receive, send_when_kept)
            finally:
                # A fault may have cut the line after the change; then nothing was answered.
                await self.save()

        return kept

    async def save(self) -> None:
        """Return once the file holds the world as it is now, or cannot be written."""
        mine = self._latest = next(self._asked)
        async with self._writing:
            if self._covered >= mine:
                return
            # Large worlds: most of the loop's time stays with those who talk to the sandbox.
            pause = min(self._cost_seconds * _PAUSE_SHARE, _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)
            covered = self._latest
            began = time.perf_counter()
            try:
                content = written(state_of(self._world, described=self._described))
                self._cost_seconds = time.perf_counter() - began
                if content != self._content:
                    await asyncio.to_thread(_replace, self._path, content)
                    self._content = content
                    self.writes += 1
                self._complained = False
            except (OSError, ValueError) as error:
                self._complain(error)
            self._covered = covered

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            self._say(f"{self._path} cannot be written, a restart will forget changes: {error}")


def open_world(
    spec: WorldSpec,
    path: Path,
    *,
    signer: TokenSigner,
    say: Say,
    forget: bool = False,
) -> tuple[World, StateKeeper]:
    """
    Make the world that a file holds, and what is new in its description; without a file, all of it.

    Args:
        spec: The description.
        path: The file. A damaged one is renamed, and the world begins afresh.
        signer: Signs tokens.
        say: Hears what somebody should know.
        forget: Do not look at the file; it is overwritten at the first write.

    Returns:
        The world, and who keeps it in the file.

    Raises:
        OSError: The file cannot be read.
        ValueError: The description makes no sense.
    """
    described = description(spec)
    kept = None if forget else _kept_world(path, signer, say)
    if kept is None:
        world = build_world(spec, signer=signer)
    else:
        world, earlier = kept
        add_what_is_new(world, spec)
        if earlier.described != described:
            say(
                f"{path} is of a world that was described differently: what is new was added, "
                "the rest is as it was; --forget starts afresh"
            )
    return world, StateKeeper(world, path, described=described, say=say)


def description(spec: WorldSpec) -> str:
    """Give a short text that stands for a description."""
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()


def _kept_world(path: Path, signer: TokenSigner, say: Say) -> tuple[World, State] | None:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        state = read(raw)
        world = World(signer=signer)
        restore(world, state)
    except ValueError as error:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        reason = " ".join(str(error).split())[:200]
        say(f"{path} was damaged and is {aside.name} now; the world starts afresh: {reason}")
        return None
    return world, state


def _replace(path: Path, content: bytes) -> None:
    """Replace a file whole, for its owner alone; no reader, and no crash of ours, sees half."""
    draft = path.with_name(f".{path.name}.draft")
    # What a kill left behind may have been made with other rights.
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    draft.replace(path)
