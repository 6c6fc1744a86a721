"""The figures on the pages and in the picture are those of the last run of the benchmarks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench import pages, picture
from bench.run import FIGURES, SECTIONS

ROOT = Path(__file__).parents[2]


def results() -> dict[str, Any]:
    return json.loads(pages.RESULTS.read_text("utf-8"))


def test_the_figures_on_the_page_are_the_last_ones() -> None:
    """docs/benchmarks.md says what latest.json says, word by word."""
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")

    assert f"{pages.BEGIN}\n{pages.render(results())}\n{pages.END}" in page


def test_the_picture_is_of_the_last_figures(tmp_path: Path) -> None:
    """latest.svg is what the results draw, and both pages show it."""
    drawn = tmp_path / "again.svg"

    picture.draw(results(), drawn)

    assert drawn.read_text("utf-8") == pages.RESULTS.with_suffix(".svg").read_text("utf-8")
    for name in ("README.md", "docs/benchmarks.md"):
        assert "bench/results/latest.svg" in (ROOT / name).read_text("utf-8")


def test_every_bounded_figure_comes_from_its_section() -> None:
    """What stands at the top of latest.json is what its section measured, in that very run."""
    told = results()

    assert set(FIGURES) == set(picture.BOUNDS)
    for figure, (section, key) in FIGURES.items():
        assert told.get(figure) == told.get(section, {}).get(key)


def test_a_figure_that_falls_short_is_told() -> None:
    """A bound that is not kept is named on the page; one that was not measured as well."""
    short = pages.render({"cost_ratio_1m_rows": 1.3, "per_cpu_second_over_celery": 5.0})

    assert re.search(r"1,000,000 rows.*\| 1\.3 \| at most 1\.2 \| \*\*falls short\*\*", short)
    assert re.search(r"over Celery \| 5 \| at least 5 \| kept", short)
    assert re.search(r"storm.*\| not measured yet \|", short)


def test_the_page_describes_every_section() -> None:
    """Each section of the run has its line on the page."""
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")

    for name in SECTIONS:
        assert re.search(rf"^\| .*`{name}`.* \|", page, re.MULTILINE), name
