"""Options that several commands share."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from console import when
from models.severity import Severity

_WORDS = {severity.label: severity for severity in Severity}


def severity(text: str) -> Severity:
    """Read a severity; for ``typer.Option(parser=…)``."""
    if (found := _WORDS.get(text.strip().lower())) is None:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(_WORDS)}")
    return found


Since = Annotated[
    datetime | None,
    typer.Option(
        parser=when.since, metavar="WHEN", help="Not before: 2h, 3d, 2026-11-01, or ISO 8601."
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(
        parser=when.since, metavar="WHEN", help="Before: 2h (ago), 2026-11-01, or ISO 8601."
    ),
]
SeverityOption = Annotated[
    Severity | None,
    typer.Option("--severity", parser=severity, metavar="|".join(_WORDS), help="How urgent."),
]
Tenant = Annotated[str | None, typer.Option(metavar="SLUG", help="Only this tenant's.")]
Mailbox = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Only this mailbox's.")]
Limit = Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="At most so many.")]
Why = Annotated[
    str | None, typer.Option("--why", metavar="TEXT", help="The reason, for the audit trail.")
]
