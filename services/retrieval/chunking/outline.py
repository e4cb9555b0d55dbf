"""What stands above each place of a text: the headings that are open there, and the sections they make."""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from services.retrieval.reading import TABLE_LEVEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.retrieval.reading import Heading

_PREFIX_CHARACTERS: Final = 120
_HEADER_CHARACTERS: Final = 300
# So many chunks before and after a chunk belong to its section at most: a section is there to be read at once.
_SECTION_REACH: Final = 7
_SPACE: Final = re.compile(r"\s+")


class Outline:
    """The headings of a document.

    Args:
        title: The document's title; may be empty.
        headings: In order.
    """

    def __init__(self, title: str, headings: Sequence[Heading]) -> None:
        self._title = title
        self.starts = [heading.start for heading in headings]
        self._opened: list[tuple[Heading, ...]] = [()]
        opened: list[Heading] = []
        for heading in headings:
            while opened and opened[-1].level >= heading.level:
                opened.pop()
            # One without a title ends what is open at its level.
            if heading.title:
                opened.append(heading)
            self._opened.append(tuple(opened))

    def opened(self, place: int) -> tuple[Heading, ...]:
        """The headings that a place stands under, outermost first."""
        return self._opened[bisect_right(self.starts, place)]

    def anchor(self, text: str, start: int, end: int) -> int:
        """The place that tells what a span stands under: its start, or the last of the headings that it opens with.

        A span under several headings that have text of their own stands under the first.
        """
        place = start
        following = bisect_right(self.starts, place)
        while following < len(self.starts) and self.starts[following] < end:
            line_end = text.find("\n", place)
            if following == 0 or self.starts[following - 1] != place or text[line_end : self.starts[following]].strip():
                return start
            place = self.starts[following]
            following += 1
        return place

    def header(self, place: int) -> str:
        """The header of the table that the place is in the middle of; empty elsewhere."""
        opened = self.opened(place)
        if opened and opened[-1].level >= TABLE_LEVEL and opened[-1].start < place:
            return _plain(opened[-1].title)[:_HEADER_CHARACTERS]
        return ""

    def prefix(self, place: int, span: str) -> str:
        """Title, headings and a table's header, less those with which the span itself begins."""
        opening = _plain(span[: 2 * _PREFIX_CHARACTERS]).casefold()
        titles = [heading.title for heading in self.opened(place) if heading.level < TABLE_LEVEL]
        parts = [part for part in dict.fromkeys((self._title, *titles)) if part and not _is_in(part, opening)]
        # The innermost headings tell most.
        above = _plain(" > ".join(parts))[-_PREFIX_CHARACTERS:]
        header = self.header(place)
        return f"{above}\n{header}" if above and header else above or header


def sections(paths: Sequence[tuple[Heading, ...]]) -> list[tuple[int, int]]:
    """For each chunk, given the headings it stands under, the first and last chunk of its section.

    That is the innermost part of the document that holds more than this chunk, as far as it reaches around it.
    """
    alike = [_in_common(before, after) for before, after in pairwise(paths)]
    found = []
    for place in range(len(paths)):
        depth = max(alike[max(0, place - 1) : place + 1], default=0)
        first = last = place
        while first > max(0, place - _SECTION_REACH) and alike[first - 1] >= depth:
            first -= 1
        while last < min(len(alike), place + _SECTION_REACH) and alike[last] >= depth:
            last += 1
        found.append((first, last))
    return found


def _in_common(one: tuple[Heading, ...], other: tuple[Heading, ...]) -> int:
    count = 0
    for first, second in zip(one, other, strict=False):
        if first.start != second.start:
            break
        count += 1
    return count


def _plain(text: str) -> str:
    return _SPACE.sub(" ", text)


def _is_in(part: str, opening: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(_plain(part).casefold())}(?!\w)", opening) is not None
