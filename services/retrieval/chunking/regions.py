"""Tells the parts of a document that are cut in different ways: prose, code, rows of tables."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from services.retrieval.chunking.settings import ChunkingStrategy
from services.retrieval.media_types import is_code
from services.retrieval.reading import TABLE_LEVEL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.retrieval.reading import Heading


class Kind(Enum):
    """How a part is cut."""

    PROSE = auto()
    CODE = auto()
    ROWS = auto()


class Region(NamedTuple):
    """A part of a document's text, in characters."""

    kind: Kind
    start: int
    end: int


def regions(length: int, headings: Sequence[Heading], media_type: str, strategy: ChunkingStrategy) -> Iterator[Region]:
    """The parts of a text of this length, in order and without gaps."""
    if strategy is ChunkingStrategy.PROSE:
        yield Region(Kind.PROSE, 0, length)
    elif strategy is ChunkingStrategy.CODE or (strategy is ChunkingStrategy.AUTO and is_code(media_type)):
        yield Region(Kind.CODE, 0, length)
    elif strategy is ChunkingStrategy.TABLE:
        yield Region(Kind.ROWS, 0, length)
    else:
        yield from _tables(length, headings)


def _tables(length: int, headings: Sequence[Heading]) -> Iterator[Region]:
    """A table reaches from its header to the next heading, or to where it is said to end."""
    start = 0
    for place, heading in enumerate(headings):
        if heading.level < TABLE_LEVEL or not heading.title:
            continue
        end = headings[place + 1].start if place + 1 < len(headings) else length
        if start < heading.start:
            yield Region(Kind.PROSE, start, heading.start)
        yield Region(Kind.ROWS, heading.start, end)
        start = end
    if start < length or not length:
        yield Region(Kind.PROSE, start, length)
