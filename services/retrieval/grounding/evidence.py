"""The sources of an answer, cut into windows that a claim may rest on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from services.retrieval.analysis import words
from services.retrieval.chinese import simplified
from services.retrieval.grounding.facts import Facts, facts, holds_dates, holds_numbers, normalized
from services.retrieval.grounding.function_words import FUNCTION_CHARACTERS, FUNCTION_WORDS
from services.retrieval.grounding.polarity import Denials, contradict, denials
from services.retrieval.grounding.wide_names import foreign_name
from services.retrieval.languages import CJK_CHARACTER
from services.retrieval.sentences import sentence_ends

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.retrieval.passages import Hit

# Sentences side by side that a claim may be put together from.
_WIDEST: Final = 3
_MOST_SENTENCES: Final = 400
# What a function word counts for, beside a content word's 1.
_FUNCTION_WEIGHT: Final = 0.1
_DIGITS: Final = re.compile(r"\d")


class Passage:
    """A text and what it says. Everything is read when first needed."""

    def __init__(self, text: str, title: str = "") -> None:
        self.text = normalized(text)
        self._title = title

    @cached_property
    def weights(self) -> dict[str, float]:
        """What its terms count for; figures count nothing, as they are compared for themselves."""
        return dict(_weighted(self.text))

    @cached_property
    def terms(self) -> frozenset[str]:
        """Its terms and those of the title."""
        title = (term for term, _ in _weighted(self._title)) if self._title else ()
        return frozenset((*self.weights, *title))

    @cached_property
    def stems(self) -> frozenset[str]:
        """Stems of all its words and those of the title, to find names in."""
        return frozenset(term for _, term in words(f"{self._title}\n{self.text}"))

    @cached_property
    def facts(self) -> Facts:
        """Numbers, dates and names."""
        return facts(self.text)

    @cached_property
    def denials(self) -> Denials:
        """What it denies."""
        return denials(self.text)


@dataclass(frozen=True, slots=True)
class Window:
    """One to three sentences of a source.

    Attributes:
        source: Place of the source, from 0.
        start: Where it starts in the source's text, in characters.
        end: Where it ends, exclusive.
        passage: What it says.
    """

    source: int
    start: int
    end: int
    passage: Passage


def windows(sources: Sequence[Hit]) -> list[Window]:
    """All windows of the sources, the narrow ones first."""
    found: list[Window] = []
    for place, source in enumerate(sources):
        ends = [0, *_ends(source.text)][: _MOST_SENTENCES // max(1, len(sources)) + 1]
        for width in range(1, _WIDEST + 1):
            for first in range(len(ends) - width):
                start, end = ends[first], ends[first + width]
                found.append(Window(place, start, end, Passage(source.text[start:end], source.title)))
    found.sort(key=lambda one: one.end - one.start)
    return found


def containment(claim: Passage, window: Passage) -> float:
    """The share of the claim's weighted terms that the window holds, 0 to 1."""
    whole = sum(claim.weights.values())
    return sum(weight for term, weight in claim.weights.items() if term in window.terms) / whole if whole else 0.0


def vetoes(claim: Passage, window: Passage) -> Iterator[str]:
    """What in the claim cannot rest on the window: `number`, `date`, `name`, `negation`."""
    if not holds_numbers(window.facts, claim.facts):
        yield "number"
    if not holds_dates(window.facts, claim.facts):
        yield "date"
    if not claim.facts.names <= window.stems or foreign_name(claim.text, window.text):
        yield "name"
    if contradict(claim.denials, claim.stems, window.denials, window.stems):
        yield "negation"


def _ends(text: str) -> Iterator[int]:
    """Ends of sentences, and of lines: a line of a list or table says something by itself."""
    last = 0
    for end in sentence_ends(text):
        for line in re.finditer(r"\n+", text[last:end]):
            if text[last : last + line.end()].strip() and last + line.end() < end:
                yield last + line.end()
        yield end
        last = end


def _weighted(text: str) -> Iterator[tuple[str, float]]:
    """Terms and what they count for. Chinese is taken by its characters: its words are written in many ways."""
    for word, term in words(text):
        if CJK_CHARACTER.match(word):
            continue
        if not _DIGITS.search(word):
            yield term, _FUNCTION_WEIGHT if word in FUNCTION_WORDS else 1.0
    for match in CJK_CHARACTER.finditer(text):
        character = simplified(match[0])
        yield character, _FUNCTION_WEIGHT / 2 if character in FUNCTION_CHARACTERS else 0.5
