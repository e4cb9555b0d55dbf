"""What search engines look for in a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.experiments.quality.assessment import Criterion, Reason, abstained
from services.experiments.quality.structure import HEADING, Check, length, of_checks
from services.experiments.quality.text import Passage, is_content, term_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.experiments.quality.assessment import Judgement, Subject

# The opening, in words; share of the text that keywords may take up; least length of a page, in words.
_OPENING: Final = 100
_LEAST_DENSITY: Final = 0.005
_MOST_DENSITY: Final = 0.05
_LEAST_LENGTH: Final = 300
_WEAK: Final = 0.6


def seo_optimization(subject: Subject) -> Judgement:
    """The share of checks that hold: keywords in opening and heading and at a natural density; length; headings; links."""
    keywords = [Passage(keyword) for keyword in subject.keywords] or _asked(subject.question)
    terms = {term_of(word) for keyword in keywords for word in keyword.words if is_content(word)}
    if not terms:
        return abstained(Criterion.SEO_OPTIMIZATION, Reason.NO_KEYWORDS, "neither keywords nor a question are given")
    if not subject.passage.words:
        return abstained(Criterion.SEO_OPTIMIZATION, Reason.TOO_SHORT, "the text has no words")
    return of_checks(Criterion.SEO_OPTIMIZATION, list(_checks(subject, terms)), _WEAK)


def _asked(question: str) -> Sequence[Passage]:
    return [Passage(question)] if question.strip() else []


def _checks(subject: Subject, terms: set[str]) -> Iterator[Check]:
    words = subject.passage.words
    found = [term_of(word) in terms for word in words]
    opening = {term_of(word) for word in words[:_OPENING]}
    yield Check("keywords in the opening", 2 * len(terms & opening) >= len(terms), "Name the keywords in the first paragraph.")
    headings = list(HEADING.finditer(subject.text))
    yield Check("headings", bool(headings), "Give the page headings.")
    in_headings = {term_of(word) for match in headings for word in Passage(match[2]).words}
    yield Check("a keyword in a heading", bool(terms & in_headings), "Put a keyword into a heading.")
    first = sum(len(match[1]) == 1 for match in headings)
    yield Check("one main heading", first == 1, "Give the page exactly one heading of the first level.")
    density = sum(found) / len(words)
    natural = density / max(1, len(terms)) >= _LEAST_DENSITY and density <= _MOST_DENSITY * len(terms)
    yield Check("keywords at a natural density", natural, "Use each keyword in 0.5 to 5 % of the words.")
    yield Check("length", length(subject.passage) >= _LEAST_LENGTH, f"Write at least {_LEAST_LENGTH} words.")
    yield Check("links", "](" in subject.text or "http" in subject.text, "Link to what the page rests on.")
