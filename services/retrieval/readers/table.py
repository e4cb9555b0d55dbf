"""Reads tables in text: CSV with whatever stands between its cells, TSV."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from services.retrieval.reading import TABLE_LEVEL, UnreadableError, Writing, storable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from services.retrieval.reading import Reading

_DELIMITERS: Final = ",;\t|"
_SAMPLE_CHARACTERS: Final = 64 * 1024
_SAMPLE_ROWS: Final = 200
_MOST_CELL_CHARACTERS: Final = 1024 * 1024
_HEADER_CELL_CHARACTERS: Final = 80
# What spreadsheets write above a table to say what stands between the cells.
_SEPARATOR_LINE: Final = re.compile(r"\ufeff?sep=(.)\r?\n", re.IGNORECASE)
# A number, amount or date: what a column is not called.
_VALUE: Final = re.compile(r"[-+(]?[\d.,:/\s%$€£¥₽()-]*\d[\d.,:/\s%$€£¥₽()TZ-]*")
_LEAST_ROWS: Final = 3


class Table:
    """The rows of a table.

    Args:
        lines: Its lines with their ends.
        sample: Its first characters, to tell its form by.
        delimiter: What stands between cells; empty means told from the sample.
        header: Whether the first row names the columns; None means told from the sample.
    """

    def __init__(self, lines: Iterable[str], sample: str, delimiter: str = "", *, header: bool | None = None) -> None:
        separator = _SEPARATOR_LINE.match(sample)
        self._skipped = separator[0].count("\n") if separator else 0
        sample = sample[separator.end() :] if separator else sample
        self._delimiter = delimiter or (separator[1] if separator else "") or delimiter_of(sample)
        self._lines = iter(lines)
        first = list(_rows(sample.splitlines(keepends=True), self._delimiter, most=_SAMPLE_ROWS))
        self.has_header = _is_header(first) if header is None else header
        self.columns: list[str] = first[0] if self.has_header and first else []

    def rows(self) -> Iterator[list[str]]:
        """The rows below the header, those without any text left out.

        Raises:
            UnreadableError: a cell is beyond all measure, as behind a quote that never closes.
        """
        for _ in range(self._skipped):
            next(self._lines, None)
        rows = _rows(self._lines, self._delimiter)
        if self.has_header:
            next(rows, None)
        return rows


def read(text: str, delimiter: str = "", *, header: bool | None = None) -> Reading:
    """Reads a table: a line a row, ` | ` between cells, the names of the columns as the heading that the rows stand under."""
    text = storable(text.removeprefix("\ufeff"))
    table = Table(io.StringIO(text, newline=""), text[:_SAMPLE_CHARACTERS], delimiter, header=header)
    writing = Writing()
    if table.columns:
        writing.block(line_of(table.columns), level=TABLE_LEVEL)
    for row in table.rows():
        writing.block(line_of(row), separator="\n")
    return writing.reading()


def line_of(cells: Iterable[str]) -> str:
    """A row as a line of text."""
    return " | ".join(cells)


def looks_tabular(sample: str) -> bool:
    """Whether a text is a table beyond doubt: several lines, each of as many cells, under a header."""
    whole = sample[:_SAMPLE_CHARACTERS].rpartition("\n")[0] or sample
    lines = [line for line in whole.splitlines() if line.strip()][:_SAMPLE_ROWS]
    if len(lines) < _LEAST_ROWS:
        return False
    delimiter = delimiter_of(whole)
    rows = list(_rows([line + "\n" for line in lines], delimiter))
    widths = {len(row) for row in rows}
    least = 2 if delimiter == "\t" else 3
    tight = not any(cell.startswith(" ") for row in rows for cell in row[1:]) or delimiter != ","
    return len(widths) == 1 and widths.pop() >= least and tight and delimiter != "|" and _is_header(rows)


def delimiter_of(sample: str) -> str:
    """What stands between the cells: that with which most rows have as many cells."""
    best, best_score = ",", 0.0
    lines = sample.splitlines(keepends=True)
    for delimiter in _DELIMITERS:
        try:
            widths = Counter(len(row) for row in _rows(lines, delimiter, most=_SAMPLE_ROWS))
        except UnreadableError:
            continue
        width, count = max(widths.items(), key=lambda one: (one[1], one[0]), default=(0, 0))
        score = count / max(1, widths.total()) * (1 - 1 / width) if width > 1 else 0.0
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _rows(lines: Iterable[str], delimiter: str, *, most: int | None = None) -> Iterator[list[str]]:
    csv.field_size_limit(_MOST_CELL_CHARACTERS)
    try:
        for number, row in enumerate(csv.reader(lines, delimiter=delimiter, skipinitialspace=True)):
            if most is not None and number >= most:
                return
            cells = [" ".join(storable(cell).split()) for cell in row]
            if any(cells):
                yield cells
    except csv.Error as error:
        raise UnreadableError(f"is a table that cannot be read: {error}") from error


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: short, different, none a number, and not alone."""
    if len(rows) < 2 or len(rows[0]) < 2:  # noqa: PLR2004 - one below the other, one beside the other
        return False
    first = [cell.casefold() for cell in rows[0]]
    return all(cell and len(cell) <= _HEADER_CELL_CHARACTERS and not _VALUE.fullmatch(cell) for cell in first) and len(
        set(first)
    ) == len(first)
