"""Cuts a document's text into chunks: the unit that is embedded, searched and cited.

A chunk is a span of the text, never a rewritten one. In prose it holds whole sentences as long as these fit and begins with the
end of the one before it, so that no thought is lost at a cut. A heading begins a new chunk, unless the one before it is still
very short. Code is cut at definitions, then at empty lines, then at lines; a table at rows.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from services.retrieval.chunking.outline import Outline, sections
from services.retrieval.chunking.regions import Kind, regions
from services.retrieval.chunking.settings import DEFAULT_CHUNKING, ChunkingStrategy
from services.retrieval.chunking.tokens import ESTIMATE
from services.retrieval.reading import TABLE_LEVEL, Heading
from services.retrieval.sentences import sentence_ends

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from services.retrieval.chunking.regions import Region
    from services.retrieval.chunking.settings import ChunkingSettings
    from services.retrieval.chunking.tokens import Measure


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of a document's text.

    Attributes:
        ordinal: Its place among the document's chunks, from 0.
        start: Where it starts, in characters.
        end: Where it ends, exclusive.
        text: The text from `start` to `end`.
        prefix: Title and headings it stands under, to be indexed with it; may be empty.
        path: The titles of the headings it stands under, outermost first; the last may be a table's header.
        page: The page it starts on, from 1; 0 where the document has no pages.
        section: The ordinals of the first and the last chunk of the section that it is in.
    """

    ordinal: int
    start: int
    end: int
    text: str
    prefix: str
    path: tuple[str, ...] = ()
    page: int = 0
    section: tuple[int, int] = (0, 0)

    @property
    def indexed_text(self) -> str:
        """What is embedded and analysed."""
        return f"{self.prefix}\n{self.text}" if self.prefix else self.text


class _Piece(NamedTuple):
    start: int
    end: int
    tokens: int


def chunk(
    text: str,
    *,
    title: str = "",
    headings: Sequence[Heading] = (),
    pages: Sequence[int] = (),
    media_type: str = "",
    settings: ChunkingSettings = DEFAULT_CHUNKING,
    measure: Measure = ESTIMATE,
) -> list[Chunk]:
    """Cuts the text. Every character that is not white space is in at least one chunk.

    Args:
        text: The document's text.
        title: The document's title; may be empty.
        headings: The headings in it, in order.
        pages: Where its pages start.
        media_type: What the document is.
        settings: How to cut.
        measure: What tells the tokens.
    """
    if settings.strategy is ChunkingStrategy.TABLE and not any(heading.level >= TABLE_LEVEL for heading in headings):
        headings = _with_first_line(text, headings)
    outline = Outline(title, headings)
    cutter = _Cutter(text, outline, settings, measure)
    spans = list(cutter.spans(regions(len(text), headings, media_type, settings.strategy)))
    opened = [outline.opened(outline.anchor(text, start, end)) for start, end in spans]
    return [
        Chunk(
            ordinal,
            start,
            end,
            text[start:end],
            outline.prefix(start, text[start:end]),
            tuple(heading.title for heading in opened[ordinal]),
            bisect_right(pages, start),
            section,
        )
        for ordinal, ((start, end), section) in enumerate(zip(spans, sections(opened), strict=True))
    ]


def _with_first_line(text: str, headings: Sequence[Heading]) -> list[Heading]:
    """The headings, and the first line that is not blank as the header of a table."""
    start = len(text) - len(text.lstrip())
    line = text[start:].partition("\n")[0].strip()
    return sorted([*headings, Heading(start, TABLE_LEVEL, line)], key=lambda heading: heading.start) if line else [*headings]


class _Cutter:
    """Cuts the regions of a text into spans."""

    def __init__(self, text: str, outline: Outline, settings: ChunkingSettings, measure: Measure) -> None:
        self._text = text
        self._outline = outline
        self._settings = settings
        self._measure = measure
        self._cuts = [] if settings.strategy is ChunkingStrategy.PROSE else outline.starts
        self._headings = frozenset(self._cuts)
        # Below this a chunk goes on over a heading.
        self._least = max(1, settings.least_tokens)
        self._keeps_indent = False

    def spans(self, regions: Iterable[Region]) -> Iterator[tuple[int, int]]:
        """Packs pieces into spans. One that is very short goes on into the next region."""
        opened: list[_Piece] = []
        size = 0
        for region in regions:
            if size >= self._least:
                yield self._trimmed(opened)
                opened, size = [], 0
            target = self._target(region)
            self._keeps_indent = region.kind is Kind.CODE
            fresh = len(opened)
            for piece in self._pieces(region, target):
                begins_section = piece.start in self._headings and size >= self._least
                if fresh and (begins_section or size + piece.tokens > (target * 1.1 if size < target / 2 else target)):
                    yield self._trimmed(opened)
                    overlaps = region.kind is Kind.PROSE and not begins_section
                    opened = self._overlap(opened, target - piece.tokens) if overlaps else []
                    size, fresh = sum(one.tokens for one in opened), 0
                opened.append(piece)
                size += piece.tokens
                fresh += 1
        if opened:
            yield self._trimmed(opened)

    def _target(self, region: Region) -> int:
        """What there is room for: a table's header is indexed with each group of its rows."""
        target = self._settings.target_tokens
        if region.kind is not Kind.ROWS:
            return target
        header = self._outline.header(region.end - 1)
        return target - min(self._measure.tokens(header, 0, len(header)), target // 2)

    def _overlap(self, pieces: list[_Piece], free: int) -> list[_Piece]:
        """The last sentences, as many as fit both the overlap and the chunk that begins with them."""
        kept: list[_Piece] = []
        room = min(self._settings.overlap_tokens, free)
        for piece in reversed(pieces[1:]):
            room -= piece.tokens
            if room < 0:
                break
            kept.insert(0, piece)
        return kept

    def _pieces(self, region: Region, target: int) -> Iterator[_Piece]:
        """Sentences, lines or blocks, and parts of those too long for a chunk; none reaches over a heading, none is blank."""
        cuts = iter([*(cut for cut in self._cuts if region.start <= cut < region.end), region.end + 1])
        cut, start = next(cuts), region.start
        for end in self._ends(region, target):
            while cut < end:
                yield from self._fitting(start, cut, target)
                start, cut = max(start, cut), next(cuts)
            yield from self._fitting(start, end, target)
            start = end

    def _ends(self, region: Region, target: int) -> Iterator[int]:
        if region.kind is Kind.PROSE:
            whole = self._text[region.start : region.end] if (region.start, region.end) != (0, len(self._text)) else self._text
            return (region.start + end for end in sentence_ends(whole))
        return self._line_ends(region, target)

    def _line_ends(self, region: Region, target: int) -> Iterator[int]:
        """Where lines end; in code where blocks do that empty lines close, as far as they are short."""
        place, size = region.start, 0
        while place < region.end:
            start = place
            found = self._text.find("\n", place, region.end)
            place = region.end if found == -1 else found + 1
            if region.kind is Kind.CODE and place < region.end and self._text[start:place].strip():
                size += self._measure.tokens(self._text, start, place)
                if size <= target // 4:
                    continue
            size = 0
            yield place

    def _fitting(self, start: int, end: int, target: int) -> Iterator[_Piece]:
        """The span itself where a chunk can hold it; otherwise parts of it, cut at a line's end, a space, or anywhere."""
        text = self._text
        while start < end:
            limit = self._measure.fitting(text, start, end, target)
            if limit < end:
                for mark in ("\n", " "):
                    found = text.rfind(mark, start + (limit - start) // 2, limit)
                    if found != -1:
                        limit = found + 1
                        break
            if text[start:limit].strip():
                yield _Piece(start, limit, self._measure.tokens(text, start, limit))
            start = limit

    def _trimmed(self, pieces: Sequence[_Piece]) -> tuple[int, int]:
        start, end = pieces[0].start, pieces[-1].end
        span = self._text[start:end]
        first = start + len(span) - len(span.lstrip())
        if self._keeps_indent:
            first = max(start, self._text.rfind("\n", 0, first) + 1)
        return first, end - (len(span) - len(span.rstrip()))
