"""What is judged, and what a judgement is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Final

from services.experiments.quality.language import expected_language, language_of
from services.experiments.quality.text import Passage

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMULA_VERSION: Final = 1
"""Grows with each change of a formula: scores of different versions are not comparable."""

_MOST_EVIDENCE: Final = 10


class Criterion(Enum):
    """What a text is judged by; see docs/how-to/quality.md."""

    RELEVANCE = 1
    GROUNDEDNESS = 2
    ACCURACY = 3
    COMPLETENESS = 4
    READABILITY = 5
    REPETITION = 6
    LANGUAGE_MATCH = 7
    STRUCTURE = 8
    SEO_OPTIMIZATION = 9


class State(Enum):
    """Whether a criterion has a score."""

    SCORED = 1
    ABSTAINED = 2
    FAILED = 3


class Reason(Enum):
    """Why a criterion has no score."""

    NONE = 0
    NO_QUESTION = 1
    TOO_SHORT = 2
    LANGUAGE_UNSUPPORTED = 3
    LANGUAGE_UNKNOWN = 4
    SERVICE_UNAVAILABLE = 5
    SERVICE_FAILED = 6
    NO_PARTS = 7
    NO_KEYWORDS = 8


@dataclass(frozen=True)
class Subject:
    """A text and what it is judged against. Empty means not given."""

    text: str
    question: str = ""
    contexts: tuple[str, ...] = ()
    reference: str = ""
    language: str = ""
    keywords: tuple[str, ...] = ()

    @cached_property
    def passage(self) -> Passage:
        """The text in sentences and terms."""
        return Passage(self.text)

    @cached_property
    def spoken(self) -> str:
        """The language that the text is in; empty where that is not known."""
        return language_of(self.text)

    @cached_property
    def expected(self) -> str:
        """The language that is expected; empty where nothing tells it."""
        return expected_language(self.language, self.question)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A place in the text and what was found there. `start` equals `end` where it is about the whole text."""

    finding: str
    start: int = 0
    end: int = 0
    context: int | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """One criterion of a text. `score` is set, finite and from 0 to 1 exactly where the state is SCORED."""

    criterion: Criterion
    state: State
    score: float | None = None
    reason: Reason = Reason.NONE
    explanation: str = ""
    evidence: tuple[Evidence, ...] = ()
    measures: tuple[tuple[str, float], ...] = ()
    suggestions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Assessment:
    """All judgements of a text, in the order of the criteria."""

    judgements: tuple[Judgement, ...]
    language: str


def scored(
    criterion: Criterion,
    score: float,
    *,
    explanation: str = "",
    evidence: list[Evidence] | tuple[Evidence, ...] = (),
    measures: Mapping[str, float] | None = None,
    suggestions: list[str] | tuple[str, ...] = (),
) -> Judgement:
    """A score, held between 0 and 1; a number that is none becomes FAILED."""
    if not math.isfinite(score):
        return failed(criterion, Reason.SERVICE_FAILED, "the computation gave no finite number")
    finite = tuple((name, value) for name, value in (measures or {}).items() if math.isfinite(value))
    return Judgement(
        criterion,
        State.SCORED,
        min(1.0, max(0.0, score)),
        explanation=explanation,
        evidence=tuple(evidence)[:_MOST_EVIDENCE],
        measures=finite,
        suggestions=tuple(suggestions),
    )


def abstained(criterion: Criterion, reason: Reason, explanation: str) -> Judgement:
    """Nothing to score it by."""
    return Judgement(criterion, State.ABSTAINED, reason=reason, explanation=explanation)


def failed(criterion: Criterion, reason: Reason, explanation: str) -> Judgement:
    """A score that should have been."""
    return Judgement(criterion, State.FAILED, reason=reason, explanation=explanation)


def with_suggestions(judgement: Judgement, *suggestions: str) -> Judgement:
    """The same, with what would make it better."""
    return replace(judgement, suggestions=suggestions)
