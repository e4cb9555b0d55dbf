"""How near a text is to its question in meaning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from services.chassis.errors import Failure
from services.chassis.errors import Reason as Refusal
from services.experiments.quality.assessment import Criterion, Evidence, Reason, abstained, failed, scored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.experiments.quality.assessment import Judgement, Subject

# Cosines of all-MiniLM-L6-v2: texts about other things are below the first, good answers above the second.
_FLOOR: Final = 0.1
_CEILING: Final = 0.6
_WEAK: Final = 0.4
_MOST_SENTENCES: Final = 30
_AWAY: Final = {Refusal.SERVICE_UNAVAILABLE, Refusal.DEADLINE_EXCEEDED}


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of texts, in their order, and the model that made them."""

    vectors: Sequence[Sequence[float]]
    model: str


class Embedder(Protocol):
    """What turns texts into vectors."""

    async def languages(self) -> tuple[str, ...]:
        """The primary tags that it knows; empty means all.

        Raises:
            Failure: It cannot be asked.
        """

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Embeds texts.

        Raises:
            Failure: It does not answer, or refuses.
        """


class Relevance:
    """Judges by the cosine between the question and the text, whole and sentence by sentence; the highest counts.

    Args:
        embedder: None where inference is not connected.
    """

    def __init__(self, embedder: Embedder | None) -> None:
        self._embedder = embedder

    async def judge(self, subject: Subject) -> Judgement:
        """The cosine, 0.1 as 0 and 0.6 as 1."""
        if not subject.question.strip():
            return abstained(Criterion.RELEVANCE, Reason.NO_QUESTION, "there is no question")
        if self._embedder is None:
            problem = "inference is not connected (INFERENCE_ADDRESS is not set)"
            return abstained(Criterion.RELEVANCE, Reason.SERVICE_UNAVAILABLE, problem)
        try:
            return await self._by(self._embedder, subject)
        except Failure as failure:
            reason = Reason.SERVICE_UNAVAILABLE if failure.reason in _AWAY else Reason.SERVICE_FAILED
            no_score = abstained if reason is Reason.SERVICE_UNAVAILABLE else failed
            return no_score(Criterion.RELEVANCE, reason, f"{failure.reason.name}: {failure}")

    async def _by(self, embedder: Embedder, subject: Subject) -> Judgement:
        known = await embedder.languages()
        strange = {subject.spoken or "en", subject.expected or "en"} - set(known)
        if known and strange:
            problem = f"the embedder knows {', '.join(known)}, not {', '.join(sorted(strange))}"
            return abstained(Criterion.RELEVANCE, Reason.LANGUAGE_UNSUPPORTED, problem)
        sentences = subject.passage.sentences[:_MOST_SENTENCES]
        embedded = await embedder.embed([subject.question, subject.text, *(one.text for one in sentences)])
        question, *others = embedded.vectors
        cosines = [cosine(question, other) for other in others]
        if not cosines or not all(map(math.isfinite, cosines)):
            return failed(Criterion.RELEVANCE, Reason.SERVICE_FAILED, f"{embedded.model} gave vectors without a direction")
        whole, *each = cosines
        best = max(cosines)
        score = (best - _FLOOR) / (_CEILING - _FLOOR)
        evidence = []
        if each:
            nearest = sentences[each.index(max(each))]
            evidence = [Evidence("nearest to the question", nearest.start, nearest.end)]
        return scored(
            Criterion.RELEVANCE,
            score,
            explanation=f"by {embedded.model}",
            evidence=evidence,
            measures={"cosine": best, "cosine_of_text": whole},
            suggestions=["Answer the question itself, in its own terms, in the first sentence."] if score < _WEAK else [],
        )


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """NaN where one of them has no direction."""
    lengths = math.sqrt(sum(x * x for x in one)) * math.sqrt(sum(y * y for y in other))
    return sum(x * y for x, y in zip(one, other, strict=True)) / lengths if lengths > 0 else math.nan
