"""The verbs, a file for each group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

GROUPS: dict[str, typer.Typer] = {}
VERBS: dict[str, Callable[..., Any]] = {}
