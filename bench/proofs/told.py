"""What a proof claims, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Claim:
    """
    One line of the table.

    Attributes:
        name: What is claimed.
        bound: What must hold.
        figures: What was measured.
        holds: Whether it does.
    """

    name: str
    bound: str
    figures: dict[str, Any] = field(default_factory=dict)
    holds: bool = False
