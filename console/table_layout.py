"""
How a table fits a width without breaking a word: ids, addresses and slugs are copied by hand.

Pure: texts in, lines out. What does not fit gives way in this order: the seconds of times, the
space between columns, columns that the caller can spare, and at last the table itself: then each
row is a few lines, its first cell above the others.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rich.cells import cell_len

_PROSE = 24
"""A sentence gets so much room, lest it becomes a column of single words."""

_GAP, _NARROW_GAP = 2, 1


@dataclass(frozen=True, slots=True)
class Column:
    """
    One column.

    Attributes:
        heading: Above it.
        cells: One text for each row.
        short: The same in fewer letters, for a narrow table: times without their seconds.
        right: Aligned right.
        whole: No cell is broken at all, not even between words.
    """

    heading: str
    cells: tuple[str, ...]
    short: tuple[str, ...] | None = None
    right: bool = False
    whole: bool = False

    @property
    def least(self) -> int:
        """So narrow it can be."""
        room = max(map(self._least_of, self.cells), default=0)
        return max(room, *map(cell_len, self.heading.split() or [""]))

    @property
    def most(self) -> int:
        """So wide it is where there is room."""
        return max(cell_len(self.heading), max(map(cell_len, self.cells), default=0))

    def _least_of(self, text: str) -> int:
        whole = cell_len(text)
        if self.whole or " " not in text or whole <= _PROSE:
            return whole
        return max(_PROSE, *map(cell_len, text.split()))


@dataclass(frozen=True, slots=True)
class Layout:
    """
    Columns that fit, with their widths.

    Attributes:
        columns: Those that are shown, left to right.
        widths: One for each; empty where rows have to be told as blocks.
        gap: Spaces between two columns.
    """

    columns: tuple[Column, ...]
    widths: tuple[int, ...] = field(default=())
    gap: int = _GAP


def fitted(columns: Sequence[Column], width: int | None, spare: Sequence[str] = ()) -> Layout:
    """
    Fit columns into a width.

    Args:
        columns: All there is to show.
        width: Of the terminal; None: as wide as it takes, for a file or the next program.
        spare: Headings of columns that may be left out, the first one first.
    """
    if width is None:
        return _spread(columns, sum(column.most for column in columns) + len(columns) * _GAP, _GAP)
    shorter = [replace(column, cells=column.short or column.cells) for column in columns]
    tries = [(list(columns), _GAP), (shorter, _GAP), (shorter, _NARROW_GAP)]
    kept = shorter
    for heading in spare:
        kept = [column for column in kept if column.heading != heading]
        tries += [(kept, _GAP), (kept, _NARROW_GAP)]
    for some, gap in tries:
        if sum(column.least for column in some) + gap * (len(some) - 1) <= width:
            return _spread(some, width, gap)
    return Layout(tuple(shorter))


def without_alike(columns: Sequence[Column], headings: Sequence[str]) -> list[Column]:
    """Leave out those of the named columns that say the same in each row, and empty ones."""
    left = [
        column
        for column in columns
        if any(column.cells) and (column.heading not in headings or len(set(column.cells)) > 1)
    ]
    return left or list(columns)


def head_lines(layout: Layout) -> list[str]:
    """Write the headings; none above blocks, which have them inside."""
    if not layout.widths:
        return []
    return _row_lines(layout, [column.heading for column in layout.columns])


def body_lines(layout: Layout, width: int | None) -> list[str]:
    """Write the rows."""
    rows = zip(*(column.cells for column in layout.columns), strict=True)
    if layout.widths:
        return [line for row in rows for line in _row_lines(layout, row)]
    return [line for row in rows for line in _block_lines(layout, row, width or 0)]


def _spread(columns: Sequence[Column], width: int, gap: int) -> Layout:
    """Give each column what it needs, and what is left to those that wrap, evenly."""
    widths = [column.least for column in columns]
    left = width - sum(widths) - gap * (len(columns) - 1)
    wanting = [index for index, column in enumerate(columns) if column.most > widths[index]]
    while wanting and left > 0:
        share = max(1, left // len(wanting))
        for index in list(wanting):
            more = min(share, columns[index].most - widths[index], left)
            widths[index] += more
            left -= more
            if widths[index] >= columns[index].most:
                wanting.remove(index)
    return Layout(tuple(columns), tuple(widths), gap)


def _row_lines(layout: Layout, cells: Sequence[str]) -> list[str]:
    wrapped = [_wrapped(text, width) for text, width in zip(cells, layout.widths, strict=True)]
    lines = []
    for number in range(max(map(len, wrapped))):
        parts = []
        for column, width, lines_of in zip(layout.columns, layout.widths, wrapped, strict=True):
            text = lines_of[number] if number < len(lines_of) else ""
            blank = " " * (width - cell_len(text))
            parts.append(blank + text if column.right else text + blank)
        lines.append((" " * layout.gap).join(parts).rstrip())
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    if cell_len(text) <= width:
        return [text]
    if cell_len(text) == len(text):
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if line and cell_len(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]


def _block_lines(layout: Layout, cells: Sequence[str], width: int) -> list[str]:
    first, *others = cells
    parts = [
        f"{column.heading}: {text}"
        for column, text in zip(layout.columns[1:], others, strict=True)
        if text
    ]
    lines, line = [first], ""
    for part in parts:
        longer = f"{line}   {part}" if line else f"  {part}"
        if line and cell_len(longer) > width:
            lines += _hanging(line, width)
            line = f"  {part}"
        else:
            line = longer
    return lines + (_hanging(line, width) if line else [])


def _hanging(line: str, width: int) -> list[str]:
    begin, *more = _wrapped(line.strip(), width - 4)
    return [f"  {begin}", *(f"    {one}" for one in more)]
