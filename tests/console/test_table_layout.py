"""A table fits the terminal without breaking what is copied from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from console.table_layout import Column, body_lines, fitted, head_lines, without_alike

WORDS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=40)
CELLS = st.lists(WORDS, max_size=12).map(" ".join)


@given(st.data(), st.integers(20, 200))
def test_no_word_is_broken_and_no_line_is_too_long(data: st.DataObject, width: int) -> None:
    """Whatever the cells hold; only a word that is longer than the line may stand out."""
    rows = data.draw(st.lists(st.tuples(WORDS, CELLS, CELLS), min_size=1, max_size=4))
    columns = [
        Column(name, tuple(row[number] for row in rows))
        for number, name in enumerate(("Id", "What it says", "Who"))
    ]
    layout = fitted(columns, width)
    lines = [*head_lines(layout), *body_lines(layout, width)]
    said = " ".join(lines).split()

    for word in " ".join(cell for row in rows for cell in row).split():
        assert word in said
    longest = max(cell_len(word) for row in rows for cell in row for word in cell.split() or [""])
    assert all(cell_len(line) <= max(width, longest + 20) for line in lines)
    if layout.widths:
        assert all(cell_len(line) <= width for line in lines)


def test_times_lose_their_seconds_before_a_column_goes() -> None:
    """What is easiest to do without goes first."""
    columns = [
        Column("When", ("2026-11-30 20:37:38Z",), ("2026-11-30 20:37Z",), whole=True),
        Column("Who", ("alice",)),
        Column("Cloud", ("worldwide",)),
    ]

    def shown(width: int) -> str:
        layout = fitted(columns, width, ["Cloud"])
        return "|".join(" ".join(line.split()) for line in body_lines(layout, width))

    assert shown(38) == "2026-11-30 20:37:38Z alice worldwide"
    assert shown(37) == "2026-11-30 20:37Z alice worldwide"
    assert shown(33) == "2026-11-30 20:37Z alice worldwide"
    assert shown(32) == "2026-11-30 20:37Z alice"
    assert shown(22) == "2026-11-30 20:37Z|Who: alice|Cloud: worldwide"


@pytest.mark.parametrize(
    ("clouds", "left"), [(("gcc", "gcc"), ["Slug"]), (("gcc", "dod"), ["Slug", "Cloud"])]
)
def test_what_each_row_says_goes(clouds: tuple[str, str], left: list[str]) -> None:
    """A column that tells nothing apart leaves its room to others."""
    columns = [Column("Slug", ("a", "b")), Column("Cloud", clouds)]

    assert [column.heading for column in without_alike(columns, ["Cloud"])] == left


def test_without_a_width_nothing_is_wrapped() -> None:
    """What goes to a file or the next program is one line for each row."""
    layout = fitted([Column("Id", ("a" * 300,)), Column("Text", ("word " * 100,))], None)

    assert len(body_lines(layout, None)) == 1
