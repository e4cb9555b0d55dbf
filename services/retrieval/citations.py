"""Checks the citation markers of an answer while it streams.

A marker is `[n]`, or `[n, m]`, where n is the place of a source, from 1. A marker that names a source becomes a citation of the
sentence before it; a number that names none is taken out of the text, so that no reader follows it into nothing. Brackets in
code are left alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from services.retrieval.grounding.groundedness import Grounds
from services.retrieval.sentences import sentence_ends

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.retrieval.passages import Hit

_MARKER: Final = re.compile(r"(?P<space>\s*)[\[【](?P<numbers>\d{1,3}(?:\s*[,，;]\s*\d{1,3})*)[\]】]")
# What may be the beginning of a marker, with the space before it, waits for the rest: at most this many characters.
_LONGEST: Final = 48
_FENCE: Final = re.compile(r"^[ \t]*```", re.MULTILINE)
_BEGINNING: Final = re.compile(r"\s*(?:[\[【][\d\s,，;]*)?$")


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Citation:
    """That a sentence of the answer rests on a source.

    Attributes:
        number: Place of the source, from 1; the marker's number.
        collection: Id of the source's collection.
        document: Id of the source's document.
        chunk: Id of the source's chunk.
        start: Where the sentence starts in the answer's text, in characters.
        end: Where it ends, exclusive; the marker follows.
        support: 0 to 1: how far the source holds the sentence; see `groundedness.Grounds.support`.
        source_start: Where the supporting sentences start in the document's text, in characters.
        source_end: Where they end, exclusive.
    """

    number: int
    collection: str
    document: str
    chunk: str
    start: int
    end: int
    support: float
    source_start: int = 0
    source_end: int = 0


Piece: TypeAlias = Text | Citation


class CitationChecker:
    """Takes an answer's text as it comes and gives it back checked, each citation after the text that holds its marker."""

    def __init__(self, sources: Sequence[Hit]) -> None:
        self._sources = sources
        self.grounds = Grounds(sources)
        self._held = ""
        self._text = ""
        # Sentences begin after the last cited one.
        self._open = 0
        self._cited: tuple[int, int] = (0, 0)

    @property
    def text(self) -> str:
        """All text given back so far."""
        return self._text

    def feed(self, text: str) -> Iterator[Piece]:
        """Takes more text; gives back what is certain by now."""
        self._held += text
        yield from self._release(keep=True)

    def finish(self) -> Iterator[Piece]:
        """Gives back what was held."""
        yield from self._release(keep=False)

    def _release(self, *, keep: bool) -> Iterator[Piece]:
        plain = ""
        citations: list[Citation] = []
        while match := _MARKER.search(self._held):
            before, self._held = self._held[: match.start()], self._held[match.end() :]
            plain += self._grow(before)
            if self._in_code(spaced=bool(match["space"])):
                plain += self._grow(match[0])
                continue
            numbers = [int(number) for number in re.findall(r"\d+", match["numbers"])]
            valid = [number for number in numbers if 1 <= number <= len(self._sources)]
            if not valid:
                continue
            sentence = self._sentence()
            plain += self._grow(match["space"] + "".join(f"[{number}]" for number in valid))
            self._open = len(self._text)
            citations += [self._citation(number, *sentence) for number in valid]
        cut = self._cut() if keep else len(self._held)
        plain += self._grow(self._held[:cut])
        self._held = self._held[cut:]
        if plain:
            yield Text(plain)
        yield from citations

    def _grow(self, text: str) -> str:
        self._text += text
        return text

    def _cut(self) -> int:
        """Where in the held text the beginning of a marker may stand."""
        beginning = _BEGINNING.search(self._held)
        if beginning is None or len(self._held) - beginning.start() > _LONGEST:
            return len(self._held)
        return beginning.start()

    def _in_code(self, *, spaced: bool) -> bool:
        """Whether the brackets are an index in code: in a fence, or stuck to a word after an open backtick of their line."""
        if len(_FENCE.findall(self._text)) % 2 == 1:
            return True
        line = self._text[self._text.rfind("\n") + 1 :]
        return not spaced and line.count("`") % 2 == 1 and (line[-1].isalnum() or line[-1] in "_])")

    def _sentence(self) -> tuple[int, int]:
        """The span of the sentence before the marker; markers side by side share one."""
        passage = self._text[self._open :]
        trimmed = passage.rstrip()
        if not trimmed.strip(" .,;:!?。，；：！？"):
            return self._cited
        last = 0
        for end in sentence_ends(trimmed):
            if end < len(trimmed):
                last = end
        lead = len(trimmed) - last - len(trimmed[last:].lstrip(" \n\t.,;:。，；："))
        self._cited = (self._open + last + lead, self._open + len(trimmed))
        return self._cited

    def _citation(self, number: int, start: int, end: int) -> Citation:
        source = self._sources[number - 1]
        support, source_start, source_end = self.grounds.support(self._text[start:end], number - 1)
        return Citation(
            number=number,
            collection=source.collection,
            document=source.document,
            chunk=source.chunk,
            start=start,
            end=end,
            support=support,
            source_start=source.start + source_start,
            source_end=source.start + source_end,
        )
