"""The picture of the results: a bar for each contender and one for each bound, as an SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

WIDTH = 860
LABELS_WIDTH = 300
BARS_WIDTH = 430
ROW = 26
TITLE = 40

CONTENDERS = {
    "bare_loop": "bare aiosmtplib loop",
    "alertpost": "alertpost, 1 worker process",
    "celery": "Celery task per mail",
    "actor_per_mail": "Dramatiq actor per mail",
    "emailproxy": "emailproxy",
    "postfix": "postfix with sasl-xoauth2",
}


@dataclass(frozen=True, slots=True)
class Bound:
    """
    A figure and what it must reach.

    Attributes:
        at_least: Whether more is better.
    """

    label: str
    value: float
    at_least: bool

    def kept(self, figure: float) -> bool:
        """Say whether a figure keeps it."""
        return figure >= self.value if self.at_least else figure <= self.value


BOUNDS = {
    "ratio_to_bare_loop_sqlite": Bound("whole path over the bare loop, SQLite", 0.6, at_least=True),
    "ratio_to_bare_loop_postgresql": Bound(
        "whole path over the bare loop, PostgreSQL", 0.6, at_least=True
    ),
    "per_cpu_second_over_celery": Bound("mails per CPU s over Celery", 5.0, at_least=True),
    "per_cpu_second_over_actor_per_mail": Bound(
        "mails per CPU s over an actor per mail", 5.0, at_least=True
    ),
    "allowed_rate_share_1000_mailboxes": Bound(
        "share of the allowed rate, 1,000 mailboxes", 0.95, at_least=True
    ),
    "quiet_p95_ratio_in_storm": Bound("quiet p95 in a storm over calm", 2.0, at_least=False),
    "cost_ratio_1m_rows": Bound("cost of a mail, 1,000,000 rows over 1,000", 1.2, at_least=False),
    "large_mails_above_idle_mb": Bound(
        "1,000 mails of 20 MB: worker MB above idle", 400, at_least=False
    ),
    "large_mails_longest_lock_ms": Bound(
        "the same: longest wait for SQLite's lock, ms", 250, at_least=False
    ),
    "large_mails_quiet_p95_ratio": Bound(
        "the same: small mails' p95 over calm", 1.2, at_least=False
    ),
}
"""Every figure that has a bound, by its key in latest.json."""


def draw(told: Mapping[str, Any], file: Path) -> None:
    """Draw what there is of the results."""
    parts: list[str] = []
    y = 10
    peers = told.get("peers", {})
    rates = [
        (label, peers[name].get("mails_per_cpu_second"))
        for name, label in CONTENDERS.items()
        if name in peers
    ]
    if rates:
        y = _title(parts, y, "Mails per CPU second, all processes of each contender")
        y = _bars(parts, y, rates)
    reached = [(key, bound) for key, bound in BOUNDS.items() if key in told]
    if reached:
        y = _title(parts, y + 14, "Figures and their bounds (the line)")
        for key, bound in reached:
            y = _figure(parts, y, bound, float(told[key]))
    parts.append(_text(10, y + 22, told.get("machine", ""), size=11, colour="#767676"))
    height = y + 34
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" role="img">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n",
        encoding="utf-8",
    )


def _title(parts: list[str], y: int, text: str) -> int:
    parts.append(_text(10, y + 22, text, size=15, weight="bold"))
    return y + TITLE


def _bars(parts: list[str], y: int, rates: Sequence[tuple[str, float | None]]) -> int:
    longest = max((rate for _, rate in rates if rate), default=1.0)
    for label, rate in rates:
        parts.append(_text(10, y + 15, label))
        if rate is None:
            parts.append(_text(LABELS_WIDTH, y + 15, "not measured", colour="#767676"))
        else:
            length = max(2.0, BARS_WIDTH * rate / longest)
            colour = "#1f6feb" if label.startswith("alertpost") else "#9aa4b2"
            parts.append(_bar(y, length, colour))
            parts.append(_text(LABELS_WIDTH + length + 8, y + 15, f"{rate:,.0f}"))
        y += ROW
    return y


def _figure(parts: list[str], y: int, bound: Bound, figure: float) -> int:
    """Draw a bar on a scale on which the bound always stands at the same place."""
    at_bound = BARS_WIDTH * 0.5
    length = min(BARS_WIDTH, at_bound * figure / bound.value)
    parts.append(_text(10, y + 15, bound.label))
    parts.append(_bar(y, length, "#2da44e" if bound.kept(figure) else "#cf222e"))
    x = LABELS_WIDTH + at_bound
    parts.append(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + ROW - 4}" stroke="#24292f" '
        'stroke-width="2"/>'
    )
    sign = "≥" if bound.at_least else "≤"
    words = f"{figure:g} ({sign} {bound.value:g})"
    parts.append(_text(LABELS_WIDTH + max(length, at_bound) + 8, y + 15, words))
    return y + ROW


def _bar(y: int, length: float, colour: str) -> str:
    return (
        f'<rect x="{LABELS_WIDTH}" y="{y + 2}" width="{length:.1f}" height="{ROW - 8}" '
        f'fill="{colour}"/>'
    )


def _text(
    x: float, y: int, text: str, *, size: int = 13, weight: str = "normal", colour: str = "#24292f"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}">'
        f"{escape(text)}</text>"
    )
