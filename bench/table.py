"""Medians and tables for the benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from console.output import out, print_table


@dataclass(frozen=True, slots=True)
class Sample:
    """
    One run of something that handles mails.

    Attributes:
        mails: How many.
        seconds: From the first to the last.
        cpu_seconds: Of the process under test, user and system.
        peak_mb: Its largest resident size.
    """

    mails: int
    seconds: float
    cpu_seconds: float
    peak_mb: float = 0.0

    @property
    def rate(self) -> float:
        """Mails a second."""
        return self.mails / self.seconds

    @property
    def cpu_per_thousand(self) -> float:
        """CPU seconds for 1,000 mails."""
        return 1000 * self.cpu_seconds / self.mails

    @property
    def per_cpu_second(self) -> float:
        """Mails for a CPU second."""
        return self.mails / self.cpu_seconds


def rates(samples: Sequence[Sample]) -> dict[str, float]:
    """Give the medians of several runs."""
    return {
        "mails_per_second": round(median(sample.rate for sample in samples), 1),
        "cpu_seconds_per_1000": round(median(sample.cpu_per_thousand for sample in samples), 4),
        "mails_per_cpu_second": round(median(sample.per_cpu_second for sample in samples), 1),
        "peak_mb": round(max(sample.peak_mb for sample in samples), 1),
        "runs": len(samples),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value below which this share of all values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def waits_in_ms(values: Sequence[float]) -> dict[str, float]:
    """Give the percentiles of waits in ms."""
    return {
        "p50_ms": round(percentile(values, 0.50), 1),
        "p95_ms": round(percentile(values, 0.95), 1),
        "p99_ms": round(percentile(values, 0.99), 1),
        "max_ms": round(max(values), 1),
        "samples": len(values),
    }


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with a heading; numbers stand at the right."""
    out.print(f"\n[bold]{title}[/bold]")
    print_table(columns, rows, right=columns[1:])
