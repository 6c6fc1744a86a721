"""The whole command line as one group, whose commands are loaded when somebody types them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer
from typer import core
from typer.core import TyperGroup

from console.commands import COMMANDS, LISTINGS, load
from console.plain_help import make_plain, write_commands


class LazyCommands(TyperGroup):
    """Lists commands by the table of their names; loads the one that was typed."""

    offered: Sequence[str] = tuple(COMMANDS)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        make_plain(self, self.context_settings)
        self.commands: Any = _Loading(self)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find what was typed; a listing that has a file of its own comes without its group."""
        if tuple(args[:2]) in LISTINGS and args[0] in self.offered:
            return args[0], self.loaded(*args[:2]), args[1:]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as above
        """Say what each command is for, without loading it."""
        write_commands(formatter, [(name, COMMANDS[name].summary) for name in self.offered])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Complete the names of commands, without loading them, and our own options."""
        # Typer shows it nowhere else.
        item = core.CompletionItem  # type: ignore[attr-defined]
        names = [
            item(name, help=COMMANDS[name].summary)
            for name in self.offered
            if name.startswith(incomplete)
        ]
        return [*names, *super(TyperGroup, self).shell_complete(ctx, incomplete)]

    def loaded(self, name: str, verb: str | None = None) -> Any:
        """Load a command, or of a group only what a verb needs."""
        shell = typer.Typer(add_completion=False, callback=_nothing)
        command = load(name, verb)
        if isinstance(command, typer.Typer):
            shell.add_typer(command, name=name)
        else:
            shell.command(name)(command)
        group: Any = typer.main.get_group(shell)
        made = group.commands[name]
        make_plain(made, self.context_settings)
        return made


class _Loading(Mapping[str, Any]):
    """The commands by name, each made when it is looked up."""

    def __init__(self, group: LazyCommands) -> None:
        self._group = group

    def __getitem__(self, name: str) -> Any:
        if name not in self._group.offered:
            raise KeyError(name)
        return self._group.loaded(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._group.offered)

    def __len__(self) -> int:
        return len(self._group.offered)


def _nothing() -> None:
    """Keep a group of one command a group."""
