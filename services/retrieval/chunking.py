"""Cuts a document's text into chunks: the unit that is embedded, searched and cited.

A chunk is a span of the text, never a rewritten one. It holds whole sentences as long as these fit, about `TARGET_TOKENS` of
them, and begins with the end of the one before it, so that no thought is lost at a cut. A heading begins a new chunk, unless
the one before it is still very short.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from services.retrieval.languages import CJK_CHARACTER
from services.retrieval.sentences import sentence_ends

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.retrieval.reading import Heading

# The embedder on board reads 256 tokens; what a text has more is lost to it. Together with the prefix this stays below.
TARGET_TOKENS: Final = 200
# A chunk grows to this if one more sentence then ends it well.
MOST_TOKENS: Final = 220
_OVERLAP_TOKENS: Final = 30
# Below this a chunk goes on over a heading.
_LEAST_TOKENS: Final = 40
_PREFIX_CHARACTERS: Final = 120

# One word of up to 7 letters is about one WordPiece token, each 5 more another; figures, marks and Chinese characters
# are one each. Held against the real tokenizer this is some 10 % too high on English prose, which is the safe side.
_PIECE: Final = re.compile(rf"{CJK_CHARACTER.pattern}|[^\W\d_]{{1,7}}|\d{{1,3}}|[^\w\s]|_")
_SPACE: Final = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span of a document's text.

    Attributes:
        ordinal: Its place among the document's chunks, from 0.
        start: Where it starts, in characters.
        end: Where it ends, exclusive.
        text: The text from `start` to `end`.
        prefix: Title and headings it stands under, to be indexed with it; may be empty.
    """

    ordinal: int
    start: int
    end: int
    text: str
    prefix: str

    @property
    def indexed_text(self) -> str:
        """What is embedded and analysed."""
        return f"{self.prefix}\n{self.text}" if self.prefix else self.text


def estimate_tokens(text: str) -> int:
    """About how many tokens the text has."""
    return sum(1 for _ in _PIECE.finditer(text))


def chunk(text: str, *, title: str = "", headings: Sequence[Heading] = ()) -> Iterator[Chunk]:
    """Cuts the text. Every character that is not white space is in at least one chunk.

    Args:
        text: The document's text.
        title: The document's title; may be empty.
        headings: The headings in it, in order.
    """
    paths = _heading_paths(headings)
    starts = [heading.start for heading in headings]
    for ordinal, (start, end) in enumerate(_spans(text, starts)):
        span = text[start:end]
        path = paths[bisect_right(starts, start)]
        yield Chunk(ordinal, start, end, span, _prefix(title, path, span))


def _spans(text: str, heading_starts: Sequence[int]) -> Iterator[tuple[int, int]]:
    opened: list[tuple[int, int, int]] = []
    size = fresh = 0
    headings = frozenset(heading_starts)
    for start, end in _pieces(text, heading_starts):
        tokens = estimate_tokens(text[start:end])
        begins_section = start in headings and size >= _LEAST_TOKENS
        if (
            opened
            and fresh
            and (begins_section or size + tokens > (MOST_TOKENS if size < TARGET_TOKENS / 2 else TARGET_TOKENS))
        ):
            yield _trimmed(text, opened[0][0], opened[-1][1])
            opened = [] if begins_section else _overlap(opened, tokens)
            size, fresh = sum(one[2] for one in opened), 0
        opened.append((start, end, tokens))
        size += tokens
        fresh += 1
    if fresh:
        yield _trimmed(text, opened[0][0], opened[-1][1])


def _overlap(pieces: list[tuple[int, int, int]], following: int) -> list[tuple[int, int, int]]:
    """The last sentences, as many as fit both the overlap and the chunk that begins with them."""
    kept: list[tuple[int, int, int]] = []
    room = min(_OVERLAP_TOKENS, TARGET_TOKENS - following)
    for piece in reversed(pieces[1:]):
        room -= piece[2]
        if room < 0:
            break
        kept.insert(0, piece)
    return kept


def _pieces(text: str, heading_starts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Sentences, and parts of those too long for a chunk; none reaches over the start of a heading, none is blank."""
    cuts = iter([*heading_starts, len(text) + 1])
    cut, start = next(cuts), 0
    for end in sentence_ends(text):
        while cut < end:
            yield from _fitting(text, start, cut)
            start, cut = max(start, cut), next(cuts)
        yield from _fitting(text, start, end)
        start = end


def _fitting(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The span itself where a chunk can hold it; otherwise parts of it, cut at a line's end, a space, or anywhere."""
    while start < end:
        beyond = next(islice(_PIECE.finditer(text, start, end), TARGET_TOKENS, None), None)
        limit = beyond.start() if beyond else end
        if limit < end:
            for mark in ("\n", " "):
                found = text.rfind(mark, start + (limit - start) // 2, limit)
                if found != -1:
                    limit = found + 1
                    break
        if text[start:limit].strip():
            yield start, limit
        start = limit


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    span = text[start:end]
    return start + len(span) - len(span.lstrip()), end - (len(span) - len(span.rstrip()))


def _heading_paths(headings: Sequence[Heading]) -> list[tuple[str, ...]]:
    """For each number of headings passed, the titles of those that are open there."""
    paths: list[tuple[str, ...]] = [()]
    opened: list[Heading] = []
    for heading in headings:
        while opened and opened[-1].level >= heading.level:
            opened.pop()
        opened.append(heading)
        paths.append(tuple(one.title for one in opened))
    return paths


def _prefix(title: str, path: Sequence[str], span: str) -> str:
    """Title and headings, less those with which the span itself begins."""
    opening = _SPACE.sub(" ", span[: 2 * _PREFIX_CHARACTERS]).casefold()
    parts = [
        part
        for part in dict.fromkeys((title, *path))
        if part and not re.search(rf"(?<!\w){re.escape(_SPACE.sub(' ', part).casefold())}(?!\w)", opening)
    ]
    # The innermost headings tell most.
    return _SPACE.sub(" ", " > ".join(parts))[-_PREFIX_CHARACTERS:]
