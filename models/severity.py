from __future__ import annotations

from enum import IntEnum


class Severity(IntEnum):
    """How urgent an alert is; the lane is drained most severe first."""

    CRITICAL = 0
    ELEVATED = 1
    NORMAL = 2
    LOW = 3

    @property
    def label(self) -> str:
        """The word that producers, tables and reports use."""
        return self.name.lower()
