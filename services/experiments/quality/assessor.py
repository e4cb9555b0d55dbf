"""Judges texts by all criteria."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from services.experiments.quality.assessment import Assessment, Criterion
from services.experiments.quality.completeness import completeness
from services.experiments.quality.language_match import language_match
from services.experiments.quality.readability import readability
from services.experiments.quality.repetition import repetition
from services.experiments.quality.seo import seo_optimization
from services.experiments.quality.structure import structure
from services.experiments.quality.support import accuracy, groundedness

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from services.experiments.quality.assessment import Judgement, Subject
    from services.experiments.quality.relevance import Relevance

_BY_TEXT: Final[Mapping[Criterion, Callable[[Subject], Judgement]]] = {
    Criterion.GROUNDEDNESS: groundedness,
    Criterion.ACCURACY: accuracy,
    Criterion.COMPLETENESS: completeness,
    Criterion.READABILITY: readability,
    Criterion.REPETITION: repetition,
    Criterion.LANGUAGE_MATCH: language_match,
    Criterion.STRUCTURE: structure,
    Criterion.SEO_OPTIMIZATION: seo_optimization,
}
# Long texts take tenths of a second each: some at a time, so that other calls get their turn.
_AT_ONCE: Final = 2


class Assessor:
    """Judges texts; what needs no other service is computed on a thread."""

    def __init__(self, relevance: Relevance) -> None:
        self._relevance = relevance
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def assess(self, subject: Subject, criteria: Collection[Criterion] = ()) -> Assessment:
        """All criteria that were asked for and apply, each by itself. No criteria means all."""
        wanted = set(criteria or Criterion) - _absent(subject)
        async with self._turns:
            judgements = await asyncio.to_thread(_by_text, subject, wanted)
        if Criterion.RELEVANCE in wanted:
            judgements.append(await self._relevance.judge(subject))
        judgements.sort(key=lambda one: one.criterion.value)
        return Assessment(tuple(judgements), subject.spoken)


def _by_text(subject: Subject, wanted: Collection[Criterion]) -> list[Judgement]:
    return [judge(subject) for criterion, judge in _BY_TEXT.items() if criterion in wanted]


def _absent(subject: Subject) -> set[Criterion]:
    absent = set()
    if not subject.contexts:
        absent.add(Criterion.GROUNDEDNESS)
    if not subject.reference.strip():
        absent.add(Criterion.ACCURACY)
    return absent
